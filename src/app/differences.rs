//! What another table changes, by the names of nodes.

use std::cmp::Ordering;
use std::fmt;
use std::iter::Peekable;
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
        let (mut before, mut after) = (by_name(before), by_name(after));
        let mut differences = Self::default();
        loop {
            let order = match (before.peek(), after.peek()) {
                (None, None) => return differences,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(was), Some(is)) if Arc::ptr_eq(was, is) => Ordering::Equal,
                (Some(was), Some(is)) => was.name.cmp(&is.name),
            };
            let was = before.next_if(|_| order.is_le());
            match (was, after.next_if(|_| order.is_ge())) {
                (Some(was), None) => differences.left.push(was.name.clone()),
                (None, Some(is)) => differences.came.push(is.name.clone()),
                (Some(was), Some(is)) if was != is => differences.changed.push(is.name.clone()),
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
    }
}

fn by_name(members: &Membership) -> Peekable<impl Iterator<Item = &Arc<NodeEntry>>> {
    let mut nodes: Vec<_> = members.entries().iter().collect();
    // They mostly are in this order already, and then it takes no time.
    nodes.sort_by(|one, other| one.name.cmp(&other.name));
    nodes.into_iter().peekable()
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
        assert_eq!(text, "came: node10, node11, node12, node13, node14 and 14 more");
    }
}
