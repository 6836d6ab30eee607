//! What a pod may send from, and what options of its port do.
//!
//! Each attempt is made twice: by a pod that is checked, which fails, and by one that is not, which
//! shows that it was the check.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use serde_json::json;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::harness::*;

/// How long something may take that has to happen.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often that is looked at, in ten seconds or more.
const LOOKS: u32 = 500;
const PAUSE: Duration = Duration::from_millis(20);

/// How long a connection is tried that must not come about: longer than it takes the first
/// repetition of a lost packet to be sent.
const REFUSED_AFTER: Duration = Duration::from_millis(1500);

fn address(text: &str) -> IpAddr {
    text.parse().expect("a valid address")
}

/// Whether `client`, sending from `source`, gets through to `server` at `target`.
fn connects(client: &str, source: &str, server: &str, target: &str) -> bool {
    let listener = in_netns(server, || TcpListener::bind(SocketAddr::new(address(target), 0)))
        .expect("an address of the server");
    let target = listener.local_addr().expect("a bound socket has an address");
    in_netns(client, || {
        let domain = Domain::for_address(target);
        let socket = Socket::new(domain, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::new(address(source), 0).into()).expect("the pod has the address");
        socket.connect_timeout(&target.into(), REFUSED_AFTER).is_ok()
    })
}

/// How many frames the source check of the node has dropped.
fn dropped(node: &Node) -> u64 {
    let text = node.exec(&["nft", "list", "table", "bridge", "culvert"]);
    let counts = text.split("counter packets ").skip(1);
    counts.map(|rest| rest.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)).sum()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..LOOKS {
        if holds() {
            return;
        }
        std::thread::sleep(PAUSE);
    }
    panic!("{what}");
}

/// A node with a victim and an attacker; the daemon of the node does not run.
fn with_pods(test: &str, check: bool, attack: impl FnOnce(&Node, &Pod<'_>, &Pod<'_>)) {
    let mut node = Node::new(&format!("{test}-{check}"), &DUAL_STACK);
    node.config["macspoofchk"] = json!(check);
    let (victim, attacker) = (node.pod("p1"), node.pod("p2"));
    victim.add().expect("ADD of the first pod succeeds");
    attacker.add().expect("ADD of the second pod succeeds");
    attack(&node, &victim, &attacker);
}

#[test]
fn checked_pods_talk_over_both_families() {
    with_pods("talk", true, |node, first, second| {
        for target in ["10.244.1.2", "fd00:1::2"] {
            assert_talk(&first.netns, address(target), &second.netns);
            assert_talk(&first.netns, address(target), &first.netns);
        }
        assert_talk(&node.netns, address("10.244.1.1"), &first.netns);
        assert_talk(&node.netns, address("fd00:1::1"), &first.netns);
    });
}

#[test]
fn a_neighbours_address_cannot_be_used() {
    for check in [false, true] {
        with_pods("neigh", check, |node, victim, attacker| {
            // The victim's addresses stay known as the victim's: it just said so.
            for (own, gateway) in [("10.244.1.2", "10.244.1.1"), ("fd00:1::2", "fd00:1::1")] {
                assert!(connects(&victim.netns, own, &node.netns, gateway));
            }
            // Gone for good, so that nobody contradicts the attacker.
            victim.ip(&["link", "set", "eth0", "down"]);
            node.ip(&["neigh", "flush", "all"]);
            for (stolen, gateway) in
                [("10.244.1.2/32", "10.244.1.1"), ("fd00:1::2/128", "fd00:1::1")]
            {
                attacker.ip(&["addr", "add", stolen, "dev", "eth0", "nodad"]);
                let source = stolen.split('/').next().expect("an address");
                let gets_through = connects(&attacker.netns, source, &node.netns, gateway);
                assert_eq!(gets_through, !check, "{stolen} with macspoofchk {check}");
            }
            assert!(!check || dropped(node) > 0);
        });
    }
}

#[test]
fn another_mac_address_cannot_be_used() {
    for check in [false, true] {
        with_pods("mac", check, |node, _victim, attacker| {
            assert!(connects(&attacker.netns, "10.244.1.3", &node.netns, "10.244.1.1"));
            attacker.ip(&["link", "set", "eth0", "address", "0a:58:0a:f4:01:02"]);
            node.ip(&["neigh", "flush", "all"]);
            let gets_through = connects(&attacker.netns, "10.244.1.3", &node.netns, "10.244.1.1");
            assert_eq!(gets_through, !check);
        });
    }
}

