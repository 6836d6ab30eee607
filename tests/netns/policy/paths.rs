//! Ways from pod to pod that a bridge offers beside the one that the rules are on.

use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket,
};
use std::time::Duration;

use culvert_lab::{Lab, Pod, probe, wait_until};

use super::directory::Directory;
use super::talk::{Server, assert_never, eventually_connects, eventually_refuses};
use super::{bridge_calls, set_bridge_calls};
use crate::capture::Capture;
use crate::harness::{FAMILIES, SOON, assert_reaches_within, run};
use crate::packets::Udp;

const EVIL: &[u8] = b"must not arrive";
const GOOD: &[u8] = b"may arrive";

/// Closes node1-pod1, and returns it with the other pod of the node.
fn closed(directory: &Directory, lab: &Lab) -> (Pod, Pod) {
    let (victim, attacker) = (lab.pod(1, 1), lab.pod(1, 2));
    let _server = Server::start(victim.netns(), 80);
    eventually_connects(attacker.netns(), victim.ipv4(), 80);
    directory.isolate("node1-pod1", "[]");
    eventually_refuses(attacker.netns(), victim.ipv4(), 80);
    (victim, attacker)
}

#[test]
fn no_frame_of_the_bridge_gets_past_a_policy() {
    let directory = Directory::new();
    let lab = directory.lab("nt-policyways").pods(3).up().unwrap();
    let (victim, attacker) = closed(&directory, &lab);
    let bystander = lab.pod(1, 3);
    for calls in bridge_calls(lab.node(1).netns()) {
        set_bridge_calls(lab.node(1).netns(), calls);
        let mut seen = Capture::start(victim.netns());
        let mut by = Capture::start(bystander.netns());
        // TCP to its link-local address.
        let listener = victim.netns().run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)));
        let port = listener.as_ref().unwrap().as_ref().unwrap().local_addr().unwrap().port();
        assert_never(|| connects_link_local(&attacker, &victim, port));
        // The broadcast address of the subnet, a group of multicast of each family.
        let group = Ipv6Addr::from([0xff02, 0, 0, 0, 0, 0, 0, 0xabcd]);
        for to in
            ["10.244.1.255".parse().unwrap(), "239.1.2.3".parse().unwrap(), IpAddr::from(group)]
        {
            send(&attacker, to, EVIL);
        }
        // An address of its own in frames for everybody, and for it alone.
        for evil in [EVIL].into_iter().flat_map(|evil| {
            FAMILIES.map(|family| {
                Udp::new(attacker.address(family), victim.address(family), evil).bytes()
            })
        }) {
            for mac in ["ff:ff:ff:ff:ff:ff".to_owned(), hardware_address(&victim)] {
                send_in_frame(&attacker, &mac, &evil);
            }
        }
        // Whom nobody isolates hears what he heard before; then everything above has been handled.
        by.wait_for(GOOD, || send(&attacker, "239.1.2.3".parse().unwrap(), GOOD));
        assert!(by.has(EVIL), "the way is one");
        assert!(!seen.has(EVIL) && !seen.has(GOOD), "calls {calls}");
        // Nor does anything but neighbour discovery leave the victim that way.
        let mut heard = Capture::start(attacker.netns());
        send(&victim, "239.1.2.3".parse().unwrap(), EVIL);
        heard.wait_for(GOOD, || send(&bystander, "239.1.2.3".parse().unwrap(), GOOD));
        assert!(!heard.has(EVIL));
    }
}

