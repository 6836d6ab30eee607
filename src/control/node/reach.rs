//! Whether packets between pods take the way that they should, as the kernel would route them.
//!
//! Devices, addresses and routes may all be as they should be, and packets go elsewhere all the
//! same: a rule that looks into another table first, a narrower route, an equal one that was put in
//! front. So the kernel is asked about packets as pods would send them. Pure but for the asking.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use culvert_netlink::{Flow, MAIN_TABLE, Route, RouteAnswer, default_priority, route_refusal};
use culvert_node::node_file::gateway;
use ipnet::IpNet;
use overlay_proto::Family;

use super::{NodeSpec, PROTOCOL};

/// Subnets of other nodes that are asked about at a time; the others have their turn later. Each
/// takes the kernel some microseconds.
pub(super) const WINDOW: usize = 64;

/// The same where nothing has changed but which nodes there are.
pub(super) const FEW: usize = 8;

/// The devices that packets pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Devices {
    pub(super) tun: u32,
    pub(super) bridge: u32,
}

/// A packet to ask about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Probe {
    pub(super) flow: Flow,
    /// Index of the device that it should leave by; none if it should end here.
    expected: Option<u32>,
    journey: Journey,
    /// The subnet of another node that it is about.
    remote: Option<IpNet>,
}

/// Where a packet comes from and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Journey {
    PodToOtherNode,
    OtherNodeToPod,
    NodeToOtherNode,
    NodeToPod,
    PodToGateway,
}

impl fmt::Display for Journey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PodToOtherNode => "packets of pods to other nodes' pods",
            Self::OtherNodeToPod => "packets of other nodes' pods to pods",
            Self::NodeToOtherNode => "packets of this node to other nodes' pods",
            Self::NodeToPod => "packets of this node to its pods",
            Self::PodToGateway => "packets of pods to their gateway",
        })
    }
}

/// A packet that takes another way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Detour {
    /// What is wrong and what to do.
    pub(super) obstacle: String,
    /// The cluster network whose route another one of the same prefix and rank was put before.
    pub(super) hidden: Option<IpNet>,
    /// Whether the kernel drops the packet, and so does not say by which route.
    pub(super) is_dropped: bool,
}

/// Which subnets of other nodes are asked about next: each in its turn, and those whose packets
/// went astray each time until they no longer do.
#[derive(Debug, Default)]
pub(super) struct Turns {
    next: usize,
    astray: Vec<IpNet>,
}

impl Turns {
    /// So many of `subnets`, and those that went astray.
    pub(super) fn take(&mut self, subnets: &[IpNet], count: usize) -> Vec<IpNet> {
        self.astray.retain(|subnet| subnets.contains(subnet));
        let start = if self.next < subnets.len() { self.next } else { 0 };
        let window: Vec<IpNet> = subnets.iter().skip(start).take(count).copied().collect();
        self.next = start + window.len();
        let again = self.astray.iter().filter(|subnet| !window.contains(subnet));
        again.copied().chain(window.iter().copied()).collect()
    }

    /// Takes note of what was `found` about those taken last. A few are enough to tell that
    /// something is wrong.
    pub(super) fn note<'a>(&mut self, found: impl Iterator<Item = &'a Probe>) {
        self.astray.clear();
        for subnet in found.filter_map(|probe| probe.remote) {
            if self.astray.len() < FEW && !self.astray.contains(&subnet) {
                self.astray.push(subnet);
            }
        }
    }
}

/// The packets to ask about: those that do not leave this node, and those from and to `remotes`.
pub(super) fn probes(spec: &NodeSpec, devices: Devices, remotes: &[IpNet]) -> Vec<Probe> {
    let mut probes = Vec::new();
    let local_of = |family| {
        spec.local_subnets.iter().filter_map(pod_in).find(|address| Family::of(*address) == family)
    };
    for pod in spec.local_subnets.iter().filter_map(pod_in) {
        let flow = Flow::to(pod);
        probes.push(Probe {
            flow,
            expected: Some(devices.bridge),
            journey: Journey::NodeToPod,
            remote: None,
        });
    }
    for subnet in &spec.local_subnets {
        let Some(pod) = pod_in(subnet) else { continue };
        let flow = Flow {
            source: Some(pod),
            incoming: Some(devices.bridge),
            ..Flow::to(gateway(subnet).addr())
        };
        probes.push(Probe { flow, expected: None, journey: Journey::PodToGateway, remote: None });
    }
    for subnet in remotes {
        let remote = pod_in(subnet).unwrap_or_else(|| subnet.addr());
        let (flow, expected, subnet) = (Flow::to(remote), Some(devices.tun), Some(*subnet));
        let journey = Journey::NodeToOtherNode;
        probes.push(Probe { flow, expected, journey, remote: subnet });
        let Some(pod) = local_of(Family::of(remote)) else { continue };
        probes.push(Probe {
            flow: Flow { source: Some(pod), incoming: Some(devices.bridge), ..flow },
            expected,
            journey: Journey::PodToOtherNode,
            remote: subnet,
        });
        probes.push(Probe {
            flow: Flow { source: Some(remote), incoming: Some(devices.tun), ..Flow::to(pod) },
            expected: Some(devices.bridge),
            journey: Journey::OtherNodeToPod,
            remote: subnet,
        });
    }
    probes
}

