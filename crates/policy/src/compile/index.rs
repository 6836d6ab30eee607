//! Which pod has which label, and which address, at one moment.
//!
//! Where all pods have to be looked at, because there is a set of pods that was not there before,
//! they are put in order then.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use overlay_proto::Protocol;

use crate::object::{Labels, Namespaces, Pod, PodSelection};
use crate::plan::{Addresses, NamedPorts};
use crate::world::World;

/// The pods that selectors can find, by what they have.
pub(super) struct Index<'a> {
    world: &'a World,
    groups: OnceCell<Groups<'a>>,
}

/// All pods, by what they have.
struct Groups<'a> {
    /// Pods that have an address of their own, with the addresses that are theirs.
    pods: Vec<(&'a Arc<Pod>, Vec<IpAddr>)>,
    /// The same, by their labels, which pods of one kind share.
    by_labels: Vec<(&'a Labels, Vec<u32>)>,
    by_namespace: HashMap<&'a str, Vec<u32>>,
}

impl<'a> Groups<'a> {
    fn new(world: &'a World) -> Self {
        let mut owners = world.claims();
        // The first claim is the one to believe.
        owners.dedup_by(|(address, _), (first, _)| address == first);
        let mut places: HashMap<*const Pod, usize> = HashMap::with_capacity(owners.len());
        let mut pods: Vec<(&Arc<Pod>, Vec<IpAddr>)> = Vec::with_capacity(owners.len());
        for (address, pod) in &owners {
            let place = *places.entry(Arc::as_ptr(pod)).or_insert_with(|| {
                pods.push((pod, Vec::with_capacity(2)));
                pods.len() - 1
            });
            pods[place].1.push(*address);
        }
        let mut groups: HashMap<usize, usize> = HashMap::new();
        let mut by_labels: Vec<(&Labels, Vec<u32>)> = Vec::new();
        let mut by_namespace: HashMap<&str, Vec<u32>> = HashMap::new();
        for (at, (pod, _)) in (0..).zip(&pods) {
            by_namespace.entry(&pod.namespace).or_default().push(at);
            let group = *groups.entry(pod.labels.identity()).or_insert_with(|| {
                by_labels.push((&pod.labels, Vec::new()));
                by_labels.len() - 1
            });
            by_labels[group].1.push(at);
        }
        Self { pods, by_labels, by_namespace }
    }
}

impl<'a> Index<'a> {
    /// An index of `world`.
    pub(super) const fn new(world: &'a World) -> Self {
        Self { world, groups: OnceCell::new() }
    }

    fn groups(&self) -> &Groups<'a> {
        self.groups.get_or_init(|| Groups::new(self.world))
    }

    /// The addresses of the pods that are selected.
    pub(super) fn addresses(&self, selection: &PodSelection) -> Addresses {
        let groups = self.groups();
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        let mut take = |at: u32| {
            for address in &groups.pods[at as usize].1 {
                match address {
                    IpAddr::V4(address) => v4.push(*address),
                    IpAddr::V6(address) => v6.push(*address),
                }
            }
        };
        match &selection.namespaces {
            Namespaces::Named(name) => {
                for at in groups.by_namespace.get(&**name).into_iter().flatten() {
                    if selection.pods.matches(&groups.pods[*at as usize].0.labels) {
                        take(*at);
                    }
                }
            }
            Namespaces::Matching(selector) => {
                let is_in = |name: &&str| {
                    self.world.namespace(name).is_some_and(|labels| selector.matches(labels))
                };
                let namespaces: HashSet<&str> =
                    groups.by_namespace.keys().copied().filter(is_in).collect();
                let is_all = namespaces.len() == groups.by_namespace.len();
                let by_labels = groups.by_labels.iter();
                for (_, pods) in by_labels.filter(|(labels, _)| selection.pods.matches(labels)) {
                    for at in pods {
                        let namespace = &*groups.pods[*at as usize].0.namespace;
                        if is_all || namespaces.contains(namespace) {
                            take(*at);
                        }
                    }
                }
            }
        }
        v4.sort_unstable();
        v6.sort_unstable();
        Addresses { v4: v4.into(), v6: v6.into() }
    }

    /// Where pods have a port of this name and protocol.
    pub(super) fn named_ports(&self, name: &str, protocol: Protocol) -> NamedPorts {
        let mut v4: Vec<(Ipv4Addr, u16)> = Vec::new();
        let mut v6: Vec<(Ipv6Addr, u16)> = Vec::new();
        for (pod, addresses) in &self.groups().pods {
            let ports = pod.ports.iter();
            for port in ports.filter(|port| *port.name == *name && port.protocol == protocol) {
                for address in addresses {
                    match address {
                        IpAddr::V4(address) => v4.push((*address, port.port)),
                        IpAddr::V6(address) => v6.push((*address, port.port)),
                    }
                }
            }
        }
        v4.sort_unstable();
        v6.sort_unstable();
        NamedPorts { protocol, v4: v4.into(), v6: v6.into() }
    }
}