#[test]
fn what_a_pod_announces_of_others_is_not_heard() {
    for check in [false, true] {
        with_pods("announce", check, |node, victim, attacker| {
            for (own, gateway) in [("10.244.1.2", "10.244.1.1"), ("fd00:1::2", "fd00:1::1")] {
                assert!(connects(&victim.netns, own, &node.netns, gateway));
            }
            attacker.ip(&["addr", "add", "10.244.1.2/32", "dev", "eth0"]);
            attacker.ip(&["addr", "add", "fd00:1::2/128", "dev", "eth0", "nodad"]);
            let before = if check { dropped(node) } else { 0 };
            // Announces every address of the device by ARP and ND, in ordinary frames of its own.
            attacker.ip(&["link", "set", "eth0", "address", "0a:58:0a:f4:01:03"]);
            let neighbour = |of: &str| node.exec(&["ip", "neigh", "show", of]);
            let fooled = |of: &str| neighbour(of).contains("0a:58:0a:f4:01:03");
            if check {
                eventually("both announcements are dropped", || dropped(node) >= before + 2);
                assert!(!fooled("10.244.1.2") && !fooled("fd00:1::2"));
            } else {
                eventually("an unchecked pod is believed", || {
                    fooled("10.244.1.2") && fooled("fd00:1::2")
                });
            }
        });
    }
}

/// Where in neighbour discovery a pod says which hardware address it has.
const OWN_MAC: [u8; 6] = [0x0a, 0x58, 0x0a, 0xf4, 0x01, 0x03];
const FOREIGN_MAC: [u8; 6] = [0x0a, 0x58, 0x0a, 0xf4, 0x01, 0x02];

/// An option with a hardware address: of the sender (1) or of the target (2).
fn link_address(kind: u8, mac: [u8; 6]) -> Vec<u8> {
    [&[kind, 1][..], &mac].concat()
}

/// A message of neighbour discovery with its options, from the pod with the address fd00:1::3.
#[derive(Clone)]
struct Discovery {
    name: &'static str,
    kind: u8,
    source: &'static str,
    target: Option<&'static str>,
    options: Vec<u8>,
    /// Whether a header with options of IPv6 comes before it.
    is_behind_options: bool,
}

impl Discovery {
    fn frame(&self) -> Vec<u8> {
        let group = if self.kind == 133 { 2 } else { 1 };
        let octets = |text: &str| match address(text) {
            IpAddr::V6(address) => address.octets(),
            IpAddr::V4(_) => unreachable!("of IPv6 only"),
        };
        let (source, destination) = (octets(self.source), octets(&format!("ff02::{group}")));
        // An advertisement overrides what is known (RFC 4861, section 4.4).
        let flags = if self.kind == 136 { 0x20 } else { 0 };
        let mut message = vec![self.kind, 0, 0, 0, flags, 0, 0, 0];
        message.extend(self.target.map(octets).into_iter().flatten());
        message.extend(&self.options);
        let length = u8::try_from(message.len()).expect("it is short");
        let pseudo =
            [&source[..], &destination, &[0, 0, 0, length, 0, 0, 0, 58], &message].concat();
        let sum: u32 =
            pseudo.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let folded = (folded & 0xffff) + (folded >> 16);
        let checksum = !u16::try_from(folded).expect("it is folded");
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        let options: &[u8] = if self.is_behind_options { &[58, 0, 1, 4, 0, 0, 0, 0] } else { &[] };
        let next = if self.is_behind_options { 0 } else { 58 };
        let payload = u8::try_from(options.len() + message.len()).expect("it is short");
        [
            &[0x33, 0x33, 0, 0, 0, group][..],
            &OWN_MAC,
            &[0x86, 0xdd, 0x60, 0, 0, 0, 0, payload, next, 255],
            &source,
            &destination,
            options,
            &message,
        ]
        .concat()
    }
}

