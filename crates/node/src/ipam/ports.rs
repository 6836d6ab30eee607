//! What the devices of the node say: which pods are attached, and which MAC addresses are taken.
//!
//! Owns the look. The notes on the pods' ports ([`PodPort`]) are the truth about running pods:
//! every process in the node's network namespace sees them, in a container too, where the pods' own
//! namespaces cannot be seen. Changes nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::{fs, iter};

use ipnet::IpNet;
use overlay_proto::Mac;

use super::Error;
use super::live::look;
use super::record::boot_id;
use crate::Socket;
use crate::pod_port::PodPort;

/// The network namespace of the calling thread.
const OWN_NETNS: &str = "/proc/thread-self/ns/net";

/// What one look has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// The pods whose ports bear a note.
    pub pods: Vec<PodPort>,
    /// Every device by its name, with its MAC address if it has one.
    pub devices: BTreeMap<String, Option<Mac>>,
    /// The kernel's number of the network namespace that was looked at; 0 if it is not known.
    pub netns: u64,
    /// The boot in which that was; empty if it is not known.
    pub boot: String,
}

impl Ports {
    /// The pod that holds `address`, by the notes.
    #[must_use]
    pub fn holder(&self, address: IpAddr) -> Option<&PodPort> {
        self.pods.iter().find(|pod| pod.addresses.iter().any(|net| net.addr() == address))
    }

    /// Each address that a note holds, with its pod.
    pub fn addresses(&self) -> impl Iterator<Item = (&PodPort, IpNet)> {
        self.pods.iter().flat_map(|pod| iter::repeat(pod).zip(pod.addresses.iter().copied()))
    }

    /// The device of this node that has `mac`.
    pub(super) fn device_with(&self, mac: Mac) -> Option<&str> {
        let found = self.devices.iter().find(|(_, found)| **found == Some(mac));
        found.map(|(name, _)| name.as_str())
    }

    /// The pod that has `mac`.
    pub(super) fn pod_with(&self, mac: Mac) -> Option<&PodPort> {
        self.pods.iter().find(|pod| pod.mac == mac)
    }
}

/// Looks at the devices of one network namespace.
pub trait Survey {
    /// What there is now.
    ///
    /// # Errors
    ///
    /// The kernel does not answer.
    fn look(&mut self) -> Result<Ports, Error>;

    /// The kernel's number of the network namespace, 0 if it is not known, and the boot, empty if
    /// it is not known.
    fn place(&self) -> (u64, String);
}

/// What was found once, for whoever may go by that.
impl Survey for Ports {
    fn look(&mut self) -> Result<Ports, Error> {
        Ok(self.clone())
    }

    fn place(&self) -> (u64, String) {
        (self.netns, self.boot.clone())
    }
}

/// Looks at the devices of the network namespace that it was made in.
pub struct Surveyor {
    socket: Socket,
    netns: u64,
}

impl Surveyor {
    /// Opens the way to the devices of the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// The kernel refuses a netlink socket.
    pub fn open() -> Result<Self, Error> {
        let netns = fs::metadata(OWN_NETNS).map_or(0, |file| file.ino());
        Ok(Self { socket: Socket::open().map_err(look)?, netns })
    }
}

impl Survey for Surveyor {
    fn look(&mut self) -> Result<Ports, Error> {
        let (netns, boot) = self.place();
        let mut ports = Ports { netns, boot, ..Ports::default() };
        for link in self.socket.links_despite_changes().map_err(look)? {
            ports.pods.extend(PodPort::from_note(&link.name, &link.alias));
            ports.devices.insert(link.name, link.mac);
        }
        ports.pods.sort_by(|one, other| one.device.cmp(&other.device));
        ports.pods.dedup();
        Ok(ports)
    }

    fn place(&self) -> (u64, String) {
        (self.netns, boot_id())
    }
}
