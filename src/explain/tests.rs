//! Questions of every kind.

use std::net::SocketAddr;
use std::sync::Arc;

use culvert_dataplane::engine::{
    Foreign, Membership, NodeEntry, Overlay, PeerRegistry, SealedMode, Sealing, TunnelOptions,
};
use culvert_seal::session::PeerLink;
use overlay_proto::{Mtu, Vni};
use serde_json::json;

use super::*;

fn table() -> Table {
    table_with_mtu(1464)
}

fn table_with_mtu(mtu: u32) -> Table {
    let node = |index: u8| NodeEntry {
        name: format!("node{index}"),
        address: IpAddr::from([192, 168, 1, 10 + index]),
        subnets: vec![format!("10.244.{index}.0/24").parse().unwrap()],
        tunnel_options: TunnelOptions::default(),
    };
    let overlay = Overlay {
        vni: Vni::new(1).unwrap(),
        networks: vec!["10.244.0.0/16".parse().unwrap()],
        port: 4790,
        foreign: Foreign::default(),
    };
    let members = Membership::check(overlay, "node1", (1..=3).map(node).collect()).unwrap();
    let routers = vec!["10.244.1.1".parse().unwrap()];
    Table::compile(&members, routers, |_| Mtu::new(mtu).unwrap(), &PeerRegistry::default())
}

/// The same where node2 seals.
fn sealing_table() -> Table {
    let links = [Arc::new(PeerLink::new("node2"))];
    let sealing = Sealing::new(SealedMode::Require, 4500).with_links(links);
    table_with_mtu(1438).seal(&sealing)
}

fn ask(source: &str, destination: &str, size: u16) -> Explanation {
    explain(&table(), &node(), None, &question(source, destination, size)).unwrap()
}

fn node() -> Node {
    Node {
        bridge: "v-net-0".to_owned(),
        tun: "culvert0".to_owned(),
        masquerade: true,
        source_ports: Vec::new(),
        refused: Vec::new(),
    }
}

/// A kernel as it is on a healthy node with the pod 10.244.1.2, but for what a test changes.
struct Healthy {
    detour: Option<Way>,
    firewall: Option<(&'static str, bool)>,
    underlay: Option<Underlay>,
    trouble: Option<&'static str>,
    /// Whether rules of IP see frames of the bridge.
    filters_frames: bool,
    /// Where the service 10.96.0.10 leads.
    endpoints: &'static [&'static str],
}

const HEALTHY: Healthy = Healthy {
    detour: None,
    firewall: None,
    underlay: None,
    trouble: None,
    filters_frames: false,
    endpoints: &["10.244.2.3:5353"],
};

impl Kernel for Healthy {
    fn holder(&mut self, address: IpAddr) -> Result<Option<Holder>, String> {
        Ok(match address.to_string().as_str() {
            "10.244.1.2" => Some(Holder::Pod {
                name: "pod1".to_owned(),
                trouble: self.trouble.map(str::to_owned),
            }),
            "10.244.1.1" => Some(Holder::Node),
            _ => None,
        })
    }

    fn route(
        &mut self,
        _source: IpAddr,
        destination: IpAddr,
        incoming: Option<&str>,
    ) -> Result<Way, String> {
        let out = |device: &str, gateway: Option<&str>| Way::Out {
            device: device.to_owned(),
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        };
        if let Some(detour) = &self.detour {
            return Ok(detour.clone());
        }
        Ok(match destination.to_string().as_str() {
            "192.168.1.11" => Way::Here,
            "10.244.1.2" if incoming == Some("culvert0") => out("v-net-0", None),
            inside if inside.starts_with("10.244.") => out("culvert0", None),
            _ => out("eth0", Some("192.168.1.1")),
        })
    }

    fn underlay(&mut self, _local: IpAddr, _peer: SocketAddr) -> Result<Underlay, String> {
        let way = Way::Out { device: "eth0".to_owned(), gateway: None };
        Ok(self.underlay.clone().unwrap_or(Underlay { way, doubt: None }))
    }

