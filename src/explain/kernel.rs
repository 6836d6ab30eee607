//! What the node's kernel is asked about a packet.

use std::net::IpAddr;

use overlay_proto::Family;

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

    /// The chains of other programs that drop what this node forwards, unless one of their rules
    /// accepts it.
    ///
    /// # Errors
    ///
    /// The kernel does not answer.
    fn firewalls(&mut self, family: Family) -> Result<Vec<String>, String>;
}

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The node itself.
    Node,
    /// A pod, as its note calls it.
    Pod(String),
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
