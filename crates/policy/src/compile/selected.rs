//! Which addresses selectors select, and where named ports are, at one moment.
//!
//! A set that was not there before asks for every pod of the namespaces that it is about. Several
//! of them are filled in one go, and each is asked once about all pods of a kind: those of one
//! namespace with the same labels.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use overlay_proto::Protocol;

use crate::object::{Pod, PodSelection};
use crate::plan::{Addresses, NamedPorts};
use crate::world::World;

/// The addresses of the pods that each of `selections` selects.
pub(super) fn addresses(world: &World, selections: &[&PodSelection]) -> Vec<Addresses> {
    let mut found = vec![(Vec::new(), Vec::new()); selections.len()];
    for (name, labels) in world.inhabited() {
        let asking = (0..).zip(selections).filter(|(_, it)| it.namespaces.contain(name, labels));
        let asking: Vec<(usize, &PodSelection)> = asking.map(|(at, it)| (at, *it)).collect();
        if asking.is_empty() {
            continue;
        }
        let mut kinds: HashMap<usize, Vec<usize>> = HashMap::new();
        for pod in world.pods_of(name).filter(|pod| pod.is_selectable()) {
            let selecting = kinds.entry(pod.labels.identity()).or_insert_with(|| {
                let selecting = asking.iter().filter(|(_, it)| it.pods.matches(&pod.labels));
                selecting.map(|(at, _)| *at).collect()
            });
            if selecting.is_empty() {
                continue;
            }
            for address in own(world, pod) {
                for at in &*selecting {
                    let (v4, v6) = &mut found[*at];
                    match address {
                        IpAddr::V4(address) => v4.push(address),
                        IpAddr::V6(address) => v6.push(address),
                    }
                }
            }
        }
    }
    let sorted = |(mut v4, mut v6): (Vec<Ipv4Addr>, Vec<Ipv6Addr>)| {
        v4.sort_unstable();
        v6.sort_unstable();
        Addresses { v4: v4.into(), v6: v6.into() }
    };
    found.into_iter().map(sorted).collect()
}

/// Where pods of the whole cluster have a port of this name and protocol.
pub(super) fn named_ports(world: &World, name: &str, protocol: Protocol) -> NamedPorts {
    let pods = world.pods().filter(|pod| pod.is_selectable() && !pod.ports.is_empty());
    let places = pods.flat_map(|pod| own(world, pod).map(move |address| (address, pod)));
    ports_at(places, name, protocol)
}

/// Where `places`, each an address and the pod whose it is, have a port of this name and protocol.
pub(super) fn ports_at<'a>(
    places: impl Iterator<Item = (IpAddr, &'a Arc<Pod>)>,
    name: &str,
    protocol: Protocol,
) -> NamedPorts {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for (address, pod) in places {
        for port in ports_of(pod, name, protocol) {
            match address {
                IpAddr::V4(address) => v4.push((address, port)),
                IpAddr::V6(address) => v6.push((address, port)),
            }
        }
    }
    v4.sort_unstable();
    v6.sort_unstable();
    NamedPorts { protocol, v4: v4.into(), v6: v6.into() }
}

/// The numbers of a pod's ports of this name and protocol.
pub(super) fn ports_of(pod: &Pod, name: &str, protocol: Protocol) -> impl Iterator<Item = u16> {
    let ports = pod.ports.iter();
    let ports = ports.filter(move |port| *port.name == *name && port.protocol == protocol);
    ports.map(|port| port.port)
}

/// The addresses of `pod` that are no other pod's.
fn own(world: &World, pod: &Arc<Pod>) -> impl Iterator<Item = IpAddr> {
    let is_own =
        |address: &IpAddr| world.owner(*address).is_some_and(|owner| Arc::ptr_eq(owner, pod));
    pod.addresses.iter().filter(is_own)
}