    fn redirected(
        &mut self,
        question: &Question,
        _incoming: Option<&str>,
    ) -> Result<Option<Redirected>, String> {
        let is_service = question.destination.to_string() == "10.96.0.10";
        let to = self.endpoints.iter().map(|end| {
            let end: SocketAddr = end.parse().unwrap();
            Target { address: Some(end.ip()), port: Some(end.port()) }
        });
        let by = "chain ip kube-proxy service-dns (rule 7)".to_owned();
        let redirected = Redirected { by, to: to.collect(), is_followed: true, is_sure: true };
        Ok(is_service.then_some(redirected))
    }

    fn filters_frames(&mut self, _is_ipv4: bool) -> Result<bool, String> {
        Ok(self.filters_frames)
    }

    fn hurdles(&mut self, _passage: &Passage<'_>) -> Result<Vec<Hurdle>, String> {
        let hurdle = self.firewall.map(|(by, is_sure)| Hurdle { by: by.to_owned(), is_sure });
        Ok(hurdle.into_iter().collect())
    }
}

fn ask_kernel(mut kernel: Healthy, source: &str, destination: &str) -> Explanation {
    let question = question(source, destination, 100);
    explain(&table(), &node(), Some(&mut kernel), &question).unwrap()
}

#[test]
fn nothing_that_is_explained_is_counted() {
    let table = table();
    for (source, destination) in [("10.244.1.2", "10.244.2.2"), ("10.244.2.2", "10.244.1.2")] {
        let question = question(source, destination, 100);
        explain(&table, &node(), None, &question).unwrap();
    }
    for peer in table.peers() {
        let counters = &peer.counters;
        assert_eq!((counters.egress().packets, counters.ingress().packets), (0, 0));
        assert_eq!(counters.last_heard_ms(), None);
    }
}

#[test]
fn what_is_outside_is_the_kernels() {
    let answer = ask_kernel(HEALTHY, "10.244.1.2", "8.8.8.8");
    assert_eq!(verdicts(&answer), [(Direction::Kernel, Verdict::Kernel, None, None)]);
    let text = answer.to_string();
    assert!(text.contains("leads to eth0 over 192.168.1.1, not to culvert0 [kernel]"), "{text}");
    assert!(text.contains("with the node's address [assumed]"), "{text}");
    let own = ask_kernel(HEALTHY, "10.244.1.2", "192.168.1.11");
    assert!(own.to_string().contains("192.168.1.11 is this node's own [kernel]"), "{own}");
    // Without a kernel to ask the verdict is the same, and says what it rests on.
    let offline = ask("10.244.1.2", "8.8.8.8", 100);
    assert_eq!(verdicts(&offline), [(Direction::Kernel, Verdict::Kernel, None, None)]);
    assert!(offline.to_string().contains("[assumed]"), "{offline}");
}

#[test]
fn detour_of_the_kernel_is_told_instead_of_the_data_path() {
    let out = |device: &str| Way::Out { device: device.to_owned(), gateway: None };
    let cases = [
        ("10.244.1.2", "10.244.2.2", out("eth0"), Verdict::Kernel, "ip route get 10.244.2.2 from"),
        ("10.244.2.2", "10.244.1.2", out("vpn0"), Verdict::Kernel, "from culvert0 to vpn0"),
        (
            "10.244.1.2",
            "10.244.2.2",
            Way::Refused("no route to host".to_owned()),
            Verdict::KernelDrops,
            "leads nowhere: no route to host [kernel]",
        ),
    ];
    for (source, destination, way, verdict, part) in cases {
        let kernel = Healthy { detour: Some(way), ..HEALTHY };
        let answer = ask_kernel(kernel, source, destination);
        assert_eq!(answer.ways[0].verdict, verdict, "{answer}");
        assert!(answer.to_string().contains(part), "{answer}");
    }
}

