use std::fs;
use std::io::Write as _;

use culvert_dataplane::engine::{Foreign, Membership, Overlay};
use culvert_dataplane::platform::clock;
use overlay_proto::Vni;

use super::*;
use crate::control::source::members;

const TABLE: &str = r#"
[[node]]
name = "node1"
address = "192.168.1.11"
subnets = ["10.244.1.0/24", "fd00:10:244:1::/64"]
[[node]]
name = "node2"
address = "192.168.1.12"
subnets = ["10.244.2.0/24"]
"#;

/// Bob's public key in RFC 7748, 6.1.
const KEY: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";

fn overlay() -> Overlay {
    Overlay {
        vni: Vni::new(1).unwrap(),
        networks: vec!["10.244.0.0/16".parse().unwrap(), "fd00:10:244::/48".parse().unwrap()],
        port: 4790,
        foreign: Foreign::default(),
    }
}

fn checked(text: &str) -> anyhow::Result<Membership> {
    let proposal = parse(Path::new("t.toml"), text.to_owned())?;
    Ok(members(&proposal, &overlay(), "node1")?.0)
}

fn refusal(text: &str) -> String {
    checked(text).expect_err("it is refused").to_string()
}

#[test]
fn a_good_table_is_taken_whole() {
    let members = checked(TABLE).unwrap();
    assert_eq!(members.local().subnets.len(), 2);
    let peers: Vec<_> = members.peers().map(|peer| peer.name.as_str()).collect();
    assert_eq!(peers, ["node2"]);
}

#[test]
fn public_keys_come_into_the_members() {
    let text = format!("{TABLE}public_keys = [\"{KEY}\"]\n");
    let members = checked(&text).unwrap();
    let keys = |of: &NodeEntry| of.tunnel_options.keys;
    let peer = members.peers().next().unwrap();
    assert_eq!(keys(peer), NodeKeys::parse([KEY]).unwrap());
    assert!(keys(members.local()).is_empty());
}

