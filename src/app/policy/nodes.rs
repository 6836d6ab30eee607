//! What policies need to know of the subnet table.

use std::sync::Arc;

use culvert_dataplane::engine::{Changes, Membership, NodeEntry};
use culvert_node::node_file::gateway;
use culvert_policy::Member;

use crate::control::enforce::Nodes;

/// The nodes of `members`, with the addresses that their own packets come from.
pub(super) fn nodes(members: &Membership) -> Nodes {
    Nodes {
        subnets: members.local().subnets.clone(),
        members: members
            .entries()
            .iter()
            .map(|node| (Arc::from(&*node.name), member(node)))
            .collect(),
    }
}

/// Makes `nodes` those of `members`, of which only `changes` are others than before.
pub(super) fn change(nodes: &mut Nodes, changes: &Changes, members: &Membership) {
    nodes.subnets.clone_from(&members.local().subnets);
    for node in &changes.left {
        nodes.members.remove(&*node.name);
    }
    nodes.members.extend(changes.came.iter().map(|node| (Arc::from(&*node.name), member(node))));
}

/// What a node itself sends to other nodes' pods comes from the address of its tunnel, the first of
/// a subnet; what it sends to its own, from that of the bridge.
fn member(node: &NodeEntry) -> Member {
    let overlay = node.subnets.iter().flat_map(|subnet| [subnet.network(), gateway(subnet).addr()]);
    Member { internal: vec![node.address], overlay: overlay.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::fixture::table;

    #[test]
    fn what_follows_from_changes_is_what_follows_from_the_table() {
        let before = table(&[("node1", 1), ("node2", 2), ("node3", 3)]);
        for after in [
            table(&[("node1", 1), ("node2", 2), ("node3", 3)]),
            table(&[("node1", 9), ("node2", 2), ("node3", 3)]),
            table(&[("node1", 1), ("node3", 2), ("node4", 4)]),
            table(&[("node4", 2), ("node2", 3), ("node1", 1)]),
        ] {
            let mut known = nodes(&before);
            change(&mut known, &after.changes(&before), &after);
            assert_eq!(known, nodes(&after));
        }
    }
}