#[test]
fn addresses_that_no_pod_has_reach_nobody() {
    for (source, destination) in [
        ("10.244.1.77", "10.244.2.2"),
        ("10.244.1.2", "10.244.1.99"),
        ("10.244.2.2", "10.244.1.99"),
    ] {
        let answer = ask_kernel(HEALTHY, source, destination);
        assert_eq!(answer.ways[0].verdict, Verdict::KernelDrops, "{answer}");
    }
    let node = ask_kernel(HEALTHY, "10.244.1.1", "10.244.2.2");
    assert_eq!(node.ways[0].verdict, Verdict::Forward, "{node}");
}

#[test]
fn firewall_that_was_not_followed_is_a_doubt() {
    for (source, destination) in [("10.244.1.2", "10.244.2.2"), ("10.244.2.2", "10.244.1.2")] {
        let kernel =
            Healthy { firewall: Some(("chain inet fw f (policy drop)", false)), ..HEALTHY };
        let answer = ask_kernel(kernel, source, destination);
        assert_eq!(answer.ways[0].unless, ["chain inet fw f (policy drop) drops it"], "{answer}");
        assert!(answer.to_string().contains("; unless chain inet fw f"), "{answer}");
    }
}

#[test]
fn delivery_by_the_bridge_says_what_was_looked_at() {
    let step = |kernel: Option<Healthy>| {
        let mut kernel = kernel;
        let kernel = kernel.as_mut().map(|kernel| kernel as &mut dyn Kernel);
        let question = question("10.244.1.2", "10.244.1.2", 100);
        let answer = explain(&table(), &node(), kernel, &question).unwrap();
        assert_eq!(answer.ways[0].verdict, Verdict::Local, "{answer}");
        let way = &answer.ways[0];
        assert!(way.steps.last().unwrap().found.contains("was not looked at"), "{answer}");
        way.steps[way.decided_by.unwrap()].clone()
    };
    let asked = step(Some(HEALTHY));
    assert_eq!(asked.by, Basis::Kernel);
    assert!(asked.found.ends_with("those of IP do not see its frames"), "{asked:?}");
    let filtered = step(Some(Healthy { filters_frames: true, ..HEALTHY }));
    assert!(filtered.found.contains("nor one of IP, which see its frames too"), "{filtered:?}");
    let doubt = Some(("chain inet fw f (policy drop)", false));
    let doubtful = step(Some(Healthy { firewall: doubt, ..HEALTHY }));
    assert!(doubtful.found.ends_with("if those rules let it pass"), "{doubtful:?}");
    let unasked = step(None);
    assert_eq!((unasked.by, unasked.found.as_str()), (Basis::Assumed, "v-net-0 delivers it"));
}

#[test]
fn what_is_not_looked_at_on_another_node_or_in_a_pod_is_said_so() {
    let there = ask_kernel(HEALTHY, "10.244.1.2", "10.244.2.2");
    let last = there.ways[0].steps.last().unwrap();
    assert_eq!((last.what.as_str(), last.by), ("beyond", Basis::Assumed));
    assert!(last.found.contains("not looked at there"), "{there}");
    assert!(there.ways[0].decisive().starts_with("UDP 192.168.1.11"), "{there}");
    let here = ask_kernel(HEALTHY, "10.244.2.2", "10.244.1.2");
    assert!(here.to_string().contains("VNI 1, as this node has it; what node2 sends"), "{here}");
    let last = here.ways[0].steps.last().unwrap();
    assert!(last.found.contains("whether it has a way back, was not looked at"), "{here}");
}

#[test]
fn what_is_dropped_of_a_peer_whatever_it_carries_is_a_doubt() {
    let refused = Refused {
        from: "192.168.1.12".parse().unwrap(),
        reason: DropReason::Header(overlay_proto::DecodeError::Vni),
        seconds_ago: 3,
    };
    let node = Node { refused: vec![refused], ..node() };
    let ask = |source, destination| {
        let question = question(source, destination, 100);
        explain(&table(), &node, Some(&mut { HEALTHY }), &question).unwrap()
    };
    let ingress = ask("10.244.2.2", "10.244.1.2");
    assert_eq!(ingress.ways[0].unless, ["it is dropped, as is what node2 sends (vni, 3 s ago)"]);
    let egress = ask("10.244.1.2", "10.244.2.2");
    let doubt = "node2 drops it, as this node does what node2 sends (vni, 3 s ago)";
    assert_eq!(egress.ways[0].unless, [doubt], "{egress}");
    assert!(egress.to_string().contains("vni, the last 3 s ago"), "{egress}");
    assert_eq!(ask("10.244.1.2", "10.244.3.2").ways[0].unless, Vec::<String>::new());
}

