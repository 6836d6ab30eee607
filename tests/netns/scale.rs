//! A node's kernel knows nothing of other nodes, however many there are.

use std::net::IpAddr;
use std::time::Duration;

use culvert_lab::{Lab, Netns, TableNode, wait_until};

use crate::harness::{FAMILIES, assert_reaches, lab, run};

/// Ten thousand is the design point; the development build takes it in a second or two.
const MANY: u16 = 10_000;

const TAKE_LIMIT: Duration = Duration::from_secs(15);

/// A cluster network that has room for them.
const WIDE: &str = "[network]\ncidrs = [\"10.0.0.0/8\", \"fd00:10:244::/48\"]";

#[test]
fn kernel_state_is_the_same_with_three_nodes_and_with_ten_thousand() {
    // Nobody is asked whether it answers: who has an address where no machine is, is a neighbour
    // that the kernel looks for.
    let quiet = "[probe]\ninterval = 0";
    let lab = lab("nt-scale").nodes(3).config(WIDE).config(quiet).up().unwrap();
    let node = lab.node(1);
    pods_reach_one_another(&lab);
    let few = kernel_state(node.netns());

    for count in [1_000, MANY] {
        let mut table = lab.table();
        table.nodes.extend((4..=count).map(invented_node));
        lab.write_table(&table.to_toml()).unwrap();
        wait_until(TAKE_LIMIT, &format!("a table of {count} nodes to be taken"), || {
            lab.nodes().iter().all(|node| {
                node.status().unwrap()["table"]["nodes"].as_u64() == Some(u64::from(count))
            })
        })
        .unwrap();
        pods_reach_one_another(&lab);
        assert_eq!(kernel_state(node.netns()), few, "with {count} nodes");
    }

    for part in [&few.routes, &few.neighbours, &few.bridge] {
        let text = part.join("\n");
        for foreign in ["10.244.2.", "10.244.3.", "fd00:10:244:2:", "fd00:10:244:3:"] {
            assert!(!text.contains(foreign), "{foreign} is in\n{text}");
        }
    }
    let overlay = few.routes.iter().filter(|route| route.contains("proto 207"));
    assert_eq!(overlay.count(), 2, "one route per cluster network: {:#?}", few.routes);
}

#[derive(Debug, PartialEq, Eq)]
struct KernelState {
    routes: Vec<String>,
    neighbours: Vec<String>,
    bridge: Vec<String>,
}

fn kernel_state(netns: &Netns) -> KernelState {
    let ip = |arguments: &[&str]| sorted(&netns.ip_output(arguments).unwrap());
    KernelState {
        routes: ip(&["-4", "route", "show", "table", "all"])
            .into_iter()
            .chain(ip(&["-6", "route", "show", "table", "all"]))
            .collect(),
        // Whose addresses are known, whatever the state of that knowledge. The kernel learns
        // link-local ones of the underlay by itself.
        neighbours: ip(&["neigh"])
            .iter()
            .filter(|line| !line.starts_with("fe80:"))
            .filter_map(|line| Some(line.split_once(" lladdr")?.0.to_owned()))
            .collect(),
        bridge: sorted(&run(netns, "bridge", &["fdb"])),
    }
}

fn sorted(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.sort();
    lines
}

fn pods_reach_one_another(lab: &Lab) {
    for family in FAMILIES {
        for from in lab.pods() {
            for to in lab.pods() {
                assert_reaches(from.netns(), to.address(family));
            }
        }
    }
}

/// A node that exists in the table only.
fn invented_node(number: u16) -> TableNode {
    let [high, low] = number.to_be_bytes();
    let address: IpAddr = [172, 16, high, low].into();
    let v4 = format!("10.{high}.{low}.0/24");
    let v6 = format!("fd00:10:244:{:x}::/64", 0x1000 + number);
    TableNode {
        name: format!("invented{number}"),
        address,
        subnets: vec![v4.parse().unwrap(), v6.parse().unwrap()],
        public_keys: Vec::new(),
    }
}
