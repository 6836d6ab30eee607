//! Ways around the rules: frames that a bridge does not forward, ports without bridge or rules,
//! translated addresses, other processes of the node, packets that nobody translates, scans.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

use culvert_lab::{Lab, Netns, Node, Pod, UNDERLAY_PORT, probe, wait_until};
use etherparse::PacketBuilder;
use overlay_proto::Family;

use crate::capture::Capture;
use crate::harness::{
    CULVERT, FAMILIES, SOON, assert_reaches_within, lab, lead_service, quick_ping, run,
};
use crate::packets::{Udp, VNI, in_overlay, mark_as_daemon, send_to_daemon};

/// What must not arrive, and what shows that everything before it was handled.
const EVIL: &[u8] = b"must not arrive";
const GOOD: &[u8] = b"may arrive";

/// A service address, and its port.
const SERVICE: [u8; 4] = [10, 96, 0, 5];
const SERVICE_PORT: u16 = 53;

#[test]
fn frames_to_reserved_groups_are_no_way_past_the_rules() {
    let lab = lab("nt-groups").nodes(3).pods(2).up().unwrap();
    let (attacker, victim) = (lab.pod(1, 1), lab.pod(1, 2));
    let to = lab.node(1).address();
    ip(attacker.netns(), &format!("route add {to} dev eth0"));
    let mut seen = Capture::start(victim.netns());
    for evil in [passing_for(&lab, 2, &victim, EVIL), from_itself(&lab, &attacker, &victim)] {
        for group in 0..16 {
            address_to_group(&attacker, to, group);
            probe::send_packet(attacker.netns(), &evil).unwrap();
        }
    }
    wait_for_good(&lab, &victim, &mut seen);
    assert!(!seen.has(EVIL));

    // Nor does the bridge learn from them whose hardware address is where.
    let stolen = hardware_address(&victim);
    let known = || {
        let entries = run(lab.node(1).netns(), "bridge", &["fdb", "show", "br", "v-net-0"]);
        entries.lines().find(|line| line.starts_with(&stolen)).map(str::to_owned)
    };
    assert_reaches_within(SOON, victim.netns(), [10, 244, 1, 1].into());
    let before = known();
    assert!(before.is_some());
    ip(attacker.netns(), &format!("link set eth0 address {stolen}"));
    for group in 0..16 {
        address_to_group(&attacker, to, group);
        probe::send_packet(attacker.netns(), &Udp::new(attacker.ipv4(), to, EVIL).bytes()).unwrap();
    }
    assert_eq!(known(), before);
}

#[test]
fn port_that_lost_its_bridge_is_no_way_in() {
    let lab = lab("nt-noport").nodes(3).up().unwrap();
    let (node, attacker, victim) = (lab.node(1), lab.pod(1, 1), lab.pod(2, 1));
    node.stop().unwrap();
    run(node.netns(), "ip", &["link", "del", "v-net-0"]);
    let port = port_of(node);
    let mac =
        json(node.netns(), &["link", "show", &port])[0]["address"].as_str().unwrap().to_owned();
    let to = lab.node(2).address();
    ip(attacker.netns(), &format!("route add {to} dev eth0"));
    ip(attacker.netns(), &format!("neigh replace {to} lladdr {mac} dev eth0 nud permanent"));
    let mut seen = Capture::start(victim.netns());
    let evil = in_overlay(VNI, &Udp::new(lab.pod(3, 1).ipv4(), victim.ipv4(), EVIL).bytes());
    let evil = Udp::new(lab.node(3).address(), to, &evil).port(UNDERLAY_PORT).bytes();
    probe::send_packet(attacker.netns(), &evil).unwrap();
    let good = in_overlay(VNI, &Udp::new(lab.pod(3, 1).ipv4(), victim.ipv4(), GOOD).bytes());
    seen.wait_for(GOOD, || send_to_daemon(lab.node(3).netns(), to, &good));
    assert!(!seen.has(EVIL));

    node.start().unwrap();
    for family in FAMILIES {
        assert_reaches_within(SOON, attacker.netns(), victim.address(family));
    }
}