/// An address in `subnet` that a pod may have: the first two are the network's and the bridge's.
fn pod_in(subnet: &IpNet) -> Option<IpAddr> {
    if subnet.max_prefix_len() - subnet.prefix_len() < 2 {
        return None;
    }
    Some(match subnet.network() {
        IpAddr::V4(network) => Ipv4Addr::from_bits(network.to_bits() + 2).into(),
        IpAddr::V6(network) => Ipv6Addr::from_bits(network.to_bits() + 2).into(),
    })
}

/// What is wrong with the way of a packet; `indexes` has those of the devices by their names.
pub(super) fn detour(
    spec: &NodeSpec,
    probe: &Probe,
    answer: &RouteAnswer,
    indexes: &HashMap<String, u32>,
) -> Option<Detour> {
    let name = |index: u32| {
        let mut names = indexes.iter().filter(|(_name, is)| **is == index);
        names.next().map_or_else(|| format!("device {index}"), |(name, _index)| name.clone())
    };
    let expected = probe.expected.as_ref().map(std::slice::from_ref);
    let mut hidden = None;
    let what = match answer {
        RouteAnswer::Out(path) if Some(&path.links[..]) == expected => return None,
        RouteAnswer::Local if expected.is_none() => return None,
        RouteAnswer::Out(path) => {
            let route = &path.route;
            let is_ours = spec.cluster_networks.iter().any(|net| net.trunc() == route.destination);
            let in_front = is_ours
                && route.table == MAIN_TABLE
                && route.priority == default_priority(&route.destination);
            hidden = in_front.then_some(route.destination);
            let devices: Vec<String> = path.links.iter().map(|link| name(*link)).collect();
            format!(
                "leave by {} instead of {} (route {} of table {})",
                devices.join(", "),
                probe.expected.map_or_else(|| "ending on this node".to_owned(), name),
                route.destination,
                route.table
            )
        }
        RouteAnswer::Local => "end on this node".to_owned(),
        RouteAnswer::Refused(error) => format!("are dropped ({})", route_refusal(error)),
    };
    let Flow { destination, source, incoming, .. } = probe.flow;
    let family = if destination.is_ipv4() { "ip" } else { "ip -6" };
    let from = source.map_or_else(String::new, |source| format!(" from {source}"));
    let iif = incoming.map_or_else(String::new, |index| format!(" iif {}", name(index)));
    // Of a packet that is dropped `route get` says only that it is.
    let get = match answer {
        RouteAnswer::Refused(_) => format!("`{family} route show table all match {destination}`"),
        RouteAnswer::Out(_) | RouteAnswer::Local => {
            format!("`{family} route get {destination}{from}{iif}`")
        }
    };
    let remedy = match probe.journey {
        Journey::PodToGateway => format!(
            "the routing table `local` lacks the address, or a rule comes before it; see `{family} route \
             show table local`, `{family} rule` and {get}, and take the address off its device \
             (`ip address del`): Culvert puts it back with its route"
        ),
        Journey::PodToOtherNode
        | Journey::OtherNodeToPod
        | Journey::NodeToOtherNode
        | Journey::NodeToPod => format!(
            "a rule or route of another program comes before those of Culvert; see `{family} rule` and \
             {get}, and have it leave out the pod networks"
        ),
    };
    let obstacle = format!("{} {what}: {remedy}", probe.journey);
    Some(Detour { obstacle, hidden, is_dropped: matches!(answer, RouteAnswer::Refused(_)) })
}

