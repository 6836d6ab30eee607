//! What the node's kernel is asked about a packet.

use std::net::{IpAddr, SocketAddr};

use culvert_nft::Target;

use super::Question;

/// The kernel of the node that a question is about. Each answer may be a reason why there is none.
pub trait Kernel {
    /// Who has the address on this node, if anybody has.
    ///
    /// # Errors
    ///
    /// The kernel does not answer.
    fn holder(&mut self, address: IpAddr) -> Result<Option<Holder>, String>;

    /// How a packet is routed that comes in by the device `incoming`, or that this node sends.
    ///
    /// # Errors
    ///
    /// The kernel does not answer.
    fn route(
        &mut self,
        source: IpAddr,
        destination: IpAddr,
        incoming: Option<&str>,
    ) -> Result<Way, String>;

    /// How this node's own datagram to a peer is routed, and what may keep it from the link.
    ///
    /// # Errors
    ///
    /// The kernel does not answer.
    fn underlay(&mut self, local: IpAddr, peer: SocketAddr) -> Result<Underlay, String>;

    /// Where rules of other programs send a packet instead, before it is routed: one that comes in
    /// by the device `incoming`, or that this node sends.
    ///
    /// # Errors
    ///
    /// The kernel does not answer.
    fn redirected(
        &mut self,
        question: &Question,
        incoming: Option<&str>,
    ) -> Result<Option<Redirected>, String>;

    /// Whether rules of IP see what the bridge forwards, as those of the bridge do.
    ///
    /// # Errors
    ///
    /// The kernel does not answer.
    fn filters_frames(&mut self, is_ipv4: bool) -> Result<bool, String>;

    /// Which rules of other programs the packet meets on a part of its way that drop it, or may.
    ///
    /// # Errors
    ///
    /// The kernel does not answer.
    fn hurdles(&mut self, passage: &Passage<'_>) -> Result<Vec<Hurdle>, String>;
}

/// A part of a packet's way on which rules of other programs may drop it.
#[derive(Clone, Copy, Debug)]
pub enum Passage<'a> {
    /// From its pod to the TUN device.
    ToTunnel(&'a Question),
    /// From the TUN device to its pod.
    FromTunnel(&'a Question),
    /// From a pod of this node to another.
    Bridged(&'a Question),
    /// From its pod up to where rules may give it another destination.
    Arrives(&'a Question),
    /// From its pod through this node's routes, and out by another device than the TUN device.
    Routed(&'a Question, &'a str),
    /// In the datagram that this node sends from one of its ports.
    Sent {
        /// From where.
        local: IpAddr,
        /// The source port, if it is known.
        port: Option<u16>,
        /// To where.
        peer: SocketAddr,
    },
    /// In the datagram that arrives at a port of this node.
    Received {
        /// At which address and port.
        local: SocketAddr,
        /// From where.
        peer: IpAddr,
    },
}

/// Another destination that rules give a packet, or one of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirected {
    /// The chain and what in it.
    pub by: String,
    /// Where it may go; nothing if that could not be followed.
    pub to: Vec<Target>,
    /// Whether these are all.
    pub is_followed: bool,
    /// Whether it certainly goes to one of these.
    pub is_sure: bool,
}

/// Who drops a packet, or may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hurdle {
    /// The chain and what in it.
    pub by: String,
    /// Whether it drops it for certain.
    pub is_sure: bool,
}

/// Where a datagram to a peer goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// How it is routed.
    pub way: Way,
    /// What the kernel knows of the next machine that makes it doubtful.
    pub doubt: Option<String>,
}

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The node itself.
    Node,
    /// A pod.
    Pod {
        /// As its note calls it.
        name: String,
        /// Why it gets nothing, if that is known.
        trouble: Option<String>,
    },
}

/// Where the kernel sends a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Out by a device, and over a router if there is one.
    Out {
        /// Name of the device.
        device: String,
        /// The router.
        gateway: Option<IpAddr>,
    },
    /// To this node itself.
    Here,
    /// Nowhere, for this reason.
    Refused(String),
}