#[test]
fn every_fault_is_named_with_line_key_value_and_remedy() {
    let cases = [
        (
            TABLE.replace("10.244.2.0/24", "10.244.1.128/25"),
            "t.toml:9: node.subnets = 10.244.1.128/25: has addresses in common with 10.244.1.0/24 \
             of node \"node1\"; give each node subnets of its own",
        ),
        (
            format!("{TABLE}codec = \"gre\"\n"),
            "t.toml:10: node.codec = \"gre\": not a codec; those known are vxlan-gpe, vxlan, ip-udp; \
             leave it out for a node that runs Culvert",
        ),
        (
            format!("{TABLE}codec = \"vxlan\"\n"),
            "t.toml:10: node.codec = vxlan: frames to this node would have no address; add node.mac, \
             the address of the node's VXLAN device (`ip link show flannel.1`)",
        ),
        (
            format!("{TABLE}codec = \"vxlan\"\nport = 4790\nmac = \"02:00:00:00:00:01\"\n"),
            "t.toml:11: node.port = vxlan on UDP port 4790: the port is that of vxlan-gpe already; \
             give each codec ports of its own",
        ),
        (
            format!("{TABLE}codec = \"ip-udp\"\nport = 70000\n"),
            "t.toml:11: node.port = 70000: not a port; write 1 to 65535, or leave it out",
        ),
        (
            format!("{TABLE}codec = \"vxlan\"\nmac = \"02:00:00\"\n"),
            "t.toml:11: node.mac = \"02:00:00\": not an Ethernet address, which is six pairs of \
             hexadecimal digits; write it such as \"02:ce:c0:a8:01:0b\"",
        ),
        (
            format!("{TABLE}public_keys = [\n  \"{KEY}\",\n  \"nonsense\",\n]\n"),
            "t.toml:12: node.public_keys = \"nonsense\": not 32 bytes in base64, which are 44 \
             characters; write what `culvert keys show` prints on that node",
        ),
        (
            TABLE.replace("[[node]]", &format!("[[node]]\npublic_keys = [\"{KEY}\"]")),
            "t.toml:8: node.public_keys = 3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=: node \"node1\" \
             has this key; write what `culvert keys show` prints on each of the two; if it is the \
             same, their state directories are copies: remove sealed.key_file on one of them, and \
             restart it",
        ),
        (
            format!("{TABLE}codec = \"ip-udp\"\npublic_keys = [\"{KEY}\"]\n"),
            "t.toml:11: node.public_keys = 3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=: packets of \
             ip-udp are never sealed; leave out the node's public keys, or, if it runs Culvert, its \
             codec",
        ),
        (
            format!("{TABLE}plain = true\n"),
            "t.toml:10: node.plain = true: a node that runs Culvert is not plain; leave plain out: it \
             is for nodes that do not run Culvert, and have a codec",
        ),
        (
            TABLE.replace("10.244.2.0/24", "10.244.1.0/24"),
            "t.toml:9: node.subnets = 10.244.1.0/24: has addresses in common with 10.244.1.0/24 \
             of node \"node1\"; give each node subnets of its own",
        ),
        (
            TABLE.replace("10.244.2.0/24", "10.245.2.0/24"),
            "t.toml:9: node.subnets = 10.245.2.0/24: lies outside the pod networks 10.244.0.0/16 \
             fd00:10:244::/48; choose a subnet inside network.cidrs, or widen that",
        ),
        (
            TABLE.replace("10.244.2.0/24", "10.244.2.7/24"),
            "t.toml:9: node.subnets = 10.244.2.7/24: has bits set beyond its length; \
             write 10.244.2.0/24",
        ),
        (
            TABLE.replace("10.244.2.0/24", "10.244.2.0/31"),
            "t.toml:9: node.subnets = 10.244.2.0/31: too small for a bridge address and a pod; \
             use a /30 or larger for IPv4, a /126 or larger for IPv6",
        ),
        (
            TABLE.replace("[\"10.244.2.0/24\"]", "[]"),
            "t.toml:9: node.subnets = []: the node has no subnet; give it a subnet of a pod network",
        ),
        (
            TABLE.replace("10.244.2.0/24", "10.244.2.0"),
            "t.toml:9: node.subnets = \"10.244.2.0\": not a prefix; \
             write an address and a length, such as \"10.244.1.0/24\"",
        ),
        (
            TABLE.replace("192.168.1.12", "192.168.1.11"),
            "t.toml:8: node.address = 192.168.1.11: node \"node1\" has this address too; \
             give each node its own underlay address",
        ),
        (
            TABLE.replace("192.168.1.12", "fd00::12"),
            "t.toml:8: node.address = fd00::12: not of the family of this node's address; \
             write addresses of one family for all nodes",
        ),
        (
            TABLE.replace("192.168.1.12", "10.244.7.1"),
            "t.toml:8: node.address = 10.244.7.1: lies inside the pod network 10.244.0.0/16; \
             choose a pod network that contains no underlay address",
        ),
        (
            TABLE.replace("192.168.1.12", "224.0.0.5"),
            "t.toml:8: node.address = 224.0.0.5: not an address that datagrams can be sent to; \
             write the address by which the other nodes reach it",
        ),
        (
            TABLE.replace("192.168.1.12", "node-2"),
            "t.toml:8: node.address = \"node-2\": not an IP address; \
             write the address by which peers reach the node, without a length",
        ),
        (
            TABLE.replace("\"node2\"", "\"node1\""),
            "t.toml:7: node.name = node1: another node has this name; \
             give each node a name of its own",
        ),
        (
            TABLE.replace("\"node1\"", "\"node7\""),
            "t.toml: node.name = node1: lacks this node; \
             add an entry for this node, or set node.name to the name that it has",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(refusal(&text), expected);
    }
}

#[test]
fn half_a_file_is_refused() {
    // A file cut off anywhere either is refused or, at the end of an entry, lacks nothing it needs.
    let whole = checked(TABLE).unwrap();
    for cut in 0..TABLE.trim_end().len() {
        if let Ok(members) = checked(&TABLE[..cut]) {
            assert_ne!(members, whole);
            assert_eq!(members.local(), whole.local());
        }
    }
}

#[tokio::test]
async fn a_replaced_file_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("table.toml");
    fs::write(&path, TABLE).unwrap();
    let mut file = TableFile::new(&path);
    file.read().unwrap();
    assert!(tokio::time::timeout(INTERVAL * 3, file.changed()).await.is_err());

    let other = directory.path().join("other");
    fs::File::create(&other).unwrap().write_all(TABLE.as_bytes()).unwrap();
    fs::rename(&other, &path).unwrap();
    let start = clock::now();
    file.changed().await;
    assert!(start.elapsed() < INTERVAL * 5);
}
