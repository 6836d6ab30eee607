//! Everything that there is, as far as this node knows.

mod attachment;
mod claims;
mod dirty;
mod node_view;
mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use self::attachment::Attachment;
use self::claims::Claims;
use crate::object::{
    Change, ClusterNetworkPolicy, Key, Kind, Labels, Namespace, NetworkPolicy, Node, Object, Pod,
    PodAddresses, Tier,
};
use crate::plan::Direction;

pub(crate) use self::dirty::Dirty;
pub use self::node_view::NodeView;
pub use self::shared::Shared;

/// Namespace and name.
pub type NamespacedName = (Arc<str>, Arc<str>);

/// Everything that there is, as far as this node knows. Texts and labels that many objects have are
/// kept once.
#[derive(Debug, Default)]
pub struct World {
    namespaces: BTreeMap<Arc<str>, Namespace>,
    pods: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Arc<Pod>>>,
    /// How many they are.
    pod_count: usize,
    claims: Claims,
    nodes: BTreeMap<Arc<str>, Node>,
    members: BTreeMap<Arc<str>, Member>,
    policies: BTreeMap<NamespacedName, Arc<NetworkPolicy>>,
    cluster: BTreeMap<Arc<str>, Arc<ClusterNetworkPolicy>>,
    /// By each address that a pod of this node was given.
    attached: BTreeMap<IpAddr, Attachment>,
    /// The same addresses, by namespace and name of the pod.
    attached_names: BTreeMap<Arc<str>, BTreeMap<Arc<str>, BTreeSet<IpAddr>>>,
    local: BTreeSet<IpAddr>,
    shared: Shared,
    dirty: Dirty,
}

/// A node of the subnet table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Its underlay address, and others by which an ipBlock may mean it.
    pub internal: Vec<IpAddr>,
    /// The addresses that it has in the pod network: those that its own packets to pods of other
    /// nodes come from.
    pub overlay: Vec<IpAddr>,
}

/// The policies that apply to one pod in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applying {
    /// ClusterNetworkPolicies of the tier Admin that have rules for the direction, in order.
    pub admin: Vec<Arc<ClusterNetworkPolicy>>,
    /// NetworkPolicies that isolate the pod, by name.
    pub network: Vec<Arc<NetworkPolicy>>,
    /// NetworkPolicies that would isolate it, but are only being tried out.
    pub audit: Vec<Arc<NetworkPolicy>>,
    /// ClusterNetworkPolicies of the tier Baseline that have rules for the direction, in order.
    pub baseline: Vec<Arc<ClusterNetworkPolicy>>,
}

impl Applying {
    /// Whether anything can be denied.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.admin.is_empty()
            && self.network.is_empty()
            && self.audit.is_empty()
            && self.baseline.is_empty()
    }
}

impl World {
    /// A world of these objects.
    pub fn new(objects: impl IntoIterator<Item = Object>) -> Self {
        let mut world = Self::default();
        for object in objects {
            world.put(object);
        }
        world
    }

    /// Takes everything that there is, in place of what was known. Nodes of the subnet table and
    /// attached pods stay.
    pub fn replace(&mut self, objects: impl IntoIterator<Item = Object>) {
        self.replace_all(self.keys(), objects);
    }

    /// Takes every object of a kind, in place of what was known.
    pub fn replace_kind(&mut self, kind: Kind, objects: impl IntoIterator<Item = Object>) {
        let mut gone = self.keys();
        gone.retain(|key| key.kind() == kind);
        self.replace_all(gone, objects);
    }

    fn replace_all(&mut self, mut gone: BTreeSet<Key>, objects: impl IntoIterator<Item = Object>) {
        for object in objects {
            gone.remove(&object.key());
            self.put(object);
        }
        for key in gone {
            self.delete(&key);
        }
    }

    /// Takes a change; says whether anything is another than before.
    pub fn apply(&mut self, change: Change) -> bool {
        match change {
            Change::Put(object) => self.put(object),
            Change::Delete(key) => self.delete(&key),
        }
    }

    /// The names of all objects.
    #[must_use]
    pub fn keys(&self) -> BTreeSet<Key> {
        let pods = self.pods().map(|pod| Key::Pod(pod.namespace.clone(), pod.name.clone()));
        let policies = self.policies.keys().cloned();
        let mut keys: BTreeSet<Key> = pods.collect();
        keys.extend(self.namespaces.keys().cloned().map(Key::Namespace));
        keys.extend(self.nodes.keys().cloned().map(Key::Node));
        keys.extend(policies.map(|(namespace, name)| Key::NetworkPolicy(namespace, name)));
        keys.extend(self.cluster.keys().cloned().map(Key::ClusterNetworkPolicy));
        keys
    }