#[test]
fn cleanup_takes_ports_down_and_the_next_daemon_brings_them_up() {
    let lab = lab("nt-cleanport").up().unwrap();
    let (node, pod) = (lab.node(1), lab.pod(1, 1));
    let is_up = || {
        let flags = json(node.netns(), &["link", "show", &port_of(node)])[0]["flags"].clone();
        flags.as_array().unwrap().iter().any(|flag| flag == "UP")
    };
    assert!(is_up());
    node.stop().unwrap();
    let done = run(node.netns(), CULVERT, &["cleanup"]);
    let position = |what: &str| done.lines().position(|line| line.contains(what)).unwrap();
    assert!(position("set down dev culv") < position("nft table"), "{done}");
    assert!(!is_up());
    node.start().unwrap();
    for family in FAMILIES {
        assert_reaches_within(SOON, pod.netns(), lab.pod(2, 1).address(family));
    }
    assert!(is_up());
}

#[test]
fn port_that_somebody_took_down_comes_up_again() {
    let lab = lab("nt-portdown").up().unwrap();
    let (node, pod) = (lab.node(1), lab.pod(1, 1));
    run(node.netns(), "ip", &["link", "set", &port_of(node), "down"]);
    assert_reaches_within(SOON, pod.netns(), lab.pod(2, 1).ipv4());
}

#[test]
fn service_that_leads_to_a_tunnels_port_is_no_way_out() {
    let lab = lab("nt-svcport").up().unwrap();
    let (node, attacker, victim) = (lab.node(1), lab.pod(1, 1), lab.pod(2, 1));
    let target = lab.node(2).address();
    lead_service(
        node,
        SocketAddr::from((SERVICE, SERVICE_PORT)),
        SocketAddr::new(target, UNDERLAY_PORT),
    );
    let mut seen = Capture::start(victim.netns());
    let evil = in_overlay(VNI, &Udp::new([10, 244, 1, 77].into(), victim.ipv4(), EVIL).bytes());
    for from in [attacker.netns(), node.netns()] {
        let socket = from.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        // A process is told that it may not.
        let _refused = socket.send_to(&evil, SocketAddr::new(SERVICE.into(), SERVICE_PORT));
    }
    let good = in_overlay(VNI, &Udp::new(attacker.ipv4(), victim.ipv4(), GOOD).bytes());
    seen.wait_for(GOOD, || send_to_daemon(node.netns(), target, &good));
    assert!(!seen.has(EVIL));
}

#[test]
fn no_other_process_of_a_node_speaks_as_the_node() {
    for (name, underlay) in [("nt-process", Family::V4), ("nt-process6", Family::V6)] {
        let lab = lab(name).underlay(underlay).up().unwrap();
        let (node, victim) = (lab.node(1), lab.pod(2, 1));
        let to = SocketAddr::new(lab.node(2).address(), UNDERLAY_PORT);
        let mut seen = Capture::start(victim.netns());
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let socket =
            node.netns().run(|| UdpSocket::bind(SocketAddr::new(any, 0))).unwrap().unwrap();
        let inner = |payload| Udp::new(lab.pod(1, 1).ipv4(), victim.ipv4(), payload).bytes();
        let refused = socket.send_to(&in_overlay(VNI, &inner(EVIL)), to);
        assert!(refused.is_err(), "a process without the mark");
        mark_as_daemon(&socket);
        let good = in_overlay(VNI, &inner(GOOD));
        seen.wait_for(GOOD, || assert!(socket.send_to(&good, to).is_ok()));
        assert!(!seen.has(EVIL));
    }
}