#[test]
fn hardware_address_of_another_pod_is_not_heard_in_neighbour_discovery() {
    let own = "fd00:1::3";
    let of = |name, kind, options: &[Vec<u8>]| Discovery {
        name,
        kind,
        source: if kind == 133 { "fe80::858:aff:fef4:103" } else { own },
        target: match kind {
            133 => None,
            135 => Some("fd00:1::1"),
            _ => Some(own),
        },
        options: options.concat(),
        is_behind_options: false,
    };
    let foreign = |kind| link_address(kind, FOREIGN_MAC);
    let unknown = vec![253, 1, 0, 0, 0, 0, 0, 0];
    let long = |kind| [&[kind, 2][..], &FOREIGN_MAC, &[0; 8]].concat();
    let plain = of("advertisement", 136, &[foreign(2)]);
    let asks_for_itself = Discovery {
        source: "::",
        target: Some(own),
        ..of("question for itself", 135, &[foreign(1)])
    };
    // Whether somebody who is not kept from hearing it goes by it.
    let attempts = [
        (plain.clone(), true),
        (of("advertisement, second option", 136, &[unknown.clone(), foreign(2)]), true),
        (of("advertisement, twice", 136, &[link_address(2, OWN_MAC), foreign(2)]), false),
        (of("advertisement, too long", 136, &[long(2)]), false),
        (Discovery { is_behind_options: true, ..plain }, true),
        (of("solicitation", 135, &[foreign(1)]), true),
        (of("solicitation, second option", 135, &[unknown, foreign(1)]), true),
        (of("router solicitation", 133, &[foreign(1)]), false),
        (asks_for_itself, false),
    ];
    for check in [false, true] {
        with_pods("lladdr", check, |node, victim, attacker| {
            assert!(connects(&attacker.netns, own, &node.netns, "fd00:1::1"));
            assert!(connects(&victim.netns, "fd00:1::2", &node.netns, "fd00:1::1"));
            let fooled = || node.exec(&["ip", "neigh", "show", own]).contains("0a:58:0a:f4:01:02");
            for (attempt, is_believed) in &attempts {
                let right = [own, "lladdr", "0a:58:0a:f4:01:03", "dev", BRIDGE, "nud", "stale"];
                node.ip(&[&["neigh", "replace"][..], &right].concat());
                let before = if check { dropped(node) } else { 0 };
                in_netns(&attacker.netns, || send_frame("eth0", &attempt.frame()));
                if check {
                    let what = format!("{} is dropped", attempt.name);
                    eventually(&what, || dropped(node) > before);
                    assert!(!fooled(), "{}", attempt.name);
                } else if *is_believed {
                    eventually(&format!("{} is believed", attempt.name), fooled);
                }
            }
        });
    }
}

#[test]
fn neighbour_discovery_as_systems_send_it_passes() {
    let own = "fd00:1::3";
    let nonce = vec![14, 1, 1, 2, 3, 4, 5, 6];
    let of = |kind, source, target, options: &[Vec<u8>]| Discovery {
        name: "honest",
        kind,
        source,
        target,
        options: options.concat(),
        is_behind_options: false,
    };
    let link_local = "fe80::858:aff:fef4:103";
    let honest = [
        of(136, own, Some(own), &[link_address(2, OWN_MAC)]),
        of(136, own, Some(own), &[]),
        of(136, link_local, Some(own), &[link_address(2, OWN_MAC)]),
        of(136, link_local, Some(link_local), &[link_address(2, OWN_MAC)]),
        of(135, own, Some("fd00:1::1"), &[link_address(1, OWN_MAC)]),
        of(135, own, Some("fd00:1::1"), &[]),
        of(135, "::", Some(own), &[]),
        of(135, "::", Some(own), &[nonce]),
        of(133, link_local, None, &[link_address(1, OWN_MAC)]),
        of(133, link_local, None, &[]),
    ];
    with_pods("honest", true, |node, _victim, attacker| {
        let before = dropped(node);
        for message in &honest {
            in_netns(&attacker.netns, || send_frame("eth0", &message.frame()));
        }
        // What comes after all of them and is dropped shows that they were not.
        let evil = of(136, own, Some(own), &[link_address(2, FOREIGN_MAC)]);
        in_netns(&attacker.netns, || send_frame("eth0", &evil.frame()));
        eventually("the last is dropped", || dropped(node) > before);
        assert_eq!(dropped(node), before + 1);
    });
}

#[test]
fn frames_with_a_vlan_tag_are_dropped() {
    with_pods("vlan", true, |node, _victim, attacker| {
        // From the pod's own MAC address. Tag 0 means none, and the other end would take what is
        // inside for an ordinary packet. Inside is an ARP request of the victim.
        let tagged = [
            &[0xff; 6][..],
            &[0x0a, 0x58, 0x0a, 0xf4, 0x01, 0x03],
            &[0x81, 0x00, 0x00, 0x00],
            &[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1],
            &[0x0a, 0x58, 0x0a, 0xf4, 0x01, 0x03, 10, 244, 1, 2],
            &[0, 0, 0, 0, 0, 0, 10, 244, 1, 1],
        ]
        .concat();
        let before = dropped(node);
        in_netns(&attacker.netns, || send_frame("eth0", &tagged));
        eventually("the tagged frame is dropped", || dropped(node) > before);
    });
}

