//! Which nodes are not the same in two lists.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::NodeEntry;

/// The nodes that left a list and those that came; one whose entry changed is in both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// As they were.
    pub left: Vec<Arc<NodeEntry>>,
    /// As they are.
    pub came: Vec<Arc<NodeEntry>>,
}

impl Changes {
    /// From `before` to `after`. It is made for long lists in one order that share nearly all of
    /// their entries in memory, and then does not look into them.
    pub(crate) fn between(before: &[Arc<NodeEntry>], after: &[Arc<NodeEntry>]) -> Self {
        let (mut old, mut new) = (before, after);
        let mut changes = Self::default();
        while let ([was, old_rest @ ..], [is, new_rest @ ..]) = (old, new) {
            let is_same =
                |one: Option<&Arc<_>>, other| one.is_some_and(|it| Arc::ptr_eq(it, other));
            if Arc::ptr_eq(was, is) {
                (old, new) = (old_rest, new_rest);
            } else if is_same(old_rest.first(), is) {
                changes.left.push(Arc::clone(was));
                old = old_rest;
            } else if is_same(new_rest.first(), was) {
                changes.came.push(Arc::clone(is));
                new = new_rest;
            } else {
                changes.left.push(Arc::clone(was));
                changes.came.push(Arc::clone(is));
                (old, new) = (old_rest, new_rest);
            }
        }
        changes.left.extend(old.iter().cloned());
        changes.came.extend(new.iter().cloned());
        changes.without_equals()
    }

    /// What stands in both with the same content has not changed, but its place.
    fn without_equals(mut self) -> Self {
        let mut left: HashMap<&str, (usize, &Arc<NodeEntry>), RandomState> = HashMap::default();
        left.extend(self.left.iter().enumerate().map(|(at, node)| (&*node.name, (at, node))));
        let equal = |node: &Arc<NodeEntry>| left.get(&*node.name).filter(|(_, was)| *was == node);
        let mut stays: Vec<bool> = vec![false; self.left.len()];
        let has_come: Vec<bool> = self
            .came
            .iter()
            .map(|node| equal(node).inspect(|(at, _)| stays[*at] = true).is_none())
            .collect();
        let mut stays = stays.into_iter();
        self.left.retain(|_| stays.next() != Some(true));
        let mut has_come = has_come.into_iter();
        self.came.retain(|_| has_come.next() == Some(true));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TunnelOptions;

    fn node(name: &str, last: u8) -> Arc<NodeEntry> {
        Arc::new(NodeEntry {
            name: name.to_owned(),
            address: [192, 0, 2, last].into(),
            subnets: Vec::new(),
            tunnel_options: TunnelOptions::default(),
        })
    }

    fn names(nodes: &[Arc<NodeEntry>]) -> Vec<&str> {
        nodes.iter().map(|node| node.name.as_str()).collect()
    }

    #[test]
    fn nodes_that_came_left_and_changed_are_found() {
        let nodes = [node("a", 1), node("b", 2), node("c", 3), node("d", 4)];
        let [a, b, c, d] = nodes.clone();
        assert_eq!(Changes::between(&nodes, &nodes), Changes::default());
        let changed = node("c", 33);
        let changes = Changes::between(&nodes, &[a.clone(), changed.clone(), node("e", 5), d]);
        assert_eq!(names(&changes.left), ["b", "c"]);
        assert_eq!(names(&changes.came), ["c", "e"]);
        assert!(Arc::ptr_eq(&changes.came[0], &changed));
        let changes = Changes::between(&[b, c], &[a]);
        assert_eq!((names(&changes.left), names(&changes.came)), (vec!["b", "c"], vec!["a"]));
    }

    #[test]
    fn other_order_and_other_memory_are_no_changes() {
        let before = [node("a", 1), node("b", 2), node("c", 3)];
        let after = [node("c", 3), node("a", 1), node("b", 2)];
        assert_eq!(Changes::between(&before, &after), Changes::default());
    }
}
