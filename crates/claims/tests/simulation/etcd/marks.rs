//! By what a machine is known to others.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use super::{Etcd, PREFIX};
use crate::harness::Node;

/// What a machine is told by: in a claim in the store, or as it was when it asked for something.
#[derive(Deserialize)]
pub(crate) struct Marks {
    pub(super) node: String,
    pub(super) instance: String,
    pub(super) address: IpAddr,
}

impl Marks {
    /// Those of a node as its machine knows it: it has its new address only once it was told.
    pub(super) fn of(node: &Node<Etcd>) -> Self {
        let instance = node.own.memory.instance().to_owned();
        Self { node: node.name.clone(), instance, address: node.own.told_address }
    }

    /// Those in the value of a key.
    pub(super) fn read(value: &[u8]) -> Option<Self> {
        serde_json::from_slice(value).ok()
    }

    /// Whether a claim is of that machine: of three marks, two are its own.
    pub(super) fn own(&self, claim: &Self) -> bool {
        let same = [
            claim.instance == self.instance,
            claim.node == self.node,
            claim.address == self.address,
        ];
        same.into_iter().filter(|same| *same).count() >= 2
    }
}

/// The key of a subnet.
pub(super) fn key(subnet: &IpNet) -> String {
    format!("{PREFIX}/subnets/{}-{}", subnet.network(), subnet.prefix_len())
}

/// The subnet of a key, if it is the key of one.
pub(super) fn subnet(key: &str) -> Option<IpNet> {
    let text = key.strip_prefix(PREFIX)?.strip_prefix("/subnets/")?;
    Some(text.replacen('-', "/", 1).parse().unwrap())
}
