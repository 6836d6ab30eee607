//! What has changed in a world, as far as whoever makes plans of it has to know.

use std::sync::Arc;

use crate::object::Pod;

/// What changed since somebody last asked.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    /// Pods as they were and as they are.
    pub(crate) pods: Vec<Arc<Pod>>,
    /// More pods than are worth to be told apart.
    pub(crate) many_pods: bool,
    /// Labels of a namespace, or which namespaces there are.
    pub(crate) namespaces: bool,
    /// Addresses or labels of a node.
    pub(crate) nodes: bool,
    /// Policies of either kind.
    pub(crate) policies: bool,
}

impl Dirty {
    pub(super) fn pods(&mut self, pods: impl IntoIterator<Item = Arc<Pod>>) {
        /// Beyond, to make everything anew costs no more.
        const MANY: usize = 64;
        self.pods.extend(pods);
        if self.pods.len() > MANY {
            self.many_pods = true;
            self.pods.clear();
        }
    }
}