#[test]
fn nothing_is_told_of_an_answer_to_what_does_not_arrive() {
    let kernel = Healthy { firewall: Some(("chain inet fw f (rule 7)", true)), ..HEALTHY };
    let answer = ask_kernel(kernel, "10.244.2.2", "10.244.1.2");
    assert_eq!(answer.ways.len(), 1, "{answer}");
    assert!(answer.to_string().ends_with(NO_ANSWER_FOLLOWED), "{answer}");
}

#[test]
fn firewall_that_drops_for_certain_ends_the_way() {
    for (source, destination) in
        [("10.244.1.2", "10.244.2.2"), ("10.244.2.2", "10.244.1.2"), ("10.244.1.2", "10.244.1.2")]
    {
        let kernel = Healthy { firewall: Some(("chain inet fw f (rule 7)", true)), ..HEALTHY };
        let answer = ask_kernel(kernel, source, destination);
        assert_eq!(answer.ways[0].verdict, Verdict::KernelDrops, "{answer}");
        let last = answer.ways[0].steps.last().unwrap();
        assert!(last.found.starts_with("chain inet fw f (rule 7) drops"), "{answer}");
    }
}

#[test]
fn datagram_that_cannot_leave_ends_the_way_and_a_doubt_is_told() {
    let way = Way::Refused("there is no route".to_owned());
    let cut = Healthy { underlay: Some(Underlay { way, doubt: None }), ..HEALTHY };
    let answer = ask_kernel(cut, "10.244.1.2", "10.244.2.2");
    assert_eq!(answer.ways[0].verdict, Verdict::KernelDrops, "{answer}");
    assert!(answer.to_string().contains("no way to 192.168.1.12: there is no route"), "{answer}");
    let way = Way::Out { device: "eth0".to_owned(), gateway: None };
    let doubt = Some("nobody on the link answers".to_owned());
    let lost = Healthy { underlay: Some(Underlay { way, doubt }), ..HEALTHY };
    let answer = ask_kernel(lost, "10.244.1.2", "10.244.2.2");
    assert_eq!(answer.ways[0].verdict, Verdict::Forward, "{answer}");
    assert_eq!(answer.ways[0].unless, ["nobody on the link answers"], "{answer}");
}

#[test]
fn pod_that_gets_nothing_is_said_to_for_both_directions() {
    for (source, destination) in [("10.244.1.2", "10.244.2.2"), ("10.244.2.2", "10.244.1.2")] {
        let kernel = Healthy { trouble: Some("its interface is down"), ..HEALTHY };
        let answer = ask_kernel(kernel, source, destination);
        assert_eq!(answer.ways[0].verdict, Verdict::KernelDrops, "{answer}");
        assert!(answer.to_string().contains("its interface is down [kernel]"), "{answer}");
    }
}

#[test]
fn a_peer_that_must_seal_and_has_no_key_gets_nothing() {
    let sealing = Sealing::new(SealedMode::Require, 4500);
    let question = question("10.244.1.2", "10.244.2.2", 100);
    let answer = explain(&table().seal(&sealing), &node(), None, &question).unwrap();
    let no_key = Some(DropReason::NoKey);
    assert_eq!(verdicts(&answer), [(Direction::Egress, Verdict::Reply, no_key, Some("node2"))]);
    let text = answer.to_string();
    assert!(text.contains("node2 has no key, and nothing leaves in plain"), "{text}");
}

fn question(source: &str, destination: &str, size: u16) -> Question {
    Question {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        protocol: Protocol::Tcp,
        source_port: 40_000,
        destination_port: 80,
        size,
        may_fragment: false,
    }
}

type Fate<'a> = (Direction, Verdict, Option<DropReason>, Option<&'a str>);