#[test]
fn what_cannot_be_translated_does_not_leave_the_node() {
    let lab = lab("nt-invalid").up().unwrap();
    let pod = lab.pod(1, 1);
    for family in FAMILIES {
        let (source, outside) = (pod.address(family), lab.outside(family));
        let mut seen = Capture::start(lab.switch());
        for flags in ["R", "RA", "FA", "SA"] {
            probe::send_packet(pod.netns(), &tcp(source, outside, flags)).unwrap();
        }
        let honest = Udp::new(source, outside, GOOD).bytes();
        let honest = seen.wait_for(GOOD, || probe::send_packet(pod.netns(), &honest).unwrap());
        assert!(is_from(&honest, lab.node(1).address_in(family)), "{family}");
        assert!(!seen.packets().iter().any(|packet| is_from(packet, source)), "{family}");
    }
}

#[test]
fn connection_that_began_without_masquerade_begins_anew_with_it() {
    let lab = lab("nt-begins").up().unwrap();
    let (node, pod) = (lab.node(1), lab.pod(1, 1));
    let (source, outside) = (pod.ipv4(), lab.outside(Family::V4));
    // Something else tracks connections, as whoever translates services does.
    let tracking = "table inet other {\n chain tracking { type filter hook forward priority 0; ct state new; }\n}";
    run(node.netns(), "nft", &[tracking]);
    node.stop().unwrap();
    run(node.netns(), "nft", &["delete", "table", "inet", "culvert"]);
    let mut seen = Capture::start(lab.switch());
    let send = |payload: &[u8]| {
        probe::send_packet(pod.netns(), &Udp::new(source, outside, payload).bytes()).unwrap();
    };
    let first = seen.wait_for(b"first", || send(b"first"));
    assert!(is_from(&first, source), "nothing translated it");
    node.start().unwrap();
    let second = seen.wait_for(b"second", || send(b"second"));
    assert!(is_from(&second, node.address()), "the same flow, translated");
}

#[test]
fn scan_of_a_subnet_leaves_the_nodes_table_of_neighbours_alone() {
    let lab = lab("nt-scan").up().unwrap();
    let (node, near, far) = (lab.node(1), lab.pod(1, 1), lab.pod(2, 1));
    // By way of the node, though it is its own subnet.
    ip(near.netns(), "-6 route add fd00:10:244:1:8000::/65 via fd00:10:244:1::1 dev eth0");
    for attacker in [&near, &far] {
        for host in 1..=500_u16 {
            let to: IpAddr = format!("fd00:10:244:1:8000::{host:x}").parse().unwrap();
            // A node that is asked to tell so may say "no such host" of one before.
            let _told =
                probe::send_packet(attacker.netns(), &Udp::new(attacker.ipv6(), to, EVIL).bytes());
        }
    }
    for host in 10..250_u8 {
        let to = [10, 244, 1, host].into();
        let _told = probe::send_packet(far.netns(), &Udp::new(far.ipv4(), to, EVIL).bytes());
    }
    for family in FAMILIES {
        assert_reaches_within(SOON, far.netns(), near.address(family));
        assert_reaches_within(SOON, node.netns(), near.address(family));
    }
    let neighbours = run(node.netns(), "ip", &["neigh", "show", "dev", "v-net-0", "nud", "all"]);
    assert!(neighbours.lines().count() < 20, "{neighbours}");
    // Who asks for a pod that is gone is told at once, not after a resolution has failed.
    let vacant = [10, 244, 1, 99].into();
    let answer = quick_ping(far.netns(), vacant);
    assert!(!answer.is_reply(), "{answer:?}");
    let rejected = run(node.netns(), "nft", &["list", "chain", "inet", "culvert-pods", "forward"]);
    assert!(!rejected.contains("counter packets 0 bytes 0 reject"), "{rejected}");
}

