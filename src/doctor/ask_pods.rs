//! Questions to this node's pods: whether each has its address, and finds its way back.
//!
//! As with peers, a question is the opening of a TCP connection to a port that nobody has. One
//! comes from the bridge's address in the pod's own subnet, and one from this node's underlay
//! address, which the pod can only answer by its default route.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use culvert_dataplane::platform::clock;
use culvert_netlink::{Link, Neighbour};
use culvert_node::node_file::gateway;
use culvert_node::pod_port::PodPort;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::Socket;

use super::ask::{allow_descriptors, connect};
use super::facts::{Answer, AskedPod};
use crate::app;
use crate::observe::Setup;

/// How long a pod may take, which is on this machine.
const PATIENCE: Duration = Duration::from_millis(400);

/// Pods that are asked at most: those of the largest node that Kubernetes allows, twice.
const MOST: usize = 512;

/// A question on its way, and whether it is answered.
struct Pending {
    socket: Option<Socket>,
    is_answered: bool,
    /// Why it was not sent.
    error: Option<String>,
}

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
                [Some(Pending::open(own, address)), far.map(|far| Pending::open(far, address))],
            ));
        }
    }
    settle(asked.iter_mut().flat_map(|(_, pending)| pending).flatten().collect());
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

impl Pending {
    fn open(from: IpAddr, to: IpAddr) -> Self {
        match connect((from, 0), to) {
            Ok(socket) => Self { socket: Some(socket), is_answered: false, error: None },
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                Self { socket: None, is_answered: true, error: None }
            }
            // This machine has a fault of its own, which other checks name.
            Err(error) => Self { socket: None, is_answered: false, error: Some(error.to_string()) },
        }
    }

    fn conclude(&mut self) {
        let Some(socket) = self.socket.take() else { return };
        self.is_answered = match socket.take_error() {
            Ok(None) => true,
            Ok(Some(error)) | Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
        };
    }
}

/// Waits until all are answered or patience is at its end.
fn settle(mut pending: Vec<&mut Pending>) {
    let since: Instant = clock::now();
    loop {
        pending.retain(|one| one.socket.is_some());
        let left = PATIENCE.saturating_sub(since.elapsed());
        if pending.is_empty() || left.is_zero() {
            return;
        }
        let ready: Vec<bool> = {
            let mut polled: Vec<PollFd<'_>> = pending
                .iter()
                .filter_map(|one| one.socket.as_ref())
                .map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::OUT))
                .collect();
            match poll(&mut polled, Timespec::try_from(left).ok().as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
            polled.iter().map(|one| !one.revents().is_empty()).collect()
        };
        for (one, _) in pending.iter_mut().zip(ready).filter(|(_, is_ready)| *is_ready) {
            one.conclude();
        }
    }
}