#[test]
fn nothing_but_arp_and_ip_is_let_through_whatever_group_it_is_sent_to() {
    with_pods("proto", true, |node, _victim, attacker| {
        let own = [0x0a, 0x58, 0x0a, 0xf4, 0x01, 0x03];
        let stolen = [0x0a, 0x58, 0x0a, 0xf4, 0x01, 0x02];
        // Groups that a bridge forwards only if it is told to, and what it floods anyway.
        let mut groups: Vec<[u8; 6]> = (2..16).map(|last| [0x01, 0x80, 0xc2, 0, 0, last]).collect();
        groups.extend([[0x01, 0x80, 0xc2, 0, 0, 0], [0xff; 6]]);
        let kinds: [&[u8]; 7] = [
            // 802.1Q and 802.1ad with an ARP request inside, EAPOL, LLDP, PPPoE, MPLS.
            &[0x81, 0x00, 0x00, 0x07, 0x08, 0x06],
            &[0x88, 0xa8, 0x00, 0x07, 0x81, 0x00, 0x00, 0x07, 0x08, 0x06],
            &[0x88, 0x8e],
            &[0x88, 0xcc],
            &[0x88, 0x64],
            &[0x88, 0x47],
            // A length, LLC and SNAP with IPv4 inside.
            &[0x00, 0x2e, 0xaa, 0xaa, 0x03, 0x00, 0x00, 0x00, 0x08, 0x00],
        ];
        let learned = || node.exec(&["bridge", "fdb", "show", "br", BRIDGE]);
        let before = learned();
        for group in &groups {
            for (kind, source) in kinds.iter().map(|kind| (*kind, own)).chain([
                // What would be let through, from another pod's hardware address.
                (&[0x08, 0x06][..], stolen),
                (&[0x08, 0x00], stolen),
                (&[0x86, 0xdd], [0x02, 0, 0, 0, 0, group[5]]),
            ]) {
                let frame = [&group[..], &source, kind, &[0; 46]].concat();
                let count = dropped(node);
                in_netns(&attacker.netns, || send_frame("eth0", &frame));
                eventually(&format!("{frame:02x?} is dropped"), || dropped(node) > count);
            }
        }
        assert_eq!(learned(), before, "the bridge learns from nothing that is dropped");
    });
}

#[test]
fn port_is_marked_as_one_and_forwards_all_groups_to_the_rules() {
    let mut node = Node::new("marked", &DUAL_STACK);
    for check in [true, false] {
        node.config["macspoofchk"] = json!(check);
        let pod = node.pod(&format!("p-{check}"));
        pod.add().expect("ADD succeeds");
        let port = node.link(&pod.host_device());
        assert_eq!(port["group"], "207");
        assert_eq!(port["linkinfo"]["info_slave_data"]["group_fwd_mask"], "0xfffd");
    }
}

/// Sends a frame as it stands.
fn send_frame(device: &str, frame: &[u8]) {
    let socket = Socket::new(Domain::PACKET, Type::RAW, None).expect("root may");
    let any =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None);
    let index = rustix::net::netdevice::name_to_index(any.expect("a socket"), device);
    let index = index.expect("the device exists").cast_signed();
    // SAFETY: `sockaddr_ll` is no larger than the storage, which is zeroed, and the length says how
    // much of it counts.
    let (_, address) = unsafe {
        SockAddr::try_init(|storage, len| {
            let address = storage.cast::<libc::sockaddr_ll>();
            (*address).sll_family = libc::AF_PACKET as u16;
            (*address).sll_ifindex = index;
            (*address).sll_halen = 6;
            *len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })
    }
    .expect("it cannot fail");
    socket.send_to(frame, &address).expect("the device is up");
}