#[test]
fn scan_of_link_local_addresses_through_the_node_is_dropped() {
    let lab = lab("nt-scan-ll").up().unwrap();
    let (node, pod) = (lab.node(1), lab.pod(1, 1));
    let addresses: Vec<Ipv6Addr> =
        (1..=50_u16).map(|host| Ipv6Addr::new(0xfe80, 0, 0, 0, 0x8000, 0, 0, host)).collect();
    let (socket, scope) = pod
        .netns()
        .run(|| {
            let socket = UdpSocket::bind((pod.ipv6(), 0)).unwrap();
            let scope = rustix::net::netdevice::name_to_index(&socket, "eth0").unwrap();
            (socket, scope)
        })
        .unwrap();
    let dropped =
        || run(node.netns(), "nft", &["list", "chain", "inet", "culvert-pods", "forward"]);
    let send_to_all = |mac: &str| {
        for address in &addresses {
            let known = format!("neigh replace {address} lladdr {mac} dev eth0 nud permanent");
            ip(pod.netns(), &known);
            socket.send_to(EVIL, SocketAddrV6::new(*address, 9, 0, scope)).unwrap();
        }
    };
    // What is for the bridge is the node's, and what is for the port that it comes by.
    for (device, count) in [("v-net-0".to_owned(), 50), (port_of(node), 100)] {
        let mac = &json(node.netns(), &["link", "show", "dev", &device])[0]["address"];
        send_to_all(mac.as_str().unwrap());
        let text = dropped();
        assert!(text.contains(&format!("counter packets {count} ")), "{device}: {text}");
    }
    // Where somebody may live who has no note, only the bridge's own address is known to be no
    // pod's.
    run(node.netns(), "ip", &["link", "add", "old0", "type", "veth", "peer", "name", "old1"]);
    run(node.netns(), "ip", &["link", "set", "old0", "master", "v-net-0", "up"]);
    wait_until(SOON, "the stranger to be seen", || dropped().contains("0x2cf0af40100")).unwrap();
    send_to_all("02:cf:0a:f4:01:00");
    assert!(dropped().contains("counter packets 50 "), "{}", dropped());
    let neighbours = run(node.netns(), "ip", &["neigh", "show", "dev", "v-net-0", "nud", "all"]);
    // kernel: it remembers whom it tells of a shorter way before any rule is asked, six at first
    // and one a second.
    let asked = neighbours.lines().filter(|line| line.contains("fe80::8000")).count();
    assert!(asked < 20, "{neighbours}");
}

#[test]
fn pod_of_another_plugin_is_reached_while_those_with_notes_stay_checked() {
    let lab = lab("nt-noteless").pods(2).up().unwrap();
    let (node, near, far) = (lab.node(1), lab.pod(1, 1), lab.pod(2, 1));
    // As `bridge` and `host-local` leave it to us: a cable without a note.
    let old = Netns::create("nt-noteless-old").unwrap();
    run(node.netns(), "ip", &["link", "add", "old0", "type", "veth", "peer", "name", "old1"]);
    run(node.netns(), "ip", &["link", "set", "old1", "netns", old.name(), "name", "eth0"]);
    run(node.netns(), "ip", &["link", "set", "old0", "master", "v-net-0", "up"]);
    let addresses: [IpAddr; 2] = [[10, 244, 1, 77].into(), "fd00:10:244:1::77".parse().unwrap()];
    for (address, gateway) in addresses.iter().zip(["10.244.1.1", "fd00:10:244:1::1"]) {
        let length = if address.is_ipv4() { 24 } else { 64 };
        ip(&old, &format!("addr add {address}/{length} dev eth0"));
        ip(&old, "link set eth0 up");
        let family = if address.is_ipv4() { "-4" } else { "-6" };
        ip(&old, &format!("{family} route add default via {gateway}"));
        assert_reaches_within(SOON, far.netns(), *address);
        assert_reaches_within(SOON, node.netns(), *address);
        assert_reaches_within(SOON, &old, far.address(Family::V4));
    }
    // Its neighbours' addresses are still theirs alone.
    let victim = lab.pod(1, 2);
    let mut seen = Capture::start(far.netns());
    let evil = Udp::new(victim.ipv4(), far.ipv4(), EVIL).bytes();
    probe::send_packet(near.netns(), &evil).unwrap();
    let good = Udp::new(near.ipv4(), far.ipv4(), GOOD).bytes();
    seen.wait_for(GOOD, || probe::send_packet(near.netns(), &good).unwrap());
    assert!(!seen.has(EVIL));
    old.delete().unwrap();
}

