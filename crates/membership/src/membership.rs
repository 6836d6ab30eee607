//! The nodes of the cluster as one consistent list, or the reason why they are none.
//!
//! `admission.rs` makes one of the entries that a table source has.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use overlay_proto::{CodecKind, Vni};

use crate::Changes;
use crate::tunnel::{self, Foreign, MAX_PORTS, Tunnel, TunnelOptions};

/// What all nodes of a cluster share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// Virtual network identifier of VXLAN-GPE.
    pub vni: Vni,
    /// Pod networks, at most one per family.
    pub networks: Vec<IpNet>,
    /// UDP port of VXLAN-GPE.
    pub port: u16,
    /// The codecs of nodes that do not run Culvert.
    pub foreign: Foreign,
}

/// One node as a table source knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEntry {
    /// The node's name.
    pub name: String,
    /// Its underlay address.
    pub address: IpAddr,
    /// Its pod subnets.
    pub subnets: Vec<IpNet>,
    /// How it speaks.
    pub tunnel_options: TunnelOptions,
}

/// A checked list of nodes, this one among them.
///
/// INVARIANT: names, addresses and keys are unique, addresses are of one family and outside the pod
/// networks, subnets lie inside them and have no address in common, `local` is a valid index, that
/// node and any other have a tunnel in common, and no two codecs have a port in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    overlay: Overlay,
    /// Shared with the source and the compiled table: most of them stay from table to table.
    nodes: Arc<[Arc<NodeEntry>]>,
    local: usize,
    /// Follows from the rest.
    tunnels: Vec<Tunnel>,
}

/// Which entry is at fault, by its place in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// None in particular.
    Table,
    /// The pod networks, which are no node's.
    Networks,
    /// The name of a node.
    Name(usize),
    /// The address of a node.
    Address(usize),
    /// A node's subnet, by node and place among its subnets.
    Subnet(usize, usize),
    /// The list of a node's subnets.
    Subnets(usize),
    /// The codec of a node.
    Codec(usize),
    /// The port of a node.
    Port(usize),
    /// The Ethernet address of a node.
    Mac(usize),
    /// A node's public key, by node and place among its keys.
    Key(usize, usize),
    /// Whether a node's traffic is plain.
    Plain(usize),
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The table has no entry of this node.
    LocalNodeMissing,
    /// A name that is empty or has control characters.
    BadName,
    /// Another node has the name.
    DuplicateName,
    /// The named node has the address.
    DuplicateAddress(String),
    /// No datagram can be sent to such an address.
    UnusableAddress,
    /// Addresses of the pod network are of this block, which no pod can have.
    ReservedNetwork(IpNet),
    /// This node's address is of the other family.
    AddressFamily,
    /// The address lies in this pod network, so that its packets would go into the tunnel.
    AddressInside(IpNet),
    /// The node has no subnet.
    NoSubnet,
    /// The subnet has bits set beyond its length.
    HostBits,
    /// The subnet lies in none of the pod networks.
    OutsideNetworks(Vec<IpNet>),
    /// The subnet is too small for a bridge address and a pod.
    TooSmall,
    /// The named node has a subnet with addresses in common.
    Overlap(String, IpNet),
    /// No port is 0.
    BadPort,
    /// A port of which nobody knows what is spoken there.
    PortWithoutCodec,
    /// Another node's tunnels have the port for this codec.
    PortTwice(CodecKind),
    /// More ports than a node listens on.
    TooManyPorts,
    /// The address is a group's, or zero.
    BadMac,
    /// The named node has the address.
    DuplicateMac(String),
    /// Frames to the node need an address.
    MacMissing,
    /// This codec has no frames.
    MacUnused(CodecKind),
    /// This node speaks nothing but this.
    NothingInCommon(Tunnel),
    /// The named node has the public key.
    DuplicateKey(String),
    /// What is in this codec is never sealed.
    KeyUnused(CodecKind),
    /// What is in this codec is not sealed, and everything should be.
    NotPlain(CodecKind),
    /// A node that runs Culvert seals.
    PlainWithoutCodec,
}

