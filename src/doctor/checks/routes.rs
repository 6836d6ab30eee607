//! `routes`: whether packets of pods are routed to the TUN device and back.

use std::net::IpAddr;

use culvert_node::words::counted;

use super::missing::{self, Part};
use crate::app::{Astray, Examination, PROTOCOL};
use crate::doctor::facts::{Expected, Facts};
use crate::doctor::finding::Finding;

/// The table that decides when no rule says otherwise, and those that the kernel keeps itself.
pub(super) const MAIN: u32 = 254;
const LOCAL: u32 = 255;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let expected = match super::expected(facts) {
        Ok(expected) => expected,
        Err(skipped) => return skipped,
    };
    let kernel = match &facts.kernel {
        Ok(kernel) => kernel,
        Err(why) => return vec![Finding::skip(why)],
    };
    let mut findings = missing::of(facts, Part::Routes);
    let by_route = kernel.astray.iter().filter(|astray| !is_by_rule(kernel, astray));
    for astray in by_route {
        let finding = finding(expected, astray);
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }
    // The kernel was asked for one address of each node; a route may take others away.
    for route in &kernel.inside {
        let link = kernel.links.iter().find(|link| Some(link.index) == route.link);
        let astray = Astray {
            obstacle: String::new(),
            route: Some(route.clone()),
            device: link.map(|link| link.name.clone()).unwrap_or_default(),
            is_v6: route.destination.addr().is_ipv6(),
        };
        let finding = finding(expected, &astray);
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }
    match &kernel.underlay {
        Some(fault) => findings.push(underlay_down(expected, kernel).unwrap_or_else(|| {
            let remedy = "ip route get PEER, with the address of a peer, shows where it ends";
            Finding::fail(fault, remedy)
        })),
        None => {
            findings.extend(kernel.refused.iter().map(|(peer, why)| refused(expected, *peer, why)))
        }
    }
    if findings.is_empty() {
        let (tun, peers) = (&expected.setup.tun, expected.peers.len());
        let nodes = counted(peers, "node");
        findings.push(Finding::ok(format!("pods of {nodes} by {tun}, ours by the bridge")));
    }
    super::some(findings)
}

/// Whether a rule, and not a route of the main table, leads a packet astray.
pub(super) fn is_by_rule(kernel: &Examination, astray: &Astray) -> bool {
    match &astray.route {
        Some(route) => ![MAIN, LOCAL].contains(&route.table),
        // The kernel does not say by which table it drops.
        None => super::rules::foreign(kernel, astray.is_v6).next().is_some(),
    }
}

/// The device of the underlay address, if somebody has set it down: no route leads by it then.
fn underlay_down(expected: &Expected, kernel: &Examination) -> Option<Finding> {
    let own = expected.setup.address?;
    let holder = kernel.addresses.iter().find(|has| has.net.addr() == own)?;
    let link = kernel.links.iter().find(|link| link.index == holder.link && !link.up)?;
    let device = &link.name;
    Some(Finding::fail(
        format!("no datagram leaves: {device}, which has {own}, is down"),
        format!("ip link set {device} up, and put back routes by it, such as the default one"),
    ))
}

/// A peer to which no datagram leaves, while others are reached.
fn refused(expected: &Expected, address: IpAddr, why: &str) -> Finding {
    let family = if address.is_ipv6() { "ip -6" } else { "ip" };
    let finding = Finding::fail(
        format!("no datagram leaves for {address}: {why}"),
        format!(
            "a route or a rule of this node refuses it: see `{family} route show match {address}` and \
             `{family} rule`, and remove it"
        ),
    );
    match expected.peers.iter().find(|peer| peer.address == address) {
        Some(peer) => finding.about(&peer.name),
        None => finding,
    }
}

fn finding(expected: &Expected, astray: &Astray) -> Finding {
    let Some(route) = astray.route.as_ref().filter(|route| route.protocol != PROTOCOL) else {
        let family = if astray.is_v6 { "ip -6" } else { "ip" };
        let remedy = format!("{family} route shows the one that comes before ours: remove it");
        return Finding::fail(&astray.obstacle, remedy);
    };
    let destination = route.destination;
    let gateway = route.gateway.map_or_else(String::new, |gateway| format!(" via {gateway}"));
    let via = match astray.device.as_str() {
        "" => gateway,
        device => format!("{gateway} dev {device}"),
    };
    let is_of = |peer: &&crate::observe::PeerStatus| {
        let covers =
            |subnet: &ipnet::IpNet| destination.contains(subnet) || subnet.contains(&destination);
        peer.subnets.iter().any(covers)
    };
    let mut owners = expected.peers.iter().filter(is_of);
    let whose = match (owners.next(), owners.next()) {
        (Some(peer), None) => format!("{}'s pods", peer.name),
        _ => "pods".to_owned(),
    };
    let family = if astray.is_v6 { "ip -6" } else { "ip" };
    Finding::fail(
        format!("{destination}{via} takes the packets of {whose}"),
        format!("remove it: {family} route del {destination}{via}"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::said;
    use crate::doctor::facts::fixture::healthy;
    use crate::doctor::finding::Verdict;

    #[test]
    fn one_peer_that_the_kernel_sends_nothing_to_is_named_with_the_way_to_the_route() {
        let mut facts = healthy();
        let kernel = facts.kernel.as_mut().unwrap();
        let address = "192.168.1.12".parse().unwrap();
        kernel.refused = vec![(address, "No route to host (os error 113)".to_owned())];
        let findings = said("routes", &facts);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].verdict, Verdict::Fail);
        assert_eq!(findings[0].peer.as_deref(), Some("node2"));
        assert!(findings[0].found.contains("192.168.1.12: No route"), "{:?}", findings[0]);
        assert!(findings[0].remedy.as_ref().unwrap().contains("ip route show match 192.168.1.12"));
        // Where no peer is reached, that is said once and not for each.
        facts.kernel.as_mut().unwrap().underlay = Some("no datagram leaves".to_owned());
        assert_eq!(said("routes", &facts).len(), 1);
    }

    #[test]
    fn underlay_device_that_is_down_is_named_instead_of_the_routes_that_went_with_it() {
        let with = |up| {
            let mut facts = healthy();
            let kernel = facts.kernel.as_mut().unwrap();
            let name = "eth0".to_owned();
            let link = culvert_netlink::Link { index: 2, name, up, ..Default::default() };
            kernel.links = vec![link];
            kernel.underlay = Some("no route".to_owned());
            said("routes", &facts).remove(0)
        };
        assert_eq!(with(true).found, "no route");
        let down = with(false);
        assert!(down.found.contains("eth0, which has 192.168.1.11, is down"), "{down:?}");
        assert!(down.remedy.unwrap().starts_with("ip link set eth0 up"));
    }
}
