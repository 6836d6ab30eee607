//! What a node has of its own: the machine, and the memory on its disk.

use std::net::IpAddr;

use culvert_claims::NodeKeys;
use culvert_claims::etcd::{Claims, Memory};

use super::Etcd;
use crate::harness::{Disk, Node, World};

pub(crate) struct Claimant {
    pub(super) claims: Claims,
    /// What its disk has.
    pub(super) memory: Memory,
    pub(super) address: IpAddr,
    /// The address that its machine was told last; after a move that is an earlier one for a while.
    pub(super) told_address: IpAddr,
    /// The database and the revision up to which this node knows everything.
    pub(super) seen: (u64, i64),
    /// It has read a database that went back, and tells of it next.
    pub(super) went_back: bool,
    /// How often it had things read again; it changes its key every other time.
    pub(super) reloads: u64,
}

impl World<Etcd> {
    /// A node with a new disk.
    pub(super) fn add_claimant(&mut self, name: &str, address: IpAddr) -> usize {
        let memory = self.protocol.new_memory(name);
        let claims = Claims::new(self.protocol.identity.clone(), memory.clone(), Vec::new());
        let own = Claimant {
            claims,
            memory,
            address,
            told_address: address,
            seen: (0, 0),
            went_back: false,
            reloads: 0,
        };
        self.add(Node::new(name, own))
    }

    /// A new disk, with nothing on it.
    pub(super) fn renew_disk(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        it.own.memory = self.protocol.new_memory(&it.name);
        it.disk = Disk::default();
    }
}

impl Node<Etcd> {
    /// The public key that it has now.
    pub(super) fn public_keys(&self) -> NodeKeys {
        self.keys(self.own.reloads / 2)
    }
}

impl Etcd {
    fn new_memory(&mut self, name: &str) -> Memory {
        self.disks += 1;
        Memory::new(&format!("i{}", self.disks), name)
    }
}

/// The address that the node with this number begins with, or moves to.
pub(super) fn address(number: u64) -> IpAddr {
    [192, 168, 1, u8::try_from(number).unwrap()].into()
}
