//! `routes`: whether packets of pods are routed to the TUN device and back.

use std::net::IpAddr;

use culvert_netlink::Route;
use culvert_node::words::counted;
use ipnet::IpNet;

use super::missing::{self, Part};
use crate::app::{Action, Astray, Examination, PROTOCOL};
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
    let absent = absent(kernel);
    let mut findings = missing::of(facts, Part::Routes);
    let mut add = |finding: Finding| {
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    };
    // A route to some of the pods explains what happens to their packets.
    for route in &kernel.inside {
        let link = kernel.links.iter().find(|link| Some(link.index) == route.link);
        let device = link.map(|link| link.name.as_str()).unwrap_or_default();
        add(taken(expected, route, device));
    }
    for astray in kernel.astray.iter().filter(|astray| !is_by_rule(kernel, astray)) {
        let is_explained =
            kernel.inside.iter().any(|route| touches(&route.destination, astray.ends))
                || absent.iter().any(|network| touches(network, astray.ends));
        if is_explained {
            continue;
        }
        match astray.route.as_ref().filter(|route| route.protocol != PROTOCOL) {
            Some(route) => add(taken(expected, route, &astray.device)),
            None => add(dropped(astray)),
        }
    }
    match &kernel.underlay {
        Some(fault) => findings.push(underlay_down(expected, kernel).unwrap_or_else(|| {
            let remedy = underlay_remedy(expected);
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
        None => {
            let is_by_route = |network: &IpNet| touches(network, astray.ends);
            let routes = kernel.inside.iter().map(|route| &route.destination);
            !routes.chain(&absent(kernel)).any(is_by_route)
                && super::rules::suspects(kernel, astray).next().is_some()
        }
    }
}

/// What shows the routes to a peer, also where none leads there.
fn underlay_remedy(expected: &Expected) -> String {
    let peer = expected.peers.first().map(|peer| peer.address);
    let family = if peer.is_some_and(|peer| peer.is_ipv6()) { "ip -6" } else { "ip" };
    let peer = peer.map_or_else(|| "PEER".to_owned(), |peer| peer.to_string());
    format!(
        "{family} route show table all match {peer} shows the routes to a peer, and {family} rule the rules"
    )
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
            "a route or a rule of this node refuses it: see `{family} route show table all match {address}` \
             and `{family} rule`, and remove it"
        ),
    );
    match expected.peers.iter().find(|peer| peer.address == address) {
        Some(peer) => finding.about(&peer.name),
        None => finding,
    }
}

/// The networks to which our own routes are gone.
fn absent(kernel: &Examination) -> Vec<IpNet> {
    let networks = kernel.missing.iter().filter_map(|action| {
        if let Action::AddRoute { route, .. } = action { Some(route.destination) } else { None }
    });
    networks.collect()
}

/// Whether a route to this network decides of such a packet: by where it goes, or by whence it
/// comes, to which the kernel looks back.
fn touches(network: &IpNet, (source, destination): (Option<IpAddr>, IpAddr)) -> bool {
    network.contains(&destination) || source.is_some_and(|source| network.contains(&source))
}

/// A packet that the kernel drops by a route that is not in the main table, or by none.
fn dropped(astray: &Astray) -> Finding {
    let family = if astray.is_v6 { "ip -6" } else { "ip" };
    let (_, destination) = astray.ends;
    let remedy = format!(
        "{family} route show table all match {destination} shows the one that comes before ours: remove it"
    );
    Finding::fail(&astray.obstacle, remedy)
}

/// A route of another program that takes packets, or drops them.
fn taken(expected: &Expected, route: &Route, device: &str) -> Finding {
    let destination = route.destination;
    let gateway = route.gateway.map_or_else(String::new, |gateway| format!(" via {gateway}"));
    let via = match device {
        "" => gateway,
        device => format!("{gateway} dev {device}"),
    };
    let is_of = |peer: &&crate::observe::PeerStatus| {
        let covers = |subnet: &IpNet| destination.contains(subnet) || subnet.contains(&destination);
        peer.subnets.iter().any(covers)
    };
    let mut owners = expected.peers.iter().filter(is_of);
    let whose = match (owners.next(), owners.next()) {
        (Some(peer), None) => format!("{}'s pods", peer.name),
        _ => "pods".to_owned(),
    };
    let family = if destination.addr().is_ipv6() { "ip -6" } else { "ip" };
    let what = match via.as_str() {
        // kernel: also one with several next hops has neither.
        "" => ", which names no device (unreachable, blackhole, or several next hops), takes",
        _ => " takes",
    };
    let see = if via.is_empty() {
        format!("; {family} route show {destination} shows it")
    } else {
        String::new()
    };
    Finding::fail(
        format!("{destination}{via}{what} the packets of {whose}"),
        format!("remove it: {family} route del {destination}{via}{see}"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::said;
    use super::*;
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
        assert!(
            findings[0]
                .remedy
                .as_ref()
                .unwrap()
                .contains("ip route show table all match 192.168.1.12")
        );
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

    #[test]
    fn one_route_that_drops_is_one_failure_and_named() {
        let mut facts = healthy();
        let kernel = facts.kernel.as_mut().unwrap();
        let route = Route {
            destination: "10.244.2.0/24".parse().unwrap(),
            table: MAIN,
            protocol: 3,
            scope: 0,
            priority: 0,
            link: None,
            gateway: None,
            source: None,
            mtu: None,
            advmss: None,
            direct: false,
        };
        let astray = |source: Option<&str>, destination: &str| Astray {
            obstacle: "packets are dropped".to_owned(),
            route: None,
            device: String::new(),
            ends: (source.map(|it| it.parse().unwrap()), destination.parse().unwrap()),
            is_v6: false,
        };
        kernel.inside = vec![route.clone()];
        kernel.astray = vec![
            astray(None, "10.244.2.2"),
            astray(Some("10.244.1.2"), "10.244.2.2"),
            astray(Some("10.244.2.2"), "10.244.1.2"),
        ];
        let one = said("routes", &facts);
        assert_eq!(one.len(), 1, "{one:?}");
        assert!(one[0].found.starts_with("10.244.2.0/24, which names no device"), "{one:?}");
        assert!(one[0].remedy.as_ref().unwrap().contains("ip route show 10.244.2.0/24"), "{one:?}");
        // Where ours is gone, whoever takes the packets meanwhile is not to be removed.
        let kernel = facts.kernel.as_mut().unwrap();
        kernel.inside.clear();
        let network: IpNet = "10.244.0.0/16".parse().unwrap();
        let default = Route { destination: "0.0.0.0/0".parse().unwrap(), ..route.clone() };
        kernel.astray[0].route = Some(default);
        let device = "culvert0".to_owned();
        kernel.missing =
            vec![Action::AddRoute { device, route: Route { destination: network, ..route } }];
        let gone = said("routes", &facts);
        assert_eq!(gone.len(), 1, "{gone:?}");
        assert_eq!(gone[0].found, "the route 10.244.0.0/16 dev culvert0 is gone");
        assert_eq!(gone[0].verdict, Verdict::Fail, "though a daemon that is ready puts it back");
        let shown = gone[0].remedy.as_ref().unwrap();
        assert!(shown.contains("ip route show table all match 10.244.0.0/16"), "{gone:?}");
    }
}
