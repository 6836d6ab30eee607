//! `accept_ra`: whether router advertisements configure what they should not, or no longer what
//! they should.

use super::missing::{self, Part};
use crate::doctor::facts::Facts;
use crate::doctor::finding::Finding;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let kernel = match &facts.kernel {
        Ok(kernel) => kernel,
        Err(why) => return vec![Finding::skip(why)],
    };
    let mut findings = missing::of(facts, Part::AcceptRa);
    let forwards = facts.parameter("net/ipv6/conf/all/forwarding") == Some("1");
    for route in kernel.advertised.iter().filter(|_| forwards) {
        let link = kernel.links.iter().find(|link| Some(link.index) == route.link);
        let Some(device) = link.map(|link| &link.name) else { continue };
        let accepts = facts.parameter(&format!("net/ipv6/conf/{device}/accept_ra"));
        // 1 is "unless this node forwards".
        if accepts == Some("1") {
            let finding = Finding::fail(
                format!(
                    "{device} has routes by router advertisements, and takes no more: this node \
                     forwards, and they end with their lifetime"
                ),
                format!("sysctl -w net.ipv6.conf.{device}.accept_ra=2"),
            );
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
    }
    if let (true, Err(why)) = (findings.is_empty(), &facts.parameters) {
        return vec![Finding::skip(why)];
    }
    if findings.is_empty() {
        findings.push(Finding::ok("no pod can configure this node"));
    }
    super::some(findings)
}