#[test]
fn pod_whose_note_somebody_removes_stays_checked() {
    let lab = lab("nt-note").pods(2).up().unwrap();
    let (node, near, far) = (lab.node(1), lab.pod(1, 1), lab.pod(2, 1));
    let port = {
        let links = json(node.netns(), &["link", "show", "type", "veth"]);
        let ports = links.as_array().unwrap().iter();
        let own = |link: &&serde_json::Value| {
            link["ifalias"].as_str().is_some_and(|note| note.contains(&near.ipv4().to_string()))
        };
        ports.clone().find(own).unwrap()["ifname"].as_str().unwrap().to_owned()
    };
    let note = || json(node.netns(), &["link", "show", &port])[0]["ifalias"].clone();
    let before = note();
    // A daemon knows the notes that it has seen; a repair shows that it has looked.
    node.netns().ip("route del 10.244.0.0/16\n").unwrap();
    let repaired = || node.status().unwrap()["repairs"].as_u64() >= Some(1);
    wait_until(SOON, "a look", repaired).unwrap();
    let mut seen = Capture::start(far.netns());
    for alias in ["", "mine"] {
        run(node.netns(), "ip", &["link", "set", &port, "alias", alias]);
        wait_until(SOON, "the note to come back", || note() == before).unwrap();
        // A look that takes all elements into account follows every ten seconds; this one is now.
        node.reload().unwrap();
        let evil = Udp::new(lab.pod(1, 2).ipv4(), far.ipv4(), EVIL).bytes();
        probe::send_packet(near.netns(), &evil).unwrap();
    }
    let good = Udp::new(near.ipv4(), far.ipv4(), GOOD).bytes();
    seen.wait_for(GOOD, || probe::send_packet(near.netns(), &good).unwrap());
    assert!(!seen.has(EVIL));
    // One that went while no daemon ran is read from the source check, but for the owner.
    node.stop().unwrap();
    run(node.netns(), "ip", &["link", "set", &port, "alias", ""]);
    node.start().unwrap();
    let made_anew = format!(" checked hairpin {}/32 {}/128", near.ipv4(), near.ipv6());
    let is_back = || note().as_str().is_some_and(|note| note.ends_with(&made_anew));
    wait_until(SOON, "the note to come back", is_back).unwrap();
    let evil = Udp::new(lab.pod(1, 2).ipv4(), far.ipv4(), EVIL).bytes();
    probe::send_packet(near.netns(), &evil).unwrap();
    let again = Udp::new(near.ipv4(), far.ipv4(), b"once more").bytes();
    seen.wait_for(b"once more", || probe::send_packet(near.netns(), &again).unwrap());
    assert!(!seen.has(EVIL));
    // Where that is gone too, nobody knows what it said, and the port is named.
    node.stop().unwrap();
    run(node.netns(), "ip", &["link", "set", &port, "alias", ""]);
    run(node.netns(), "nft", &["delete", "table", "bridge", "culvert"]);
    node.start().unwrap();
    let hints = node.status().unwrap()["hints"].to_string();
    assert!(hints.contains(&format!("the note on {port}")), "{hints}");
}

#[test]
fn addresses_of_pods_come_and_go_with_them() {
    let lab = lab("nt-living").pods(0).up().unwrap();
    let node = lab.node(1);
    let listed = |address: IpAddr| {
        let table = run(node.netns(), "nft", &["list", "table", "inet", "culvert-pods"]);
        table.split([' ', ',', '\n']).any(|word| word == address.to_string())
    };
    let pod = lab.add_pod(1).unwrap();
    let addresses: Vec<IpAddr> = FAMILIES.map(|family| pod.address(family)).into();
    assert!(addresses.iter().all(|address| listed(*address)));
    lab.remove_pod(1, 1).unwrap();
    let gone = || !addresses.iter().any(|address| listed(*address));
    wait_until(SOON, "the addresses to go", gone).unwrap();
    // Somebody takes the table away: the pods that there are come back with it.
    let pod = lab.add_pod(1).unwrap();
    run(node.netns(), "nft", &["flush", "ruleset"]);
    let back = || {
        let tables = run(node.netns(), "nft", &["list", "tables"]);
        tables.contains("culvert-pods") && listed(pod.ipv4())
    };
    wait_until(SOON, "the table to come back", back).unwrap();
}

