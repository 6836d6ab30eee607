//! What has changed in a world, as far as whoever makes plans of it has to know.

use std::sync::Arc;

use crate::object::Pod;

/// What changed since somebody last asked.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    /// Pods as they were and as they are, also those whose namespace is another.
    pub(crate) pods: Vec<Arc<Pod>>,
    /// More pods than are worth to be told apart.
    pub(crate) many_pods: bool,
    /// Addresses or labels of a node.
    pub(crate) nodes: bool,
    /// Policies of either kind.
    pub(crate) policies: bool,
}

impl Dirty {
    /// Takes pods that have changed, of `all` that there are.
    pub(super) fn pods(&mut self, pods: impl IntoIterator<Item = Arc<Pod>>, all: usize) {
        /// Beyond, or beyond such a part of all pods, to make everything anew costs no more.
        const MANY: usize = 64;
        const PART: usize = 16;
        let most = MANY.max(all / PART);
        for pod in pods {
            if self.many_pods || self.pods.len() >= most {
                self.many_pods = true;
                self.pods = Vec::new();
                return;
            }
            self.pods.push(pod);
        }
    }
}
