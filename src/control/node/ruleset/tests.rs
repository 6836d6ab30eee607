use std::net::IpAddr;

use culvert_nft::{Comparison, Element, Expression};
use ipnet::IpNet;

use super::ports::{CODEC_PORTS, TUNNEL_PORTS};
use super::sources::OWN_ADDRESSES;
use super::*;
use crate::control::node::Predecessor;
use crate::control::node::fixture::{net, spec};

fn chain_names(table: &Table) -> Vec<&str> {
    table.chains.iter().map(|chain| chain.name).collect()
}

#[test]
fn both_families_are_translated_and_kept_from_the_tunnel() {
    let table = ruleset(&spec());
    let sets: Vec<_> = table.sets.iter().map(|set| set.name.as_str()).collect();
    let expected =
        ["local_v4", "cluster_v4", "local_v6", "cluster_v6", TUNNEL_PORTS, CODEC_PORTS, "own_v6"];
    assert_eq!(sets, expected);
    let expected = [
        "prerouting",
        "input",
        "path_errors",
        "output",
        "arrivals",
        "sources",
        "postrouting",
        "after_translation",
    ];
    assert_eq!(chain_names(&table), expected);
    let rules: Vec<_> = table.chains.iter().map(|chain| chain.rules.len()).collect();
    assert_eq!(rules, [6, 1, 8, 6, 5, 4, 2, 8]);
}

#[test]
fn what_carried_before_is_let_through_until_it_does_not_any_more() {
    let with = |carries| {
        let device = "flannel.1".to_owned();
        ruleset(&NodeSpec { predecessor: Some(Predecessor { device, carries }), ..spec() })
    };
    assert_eq!(with(false), ruleset(&spec()), "its name alone opens nothing");
    let chain = |table: &Table, name| {
        table.chains.iter().find(|chain| chain.name == name).unwrap().rules.clone()
    };
    let table = with(true);
    let from = Expression::input_name(Comparison::Equal, "flannel.1");
    assert_eq!(chain(&table, "arrivals")[2], [&from[..], &ACCEPT].concat());
    let output = chain(&table, "output");
    let dropped = [&Expression::is_unprivileged()[..], &DROP].concat();
    assert_eq!(output[output.len() - 2], dropped, "no process gets a way out by that");
}

#[test]
fn without_masquerade_nothing_is_translated() {
    let table = ruleset(&NodeSpec { masquerade: false, ..spec() });
    let expected = [
        "prerouting",
        "input",
        "path_errors",
        "output",
        "arrivals",
        "sources",
        "after_translation",
    ];
    assert_eq!(chain_names(&table), expected);
    assert!(table.sets.iter().all(|set| !set.name.starts_with("local_")));
}

#[test]
fn overlapping_and_adjacent_subnets_are_joined() {
    let table = ruleset(&NodeSpec {
        local_subnets: ["10.244.3.0/24", "10.244.2.0/24", "10.244.2.128/25"].map(net).into(),
        ..spec()
    });
    let expected = Element::interval(&[10, 244, 2, 0], &[10, 244, 3, 255]);
    assert_eq!(table.sets[0].elements, expected.into_iter().collect());
}

#[test]
fn addresses_of_the_nodes_processes_are_those_of_tun_and_bridge() {
    let own = ruleset(&spec()).sets.pop().unwrap();
    let addresses = ["fd00:10:244:1::", "fd00:10:244:1::1"].map(|text| net(&format!("{text}/128")));
    let expected = addresses.map(|net| match net.addr() {
        IpAddr::V6(address) => Element::of(&[&address.octets()]),
        IpAddr::V4(_) => unreachable!("there is none"),
    });
    assert_eq!(own.elements, expected.into_iter().collect());
    let ipv4 = |nets: Vec<IpNet>| nets.into_iter().filter(|net| net.addr().is_ipv4()).collect();
    let table = ruleset(&NodeSpec {
        cluster_networks: ipv4(spec().cluster_networks),
        local_subnets: ipv4(spec().local_subnets),
        ..spec()
    });
    assert!(table.sets.iter().all(|set| set.name != OWN_ADDRESSES));
    let sources = table.chains.iter().find(|chain| chain.name == "sources").unwrap();
    assert_eq!(sources.rules.len(), 3, "what goes to bridge and TUN, whatever the families");
}

#[test]
fn pods_are_kept_from_the_ports_of_every_codec() {
    let table = ruleset(&NodeSpec { underlay_ports: vec![4790, 9999], ..spec() });
    let ports = |name| {
        let set = table.sets.iter().find(|set| set.name == name).unwrap();
        set.elements.iter().map(|element| element.key.clone()).collect::<Vec<_>>()
    };
    let keys =
        |ports: &[u16]| ports.iter().map(|port| port.to_be_bytes().to_vec()).collect::<Vec<_>>();
    assert_eq!(ports(TUNNEL_PORTS), keys(&[4790, 9999]));
    assert_eq!(ports(CODEC_PORTS), keys(&[4790, 8285, 8472, 9999]));
}