/// Has the pod address what it sends to `to` to the group 01:80:c2:00:00:0X.
fn address_to_group(pod: &Pod, to: IpAddr, group: u8) {
    let group = format!("01:80:c2:00:00:{group:02x}");
    ip(pod.netns(), &format!("neigh replace {to} lladdr {group} dev eth0 nud permanent"));
}

/// A tunnel datagram to the first node as from another, with a packet of its pod to `victim`.
fn passing_for(lab: &Lab, node: u16, victim: &Pod, payload: &[u8]) -> Vec<u8> {
    let inner = Udp::new(lab.pod(node, 1).ipv4(), victim.ipv4(), payload).bytes();
    let datagram = in_overlay(VNI, &inner);
    Udp::new(lab.node(node).address(), lab.node(1).address(), &datagram).port(UNDERLAY_PORT).bytes()
}

/// The same under the attacker's own address.
fn from_itself(lab: &Lab, attacker: &Pod, victim: &Pod) -> Vec<u8> {
    let inner = Udp::new(lab.pod(2, 1).ipv4(), victim.ipv4(), EVIL).bytes();
    let datagram = in_overlay(VNI, &inner);
    Udp::new(attacker.ipv4(), lab.node(1).address(), &datagram).port(UNDERLAY_PORT).bytes()
}

/// Has the second node's daemon send something honest to `victim`, and waits for it.
fn wait_for_good(lab: &Lab, victim: &Pod, seen: &mut Capture) {
    let good = in_overlay(VNI, &Udp::new(lab.pod(2, 1).ipv4(), victim.ipv4(), GOOD).bytes());
    seen.wait_for(GOOD, || send_to_daemon(lab.node(2).netns(), lab.node(1).address(), &good));
}

/// A TCP segment of no connection.
fn tcp(source: IpAddr, destination: IpAddr, flags: &str) -> Vec<u8> {
    let builder = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            PacketBuilder::ipv4(source.octets(), destination.octets(), 64)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            PacketBuilder::ipv6(source.octets(), destination.octets(), 64)
        }
        _ => panic!("{source} and {destination} are of two families"),
    };
    let mut builder = builder.tcp(40_000, 9, 5, 1024);
    for flag in flags.chars() {
        builder = match flag {
            'S' => builder.syn(),
            'A' => builder.ack(7),
            'F' => builder.fin(),
            _ => builder.rst(),
        };
    }
    let mut bytes = Vec::new();
    builder.write(&mut bytes, &[]).unwrap();
    bytes
}

/// Whether the IP packet bears `source`.
fn is_from(packet: &[u8], source: IpAddr) -> bool {
    match (packet.first().map(|first| first >> 4), source) {
        (Some(4), IpAddr::V4(source)) => packet.get(12..16) == Some(&source.octets()[..]),
        (Some(6), IpAddr::V6(source)) => packet.get(8..24) == Some(&source.octets()[..]),
        _ => false,
    }
}

fn ip(netns: &Netns, arguments: &str) {
    run(netns, "ip", &arguments.split(' ').collect::<Vec<_>>());
}

fn json(netns: &Netns, arguments: &[&str]) -> serde_json::Value {
    let arguments = [&["-json"], arguments].concat();
    serde_json::from_str(&netns.ip_output(&arguments).unwrap()).unwrap()
}

fn hardware_address(pod: &Pod) -> String {
    json(pod.netns(), &["link", "show", "eth0"])[0]["address"].as_str().unwrap().to_owned()
}

/// The node's end of its only pod's cable.
fn port_of(node: &Node) -> String {
    let links = json(node.netns(), &["link", "show", "type", "veth"]);
    let names = links.as_array().unwrap().iter().map(|link| link["ifname"].as_str().unwrap());
    names.into_iter().find(|name| name.starts_with("culv")).unwrap().to_owned()
}
