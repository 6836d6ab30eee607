//! The MTU toward peers, from a real routing table.

use std::net::{IpAddr, Ipv4Addr};

use culvert_netlink::Flow;

use crate::node::{Namespace, Node, ip, set_sysctl};

fn flows(peers: impl IntoIterator<Item = IpAddr>) -> Vec<Flow> {
    peers.into_iter().map(Flow::to).collect()
}

#[test]
fn mtu_comes_from_the_route_or_its_device() {
    Namespace::new("pathmtu").run(async || {
        ip("link set lo up");
        ip("link add eth9 mtu 9000 type veth peer name far9 mtu 9000");
        ip("link set far9 up");
        ip("link set eth9 up");
        ip("addr add 192.168.1.11/24 dev eth9");
        ip("addr add fd00:1::11/64 dev eth9 nodad");
        ip("route add 192.168.2.0/24 via 192.168.1.1 mtu 1400");
        ip("route add 192.168.3.0/24 via 192.168.1.1");
        ip("route add unreachable 192.168.4.0/24");
        let peers: Vec<IpAddr> = [
            "192.168.1.12",
            "192.168.2.12",
            "192.168.3.12",
            "fd00:1::12",
            // No answer: unreachable, no route, and this machine itself.
            "192.168.4.12",
            "198.51.100.1",
            "192.168.1.11",
        ]
        .iter()
        .map(|peer| peer.parse().unwrap())
        .collect();
        let mut node = Node::new();
        let found = node.reconciler.path_mtu(&flows(peers.clone())).unwrap().unwrap();
        assert_eq!((found.smallest, found.peer), (1400, peers[1]));
        let mtus: Vec<u16> = found.per_peer.iter().map(|(_peer, mtu)| *mtu).collect();
        assert_eq!(mtus, [9000, 1400, 9000, 9000]);
        // A router on the link may advertise less for IPv6 than the device carries.
        set_sysctl("ipv6/conf/eth9/mtu", "1400");
        let found = node.reconciler.path_mtu(&flows(peers.clone())).unwrap().unwrap();
        let mtus: Vec<u16> = found.per_peer.iter().map(|(_peer, mtu)| *mtu).collect();
        assert_eq!(mtus, [9000, 1400, 9000, 1400]);
        let unreachable = node.reconciler.path_mtu(&flows(peers[4..].to_vec())).unwrap();
        assert_eq!(unreachable, None);
    });
}

#[test]
fn ten_thousand_peers_each_have_an_mtu() {
    Namespace::new("manypeers").run(async || {
        ip("link add eth9 type veth peer name far9");
        ip("link set far9 up");
        ip("link set eth9 up");
        ip("addr add 172.16.0.1/12 dev eth9");
        let peers = (0..10_000_u32).map(|peer| IpAddr::from(Ipv4Addr::from(0xac10_0100 + peer)));
        let mut node = Node::new();
        let found = node.reconciler.path_mtu(&flows(peers)).unwrap().unwrap();
        assert_eq!(found.per_peer.len(), 10_000);
    });
}

#[test]
fn mtu_is_that_of_the_route_that_the_sockets_take() {
    Namespace::new("policymtu").run(async || {
        ip("link set lo up");
        ip("link add eth9 type veth peer name far9");
        ip("link set far9 up");
        ip("link set eth9 up");
        ip("addr add 192.168.1.11/24 dev eth9");
        ip("route add 192.168.1.0/24 dev eth9 mtu 1400 table 100");
        ip("route add 192.168.1.0/24 dev eth9 mtu 1300 table 101");
        ip("route add 192.168.1.0/24 dev eth9 mtu 1200 table 102");
        let to = Flow::to("192.168.1.12".parse().unwrap());
        let from = Flow { source: "192.168.1.11".parse().ok(), ..to };
        let datagram = Flow { udp_port: Some(4790), ..from };
        let marked = Flow { mark: 0x1000, ..datagram };
        let mut node = Node::new();
        let mut mtu = |flow| node.reconciler.path_mtu(&[flow]).unwrap().unwrap().smallest;
        assert_eq!(mtu(marked), 1500);
        ip("rule add from 192.168.1.11 lookup 100 pref 100");
        assert_eq!([to, from, marked].map(&mut mtu), [1500, 1400, 1400]);
        ip("rule add ipproto udp dport 4790 lookup 101 pref 90");
        assert_eq!([to, from, datagram, marked].map(&mut mtu), [1500, 1400, 1300, 1300]);
        ip("rule add fwmark 0x1000 lookup 102 pref 80");
        assert_eq!([to, from, datagram, marked].map(&mut mtu), [1500, 1400, 1300, 1200]);
        // An address that is not here yet: what the table says for any.
        ip("addr del 192.168.1.11/24 dev eth9");
        ip("route add 192.168.1.0/24 dev eth9 mtu 1450");
        assert_eq!(mtu(Flow { source: "192.168.1.99".parse().ok(), ..to }), 1450);
    });
}
