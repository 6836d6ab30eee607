//! What another table changes, by the names of nodes.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use culvert_dataplane::engine::{Changes, NodeEntry};

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
    /// What `changes` are, by name.
    pub(super) fn of(changes: &Changes) -> Self {
        let names = |nodes: &[Arc<NodeEntry>]| -> BTreeSet<String> {
            nodes.iter().map(|node| node.name.clone()).collect()
        };
        let (left, came) = (names(&changes.left), names(&changes.came));
        Self {
            changed: left.intersection(&came).cloned().collect(),
            came: came.difference(&left).cloned().collect(),
            left: left.difference(&came).cloned().collect(),
        }
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
    use culvert_dataplane::engine::Membership;

    use super::*;
    use crate::app::fixture::table;

    fn between(before: &Membership, after: &Membership) -> String {
        Differences::of(&after.changes(before)).to_string()
    }

    #[test]
    fn nodes_that_came_left_and_changed_are_named() {
        let before = table(&[("node1", 1), ("node2", 2), ("node3", 3)]);
        let after = table(&[("node1", 1), ("node3", 4), ("node5", 5)]);
        let text = between(&before, &after);
        assert_eq!(text, "came: node5; left: node2; changed: node3");
    }

    #[test]
    fn a_whole_cluster_is_not_listed() {
        let many: Vec<(String, u8)> = (1..=20).map(|it| (format!("node{it}"), it)).collect();
        let many: Vec<(&str, u8)> = many.iter().map(|(name, it)| (name.as_str(), *it)).collect();
        let text = between(&table(&many[..1]), &table(&many));
        assert_eq!(text, "came: node10, node11, node12, node13, node14 and 14 more");
    }
}
