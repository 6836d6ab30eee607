//! The codec between two nodes that run Culvert, and how it changes under them.

use std::collections::BTreeSet;

use culvert_lab::probe::{self, Transfer};
use culvert_lab::{Lab, Netns, wait_until};
use overlay_proto::Family;
use overlay_proto::oam::REFLECTOR_PORT;

use crate::harness::{FAMILIES, SOON, TABLE_LIMIT, assert_reaches_within, lab, run};
use crate::stream::Stream;

/// The second node's codec, what its entry says of it, and the overlay's MTU.
const CHANGES: [(&str, &str, u16, u64); 4] = [
    ("vxlan", "codec = \"vxlan\"\nmac = \"02:00:00:00:00:02\"\n", 8472, 1450),
    ("ip-udp", "codec = \"ip-udp\"\nport = 9999\n", 9999, 1464),
    ("vxlan", "codec = \"vxlan\"\nport = 9999\nmac = \"02:00:00:00:00:02\"\n", 9999, 1450),
    ("vxlan-gpe", "", 4790, 1464),
];

/// How often a loss that the kernel counted is excused.
const ATTEMPTS: u32 = 5;

#[test]
fn a_peers_codec_changes_and_flows_of_others_lose_nothing() {
    let lab = lab("nt-recodec").nodes(3).up().unwrap();
    // A busy kernel loses packets between namespaces, and counts them. Then it is tried again.
    for attempt in 1.. {
        let before = lost_by_the_kernel();
        let (sent, missing) = change_codecs(&lab);
        if missing.is_empty() {
            break;
        }
        let excused = attempt < ATTEMPTS && lost_by_the_kernel() > before;
        assert!(excused, "{missing:?} of {sent} were lost");
    }
}

/// Packets that found the queue between network devices full, since the machine's start.
fn lost_by_the_kernel() -> u64 {
    let text = std::fs::read_to_string("/proc/net/softnet_stat").unwrap();
    let words = text.lines().map(|line| line.split_whitespace().nth(1).unwrap());
    words.map(|word| u64::from_str_radix(word, 16).unwrap()).sum()
}

/// Makes every change once; says what became of a flow that has nothing to do with them.
fn change_codecs(lab: &Lab) -> (u64, BTreeSet<u64>) {
    // The first packets between two pods may wait for their neighbours' addresses for too long.
    assert_reaches_within(SOON, lab.pod(1, 1).netns(), lab.pod(3, 1).ipv4());
    let stream = Stream::start(&lab.pod(1, 1), &lab.pod(3, 1), Family::V4);
    for (codec, entry, port, mtu) in CHANGES {
        let text = lab.table().to_toml();
        let third = text.rfind("[[node]]").unwrap();
        lab.write_table(&format!("{}{entry}\n{}", &text[..third], &text[third..])).unwrap();
        for (node, other) in [(1, "node2"), (2, "node1"), (3, "node2")] {
            let taken = || {
                let status = lab.node(node).status().unwrap();
                let peers = status["peers"].as_array().unwrap();
                let peer = peers.iter().find(|peer| peer["name"] == other).unwrap();
                // The second node has no peer of another codec, and may be narrower or wider.
                let right_mtu = node == 2 || status["mtu"] == mtu;
                peer["codec"] == codec && peer["port"] == port && right_mtu
            };
            wait_until(TABLE_LIMIT, &format!("node{node} to take {codec}"), taken).unwrap();
        }
        for family in FAMILIES {
            let (one, two) = (lab.pod(1, 1), lab.pod(2, 1));
            assert_reaches_within(SOON, one.netns(), two.address(family));
            assert_reaches_within(SOON, two.netns(), one.address(family));
            for (from, to) in [(&one, &two), (&two, &one)] {
                let transfer = Transfer::of(8 << 20);
                probe::transfer(from.netns(), to.netns(), to.address(family), &transfer).unwrap();
            }
        }
        let ports = BTreeSet::from([4790, port]);
        let node = lab.node(1).netns();
        wait_until(SOON, "the right ports to be open", || listening(node) == ports).unwrap();
        let ruled = || guarded(lab, &ports);
        wait_until(SOON, "the rules to name the same ports", ruled).unwrap();
        assert_eq!(lab.node(1).status().unwrap()["offload_refusals"], 0);
    }
    stream.stop()
}

/// UDP ports below the ones that the kernel chooses which somebody in the namespace is bound to.
fn listening(netns: &Netns) -> BTreeSet<u16> {
    let text = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/udp")).unwrap().unwrap();
    let local = text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1));
    let ports =
        local.map(|local| u16::from_str_radix(local.split_once(':').unwrap().1, 16).unwrap());
    ports.filter(|port| *port < 32_768).collect()
}

/// Whether the rules of the first node are about exactly these ports.
fn guarded(lab: &Lab, ports: &BTreeSet<u16>) -> bool {
    let text = run(lab.node(1).netns(), "nft", &["list", "table", "inet", "culvert"]);
    let of = |set: &str| -> BTreeSet<u16> {
        let set = text.split(&format!("set {set} {{")).nth(1);
        let set = set.and_then(|rest| rest.split('}').next());
        let elements = set.and_then(|set| set.split("elements = {").nth(1)).unwrap_or_default();
        elements.split(',').filter_map(|port| port.trim().parse().ok()).collect()
    };
    // What the daemons ask each other between pod networks has a port of its own, in no tunnel.
    let questions = format!("dport {REFLECTOR_PORT} ");
    let is_about_ports = |line: &&str| line.contains("dport") && !line.contains(&questions);
    let rules: Vec<&str> = text.lines().filter(is_about_ports).collect();
    let names_a_set =
        |rule: &str| ["@tunnel_ports ", "@codec_ports "].map(|set| rule.contains(set));
    of("tunnel_ports") == *ports
        && of("codec_ports").is_superset(ports)
        && rules.len() >= 6
        && rules.iter().all(|rule| names_a_set(rule).contains(&true))
}