/// Why a list of nodes was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableError {
    /// Which entry.
    pub place: Place,
    /// The value that is at fault.
    pub value: String,
    /// What is wrong with it.
    pub fault: Fault,
}

impl TableError {
    /// What to do about it.
    pub fn remedy(&self) -> String {
        match &self.fault {
            Fault::LocalNodeMissing => {
                "add an entry for this node, or set node.name to the name that it has".to_owned()
            }
            Fault::BadName => "give the node a name of visible characters".to_owned(),
            Fault::DuplicateName => "give each node a name of its own".to_owned(),
            Fault::DuplicateAddress(_) => "give each node its own underlay address".to_owned(),
            Fault::UnusableAddress => {
                "write the address by which the other nodes reach it".to_owned()
            }
            Fault::ReservedNetwork(_) => "choose another pod network".to_owned(),
            Fault::AddressFamily => "write addresses of one family for all nodes".to_owned(),
            Fault::AddressInside(_) => {
                "choose a pod network that contains no underlay address".to_owned()
            }
            Fault::NoSubnet => "give it a subnet of a pod network".to_owned(),
            Fault::HostBits => match self.value.parse::<IpNet>() {
                Ok(net) => format!("write {}", net.trunc()),
                Err(_) => "clear the bits beyond the length".to_owned(),
            },
            Fault::OutsideNetworks(_) => {
                "choose a subnet inside network.cidrs, or widen that".to_owned()
            }
            Fault::TooSmall => "use a /30 or larger for IPv4, a /126 or larger for IPv6".to_owned(),
            Fault::Overlap(..) => "give each node subnets of its own".to_owned(),
            Fault::BadPort => "write 1 to 65535, or leave it out".to_owned(),
            Fault::PortWithoutCodec => {
                "write the node's codec too; for a node that runs Culvert leave out both".to_owned()
            }
            Fault::PortTwice(_) => "give each codec ports of its own".to_owned(),
            Fault::TooManyPorts => "let several nodes share a port".to_owned(),
            Fault::BadMac => "write the address of the node's VXLAN device".to_owned(),
            Fault::DuplicateMac(_) => "give each node an address of its own".to_owned(),
            Fault::MacMissing => {
                "add node.mac, the address of the node's VXLAN device (`ip link show flannel.1`)"
                    .to_owned()
            }
            Fault::MacUnused(_) => "leave node.mac out, or correct node.codec".to_owned(),
            Fault::NothingInCommon(_) => {
                "let both nodes speak one codec on one port, or run Culvert on one of them and leave \
                 its node.codec out"
                    .to_owned()
            }
            Fault::DuplicateKey(_) => {
                "write what `culvert keys show` prints on each of the two; if it is the same, their \
                 state directories are copies: remove sealed.key_file on one of them, and restart it"
                    .to_owned()
            }
            Fault::KeyUnused(_) => {
                "leave out the node's public keys, or, if it runs Culvert, its codec".to_owned()
            }
            Fault::NotPlain(_) => {
                "write `plain = true` into the node's entry if its traffic may be read and forged on \
                 the underlay; otherwise run Culvert on it and leave its codec out"
                    .to_owned()
            }
            Fault::PlainWithoutCodec => {
                "leave plain out: it is for nodes that do not run Culvert, and have a codec".to_owned()
            }
        }
    }
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.fault {
            Fault::LocalNodeMissing => f.write_str("lacks this node"),
            Fault::BadName => f.write_str("not a node name"),
            Fault::DuplicateName => f.write_str("another node has this name"),
            Fault::DuplicateAddress(name) => write!(f, "node \"{name}\" has this address too"),
            Fault::UnusableAddress => f.write_str("not an address that datagrams can be sent to"),
            Fault::ReservedNetwork(block) => {
                write!(f, "a pod network with addresses of {block}, which no pod can have")
            }
            Fault::AddressFamily => f.write_str("not of the family of this node's address"),
            Fault::AddressInside(network) => write!(f, "lies inside the pod network {network}"),
            Fault::NoSubnet => f.write_str("the node has no subnet"),
            Fault::HostBits => f.write_str("has bits set beyond its length"),
            Fault::OutsideNetworks(networks) => {
                f.write_str("lies outside the pod networks")?;
                networks.iter().try_for_each(|network| write!(f, " {network}"))
            }
            Fault::TooSmall => f.write_str("too small for a bridge address and a pod"),
            Fault::Overlap(name, other) => {
                write!(f, "has addresses in common with {other} of node \"{name}\"")
            }
            Fault::BadPort => f.write_str("not a port"),
            Fault::PortWithoutCodec => f.write_str("a port without a codec"),
            Fault::PortTwice(codec) => write!(f, "the port is that of {codec} already"),
            Fault::TooManyPorts => {
                write!(f, "one more port than the {MAX_PORTS} that a node listens on at most")
            }
            Fault::BadMac => f.write_str("not an address that one device has"),
            Fault::DuplicateMac(name) => write!(f, "node \"{name}\" has this address too"),
            Fault::MacMissing => f.write_str("frames to this node would have no address"),
            Fault::MacUnused(codec) => write!(f, "packets of {codec} have no such address"),
            Fault::NothingInCommon(own) => write!(f, "this node speaks {own} and nothing else"),
            Fault::DuplicateKey(name) => write!(f, "node \"{name}\" has this key"),
            Fault::KeyUnused(codec) => write!(f, "packets of {codec} are never sealed"),
            Fault::NotPlain(codec) => {
                write!(f, "packets of {codec} are not sealed, and sealed.mode is \"require\"")
            }
            Fault::PlainWithoutCodec => f.write_str("a node that runs Culvert is not plain"),
        }
    }
}

