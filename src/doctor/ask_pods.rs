//! Questions to this node's pods: whether each has its address, and finds its way back.
//!
//! As with peers, a question is the opening of a TCP connection to a port that nobody has. One
//! comes from the bridge's address in the pod's own subnet, and one from this node's underlay
//! address, which the pod can only answer by its default route.

use std::net::IpAddr;
use std::time::Duration;

use culvert_netlink::{Link, Neighbour};
use culvert_node::node_file::gateway;
use culvert_node::pod_port::PodPort;

use super::ask::allow_descriptors;
use super::facts::{Answer, AskedPod};
use crate::app;
use crate::observe::Setup;
use crate::platform::knock::{Knock, settle};

/// How long a pod may take, which is on this machine.
const PATIENCE: Duration = Duration::from_millis(400);

/// Pods that are asked at most: those of the largest node that Kubernetes allows, twice.
const MOST: usize = 512;

/// Asks the pods behind the bridge.
pub(super) fn pods(setup: &Setup, links: &[Link]) -> Answer<Vec<AskedPod>> {
    let bridge = links.iter().find(|link| link.name == setup.bridge);
    let bridge = bridge.ok_or_else(|| format!("there is no device {}", setup.bridge))?;
    let ports: Vec<(&Link, PodPort)> = ports(links, bridge.index).collect();
    allow_descriptors(4 * ports.len() + 64);
    let mut asked = Vec::new();
    for (link, port) in &ports {
        for address in port.addresses.iter().map(ipnet::IpNet::addr) {
            let subnet = setup.local_subnets.iter().find(|subnet| subnet.contains(&address));
            let Some(own) = subnet.map(|subnet| gateway(subnet).addr()) else { continue };
            let far = setup.address.filter(|far| far.is_ipv4() == address.is_ipv4());
            asked.push((
                AskedPod {
                    name: port.owner().container().to_owned(),
                    address,
                    gateway: own,
                    port: link.name.clone(),
                    link: link.index,
                    is_plugged: link.running || !link.up,
                    near: false,
                    far: None,
                    unasked: None,
                    mac: port.mac,
                    neighbour: None,
                    way_in: None,
                },
                [Some(Knock::at(own, address)), far.map(|far| Knock::at(far, address))],
            ));
        }
    }
    settle(asked.iter_mut().flat_map(|(_, knocks)| knocks).flatten().collect(), PATIENCE);
    let neighbours = app::neighbours(bridge.index).unwrap_or_default();
    let found = asked.into_iter().map(|(pod, [near, far])| AskedPod {
        unasked: near.as_ref().and_then(|near| near.error.clone()),
        near: near.is_some_and(|near| near.is_answered),
        far: far.map(|far| far.is_answered),
        neighbour: neighbour(&neighbours, pod.address),
        ..pod
    });
    Ok(found.collect())
}

/// The ports of pods on the bridge with this index, as many as are asked.
pub(super) fn ports(links: &[Link], bridge: u32) -> impl Iterator<Item = (&Link, PodPort)> {
    links
        .iter()
        .filter(move |link| link.controller == Some(bridge))
        .filter_map(|link| Some((link, PodPort::from_note(&link.name, &link.alias)?)))
        .take(MOST)
}

fn neighbour(known: &[Neighbour], address: IpAddr) -> Option<Neighbour> {
    known.iter().find(|neighbour| neighbour.address == address).copied()
}
