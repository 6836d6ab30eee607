//! Packets that rules of other programs send elsewhere, such as those to services of Kubernetes.

use std::net::IpAddr;

use super::kernel::Redirected;
use super::steps::Steps;
use super::{Protocol, Question};

/// Destinations that are listed.
const LISTED: usize = 4;

/// The packet as rules make it before it is routed, if they do; otherwise nothing is to be told, or
/// it has been told what is not known.
pub(super) fn followed(
    question: &Question,
    comes_by: Option<&str>,
    steps: &mut Steps<'_>,
) -> Option<Question> {
    let Redirected { by, to, is_followed, is_sure } = steps.redirected(question, comes_by)?;
    let Some(first) = to.first() else {
        let found = format!("{by} gives it another destination, which was not followed");
        steps.kernel("service", found);
        steps.unless.push(format!("{by} sends it elsewhere"));
        return None;
    };
    let port = match question.protocol {
        Protocol::Tcp | Protocol::Udp => first.port.unwrap_or(question.destination_port),
        Protocol::Icmp => question.destination_port,
    };
    let name = |address: Option<IpAddr>, port: Option<u16>| {
        let address = address.unwrap_or(question.destination);
        match (port, question.protocol) {
            (Some(port), Protocol::Tcp | Protocol::Udp) => {
                std::net::SocketAddr::new(address, port).to_string()
            }
            (None, _) | (_, Protocol::Icmp) => address.to_string(),
        }
    };
    let names: Vec<String> =
        to.iter().take(LISTED).map(|target| name(target.address, target.port)).collect();
    let more = match to.len().saturating_sub(LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let choice = if to.len() > 1 { "one of " } else { "" };
    let mut found = format!("{by} sends it to {choice}{}{more}", names.join(", "));
    if to.len() > 1 {
        found.push_str(&format!("; what follows is of {}", names[0]));
    }
    steps.kernel("service", found);
    if !is_followed || !is_sure {
        steps.unless.push(format!("{by} sends it elsewhere"));
    }
    let destination = first.address.unwrap_or(question.destination);
    let is_possible = destination.is_ipv4() == question.source.is_ipv4();
    is_possible.then(|| Question { destination, destination_port: port, ..question.clone() })
}