    /// Every object, as it counts: a pod of this node with the addresses that it was given.
    #[must_use]
    pub fn objects(&self) -> Vec<Object> {
        let namespaces = self.namespaces.values().cloned().map(Object::Namespace);
        let pods = self.pods().map(|pod| Object::Pod(Pod::clone(pod)));
        let nodes = self.nodes.values().cloned().map(Object::Node);
        let policies = self.policies.values().map(|it| Object::NetworkPolicy((**it).clone()));
        let cluster = self.cluster.values().map(|it| Object::ClusterNetworkPolicy((**it).clone()));
        namespaces.chain(pods).chain(nodes).chain(policies).chain(cluster).collect()
    }

    fn put(&mut self, object: Object) -> bool {
        match object {
            Object::Namespace(namespace) => {
                let is_new = self.namespaces.get(&namespace.name) != Some(&namespace);
                if is_new {
                    let namespace = self.shared.namespace(namespace);
                    self.soil_namespace(&namespace.name);
                    self.namespaces.insert(namespace.name.clone(), namespace);
                }
                is_new
            }
            Object::Pod(pod) => self.put_pod(pod),
            Object::Node(node) => {
                let is_new = self.nodes.get(&node.name) != Some(&node);
                if is_new {
                    self.dirty.nodes = true;
                    self.nodes.insert(node.name.clone(), self.shared.node(node));
                    self.shared.sweep();
                }
                is_new
            }
            Object::NetworkPolicy(policy) => {
                let key = (policy.namespace.clone(), policy.name.clone());
                // One that did not change stays the value that it was, by which it is known.
                let is_new = self.policies.get(&key).is_none_or(|known| **known != policy);
                if is_new {
                    self.dirty.policies = true;
                    self.policies.insert(key, policy.into());
                }
                is_new
            }
            Object::ClusterNetworkPolicy(policy) => {
                let known = self.cluster.get(&policy.name);
                let is_new = known.is_none_or(|known| **known != policy);
                if is_new {
                    self.dirty.policies = true;
                    self.cluster.insert(policy.name.clone(), policy.into());
                }
                is_new
            }
        }
    }

    /// What a namespace is asked for is asked for its pods, which are dirty when it is another.
    fn soil_namespace(&mut self, name: &str) {
        let held = self.attached.values().filter(|attachment| *attachment.namespace == *name);
        let held = held.filter_map(|attachment| attachment.last.clone());
        let pods = self.pods.get(name).into_iter().flat_map(BTreeMap::values).cloned();
        self.dirty.pods(pods.chain(held), self.pod_count);
    }

    fn soil_pods(&mut self, pods: impl IntoIterator<Item = Arc<Pod>>) {
        self.dirty.pods(pods, self.pod_count);
    }

    fn put_pod(&mut self, pod: Pod) -> bool {
        let mut pod = self.shared.pod(pod);
        let given: PodAddresses = self.given(&pod).collect();
        if !given.is_empty() {
            pod.addresses = given;
        }
        let pods = self.pods.entry(pod.namespace.clone()).or_default();
        let known = pods.get(&pod.name).cloned();
        if let Some(known) = known.as_ref().filter(|known| ***known == pod) {
            let known = known.clone();
            self.remember(&known);
            return false;
        }
        let name = known.map_or_else(|| pod.name.clone(), |known| known.name.clone());
        pod.name = name.clone();
        let pod = Arc::new(pod);
        match pods.insert(name, pod.clone()) {
            Some(known) => {
                self.claims.remove(&known);
                self.soil_pods([known]);
            }
            None => self.pod_count += 1,
        }
        self.claims.add(&pod);
        self.soil_pods([pod.clone()]);
        self.remember(&pod);
        self.shared.sweep();
        true
    }

    /// The addresses that `pod` was given on this node.
    fn given(&self, pod: &Pod) -> impl Iterator<Item = IpAddr> {
        let names = self.attached_names.get(&pod.namespace);
        let given = names.and_then(|names| names.get(&pod.name)).into_iter().flatten().copied();
        given.filter(|address| self.attached.get(address).is_some_and(|it| it.is_of(pod)))
    }