#[test]
fn arp_carries_no_message_past_a_policy() {
    let directory = Directory::new();
    let lab = directory.lab("nt-policyarp").pods(3).up().unwrap();
    let (victim, attacker) = closed(&directory, &lab);
    let bystander = lab.pod(1, 3);
    let say = |from: &Pod, to: &Pod| {
        disguise_as_arp(from, to);
        let packet = Udp::new(from.ipv4(), to.ipv4(), EVIL).bytes();
        send_in_frame(from, &hardware_address(to), &packet);
        run(from.netns(), "nft", &["delete table netdev disguise"]);
    };
    let mut seen = Capture::start(victim.netns());
    let mut by = Capture::start(bystander.netns());
    say(&attacker, &victim);
    by.wait_for(EVIL, || say(&attacker, &bystander));
    // Its own node may talk to it; then everything above has been handled.
    seen.wait_for(GOOD, || {
        let node = lab.node(1).netns();
        let socket = node.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).unwrap().unwrap();
        socket.send_to(GOOD, SocketAddr::new(victim.ipv4(), 9)).unwrap();
    });
    assert!(!seen.has(EVIL), "to whom nobody may talk");
    let mut heard = Capture::start(attacker.netns());
    say(&victim, &attacker);
    heard.wait_for(GOOD, || send(&bystander, "239.1.2.3".parse().unwrap(), GOOD));
    assert!(!heard.has(EVIL), "nor from whom");
}

#[test]
fn neighbours_find_one_another_whatever_policies_say() {
    let directory = Directory::new();
    let lab = directory.lab("nt-policynd").pods(2).up().unwrap();
    let (victim, other) = closed(&directory, &lab);
    directory.isolate("node1-pod2", "[]");
    eventually_refuses(victim.netns(), other.ipv4(), 80);
    for calls in bridge_calls(lab.node(1).netns()) {
        set_bridge_calls(lab.node(1).netns(), calls);
        for (one, two) in [(&victim, &other), (&other, &victim)] {
            run(one.netns(), "ip", &["neigh", "flush", "all"]);
            run(lab.node(1).netns(), "ip", &["neigh", "flush", "dev", "v-net-0"]);
            for family in FAMILIES {
                let to = two.address(family);
                let _dropped = crate::harness::quick_ping(one.netns(), to);
                let is_known = || {
                    let known = run(one.netns(), "ip", &["neigh", "show", "to", &to.to_string()]);
                    known.contains("lladdr")
                };
                wait_until(SOON, "the neighbour to be known", is_known).unwrap();
                // The node finds both.
                assert_reaches_within(SOON, lab.node(1).netns(), to);
            }
        }
    }
}

#[test]
fn service_that_leads_to_a_pod_is_judged_as_the_pod() {
    let directory = Directory::new();
    let lab = directory.lab("nt-policysvc").pods(2).up().unwrap();
    let (server, near, far) = (lab.pod(1, 1), lab.pod(1, 2), lab.pod(2, 1));
    let _server = Server::start(server.netns(), 8080);
    let services: [(IpAddr, IpAddr); 2] = [
        (Ipv4Addr::new(10, 96, 0, 5).into(), server.ipv4()),
        (Ipv6Addr::from([0xfd00, 0x96, 0, 0, 0, 0, 0, 5]).into(), server.ipv6()),
    ];
    for node in lab.nodes() {
        for (family, (service, pod)) in ["ip", "ip6"].into_iter().zip(services) {
            let to = SocketAddr::new(pod, 8080);
            let table = format!(
                "table {family} services {{\n\
                 chain pods {{ type nat hook prerouting priority dstnat; \
                 {family} daddr {service} tcp dport 80 dnat to {to}; }}\n}}"
            );
            run(node.netns(), "nft", &[&table]);
        }
    }
    for calls in bridge_calls(lab.node(1).netns()) {
        set_bridge_calls(lab.node(1).netns(), calls);
        for (service, _) in services {
            for from in [&near, &far] {
                eventually_connects(from.netns(), service, 80);
            }
        }
        directory.isolate(
            "node1-pod1",
            "[{ from: [{ podSelector: { matchLabels: { pod: node1-pod2 } } }], ports: [{ port: 8080 }] }]",
        );
        for (service, _) in services {
            eventually_refuses(far.netns(), service, 80);
            eventually_connects(near.netns(), service, 80);
        }
        directory.isolate("node1-pod1", "[{ ports: [{ port: 80 }] }]");
        for (service, _) in services {
            eventually_refuses(near.netns(), service, 80);
        }
        directory.release("node1-pod1");
    }
}