impl std::error::Error for TableError {}

impl Membership {
    /// The list `nodes`, which has been checked.
    pub(crate) fn sound(overlay: Overlay, nodes: Vec<Arc<NodeEntry>>, local: usize) -> Self {
        let tunnels = tunnel::tunnels(&overlay, &nodes, local);
        Self { overlay, nodes: nodes.into(), local, tunnels }
    }

    /// This node.
    pub fn local(&self) -> &Arc<NodeEntry> {
        &self.nodes[self.local]
    }

    /// The other nodes.
    pub fn peers(&self) -> impl Iterator<Item = &Arc<NodeEntry>> {
        let others = self.nodes.iter().enumerate().filter(|(index, _)| *index != self.local);
        others.map(|(_, node)| node)
    }

    /// How many other nodes there are.
    pub fn peer_count(&self) -> usize {
        self.nodes.len() - 1
    }

    /// Every node, this one among them.
    pub fn entries(&self) -> &[Arc<NodeEntry>] {
        &self.nodes
    }

    /// The nodes that are not the same as in `before`, this one among them.
    pub fn changes(&self, before: &Self) -> Changes {
        if Arc::ptr_eq(&self.nodes, &before.nodes) {
            return Changes::default();
        }
        Changes::between(&before.nodes, &self.nodes)
    }

    /// What this node and `peer`, one of the list, speak with one another.
    pub fn tunnel_to(&self, peer: &NodeEntry) -> Tunnel {
        let own = &self.local().tunnel_options;
        self.overlay
            .tunnel_between(own, &peer.tunnel_options)
            .unwrap_or_else(|| self.overlay.tunnel_of(own))
    }

    /// Every codec and port that this node needs, its own first.
    pub fn tunnels(&self) -> Vec<Tunnel> {
        self.tunnels.clone()
    }

    /// What all nodes share.
    pub fn overlay(&self) -> &Overlay {
        &self.overlay
    }
}

/// What is wrong, where.
pub(crate) fn error(place: Place, value: impl fmt::Display, fault: Fault) -> TableError {
    TableError { place, value: value.to_string(), fault }
}
