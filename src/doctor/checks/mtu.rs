//! `mtu`: whether devices, pods and paths agree about the longest packet.

use culvert_netlink::Link;
use culvert_node::pod_port::PodPort;

use super::missing::{self, Part};
use crate::doctor::facts::Facts;
use crate::doctor::finding::Finding;

/// Names that are listed.
const NAMED: usize = 5;

/// Pods that were attached when more fitted, in one finding: they have one cause and one remedy.
fn outgrown(ports: &[&Link], most: u32, fits: u16) -> Finding {
    let name = |port: &&Link| match PodPort::from_note(&port.name, &port.alias) {
        Some(pod) => format!("{} ({})", pod.owner().container(), port.name),
        None => port.name.clone(),
    };
    let mut names: Vec<String> = ports.iter().take(NAMED).map(name).collect();
    if let Some(more) = ports.len().checked_sub(NAMED).filter(|more| *more > 0) {
        names.push(format!("{more} more"));
    }
    Finding::warn(
        format!(
            "{fits} bytes fit, and up to {most} did when {} attached: {}; to other nodes ICMP \
             tells them, and pods of this node that came since get no such packet of theirs",
            match ports.len() {
                1 => "this pod was".to_owned(),
                pods => format!("these {pods} pods were"),
            },
            names.join(", ")
        ),
        format!(
            "delete them, so that they are plugged in anew; or set both ends of each one's cable: ip link \
             set {} mtu {fits} here, and in the pod's namespace ip link set eth0 mtu {fits}",
            match ports {
                [port] => &port.name,
                _ => "DEVICE",
            }
        ),
    )
}

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
    let mtu = expected.setup.mtu;
    let bridge = kernel.links.iter().find(|link| link.name == expected.setup.bridge);
    if let Some(bridge) = bridge {
        let ports = kernel.links.iter().filter(|link| link.controller == Some(bridge.index));
        let wide: Vec<&Link> = ports.filter(|port| port.mtu > u32::from(mtu)).collect();
        let most = wide.iter().map(|port| port.mtu).max();
        findings.extend(most.map(|most| outgrown(&wide, most, mtu)));
    }
    // The daemon looks at them while it is asked for peers' tables.
    let peers = facts.daemon.as_ref().map_or(&expected.peers, |status| &status.peers);
    let narrow = peers.iter().filter(|peer| peer.mtu < mtu);
    findings.extend(narrow.map(|peer| {
        let asked = match facts.tables {
            Some(_) => "",
            None => "; looked at every ten minutes, or now with --peers",
        };
        let mtu = peer.mtu;
        Finding::ok(format!("{mtu} bytes, fewer than to others, and pods are told so{asked}"))
            .about(&peer.name)
    }));
    if findings.is_empty() {
        findings.push(Finding::ok(format!("{mtu} bytes to every node")));
    }
    super::some(findings)
}

#[cfg(test)]
mod tests {
    use super::super::tests::said;
    use super::*;
    use crate::doctor::facts::fixture::healthy;
    use crate::doctor::finding::Verdict;

    #[test]
    fn path_that_has_become_wide_meanwhile_is_not_called_narrow() {
        let mut facts = healthy();
        facts.expected.as_mut().unwrap().peers[0].mtu = 1364;
        assert_eq!(said("mtu", &facts)[0].found, "1464 bytes to every node");
        facts.daemon.as_mut().unwrap().peers[0].mtu = 1364;
        let narrow = said("mtu", &facts).remove(0);
        assert_eq!((narrow.verdict, narrow.peer.as_deref()), (Verdict::Ok, Some("node2")));
        assert!(!narrow.found.contains("--peers"), "{narrow:?}");
        facts.tables = None;
        assert!(said("mtu", &facts)[0].found.ends_with("or now with --peers"));
    }

    #[test]
    fn pods_that_were_attached_when_more_fitted_are_named_together() {
        let with = |mtus: &[u32]| {
            let mut facts = healthy();
            let bridge =
                Link { index: 1, name: "v-net-0".to_owned(), mtu: 1500, ..Link::default() };
            let port = |(index, mtu): (u32, &u32)| Link {
                index,
                name: format!("culv{index}"),
                mtu: *mtu,
                controller: Some(1),
                alias: format!(
                    "culvert pod 0a:58:0a:f4:01:02 checked 10.244.1.2 pods/web-{index}/eth0"
                ),
                ..Link::default()
            };
            let ports = (2..).zip(mtus).map(port);
            facts.kernel.as_mut().unwrap().links = std::iter::once(bridge).chain(ports).collect();
            said("mtu", &facts)
        };
        assert_eq!(with(&[1464, 1464])[0].verdict, Verdict::Ok);
        let wide = with(&[1464, 1500, 1490]);
        assert_eq!((wide.len(), wide[0].verdict), (1, Verdict::Warn));
        assert!(
            wide[0].found.contains("these 2 pods were attached: web-3 (culv3), web-4 (culv4)"),
            "{wide:?}"
        );
        assert!(wide[0].remedy.as_ref().unwrap().contains("ip link set eth0 mtu 1464"));
        let many = with(&[1500; 9]);
        assert!(many[0].found.contains("web-6 (culv6), 4 more; "), "{many:?}");
    }
}
