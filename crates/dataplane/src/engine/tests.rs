//! The subnet table: what is refused, and what a lookup costs and finds.

use std::net::IpAddr;
use std::sync::Arc;

use overlay_proto::{Codec, CodecKind, Family, Mac, Mtu, Vni};
use proptest::prelude::*;

use super::*;

fn overlay() -> Overlay {
    Overlay {
        vni: Vni::new(7).unwrap(),
        networks: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/16".parse().unwrap()],
        port: 4790,
        foreign: Foreign::default(),
    }
}

fn node(index: u32, subnets: &[&str]) -> NodeEntry {
    NodeEntry {
        name: format!("node{index}"),
        address: IpAddr::from((0xc0a8_0000 + index).to_be_bytes()),
        subnets: subnets.iter().map(|subnet| subnet.parse().unwrap()).collect(),
        tunnel_options: TunnelOptions::default(),
    }
}

fn compile(nodes: Vec<NodeEntry>) -> Table {
    let members = Membership::check(overlay(), "node0", nodes).unwrap();
    Table::compile(&members, vec![], |_| Mtu::new(1464).unwrap(), &PeerRegistry::default())
}

#[test]
fn peers_get_codec_port_network_and_addresses() {
    let other_end = Mac::new([2, 0, 0, 0, 0, 1]);
    let speaks = |codec, port, mac| TunnelOptions {
        codec: Some(codec),
        port,
        mac,
        ..TunnelOptions::default()
    };
    let vxlan = speaks(CodecKind::Vxlan, Some(4789), Some(other_end));
    let bare = speaks(CodecKind::IpUdp, None, None);
    let options = [TunnelOptions::default(), TunnelOptions::default(), vxlan, bare];
    let nodes = options.iter().zip(0..).map(|(tunnel_options, index)| NodeEntry {
        tunnel_options: *tunnel_options,
        ..node(index, &[&format!("10.1.{index}.0/24")])
    });
    let table = compile(nodes.collect());
    let own = Mac::derived([192, 168, 0, 0].into());
    let seen: Vec<_> = table
        .peers()
        .iter()
        .map(|peer| (peer.codec, peer.endpoint.port(), peer.vni.get()))
        .collect();
    assert_eq!(
        seen,
        [
            (Codec::VxlanGpe, 4790, 7),
            (Codec::Vxlan { own, peer: other_end }, 4789, 1),
            (Codec::IpUdp, 8285, 7),
        ]
    );
    assert_eq!(table.local().mac, own);
    let tunnels: Vec<String> = table.local().tunnels.iter().map(ToString::to_string).collect();
    assert_eq!(
        tunnels,
        ["vxlan-gpe on UDP port 4790", "vxlan on UDP port 4789", "ip-udp on UDP port 8285"]
    );
    assert_eq!(Codec::IpUdp.overhead(Family::V4).get(), 28);
}

#[test]
fn addresses_belong_to_the_node_with_the_subnet() {
    let table = compile(vec![
        node(0, &["10.1.0.0/24", "fd00:1::/64"]),
        node(1, &["10.1.1.0/25", "10.9.0.0/16"]),
        node(2, &["10.1.1.128/25", "fd00:2::/64"]),
    ]);
    let owner = |address: &str| match table.owner(address.parse().unwrap()) {
        Some(Owner::Local) => "node0".to_owned(),
        Some(Owner::Peer(index)) => table.peer(index).name().to_owned(),
        None => "nobody".to_owned(),
    };
    for (address, expected) in [
        ("10.1.0.0", "node0"),
        ("10.1.0.255", "node0"),
        ("10.1.1.127", "node1"),
        ("10.1.1.128", "node2"),
        ("10.9.255.255", "node1"),
        ("10.10.0.0", "nobody"),
        ("192.168.0.1", "nobody"),
        ("fd00:1::ffff", "node0"),
        ("fd00:2::1", "node2"),
        ("fd00:3::1", "nobody"),
    ] {
        assert_eq!(owner(address), expected, "{address}");
    }
}

