//! A node of the cluster, of which two sources tell.

use std::net::IpAddr;
use std::sync::Arc;

use super::Member;
use crate::object::{Labels, Node};

/// A node, as its object and the subnet table describe it.
#[derive(Clone, Copy, Debug)]
pub struct NodeView<'a> {
    /// Its name.
    pub name: &'a Arc<str>,
    pub(super) object: Option<&'a Node>,
    pub(super) member: Option<&'a Member>,
}

impl<'a> NodeView<'a> {
    /// Its labels; none if it is only in the subnet table.
    #[must_use]
    pub fn labels(self) -> Option<&'a Labels> {
        self.object.map(|node| &node.labels)
    }

    /// The addresses by which an ipBlock means it.
    pub fn internal(self) -> impl Iterator<Item = IpAddr> {
        let object = self.object.into_iter().flat_map(|node| node.internal.iter());
        let member = self.member.into_iter().flat_map(|member| member.internal.iter());
        object.chain(member).copied()
    }

    /// The addresses that it has in the pod network.
    pub fn overlay(self) -> impl Iterator<Item = IpAddr> {
        self.member.into_iter().flat_map(|member| member.overlay.iter()).copied()
    }

    /// All of its addresses.
    pub fn addresses(self) -> impl Iterator<Item = IpAddr> {
        let external = self.object.into_iter().flat_map(|node| node.external.iter()).copied();
        self.internal().chain(external).chain(self.overlay())
    }
}