fn verdicts(explanation: &Explanation) -> Vec<Fate<'_>> {
    let ways = explanation.ways.iter();
    ways.map(|way| (way.direction, way.verdict, way.reason, way.peer.as_deref())).collect()
}

#[test]
fn a_packet_to_a_remote_pod_is_followed_to_the_wire() {
    let answer = ask("10.244.1.2", "10.244.2.2", 1464);
    assert_eq!(verdicts(&answer), [(Direction::Egress, Verdict::Forward, None, Some("node2"))]);
    assert_eq!(answer.ways[0].wire_bytes, 1500);
    let text = answer.to_string();
    for part in [
        "tcp 10.244.1.2 40000 > 10.244.2.2 80, 1464 bytes on node1: egress",
        "10.244.1.2 is in 10.244.1.0/24, a subnet of this node",
        "from v-net-0 to culvert0, where the daemon reads it [assumed]",
        "10.244.2.2 is in 10.244.2.0/24 of node2",
        "1464 bytes of at most 1464",
        "vxlan-gpe, VNI 1: a header of 8 bytes",
        "UDP 192.168.1.11 > 192.168.1.12 port 4790",
        "forward, peer node2, 1500 bytes on the wire",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn what_stops_a_packet_is_named() {
    let cases = [
        ("10.244.1.2", "10.244.2.2", 1465, Verdict::Reply, DropReason::TooBig),
        ("10.244.1.2", "10.244.9.2", 100, Verdict::Reply, DropReason::NoOwner),
        ("10.244.1.2", "224.0.0.251", 100, Verdict::Drop, DropReason::Multicast),
        ("8.8.8.8", "10.244.2.2", 100, Verdict::Drop, DropReason::ForeignSource),
    ];
    for (source, destination, size, verdict, reason) in cases {
        let answer = ask(source, destination, size);
        let [(_, was, why, _)] = verdicts(&answer)[..] else { panic!("{answer}") };
        assert_eq!((was, why), (verdict, Some(reason)), "{answer}");
        assert_eq!(answer.ways[0].wire_bytes, 0);
    }
}

#[test]
fn a_packet_that_may_be_fragmented_is_followed_in_fragments() {
    let asked = Question { may_fragment: true, ..question("10.244.1.2", "10.244.2.2", 3000) };
    // Behind 20 bytes of IP 2,980, which are 1440, 1440 and 100; sealed 1416, 1416 and 148.
    for (table, wire_bytes, codec) in [
        (table(), 3000 + 2 * 20 + 3 * 36, "a header of 8 bytes"),
        (sealing_table(), 1500 + 1500 + 232, "ESP, MTU 1438: would handshake and hold"),
    ] {
        let answer = explain(&table, &node(), None, &asked).unwrap();
        assert_eq!(verdicts(&answer), [(Direction::Egress, Verdict::Forward, None, Some("node2"))]);
        assert_eq!(answer.ways[0].wire_bytes, wire_bytes, "{answer}");
        let text = answer.to_string();
        assert!(text.contains("3000 bytes are more than the 14"), "{text}");
        assert!(text.contains("fragments    it may be fragmented, and leaves in 3"), "{text}");
        assert!(text.contains(codec), "{text}");
    }
}

#[test]
fn a_remote_source_is_followed_both_ways() {
    let answer = ask("10.244.2.2", "10.244.1.2", 1000);
    let expected = [
        (Direction::Ingress, Verdict::Deliver, None, Some("node2")),
        (Direction::Egress, Verdict::Forward, None, Some("node2")),
    ];
    assert_eq!(verdicts(&answer), expected);
    assert!(answer.ways[1].packet.contains("10.244.1.2 80 > 10.244.2.2 40000"), "{answer}");
    let lost = ask("10.244.2.2", "10.244.3.2", 1000);
    let reason = Some(DropReason::NotOurDestination);
    assert_eq!(verdicts(&lost)[0], (Direction::Ingress, Verdict::Drop, reason, Some("node2")));
}

#[test]
fn neighbours_never_meet_the_daemon() {
    let answer = ask("10.244.1.2", "10.244.1.3", 9000);
    assert_eq!(verdicts(&answer), [(Direction::Local, Verdict::Local, None, None)]);
    assert!(answer.to_string().contains("culvert0 sees nothing"), "{answer}");
}

#[test]
fn programs_read_the_words_that_people_read() {
    let answer = ask("10.244.1.2", "10.244.9.2", 100);
    let json = serde_json::to_value(&answer).unwrap();
    let way = &json["ways"][0];
    assert_eq!([&way["direction"], &way["verdict"]], ["egress", "reply"]);
    assert_eq!([&way["reason"], &way["peer"]], [&json!("no_owner"), &json!(null)]);
    assert!(answer.to_string().contains("verdict      reply, no_owner"), "{answer}");
    assert_eq!(serde_json::from_value::<Explanation>(json).unwrap(), answer);
}

#[test]
fn each_protocol_has_its_bytes_in_both_families() {
    let v4 = [
        "4500002900004000400621e30af401020af402039c400050000000000000000050100000fa56000000",
        "4500001e00004000401121e30af401020af402039c400050000a4a5d0000",
        "4500001c00004000400121f50af401020af402030800f7ff00000000",
    ];
    let v6 = [
        "6000000000140640fd000000000000000000000000000001fd000000000000000000000000000002\
         9c40005000000000000000005010000019400000",
        "6000000000081140fd000000000000000000000000000001fd000000000000000000000000000002\
         9c40005000086949",
        "6000000000093a40fd000000000000000000000000000001fd000000000000000000000000000002\
         800085b70000000000",
    ];
    let cases = [("10.244.1.2", "10.244.2.3", v4), ("fd00::1", "fd00::2", v6)];
    for (source, destination, expected) in cases {
        let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Icmp];
        for (protocol, expected) in protocols.into_iter().zip(expected) {
            let size = u16::try_from(expected.len() / 2).unwrap();
            let question = Question { protocol, ..question(source, destination, size) };
            let bytes = packet::build(&question).unwrap();
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, expected, "{question:?}");
        }
    }
}