#[test]
fn error_about_a_connection_comes_back_to_an_isolated_pod() {
    let directory = Directory::new();
    let lab = directory.lab("nt-policyicmp").up().unwrap();
    let (pod, far) = (lab.pod(1, 1), lab.pod(2, 1));
    directory.isolate("node1-pod1", "[]");
    let _server = Server::start(pod.netns(), 80);
    eventually_refuses(far.netns(), pod.ipv4(), 80);
    for family in FAMILIES {
        let any = if family == overlay_proto::Family::V4 { "0.0.0.0" } else { "::" };
        let socket = pod.netns().run(|| UdpSocket::bind((any, 0))).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        socket.connect((far.address(family), 9)).unwrap();
        let hears = || {
            let mut buffer = [0; 16];
            let _sent = socket.send(b"?");
            let heard = socket.recv(&mut buffer);
            heard.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
        };
        wait_until(SOON, "that nobody listens there", hears).unwrap();
    }
}

fn connects_link_local(from: &Pod, to: &Pod, port: u16) -> bool {
    let text =
        run(to.netns(), "ip", &["-6", "-o", "address", "show", "dev", "eth0", "scope", "link"]);
    let address = text.split_whitespace().find_map(|word| word.strip_suffix("/64")).unwrap();
    let address: Ipv6Addr = address.parse().unwrap();
    let connect = || {
        let to = SocketAddr::V6(SocketAddrV6::new(address, port, 0, index_of_eth0()));
        TcpStream::connect_timeout(&to, Duration::from_millis(400)).is_ok()
    };
    from.netns().run(connect).unwrap()
}

/// The index of eth0 in this thread's namespace.
fn index_of_eth0() -> u32 {
    rustix::net::netdevice::name_to_index(
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap(),
        "eth0",
    )
    .unwrap()
}

fn hardware_address(pod: &Pod) -> String {
    let text = pod.netns().ip_output(&["-json", "link", "show", "eth0"]).unwrap();
    let links: serde_json::Value = serde_json::from_str(&text).unwrap();
    links[0]["address"].as_str().unwrap().to_owned()
}

/// Sends a datagram by eth0 to an address of several.
fn send(from: &Pod, to: IpAddr, payload: &[u8]) {
    from.netns()
        .run(|| {
            let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
            let socket = UdpSocket::bind((any, 0)).unwrap();
            socket.set_broadcast(true).unwrap();
            let to = match to {
                IpAddr::V4(to) => SocketAddr::from((to, 9)),
                IpAddr::V6(to) => SocketAddrV6::new(to, 9, 0, index_of_eth0()).into(),
            };
            socket.send_to(payload, to).unwrap();
        })
        .unwrap();
}

/// Sends a packet in a frame to `mac`.
fn send_in_frame(from: &Pod, mac: &str, packet: &[u8]) {
    let to = if packet[0] >> 4 == 4 {
        IpAddr::from(<[u8; 4]>::try_from(&packet[16..20]).unwrap())
    } else {
        IpAddr::from(<[u8; 16]>::try_from(&packet[24..40]).unwrap())
    };
    let ip = |arguments: &str| {
        run(from.netns(), "ip", &arguments.split(' ').collect::<Vec<_>>());
    };
    ip(&format!("neigh replace {to} lladdr {mac} dev eth0 nud permanent"));
    probe::send_packet(from.netns(), packet).unwrap();
    ip(&format!("neigh del {to} dev eth0"));
}

/// Has UDP of `from` leave as an answer of ARP for `to`, and what was in the datagram behind it.
fn disguise_as_arp(from: &Pod, to: &Pod) {
    let hex = |pod: &Pod| {
        let IpAddr::V4(address) = pod.ipv4() else { unreachable!("it is one of IPv4") };
        let mac = hardware_address(pod).replace(':', "");
        format!("{mac}{:08x}", u32::from(address))
    };
    let arp = format!("0001080006040002{}{}", hex(from), hex(to));
    let (first, rest) = arp.split_at(32);
    run(
        from.netns(),
        "nft",
        &[&format!(
            "add table netdev disguise; \
         add chain netdev disguise out {{ type filter hook egress device eth0 priority 0; }}; \
         add rule netdev disguise out ip protocol udp @nh,0,128 set 0x{first} \
         @nh,128,96 set 0x{rest} ether type set arp"
        )],
    );
}
