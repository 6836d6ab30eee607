//! What another table changes, by the names of nodes.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use culvert_dataplane::engine::{Membership, NodeEntry};

/// Names that are said of each kind.
const NAMES_SAID: usize = 5;

/// The nodes that came, left and changed from one table to another.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Differences {
    came: Vec<String>,
    left: Vec<String>,
    changed: Vec<String>,
}

impl Differences {
    /// What is another from `before` to `after`.
    pub(super) fn between(before: &Membership, after: &Membership) -> Self {
        let by_name = |of: &Membership| -> HashMap<String, Arc<NodeEntry>> {
            of.entries().iter().map(|node| (node.name.clone(), Arc::clone(node))).collect()
        };
        let mut known = by_name(before);
        let mut differences = Self::default();
        for node in after.entries() {
            match known.remove(&node.name) {
                None => differences.came.push(node.name.clone()),
                Some(was) if !Arc::ptr_eq(&was, node) && was != *node => {
                    differences.changed.push(node.name.clone());
                }
                Some(_) => {}
            }
        }
        differences.left = known.into_keys().collect();
        differences.left.sort_unstable();
        differences
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [("came", &self.came), ("left", &self.left), ("changed", &self.changed)];
        let mut said = kinds.into_iter().filter(|(_, names)| !names.is_empty()).peekable();
        if said.peek().is_none() {
            return f.write_str("what all nodes share has changed");
        }
        for (index, (kind, names)) in said.enumerate() {
            let shown = names[..names.len().min(NAMES_SAID)].join(", ");
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{kind}: {shown}")?;
            if names.len() > NAMES_SAID {
                write!(f, " and {} more", names.len() - NAMES_SAID)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use culvert_dataplane::engine::{Foreign, Overlay, TunnelOptions};
    use overlay_proto::Vni;

    use super::*;

    fn table(nodes: &[(&str, u8)]) -> Membership {
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

    #[test]
    fn nodes_that_came_left_and_changed_are_named() {
        let before = table(&[("node1", 1), ("node2", 2), ("node3", 3)]);
        let after = table(&[("node1", 1), ("node3", 4), ("node5", 5)]);
        let text = Differences::between(&before, &after).to_string();
        assert_eq!(text, "came: node5; left: node2; changed: node3");
    }

    #[test]
    fn a_whole_cluster_is_not_listed() {
        let many: Vec<(String, u8)> = (1..=20).map(|it| (format!("node{it}"), it)).collect();
        let many: Vec<(&str, u8)> = many.iter().map(|(name, it)| (name.as_str(), *it)).collect();
        let text = Differences::between(&table(&many[..1]), &table(&many)).to_string();
        assert_eq!(text, "came: node2, node3, node4, node5, node6 and 14 more");
    }
}