    /// Keeps `pod` as what is known last of whom its addresses were given to.
    fn remember(&mut self, pod: &Arc<Pod>) {
        let given: Vec<IpAddr> = self.given(pod).collect();
        for address in given {
            if let Some(attachment) = self.attached.get_mut(&address) {
                attachment.last = Some(pod.clone());
            }
        }
    }

    fn delete(&mut self, key: &Key) -> bool {
        match key {
            Key::Namespace(name) => {
                let is_gone = self.namespaces.remove(name).is_some();
                if is_gone {
                    self.soil_namespace(name);
                }
                is_gone
            }
            Key::Pod(namespace, name) => {
                let Some(pods) = self.pods.get_mut(namespace) else { return false };
                let Some(gone) = pods.remove(name) else { return false };
                if pods.is_empty() {
                    self.pods.remove(namespace);
                }
                self.pod_count -= 1;
                self.claims.remove(&gone);
                self.soil_pods([gone]);
                self.shared.sweep();
                true
            }
            Key::Node(name) => {
                let is_gone = self.nodes.remove(name).is_some();
                self.dirty.nodes |= is_gone;
                is_gone
            }
            Key::NetworkPolicy(namespace, name) => {
                let gone = self.policies.remove(&(namespace.clone(), name.clone()));
                self.dirty.policies |= gone.is_some();
                gone.is_some()
            }
            Key::ClusterNetworkPolicy(name) => {
                let is_gone = self.cluster.remove(name).is_some();
                self.dirty.policies |= is_gone;
                is_gone
            }
        }
    }

    /// Takes the nodes of the subnet table.
    pub fn set_members(&mut self, members: BTreeMap<Arc<str>, Member>) {
        self.dirty.nodes |= self.members != members;
        self.members = members;
    }

    /// Takes the addresses of this machine. What comes from them is the node's own.
    pub fn set_local(&mut self, local: BTreeSet<IpAddr>) {
        self.local = local;
    }

    /// Takes addresses that a pod of this node was given, besides those that it has. They count
    /// whatever its object says, which an API server knows later, and until they are taken from it:
    /// a pod whose object has gone stays what it was last.
    pub fn attach(
        &mut self,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) {
        for address in addresses {
            self.detach([address]);
            let (namespace, name): (Arc<str>, Arc<str>) = (namespace.into(), name.into());
            let names = self.attached_names.entry(namespace.clone()).or_default();
            names.entry(name.clone()).or_default().insert(address);
            let attachment = Attachment { namespace, name, uid: uid.map(Into::into), last: None };
            self.attached.insert(address, attachment);
        }
        self.put_again(namespace, name);
    }

    /// Takes addresses from the pods of this node that were given them.
    pub fn detach(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        for address in addresses {
            let Some(attachment) = self.attached.remove(&address) else { continue };
            let Attachment { namespace, name, uid: _, last } = attachment;
            // Whose an address is depends on who was given it, too.
            self.soil_pods(last);
            if let Some(names) = self.attached_names.get_mut(&namespace) {
                if let Some(given) = names.get_mut(&name) {
                    given.remove(&address);
                    if given.is_empty() {
                        names.remove(&name);
                    }
                }
                if names.is_empty() {
                    self.attached_names.remove(&namespace);
                }
            }
            self.take_address(&namespace, &name, address);
        }
    }

    /// Takes an address from the pod of this name, if that has it.
    fn take_address(&mut self, namespace: &str, name: &str, address: IpAddr) {
        let Some(pod) = self.pod(namespace, name) else { return };
        if pod.addresses.iter().any(|its| its == address) {
            let mut pod = Pod::clone(pod);
            pod.addresses = pod.addresses.iter().filter(|its| *its != address).collect();
            self.put_pod(pod);
        }
    }

    fn put_again(&mut self, namespace: &str, name: &str) {
        if let Some(pod) = self.pod(namespace, name).cloned() {
            // Whose an address is depends on who was given it, too.
            self.soil_pods([pod.clone()]);
            self.put_pod(Pod::clone(&pod));
        }
    }

    /// Whether a pod of this node was given addresses.
    #[must_use]
    pub fn is_attached(&self, pod: &Pod) -> bool {
        self.given(pod).next().is_some()
    }

    /// The pod that was given `address` on this node: as its object describes it, or described it
    /// last; none if nothing was ever known of it.
    #[must_use]
    pub fn holder(&self, address: IpAddr) -> Option<&Arc<Pod>> {
        self.attached.get(&address).and_then(|attachment| attachment.last.as_ref())
    }

