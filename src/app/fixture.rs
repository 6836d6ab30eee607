//! Tables for tests.

use culvert_dataplane::engine::{Foreign, Membership, NodeEntry, Overlay, TunnelOptions};
use overlay_proto::Vni;

/// The table of these nodes, `node1` among them, each with the number that its addresses have.
pub(super) fn table(nodes: &[(&str, u8)]) -> Membership {
    let overlay = Overlay {
        vni: Vni::new(1).unwrap(),
        networks: vec!["10.244.0.0/16".parse().unwrap()],
        port: 4790,
        foreign: Foreign::default(),
    };
    let entry = |(name, number): &(&str, u8)| NodeEntry {
        name: (*name).to_owned(),
        address: [192, 168, 1, *number].into(),
        subnets: vec![format!("10.244.{number}.0/24").parse().unwrap()],
        tunnel_options: TunnelOptions::default(),
    };
    Membership::check(overlay, "node1", nodes.iter().map(entry).collect()).unwrap()
}
