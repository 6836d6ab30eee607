//! `mtu`: whether devices, pods and paths agree about the longest packet.

use super::missing::{self, Part};
use crate::doctor::facts::Facts;
use crate::doctor::finding::Finding;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let expected = match super::expected(facts) {
        Ok(expected) => expected,
        Err(skipped) => return skipped,
    };
    let kernel = match &facts.kernel {
        Ok(kernel) => kernel,
        Err(why) => return vec![Finding::skip(why)],
    };
    if !expected.is_in_force {
        return vec![Finding::skip("the daemon asks the routes for it, and does not answer")];
    }
    let mut findings = missing::of(facts, Part::Mtu);
    let bridge = kernel.links.iter().find(|link| link.name == expected.setup.bridge);
    if let Some(bridge) = bridge {
        let ports = kernel.links.iter().filter(|link| link.controller == Some(bridge.index));
        findings.extend(ports.filter(|port| port.mtu > bridge.mtu).map(|port| {
            Finding::warn(
                format!(
                    "{} has an MTU of {}, more than the bridge's {}: its pod was attached when more \
                     fitted",
                    port.name, port.mtu, bridge.mtu
                ),
                "delete the pod, so that it is plugged in anew",
            )
        }));
    }
    let mtu = expected.setup.mtu;
    let narrow = expected.peers.iter().filter(|peer| peer.mtu < mtu);
    findings.extend(narrow.map(|peer| {
        Finding::ok(format!("{} bytes, fewer than to others, and pods are told so", peer.mtu))
            .about(&peer.name)
    }));
    if findings.is_empty() {
        findings.push(Finding::ok(format!("{mtu} bytes to every node")));
    }
    super::some(findings)
}
