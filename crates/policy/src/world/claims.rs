//! Which pods say of an address that it is theirs.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::object::{Pod, PodAddresses};

/// The pods that policies can select, by each address that they have.
///
/// Nearly every address is the first of its family of one pod, which then is where it is found: to
/// write it down once more would take more than twice as much. It is another pod's as well between
/// the end of the one and the begin of the next, or for as long as one of them is mistaken.
#[derive(Debug, Default)]
pub(super) struct Claims {
    v4: HashSet<By<Ipv4Addr>>,
    v6: HashSet<By<Ipv6Addr>>,
    /// Who else has an address that somebody has in those, or has it besides a first one.
    more: BTreeMap<IpAddr, Vec<Arc<Pod>>>,
}

impl Claims {
    /// Takes what `pod` says.
    pub(super) fn add(&mut self, pod: &Arc<Pod>) {
        if !pod.is_selectable() {
            return;
        }
        let addresses = &pod.addresses;
        for address in addresses.iter() {
            // What is there already stays.
            let is_first = match address {
                IpAddr::V4(v4) if addresses.v4 == Some(v4) => self.v4.insert(By::new(pod)),
                IpAddr::V6(v6) if addresses.v6 == Some(v6) => self.v6.insert(By::new(pod)),
                IpAddr::V4(_) | IpAddr::V6(_) => false,
            };
            if !is_first {
                self.more.entry(address).or_default().push(pod.clone());
            }
        }
    }

    /// Forgets what `pod` said, which is the same value as then.
    pub(super) fn remove(&mut self, pod: &Arc<Pod>) {
        if !pod.is_selectable() {
            return;
        }
        for address in pod.addresses.iter() {
            let was_first = match address {
                IpAddr::V4(v4) => take(&mut self.v4, &v4, pod),
                IpAddr::V6(v6) => take(&mut self.v6, &v6, pod),
            };
            if !was_first && let Some(others) = self.more.get_mut(&address) {
                others.retain(|other| !Arc::ptr_eq(other, pod));
                if others.is_empty() {
                    self.more.remove(&address);
                }
            }
        }
    }

    /// Who says that `address` is theirs.
    pub(super) fn of(&self, address: IpAddr) -> impl Iterator<Item = &Arc<Pod>> {
        let first = match address {
            IpAddr::V4(address) => self.v4.get(&address).map(|by| &by.0),
            IpAddr::V6(address) => self.v6.get(&address).map(|by| &by.0),
        };
        first.into_iter().chain(self.more.get(&address).into_iter().flatten())
    }
}

/// Takes the pod out that `address` leads to, if it is `pod`; says whether it was.
fn take<A: First + Eq + Hash>(pods: &mut HashSet<By<A>>, address: &A, pod: &Arc<Pod>) -> bool {
    let is_it = pods.get(address).is_some_and(|by| Arc::ptr_eq(&by.0, pod));
    is_it && pods.remove(address)
}

/// A pod that is known by its first address of a family, and has one.
#[derive(Debug)]
struct By<A>(Arc<Pod>, PhantomData<A>);

impl<A> By<A> {
    fn new(pod: &Arc<Pod>) -> Self {
        Self(pod.clone(), PhantomData)
    }
}

/// An address as pods have it.
trait First: Sized + 'static {
    /// What one without an address is found by: nobody asks for it.
    const NONE: &'static Self;

    fn of(addresses: &PodAddresses) -> Option<&Self>;
}

impl First for Ipv4Addr {
    const NONE: &'static Self = &Self::UNSPECIFIED;

    fn of(addresses: &PodAddresses) -> Option<&Self> {
        addresses.v4.as_ref()
    }
}

impl First for Ipv6Addr {
    const NONE: &'static Self = &Self::UNSPECIFIED;

    fn of(addresses: &PodAddresses) -> Option<&Self> {
        addresses.v6.as_ref()
    }
}

impl<A: First> Borrow<A> for By<A> {
    fn borrow(&self) -> &A {
        A::of(&self.0.addresses).unwrap_or(A::NONE)
    }
}

impl<A: First + PartialEq> PartialEq for By<A> {
    fn eq(&self, other: &Self) -> bool {
        Borrow::<A>::borrow(self) == Borrow::<A>::borrow(other)
    }
}

impl<A: First + Eq> Eq for By<A> {}

impl<A: First + Hash> Hash for By<A> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Borrow::<A>::borrow(self).hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(addresses: &[u8]) -> Arc<Pod> {
        let addresses = addresses.iter().map(|last| IpAddr::from([10, 0, 0, *last]));
        let v6 = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]);
        Arc::new(Pod {
            namespace: "a".into(),
            name: "b".into(),
            uid: None,
            labels: crate::object::Labels::default(),
            addresses: addresses.chain([v6]).collect(),
            ports: [].into(),
            node: None,
            created: 0,
            host_network: false,
            has_ended: false,
            is_terminating: false,
        })
    }

    #[test]
    fn every_pod_is_found_by_its_addresses_in_whatever_order_they_come_and_go() {
        let pods = [pod(&[1, 2]), pod(&[2]), pod(&[2, 3]), pod(&[1, 2, 3])];
        // Each number below is a way in which to take and leave them.
        for way in 0..1024_u32 {
            let mut claims = Claims::default();
            let mut there: Vec<&Arc<Pod>> = Vec::new();
            for step in 0..5 {
                let pod = &pods[(way >> (2 * step) & 3) as usize];
                match there.iter().position(|it| Arc::ptr_eq(it, pod)) {
                    Some(at) => {
                        there.swap_remove(at);
                        claims.remove(pod);
                    }
                    None => {
                        there.push(pod);
                        claims.add(pod);
                    }
                }
                let addresses = pods.iter().flat_map(|pod| pod.addresses.iter());
                for address in addresses {
                    let mut expected: Vec<_> = there
                        .iter()
                        .filter(|pod| pod.addresses.iter().any(|its| its == address))
                        .map(|pod| Arc::as_ptr(pod))
                        .collect();
                    let mut found: Vec<_> = claims.of(address).map(Arc::as_ptr).collect();
                    expected.sort();
                    found.sort();
                    assert_eq!(found, expected, "{address}");
                }
            }
            there.into_iter().for_each(|pod| claims.remove(pod));
            assert!(claims.v4.is_empty() && claims.v6.is_empty() && claims.more.is_empty());
        }
    }
}