#[test]
fn packets_that_cannot_be_are_refused() {
    let ask = |question| explain(&table(), &node(), None, &question).unwrap_err().to_string();
    assert!(ask(question("10.244.1.2", "fd00::1", 100)).contains("different families"));
    assert!(ask(question("10.244.1.2", "10.244.2.2", 39)).contains("headers alone are 40"));
}

#[test]
fn packet_to_a_service_is_followed_to_where_it_is_sent() {
    let one = ask_kernel(HEALTHY, "10.244.1.2", "10.96.0.10");
    assert_eq!(verdicts(&one), [(Direction::Egress, Verdict::Forward, None, Some("node2"))]);
    let text = one.to_string();
    assert!(text.contains("> 10.96.0.10 80, 100 bytes on node1: egress"), "{text}");
    let sent = "service-dns (rule 7) sends it to 10.244.2.3:5353 [kernel]";
    assert!(text.contains(sent) && text.contains("10.244.2.3 is in 10.244.2.0/24"), "{text}");
    let becomes = one.becomes.unwrap();
    assert_eq!(
        (becomes.destination.to_string().as_str(), becomes.destination_port),
        ("10.244.2.3", 5353)
    );

    let several = Healthy { endpoints: &["10.244.1.2:80", "10.244.3.2:80"], ..HEALTHY };
    let several = ask_kernel(several, "10.244.1.2", "10.96.0.10");
    let text = several.to_string();
    let sent = "to one of 10.244.1.2:80, 10.244.3.2:80; what follows is of 10.244.1.2:80";
    assert!(text.contains(sent), "{text}");
    assert_eq!(several.ways[0].direction, Direction::Local);

    let nobody_knows =
        ask_kernel(Healthy { endpoints: &[], ..HEALTHY }, "10.244.1.2", "10.96.0.10");
    let text = nobody_knows.to_string();
    assert!(text.contains("another destination, which was not followed"), "{text}");
    assert!(text.contains("verdict      kernel; unless chain ip kube-proxy"), "{text}");
}
