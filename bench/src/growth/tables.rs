//! A table of 3 to 10,000 nodes: two of them are real, the others only entries.
//!
//! Each size is a network of its own, with daemons that never had another table, and all of them
//! exist side by side, so that their rounds are interleaved like those of the comparison.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result};
use culvert_lab::clock;
use culvert_lab::{Lab, TableFile, TableNode};

use super::{Point, memory_mib};
use crate::networks::{PREFIX, bypass_filters};
use crate::programs::Programs;
use crate::progress::Progress;
use crate::settings::Effort;
use crate::statistics::Summary;
use crate::traffic::Pod;
use crate::traffic::tcp::{self, Stream};

/// A pod network with room for 10,000 subnets of 256 addresses each.
const CONFIG: &str = "[network]\ncidrs = [\"10.0.0.0/8\"]";

/// Underlay addresses of the nodes that do not exist, counted up from here.
const FIRST_ADDRESS: u32 = u32::from_be_bytes([172, 16, 0, 0]);

/// Their pod subnets, a step of 256 addresses apart; the real nodes' are in 10.244.0.0/16.
const FIRST_SUBNET: u32 = u32::from_be_bytes([10, 0, 0, 0]);

struct Size {
    lab: Lab,
    pods: [Pod; 2],
    point: Point,
}

pub(super) fn measure(
    programs: &Programs,
    settings: &Effort,
    progress: &mut Progress,
) -> Result<Vec<Point>> {
    let mut sizes = Vec::new();
    for nodes in &settings.table_nodes {
        progress.say(&format!("building a network with a table of {nodes} nodes"));
        sizes.push(build(programs, *nodes)?);
    }
    let count = sizes.len();
    for round in 0..settings.growth_rounds {
        for turn in 0..count {
            let size = &mut sizes[(turn + round) % count];
            let what = format!("round {}: a table of {} nodes", round + 1, size.point.size);
            progress.step(&what, settings.tcp.warm_up + settings.tcp.window);
            let [from, to] = &size.pods;
            let moved = tcp::bulk(&[Stream { from, to }], settings.tcp, &[])?;
            size.point.gbits.push(Some(moved.gbits()));
        }
    }
    sizes
        .into_iter()
        .map(|size| {
            let memory = size.lab.nodes().iter().map(|node| {
                let id = node.pid().with_context(|| format!("{} has ended", node.name()))?;
                memory_mib(id)
            });
            let memory = Summary::of(memory.collect::<Result<Vec<f64>>>()?);
            Ok(Point { memory_mib: memory.map(|memory| memory.max), ..size.point })
        })
        .collect()
}

fn build(programs: &Programs, nodes: u32) -> Result<Size> {
    let lab = Lab::builder(format!("{PREFIX}table-{nodes}"))
        .nodes(2)
        .pods(0)
        .without_daemons()
        .culvert(&programs.culvert)
        .plugin(&programs.plugin)
        .config(CONFIG)
        .replace()
        .up()?;
    bypass_filters(&lab)?;
    lab.write_table(&table(&lab, nodes).to_toml())?;
    let mut point = Point::new(nodes);
    for node in lab.nodes() {
        let start = clock::now();
        node.start()?;
        point.ready_seconds = Some(start.elapsed().as_secs_f64());
    }
    let mut pods = Vec::new();
    for node in [1, 2] {
        pods.push(Pod::from(&lab.add_pod(node)?));
    }
    let pods = pods.try_into().ok().context("two pods")?;
    Ok(Size { lab, pods, point })
}

/// The lab's own nodes, and as many others as it takes.
fn table(lab: &Lab, nodes: u32) -> TableFile {
    let mut table = lab.table();
    let others = nodes.saturating_sub(u32::try_from(table.nodes.len()).unwrap_or_default());
    table.nodes.extend((0..others).map(other));
    table
}

/// A node of which there is only the entry.
pub(crate) fn other(index: u32) -> TableNode {
    let subnet = Ipv4Addr::from(FIRST_SUBNET + index * 256);
    TableNode {
        name: format!("other{index}"),
        address: IpAddr::V4(Ipv4Addr::from(FIRST_ADDRESS + 1 + index)),
        subnets: format!("{subnet}/24").parse().into_iter().collect(),
        public_keys: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_subnets_keep_clear_of_the_real_ones() {
        let last = other(10_000);
        assert_eq!(last.address.to_string(), "172.16.39.17");
        assert_eq!(last.subnets[0].to_string(), "10.39.16.0/24");
    }
}
