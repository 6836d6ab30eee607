//! Which pods live on this node, by what the kernel has.
//!
//! A pod lives if its port is on the node, or its namespace is where it was. Its port goes with the
//! namespace, however that goes, so a pod without either is gone. [`live_pods`] enters the pods'
//! namespaces on threads of its own, for pods of other plugins, whose ports bear no note.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::Error;
use super::ports::Ports;
use super::record::{Namespace, Record};
use culvert_netlink::Link;

use crate::Socket;
use crate::netns::{Failure, Netns};

/// Where container runtimes keep names of namespaces.
const NAMED: [&str; 2] = ["/run/netns", "/run/docker/netns"];

/// Whether the pod that holds an address lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulse {
    /// Its device or its namespace is there.
    Alive,
    /// Both are gone, as far as they are known.
    Gone,
    /// Nobody knows which device and which namespace it has.
    Unknown,
    /// Its device is in another network namespace than the one that was looked at.
    Elsewhere,
}

impl Pulse {
    /// Whether the pod of `record` lives, by what `ports` and the file system say.
    #[must_use]
    pub fn of(record: &Record, ports: &Ports) -> Self {
        let netns_is_there = record.netns.is_there();
        let knows_device = !record.host_device.is_empty();
        if ports.devices.contains_key(&record.host_device) {
            Self::Alive
        } else if is_elsewhere(record, ports) {
            Self::Elsewhere
        } else if netns_is_there == Some(true) {
            Self::Alive
        } else if knows_device || netns_is_there.is_some() {
            Self::Gone
        } else {
            Self::Unknown
        }
    }
}

/// Whether the pod was attached in this boot and in another network namespace than that of `ports`.
fn is_elsewhere(record: &Record, ports: &Ports) -> bool {
    let is_of_this_boot = !ports.boot.is_empty() && record.boot == ports.boot;
    let are_known = record.host_netns != 0 && ports.netns != 0;
    is_of_this_boot && are_known && record.host_netns != ports.netns
}

/// A pod that a device of this node leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LivePod {
    /// Its end on this node.
    pub host_device: String,
    /// Its namespace.
    pub netns: Namespace,
    /// The addresses of its interface.
    pub addresses: Vec<IpNet>,
}

/// The pods that devices of this network namespace lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LivePods {
    /// Those whose namespaces this process could enter.
    pub pods: Vec<LivePod>,
    /// Devices that lead to namespaces which this process cannot see.
    pub unseen: Vec<String>,
}

/// Looks into the pods that devices of this network namespace lead to.
///
/// Finds namespaces by the names that runtimes give them and by the processes inside; one that has
/// neither, in this process's view, is not seen.
///
/// # Errors
///
/// The kernel does not answer, or refuses to let this process into a namespace.
pub fn live_pods() -> Result<LivePods, Error> {
    let mut host = Socket::open().map_err(look)?;
    let mut pairs: BTreeMap<i32, Vec<(u32, Link)>> = BTreeMap::new();
    for link in host.links().map_err(look)? {
        if let Some(peer) = link.peer {
            pairs.entry(peer.netns).or_default().push((peer.index, link));
        }
    }
    let mut found = LivePods::default();
    for namespace in namespaces() {
        // One that has gone meanwhile, is our own, or is no namespace, is none of a pod.
        let Ok(netns) = Netns::open(&namespace.path) else {
            continue;
        };
        // A name that is being made or removed is a plain file, which the kernel refuses.
        let number = host.number_of(netns.as_fd()).unwrap_or_default();
        let Some(pairs) = number.and_then(|number| pairs.remove(&number)) else {
            continue;
        };
        let addresses = netns
            .run(|| Socket::open()?.addresses().map_err(Failure::from))
            .map_err(|error| Error::Look { what: error.to_string() })?;
        found.pods.extend(pairs.into_iter().map(|(peer, link)| {
            LivePod {
                netns: namespace.clone(),
                addresses: addresses
                    .iter()
                    .filter(|address| address.link == peer)
                    .map(|address| address.net)
                    .collect(),
                host_device: link.name,
            }
        }));
    }
    found.unseen = pairs.into_values().flatten().map(|(_, link)| link.name).collect();
    Ok(found)
}

/// Every namespace that has a name or a process, each once, named ones first.
fn namespaces() -> Vec<Namespace> {
    let named = NAMED.iter().flat_map(|directory| entries(Path::new(directory)));
    let processes = entries(Path::new("/proc"))
        .into_iter()
        .filter(|path| path.file_name().is_some_and(is_number))
        .map(|process| process.join("ns/net"));
    let mut seen = BTreeSet::new();
    named
        .chain(processes)
        .map(|path| Namespace::at(&path))
        .filter(|namespace| namespace.inode != 0 && seen.insert(namespace.inode))
        .collect()
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn is_number(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
}

pub(super) fn look(error: culvert_netlink::Error) -> Error {
    Error::Look { what: Failure::from(error).to_string() }
}
