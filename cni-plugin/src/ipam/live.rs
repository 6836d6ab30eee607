//! Which pods live on this node, by what the kernel has.
//!
//! Two proofs that a pod lives: its namespace is where it was, or its veth end is on the host (which
//! goes with the namespace, however that goes). Only when both fail is it gone. Looks in the network
//! namespace of the calling thread; enters others on threads of their own. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::record::{Namespace, Record};
use super::{Error, Store};
use crate::attachment::Attachment;
use crate::netlink::{self, Link, Socket};
use crate::netns::Netns;
use crate::pod_port::PodPort;

/// Where container runtimes keep names of namespaces.
const NAMED: [&str; 2] = ["/run/netns", "/run/docker/netns"];

/// Whether the pod that holds an address lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulse {
    /// Its namespace or its device is there.
    Alive,
    /// Both are gone.
    Gone,
    /// Its device is not there, and nobody knows which namespace it had.
    Unknown,
}

/// Asks whether pods live.
pub struct Pulses {
    host: Socket,
}

impl Pulses {
    /// Opens the way to the devices of this network namespace.
    ///
    /// # Errors
    ///
    /// The kernel refuses a netlink socket.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { host: Socket::open().map_err(look)? })
    }

    /// Whether the pod of `record` lives.
    ///
    /// # Errors
    ///
    /// The kernel does not answer.
    pub fn of(&mut self, record: &Record) -> Result<Pulse, Error> {
        let is_there = record.netns.is_there();
        if is_there == Some(true) || self.has_device(&record.host_device)? {
            return Ok(Pulse::Alive);
        }
        Ok(if is_there.is_some() { Pulse::Gone } else { Pulse::Unknown })
    }

    /// Whether this namespace has a device called `name`.
    ///
    /// # Errors
    ///
    /// The kernel does not answer.
    pub fn has_device(&mut self, name: &str) -> Result<bool, Error> {
        Ok(self.host.link(name).map_err(look)?.is_some())
    }

    /// What each allocation of `store` has to say for itself.
    ///
    /// # Errors
    ///
    /// An unusable store, or a kernel that does not answer.
    pub fn of_all(&mut self, store: &mut Store) -> Result<Vec<(Record, Pulse)>, Error> {
        let mut pulses = Vec::new();
        for record in store.records()? {
            let pulse = self.of(&record)?;
            pulses.push((record, pulse));
        }
        Ok(pulses)
    }
}

/// A pod that a device of this node leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LivePod {
    /// Its end on this node.
    pub host_device: String,
    /// Whose it is, if the device says so.
    pub attachment: Option<Attachment>,
    /// Its namespace.
    pub netns: Namespace,
    /// The addresses of its interface.
    pub addresses: Vec<IpNet>,
}

/// The pods that devices of this network namespace lead to.
///
/// Finds namespaces by the names that runtimes give them and by the processes inside; one that has
/// neither, in this process's view, is not found.
///
/// # Errors
///
/// The kernel does not answer, or refuses to let this process into a namespace.
pub fn live_pods() -> Result<Vec<LivePod>, Error> {
    let mut host = Socket::open().map_err(look)?;
    let mut pairs: BTreeMap<i32, Vec<(u32, Link)>> = BTreeMap::new();
    for link in host.links().map_err(look)? {
        if let Some(peer) = link.peer {
            pairs.entry(peer.netns).or_default().push((peer.index, link));
        }
    }
    let mut pods = Vec::new();
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
            .run(|| Socket::open()?.addresses().map_err(crate::error::Error::from))
            .map_err(|error| Error::Look { what: error.to_string() })?;
        pods.extend(pairs.into_iter().map(|(peer, link)| {
            let note = PodPort::from_note(&link.name, &link.alias);
            LivePod {
                attachment: note.and_then(|port| port.attachment),
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
    Ok(pods)
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

fn look(error: netlink::Error) -> Error {
    Error::Look { what: error.to_string() }
}
