//! `rp_filter`: whether the kernel takes packets whose way back is another one.

use super::missing::{self, Part};
use crate::doctor::facts::Facts;
use crate::doctor::finding::Finding;

/// Only what comes in by the device that the way back leaves by.
const STRICT: &str = "1";

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let expected = match super::expected(facts) {
        Ok(expected) => expected,
        Err(skipped) => return skipped,
    };
    let kernel = match &facts.kernel {
        Ok(kernel) => kernel,
        Err(why) => return vec![Finding::skip(why)],
    };
    let mut findings = missing::of(facts, Part::RpFilter);
    let own = expected.setup.address.filter(std::net::IpAddr::is_ipv4);
    let holder = kernel.addresses.iter().find(|has| Some(has.net.addr()) == own);
    let link = holder.and_then(|has| kernel.links.iter().find(|link| link.index == has.link));
    // Peers send to the device that has our address; our way to them should be the same.
    if let Some(link) = link.filter(|link| !link.loopback && is_strict(facts, &link.name)) {
        let elsewhere = expected
            .peers
            .iter()
            .zip(&kernel.ways)
            .find(|(_, devices)| devices.first().is_some_and(|device| *device != link.name));
        if let Some((peer, devices)) = elsewhere {
            let (device, other) = (&link.name, devices.join(", "));
            findings.push(Finding::warn(
                format!(
                    "{device} takes only what comes by the way back (rp_filter 1), and the way to \
                     {} is {other}: what {0} sends may be dropped",
                    peer.name
                ),
                format!("sysctl -w net.ipv4.conf.{device}.rp_filter=2"),
            ));
        }
    }
    if let (true, Err(why)) = (findings.is_empty(), &facts.parameters) {
        return vec![Finding::skip(why)];
    }
    if findings.is_empty() {
        findings.push(Finding::ok("loose where pods' packets pass"));
    }
    findings
}

fn is_strict(facts: &Facts, device: &str) -> bool {
    // kernel: the larger of the two counts, and 2 is loose.
    let of = |name: &str| facts.parameter(&format!("net/ipv4/conf/{name}/rp_filter"));
    let both = [of("all"), of(device)];
    both.contains(&Some(STRICT)) && !both.contains(&Some("2"))
}