#[test]
fn whoever_is_attached_after_a_flush_is_checked_again() {
    let node = Node::new("flush", &DUAL_STACK);
    let first = node.pod("p1");
    first.add().expect("ADD succeeds");
    node.exec(&["nft", "flush", "ruleset"]);
    let second = node.pod("p2");
    second.add().expect("ADD succeeds");
    let table = node.exec(&["nft", "list", "table", "bridge", "culvert"]);
    assert!(table.contains(&second.host_device()), "{table}");
    second.ip(&["addr", "add", "10.244.1.99/32", "dev", "eth0"]);
    assert!(!connects(&second.netns, "10.244.1.99", &node.netns, "10.244.1.1"));
    // DEL of the pod that the table has forgotten, and of one whose device went first.
    first.del().expect("DEL succeeds");
    node.ip(&["link", "del", &second.host_device()]);
    second.del().expect("DEL succeeds");
    let table = node.exec(&["nft", "list", "table", "bridge", "culvert"]);
    assert!(!table.contains("elements"), "{table}");
    node.assert_clean();
}

#[test]
fn isolated_pods_reach_the_node_and_not_one_another() {
    let mut node = Node::new("isolated", &["10.244.1.0/24"]);
    node.config["portIsolation"] = json!(true);
    let (first, second) = (node.pod("p1"), node.pod("p2"));
    let result = first.add().expect("ADD succeeds");
    second.add().expect("ADD succeeds");
    let port = node.link(&first.host_device());
    assert_eq!(port["linkinfo"]["info_slave_data"]["isolated"], true);
    assert_talk(&node.netns, address("10.244.1.1"), &second.netns);
    assert!(!connects(&second.netns, "10.244.1.3", &first.netns, "10.244.1.2"));
    first.check(&result).expect("CHECK succeeds");
    node.ip(&["link", "set", &first.host_device(), "type", "bridge_slave", "isolated", "off"]);
    first.assert_check_finds(&result, "isolation");
}

#[test]
fn duplicate_address_is_found_when_asked_for() {
    let mut node = Node::new("dad", &["fd00:1::/64"]);
    node.config["enabledad"] = json!(true);
    let pod = node.pod("p1");
    pod.add().expect("ADD succeeds");
    assert!(pod.addresses("eth0").contains("fd00:1::2/64"), "it is not tentative any more");
    // The next pod's address is on the bridge already.
    node.ip(&["addr", "add", "fd00:1::3/128", "dev", BRIDGE, "nodad"]);
    let second = node.pod("p2");
    let error = second.add().expect_err("the address is taken");
    assert!(error["msg"].to_string().contains("fd00:1::3/64 is in use"), "{error}");
    assert_eq!(node.host_devices().len(), 1);
}

#[test]
fn a_reused_address_works_at_once_with_another_mac() {
    let node = Node::new("reuse", &["10.244.1.0/30"]);
    // A port that stays, because a bridge that loses its last one forgets its neighbours.
    node.ip(&["link", "add", "near", "type", "veth", "peer", "name", "far"]);
    node.ip(&["link", "set", "near", "master", BRIDGE, "up"]);
    node.ip(&["link", "set", "far", "up"]);
    let first = node.pod("p1");
    first.add().expect("ADD succeeds");
    assert!(connects(&first.netns, "10.244.1.2", &node.netns, "10.244.1.1"));
    // The node remembers an entry that is wrong by the time that the next pod has the address.
    first.del().expect("DEL succeeds");
    node.ip(&[
        "neigh",
        "replace",
        "10.244.1.2",
        "lladdr",
        "02:00:00:00:00:99",
        "dev",
        BRIDGE,
        "nud",
        "stale",
    ]);
    let second = node.pod("p2");
    second.add().expect("ADD succeeds");
    eventually("the node takes the announcement", || {
        node.exec(&["ip", "neigh", "show", "10.244.1.2"]).contains("0a:58:0a:f4:01:02")
    });
    let stream =
        in_netns(&second.netns, || TcpListener::bind("10.244.1.2:0")).expect("its address");
    let target = stream.local_addr().expect("a bound socket has an address");
    in_netns(&node.netns, || TcpStream::connect_timeout(&target, PATIENCE)).expect("at once");
}

#[test]
fn what_the_table_has_of_a_pod_goes_with_it_and_comes_back_for_good() {
    let node = Node::new("forget", &DUAL_STACK);
    let pod = node.pod("p1");
    let is_listed = || {
        let table = node.exec(&["nft", "list", "table", "bridge", "culvert"]);
        table.contains(&pod.host_device())
    };
    pod.add().expect("ADD succeeds");
    pod.del().expect("DEL succeeds");
    eventually("the pod is still listed", || !is_listed());
    pod.add().expect("ADD succeeds");
    pod.del().expect("DEL succeeds");
    pod.add().expect("ADD succeeds at once");
    // What was on its way out when it came back would be gone by then.
    std::thread::sleep(Duration::from_millis(100));
    assert!(is_listed());
}
