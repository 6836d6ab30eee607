//! Which pods are on the node, and whose the addresses are that its rules are about.
//!
//! Of ten thousand pods a change is about one or two: what is known of all others stays.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::Site;
use crate::object::Pod;
use crate::world::{Dirty, NamespacedName, World};

/// The pods of a node, and the owners of addresses.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// The node as it was, without what is closed there.
    site: Option<Site>,
    local: BTreeMap<NamespacedName, Arc<Pod>>,
    /// Addresses that are a local pod's.
    owned: BTreeMap<IpAddr, Arc<Pod>>,
    /// Of the addresses that pods had or have that changed last, those that are some pod's.
    changed: BTreeMap<IpAddr, Arc<Pod>>,
}

impl Places {
    /// Takes what `dirty` may have touched.
    pub(super) fn renew(&mut self, world: &World, site: &Site, dirty: &Dirty) {
        let site = Site { closed: BTreeSet::new(), ..site.clone() };
        let is_known = self.site.as_ref() == Some(&site) && !dirty.many_pods;
        let is_here = |pod: &Pod| pod.is_selectable() && site.has(world, pod);
        let name = |pod: &Pod| (pod.namespace.clone(), pod.name.clone());
        let asked: BTreeSet<IpAddr> = if is_known {
            for pod in &dirty.pods {
                match world.pod(&pod.namespace, &pod.name).filter(|pod| is_here(pod)) {
                    Some(pod) => _ = self.local.insert(name(pod), pod.clone()),
                    None => _ = self.local.remove(&name(pod)),
                }
            }
            dirty.pods.iter().flat_map(|pod| pod.addresses.iter()).collect()
        } else {
            self.owned.clear();
            let here = world.pods().filter(|pod| is_here(pod));
            self.local = here.map(|pod| (name(pod), pod.clone())).collect();
            self.local.values().chain(&dirty.pods).flat_map(|pod| pod.addresses.iter()).collect()
        };
        self.owned.retain(|address, _| !asked.contains(address));
        self.changed.clear();
        let owners = asked.into_iter();
        let owners = owners.filter_map(|address| Some((address, world.owner(address)?.clone())));
        self.changed.extend(owners);
        for (address, pod) in &self.changed {
            if self.local.get(&name(pod)).is_some_and(|local| Arc::ptr_eq(local, pod)) {
                self.owned.insert(*address, pod.clone());
            }
        }
        self.site = Some(site);
    }

    /// The pod whose `address` is, of one that changed last.
    pub(super) fn owner(&self, address: IpAddr) -> Option<&Arc<Pod>> {
        self.changed.get(&address)
    }

    /// The local pod whose `address` is.
    pub(super) fn subject(&self, address: IpAddr) -> Option<&Arc<Pod>> {
        self.owned.get(&address)
    }

    /// Each address that is a local pod's, and the pod.
    pub(super) fn subjects(&self) -> impl Iterator<Item = (IpAddr, &Arc<Pod>)> {
        self.owned.iter().map(|(address, pod)| (*address, pod))
    }
}
