//! Questions of every kind.

use culvert_dataplane::engine::{
    Foreign, Membership, NodeEntry, Overlay, PeerRegistry, TunnelOptions,
};
use overlay_proto::{Mtu, Vni};
use serde_json::json;

use super::*;

fn table() -> Table {
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
    Table::compile(&members, routers, |_| Mtu::new(1464).unwrap(), &PeerRegistry::default())
}

fn ask(source: &str, destination: &str, size: u16) -> Explanation {
    let devices = Devices { bridge: "v-net-0".to_owned(), tun: "culvert0".to_owned() };
    explain(&table(), &devices, &question(source, destination, size)).unwrap()
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
        "comes in by v-net-0",
        "culvert0",
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
    assert!(answer.to_string().contains("v-net-0 delivers, culvert0 sees nothing"), "{answer}");
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
    let devices = Devices { bridge: String::new(), tun: String::new() };
    let ask = |question| explain(&table(), &devices, &question).unwrap_err().to_string();
    assert!(ask(question("10.244.1.2", "fd00::1", 100)).contains("different families"));
    assert!(ask(question("10.244.1.2", "10.244.2.2", 39)).contains("headers alone are 40"));
}