    /// Each address that a pod of this node was given, with that pod, whether it is still known or
    /// has ended.
    pub fn holders(&self) -> impl Iterator<Item = (IpAddr, &Arc<Pod>)> {
        let attached = self.attached.iter();
        attached.filter_map(|(address, it)| Some((*address, it.last.as_ref()?)))
    }

    /// Whether `pod` may have `address`: no other pod has it, by what was given on this node.
    fn may_have(&self, pod: &Arc<Pod>, address: IpAddr) -> bool {
        self.holder(address).is_none_or(|holder| Arc::ptr_eq(holder, pod))
    }

    /// Every pod.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.values().flat_map(BTreeMap::values)
    }

    /// How many pods there are.
    #[must_use]
    pub const fn pod_count(&self) -> usize {
        self.pod_count
    }

    /// The pods of a namespace.
    pub fn pods_of(&self, namespace: &str) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.get(namespace).into_iter().flat_map(BTreeMap::values)
    }

    /// The pod of this name.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Arc<Pod>> {
        self.pods.get(namespace)?.get(name)
    }

    /// Namespaces that have pods, with their labels if they are known.
    pub fn inhabited(&self) -> impl Iterator<Item = (&Arc<str>, Option<&Labels>)> {
        self.pods.keys().map(|name| (name, self.namespace(name)))
    }

    /// The labels of a namespace; none if there is none.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<&Labels> {
        self.namespaces.get(name).map(|namespace| &namespace.labels)
    }

    /// Every NetworkPolicy.
    pub fn network_policies(&self) -> impl Iterator<Item = &Arc<NetworkPolicy>> {
        self.policies.values()
    }

    /// Every ClusterNetworkPolicy.
    pub fn cluster_policies(&self) -> impl Iterator<Item = &Arc<ClusterNetworkPolicy>> {
        self.cluster.values()
    }

    /// Every node that is known by its object or from the subnet table.
    pub fn nodes(&self) -> impl Iterator<Item = NodeView<'_>> {
        let names: BTreeSet<&Arc<str>> = self.nodes.keys().chain(self.members.keys()).collect();
        names.into_iter().map(|name| NodeView {
            name,
            object: self.nodes.get(name),
            member: self.members.get(name),
        })
    }

    /// Whether `address` is the machine's own, on which this is thought.
    #[must_use]
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.local.contains(&address)
    }

    /// The policies that apply to `pod` in `direction`.
    #[must_use]
    pub fn applying(&self, pod: &Pod, direction: Direction) -> Applying {
        let mut applying = Applying::default();
        // One that has ended may still run.
        if pod.host_network {
            return applying;
        }
        let namespace = self.namespace(&pod.namespace);
        for policy in self.cluster.values() {
            if !policy.rules(direction).is_empty() && policy.subjects.selects(pod, namespace) {
                match policy.tier {
                    Tier::Admin => applying.admin.push(policy.clone()),
                    Tier::Baseline => applying.baseline.push(policy.clone()),
                }
            }
        }
        for list in [&mut applying.admin, &mut applying.baseline] {
            list.sort_by(|one, other| one.rank().cmp(&other.rank()));
        }
        let first = (pod.namespace.clone(), Arc::from(""));
        for ((namespace, _), policy) in self.policies.range(first..) {
            if *namespace != pod.namespace {
                break;
            }
            if policy.rules(direction).is_some() && policy.subjects.matches(&pod.labels) {
                let list =
                    if policy.is_audit { &mut applying.audit } else { &mut applying.network };
                list.push(policy.clone());
            }
        }
        applying
    }

    /// The pods that have `address`, as their objects say, and that policies can select.
    pub fn claiming(&self, address: IpAddr) -> impl Iterator<Item = &Arc<Pod>> {
        self.claims.of(address)
    }

    /// The pod whose `address` is, of those that have it: the one that was given it here, then one
    /// that is not about to end, then the newest.
    #[must_use]
    pub fn owner(&self, address: IpAddr) -> Option<&Arc<Pod>> {
        let claiming = self.claims.of(address).filter(|pod| self.may_have(pod, address));
        claiming.min_by(|one, other| self.rank(one).cmp(&self.rank(other)))
    }

    /// What puts pods that claim one address in order.
    fn rank<'a>(&self, pod: &'a Pod) -> (bool, bool, u32, &'a str, &'a str) {
        let is_elsewhere = !self.is_attached(pod);
        (is_elsewhere, pod.is_terminating, u32::MAX - pod.created, &pod.namespace, &pod.name)
    }

    pub(crate) fn take_dirty(&mut self) -> Dirty {
        std::mem::take(&mut self.dirty)
    }
}