/// What it means that one of `captured`, devices of ours, is a port of another device.
pub(super) fn captured(captured: &[(String, String)]) -> Option<String> {
    captured.first().map(|(device, owner)| {
        format!(
            "{device} is a port of {owner}, so that its packets are routed or bridged by that one: take \
             it out (`ip link set {device} nomaster`)"
        )
    })
}

/// The cluster network whose packets the kernel drops because of one of `routes`, those of the main
/// table, which was put before ours.
pub(super) fn hidden_by(spec: &NodeSpec, routes: &[Route]) -> Option<IpNet> {
    let foreign = routes.iter().filter(|route| route.protocol != PROTOCOL);
    foreign
        .filter(|route| route.priority == default_priority(&route.destination))
        .map(|route| route.destination)
        .find(|destination| spec.cluster_networks.iter().any(|net| net.trunc() == *destination))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{net, route, spec};
    use super::*;
    use culvert_netlink::{Error, Path};

    const DEVICES: Devices = Devices { tun: 5, bridge: 6 };

    fn out(route: Route, link: u32) -> RouteAnswer {
        RouteAnswer::Out(Path { route: Route { link: Some(link), ..route }, links: vec![link] })
    }

    fn found(probe: &Probe, answer: &RouteAnswer) -> Option<Detour> {
        let names = [("culvert0", 5), ("v-net-0", 6), ("vpn0", 7)];
        let indexes = names.map(|(name, index)| (name.to_owned(), index)).into();
        detour(&spec(), probe, answer, &indexes)
    }

    #[test]
    fn every_kind_of_packet_is_asked_about_in_both_families() {
        let probes = probes(&spec(), DEVICES, &spec().remote_subnets);
        assert_eq!(probes.len(), 2 + 2 + 2 * 3);
        let out = Flow {
            source: "10.244.1.2".parse().ok(),
            incoming: Some(6),
            ..Flow::to("10.244.2.2".parse().unwrap())
        };
        let back = Flow {
            source: "fd00:10:244:2::2".parse().ok(),
            incoming: Some(5),
            ..Flow::to("fd00:10:244:1::2".parse().unwrap())
        };
        let expected = |flow| probes.iter().find(|probe| probe.flow == flow).unwrap().expected;
        assert_eq!((expected(out), expected(back)), (Some(5), Some(6)));
        let to_gateway = Flow {
            source: "10.244.1.2".parse().ok(),
            incoming: Some(6),
            ..Flow::to("10.244.1.1".parse().unwrap())
        };
        assert_eq!(expected(to_gateway), None);
    }

    #[test]
    fn each_subnet_of_a_large_cluster_has_its_turn() {
        let all: Vec<IpNet> = (0..200).map(|node| net(&format!("10.244.{node}.0/24"))).collect();
        let mut turns = Turns::default();
        let mut taken = |count| turns.take(&all, count);
        assert_eq!(taken(WINDOW), all[..64]);
        assert_eq!(taken(FEW), all[64..72]);
        assert_eq!((taken(WINDOW).len(), taken(WINDOW)), (64, all[136..].to_vec()));
        assert_eq!(taken(WINDOW), all[..64]);
        // There are fewer than were asked about.
        assert_eq!(turns.take(&all[..3], FEW), all[..3]);
        assert_eq!(turns.take(&[], FEW), []);
    }

    #[test]
    fn packets_that_went_astray_are_asked_about_until_they_do_not() {
        let all: Vec<IpNet> = (0..200).map(|node| net(&format!("10.244.{node}.0/24"))).collect();
        let mut turns = Turns::default();
        let first = turns.take(&all, FEW);
        let astray = probes(&spec(), DEVICES, &first[3..4]);
        assert!(astray.len() > 3, "some of them are not about other nodes");
        turns.note(astray.iter());
        for round in 1..10 {
            let taken = turns.take(&all, FEW);
            assert_eq!((taken[0], taken[1], taken.len()), (all[3], all[8 * round], 9));
            turns.note(astray.iter());
        }
        turns.note([].into_iter());
        assert_eq!(turns.take(&all, FEW), all[80..88]);
        // However many go astray, a few are kept, and none that is no node's any more.
        turns.note(probes(&spec(), DEVICES, &all).iter());
        assert_eq!(turns.take(&all, FEW).len(), 2 * FEW);
        assert_eq!(turns.take(&all[5..], FEW).len(), 3 + FEW);
    }

    #[test]
    fn subnet_without_room_for_a_pod_is_not_asked_about() {
        let spec = NodeSpec {
            local_subnets: vec![net("10.244.1.0/32")],
            remote_subnets: [net("10.244.2.9/32")].into(),
            ..spec()
        };
        let probes = probes(&spec, DEVICES, &spec.remote_subnets);
        assert_eq!(probes.len(), 1);
        assert_eq!(probes[0].flow, Flow::to("10.244.2.9".parse().unwrap()));
    }

    #[test]
    fn right_way_is_no_detour() {
        for probe in probes(&spec(), DEVICES, &spec().remote_subnets) {
            let right = probe.expected.map_or(RouteAnswer::Local, |link| out(route(), link));
            assert_eq!(found(&probe, &right), None);
        }
    }

    #[test]
    fn detour_says_which_packets_go_where_and_how_to_see_it() {
        let probe = probes(&spec(), DEVICES, &spec().remote_subnets)
            .into_iter()
            .find(|probe| probe.journey == Journey::PodToOtherNode)
            .unwrap();
        let by_rule = out(Route { table: 52, ..route() }, 7);
        let text = found(&probe, &by_rule).unwrap().obstacle;
        for words in [
            "packets of pods to other nodes' pods leave by vpn0 instead of culvert0",
            "(route 0.0.0.0/0 of table 52)",
            "`ip route get 10.244.2.2 from 10.244.1.2 iif v-net-0`",
        ] {
            assert!(text.contains(words), "{words:?} is missing in {text}");
        }
        let refusal = Error::new("look up", "a route", std::io::Error::other("No route to host"));
        let text = found(&probe, &RouteAnswer::Refused(refusal)).unwrap().obstacle;
        assert!(text.contains("are dropped (No route to host)"), "{text}");
        assert!(text.contains("`ip route show table all match 10.244.2.2`"), "{text}");
        let number = std::io::Error::from_raw_os_error(libc::EINVAL);
        let refusal = Error::new("look up", "a route", number);
        let text = found(&probe, &RouteAnswer::Refused(refusal)).unwrap().obstacle;
        assert!(text.contains("says blackhole") && !text.contains("os error"), "{text}");
        assert!(found(&probe, &RouteAnswer::Local).unwrap().obstacle.contains("end on this node"));
    }

    #[test]
    fn gateway_that_is_not_this_nodes_is_named() {
        let mut probes = probes(&spec(), DEVICES, &spec().remote_subnets).into_iter();
        let probe = probes.find(|probe| probe.journey == Journey::PodToGateway).unwrap();
        let text = found(&probe, &out(route(), 6)).unwrap().obstacle;
        for words in [
            "packets of pods to their gateway leave by v-net-0 instead of ending on this node",
            "`ip route show table local`",
            "`ip route get 10.244.1.1 from 10.244.1.2 iif v-net-0`",
        ] {
            assert!(text.contains(words), "{words:?} is missing in {text}");
        }
    }

    #[test]
    fn device_that_another_one_took_is_named_with_the_remedy() {
        assert_eq!(captured(&[]), None);
        let text = captured(&[("v-net-0".to_owned(), "blue".to_owned())]).unwrap();
        assert!(text.starts_with("v-net-0 is a port of blue"), "{text}");
        assert!(text.contains("`ip link set v-net-0 nomaster`"), "{text}");
    }

    #[test]
    fn only_a_route_in_the_very_place_of_ours_hides_it() {
        let probe = probes(&spec(), DEVICES, &spec().remote_subnets)
            .into_iter()
            .find(|probe| probe.journey == Journey::PodToOtherNode)
            .unwrap();
        let hidden = |route: Route| found(&probe, &out(route, 7)).unwrap().hidden;
        let ours = Route { destination: net("10.244.0.0/16"), ..route() };
        assert_eq!(hidden(ours.clone()), Some(net("10.244.0.0/16")));
        assert_eq!(hidden(Route { destination: net("10.244.2.0/24"), ..route() }), None);
        assert_eq!(hidden(Route { table: 100, ..ours.clone() }), None);
        // One that drops packets is found among all.
        let blackhole = Route { link: None, direct: false, ..ours };
        assert_eq!(hidden_by(&spec(), &[route()]), None);
        assert_eq!(hidden_by(&spec(), &[route(), blackhole.clone()]), Some(net("10.244.0.0/16")));
        let last = Route { priority: 4096, ..blackhole.clone() };
        let own = Route { protocol: PROTOCOL, ..blackhole };
        assert_eq!(hidden_by(&spec(), &[last, own]), None);
    }
}
