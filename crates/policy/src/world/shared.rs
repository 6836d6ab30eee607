//! Texts, labels and ports that many objects have, each kept once.

use std::collections::HashSet;
use std::sync::Arc;

use crate::object::{ContainerPort, Labels, Namespace, Node, Object, Pod};

/// What many objects have, so that each has it from here instead of for itself.
#[derive(Debug, Default)]
pub struct Shared {
    texts: HashSet<Arc<str>>,
    labels: HashSet<Labels>,
    ports: HashSet<Arc<[ContainerPort]>>,
    /// How many there were when nothing was left that nobody has.
    after_sweep: usize,
}

impl Shared {
    /// The same object. What policies say is theirs alone.
    #[must_use]
    pub fn object(&mut self, object: Object) -> Object {
        match object {
            Object::Namespace(namespace) => Object::Namespace(self.namespace(namespace)),
            Object::Pod(pod) => Object::Pod(self.pod(pod)),
            Object::Node(node) => Object::Node(self.node(node)),
            Object::NetworkPolicy(_) | Object::ClusterNetworkPolicy(_) => object,
        }
    }

    pub(super) fn pod(&mut self, pod: Pod) -> Pod {
        Pod {
            namespace: self.text(pod.namespace),
            node: pod.node.map(|node| self.text(node)),
            labels: self.labels(pod.labels),
            ports: self.ports(pod.ports),
            ..pod
        }
    }

    pub(super) fn namespace(&mut self, namespace: Namespace) -> Namespace {
        Namespace { labels: self.labels(namespace.labels), ..namespace }
    }

    pub(super) fn node(&mut self, node: Node) -> Node {
        Node { labels: self.labels(node.labels), ..node }
    }

    fn text(&mut self, text: Arc<str>) -> Arc<str> {
        if let Some(known) = self.texts.get(&text) {
            return known.clone();
        }
        self.texts.insert(text.clone());
        text
    }

    fn labels(&mut self, labels: Labels) -> Labels {
        if let Some(known) = self.labels.get(&labels) {
            return known.clone();
        }
        let labels: Labels = labels
            .iter()
            .map(|(key, value)| (self.text(key.clone()), self.text(value.clone())))
            .collect();
        self.labels.insert(labels.clone());
        labels
    }

    fn ports(&mut self, ports: Arc<[ContainerPort]>) -> Arc<[ContainerPort]> {
        if let Some(known) = self.ports.get(&ports) {
            return known.clone();
        }
        let shared = ports
            .iter()
            .map(|port| ContainerPort { name: self.text(port.name.clone()), ..port.clone() });
        let ports: Arc<[ContainerPort]> = shared.collect();
        self.ports.insert(ports.clone());
        ports
    }

    /// Forgets what no object has any more, once there may be as much of that as of the rest.
    pub(super) fn sweep(&mut self) {
        /// So few that it does not matter.
        const FEW: usize = 1024;
        let now = self.texts.len() + self.labels.len() + self.ports.len();
        if now <= FEW.max(2 * self.after_sweep) {
            return;
        }
        self.labels.retain(Labels::is_shared);
        self.ports.retain(|ports| Arc::strong_count(ports) > 1);
        self.texts.retain(|text| Arc::strong_count(text) > 1);
        self.after_sweep = self.texts.len() + self.labels.len() + self.ports.len();
    }
}