#[test]
fn counters_outlive_the_table_that_they_were_made_for() {
    let registry = PeerRegistry::default();
    let members = |subnets: &[&str]| {
        let nodes = vec![node(0, &["10.1.0.0/24"]), node(1, subnets)];
        Membership::check(overlay(), "node0", nodes).unwrap()
    };
    let mtu = |_| Mtu::new(1464).unwrap();
    let old = Table::compile(&members(&["10.2.0.0/24"]), vec![], mtu, &registry);
    let new = Table::compile(&members(&["10.3.0.0/24"]), vec![], mtu, &registry);
    old.peers()[0].counters.add_egress(2, 100);
    new.peers()[0].counters.add_egress(1, 50);
    assert_eq!(new.peers()[0].counters.egress(), Traffic { packets: 3, bytes: 150 });
    registry.retain(|_| false);
    let fresh = Table::compile(&members(&["10.3.0.0/24"]), vec![], mtu, &registry);
    assert_eq!(fresh.peers()[0].counters.egress(), Traffic::default());
}

#[test]
fn table_after_another_has_of_each_peer_what_the_registry_has() {
    let registry = PeerRegistry::default();
    let entry = |number: u32| Arc::new(node(number, &[&format!("10.{number}.0.0/24")]));
    let nodes: Vec<_> = (0..9).map(entry).collect();
    let all = |nodes: &[Arc<NodeEntry>]| Membership::check(overlay(), "node0", nodes.to_vec());
    let mtu = |_| Mtu::new(1464).unwrap();
    let before = Table::compile(&all(&nodes).unwrap(), vec![], mtu, &registry);
    before.digest();
    let (mut changed, mut less, mut more) = (nodes.clone(), nodes.clone(), nodes.clone());
    changed[4] = Arc::new(node(4, &["10.44.0.0/24"]));
    let mut own = nodes.clone();
    own[0] = Arc::new(node(0, &["10.40.0.0/24"]));
    less.drain(2..4);
    more.splice(3..3, [entry(20), entry(21), entry(22)]);
    let turned = nodes.iter().rev().cloned().collect();
    for members in [nodes, changed, own, less, more, turned] {
        let members = all(&members).unwrap();
        let table = Table::compile_after(Some(&before), &members, vec![], mtu, &registry);
        assert_eq!(table.peers().len(), members.peer_count());
        let anew = Table::compile(&members, vec![], mtu, &registry);
        assert_eq!(table.digest(), anew.digest());
        for (peer, node) in table.peers().iter().zip(members.peers()) {
            let Lasting { counters, paths } = registry.peer(&node.name);
            assert!(Arc::ptr_eq(&peer.counters, &counters) && Arc::ptr_eq(&peer.paths, &paths));
        }
    }
}

proptest! {
    /// The neighbour check for overlaps finds exactly the pairs that a check of every pair finds.
    #[test]
    fn overlaps_are_found_wherever_they_are(
        prefixes in proptest::collection::vec((any::<u16>(), 18..=30_u8), 2..12)
    ) {
        let subnets: Vec<ipnet::IpNet> = prefixes
            .iter()
            .map(|(bits, len)| {
                let [a, b] = bits.to_be_bytes();
                ipnet::IpNet::new_assert(IpAddr::from([10, a & 7, b, 0]), *len).trunc()
            })
            .collect();
        let nodes: Vec<_> = subnets
            .iter()
            .zip(0..)
            .map(|(subnet, index)| node(index, &[&subnet.to_string()]))
            .collect();
        let overlapping = subnets.iter().enumerate().any(|(index, a)| {
            subnets[..index].iter().any(|b| a.contains(b) || b.contains(a))
        });
        let checked = Membership::check(overlay(), "node0", nodes);
        prop_assert_eq!(checked.is_err(), overlapping);
        if let Err(error) = checked {
            let Place::Subnet(node, 0) = error.place else { panic!("{error:?}") };
            prop_assert_eq!(error.value, subnets[node].to_string());
            prop_assert!(matches!(error.fault, Fault::Overlap(..)));
        }
    }
}
