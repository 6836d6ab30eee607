//! What two nodes speak with one another: a codec on a port.
//!
//! A node that runs Culvert speaks every codec, and its entry in the table says none. An entry that
//! names one is of a node that speaks nothing else: a kernel device, another overlay. Between two
//! nodes that one rules, so that both ends come to the same from the same table.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use overlay_proto::{Codec, CodecKind, Mac, Vni};

use crate::membership::error;
use crate::{Fault, NodeEntry, NodeKeys, Overlay, Place, TableError};

/// Most ports that the nodes of a table may need this one to listen on: each costs every worker a
/// socket, and a look at it whenever packets arrive.
pub const MAX_PORTS: usize = 8;

/// What a node's entry says of how it speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelOptions {
    /// The one codec that it speaks; none for a node that runs Culvert.
    pub codec: Option<CodecKind>,
    /// UDP port of its tunnels, at both ends; the codec's unless set.
    pub port: Option<u16>,
    /// Ethernet address of its tunnels' end; derived from its underlay address unless set.
    pub mac: Option<Mac>,
    /// By what peers know it that seal what they send to it; none for a node that does not seal.
    pub keys: NodeKeys,
    /// Whether its traffic may be plain in a network that seals everything else.
    pub plain: bool,
}

impl TunnelOptions {
    /// The Ethernet address that the node with this tunnel_options, at `address`, has in a tunnel.
    pub fn mac_at(&self, address: IpAddr) -> Mac {
        self.mac.unwrap_or_else(|| Mac::derived(address))
    }
}

/// The network of a flannel cluster that did not choose one.
const FLANNEL_VNI: Vni = match Vni::new(1) {
    Ok(vni) => vni,
    Err(_) => unreachable!(),
};

/// Ports and number of the codecs that nodes without Culvert may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Virtual network identifier of VXLAN.
    pub vxlan_vni: Vni,
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
    /// UDP port of bare IP in UDP.
    pub ip_udp_port: u16,
    /// Whether an entry must say that its node's traffic is plain: where everything else is sealed.
    pub must_be_plain: bool,
    /// Whether nodes change over from VXLAN to Culvert, one by one: each is heard in both ways, so
    /// that not all have to learn at one moment that one of them has changed.
    pub is_changing: bool,
}

impl Default for Foreign {
    /// What flannel has.
    fn default() -> Self {
        Self {
            vxlan_vni: FLANNEL_VNI,
            vxlan_port: CodecKind::Vxlan.default_port(),
            ip_udp_port: CodecKind::IpUdp.default_port(),
            must_be_plain: false,
            is_changing: false,
        }
    }
}

/// A codec on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tunnel {
    /// The codec.
    pub codec: CodecKind,
    /// The UDP port, at both ends.
    pub port: u16,
}

impl Tunnel {
    /// The codec between an end with the address `own` and one with `peer`.
    pub fn codec_between(self, own: Mac, peer: Mac) -> Codec {
        match self.codec {
            CodecKind::VxlanGpe => Codec::VxlanGpe,
            CodecKind::Vxlan => Codec::Vxlan { own, peer },
            CodecKind::IpUdp => Codec::IpUdp,
        }
    }
}

impl fmt::Display for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on UDP port {}", self.codec, self.port)
    }
}

impl Overlay {
    /// The virtual network identifier of a codec; one that has none ignores it.
    pub fn vni_of(&self, codec: CodecKind) -> Vni {
        match codec {
            CodecKind::VxlanGpe | CodecKind::IpUdp => self.vni,
            CodecKind::Vxlan => self.foreign.vxlan_vni,
        }
    }

    /// What this node hears whoever speaks it, while nodes change over from one to the other.
    fn while_changing(&self) -> impl Iterator<Item = Tunnel> + use<> {
        let vxlan = Tunnel { codec: CodecKind::Vxlan, port: self.foreign.vxlan_port };
        let gpe = Tunnel { codec: CodecKind::VxlanGpe, port: self.port };
        [vxlan, gpe].into_iter().filter({
            let is_changing = self.foreign.is_changing;
            move |_| is_changing
        })
    }

    /// What a peer that speaks `codec` with this node is heard in as well.
    pub fn also_heard(&self, codec: CodecKind) -> Option<Tunnel> {
        let mut both = self.while_changing();
        match codec {
            CodecKind::VxlanGpe | CodecKind::Vxlan => both.find(|tunnel| tunnel.codec != codec),
            CodecKind::IpUdp => None,
        }
    }

    /// What a node with this tunnel_options speaks with nodes that run Culvert, of which it may be
    /// one.
    pub(crate) fn tunnel_of(&self, tunnel_options: &TunnelOptions) -> Tunnel {
        let codec = tunnel_options.codec.unwrap_or_default();
        let usual = match codec {
            CodecKind::VxlanGpe => self.port,
            CodecKind::Vxlan => self.foreign.vxlan_port,
            CodecKind::IpUdp => self.foreign.ip_udp_port,
        };
        Tunnel { codec, port: tunnel_options.port.unwrap_or(usual) }
    }

    /// What two nodes speak with one another; none if each has its own way.
    pub(crate) fn tunnel_between(
        &self,
        one: &TunnelOptions,
        other: &TunnelOptions,
    ) -> Option<Tunnel> {
        let (own, others) = (self.tunnel_of(one), self.tunnel_of(other));
        match (one.codec, other.codec) {
            (_, None) => Some(own),
            (None, Some(_)) => Some(others),
            (Some(_), Some(_)) => (own == others).then_some(own),
        }
    }
}

/// The tunnels of the node at `local`, its own codec's first; that one is there without peers too.
pub(crate) fn tunnels(overlay: &Overlay, nodes: &[Arc<NodeEntry>], local: usize) -> Vec<Tunnel> {
    let tunnel_options = &nodes[local].tunnel_options;
    let own = overlay.tunnel_of(tunnel_options);
    let others: BTreeSet<Tunnel> = nodes
        .iter()
        .filter_map(|node| overlay.tunnel_between(tunnel_options, &node.tunnel_options))
        .chain(overlay.while_changing())
        .filter(|tunnel| *tunnel != own)
        .collect();
    std::iter::once(own).chain(others).collect()
}

/// What the nodes that were taken so far speak with this one.
pub(crate) struct Spoken<'a> {
    overlay: &'a Overlay,
    own: TunnelOptions,
    macs: HashMap<Mac, String>,
    ports: BTreeMap<u16, CodecKind>,
}

impl<'a> Spoken<'a> {
    /// This node alone, which has the tunnel_options `own`.
    pub(crate) fn new(overlay: &'a Overlay, own: TunnelOptions) -> Self {
        let tunnel = overlay.tunnel_of(&own);
        let always = std::iter::once(tunnel).chain(overlay.while_changing());
        let ports = always.map(|tunnel| (tunnel.port, tunnel.codec)).collect();
        Self { overlay, own, macs: HashMap::new(), ports }
    }

    /// Takes the node at `index` of the list, this one too; one with a fault changes nothing.
    ///
    /// # Errors
    ///
    /// Why it cannot be spoken to beside those before it.
    pub(crate) fn take(&mut self, index: usize, node: &NodeEntry) -> Result<(), TableError> {
        let tunnel_options = &node.tunnel_options;
        check_entry(index, tunnel_options)?;
        check_sealing(self.overlay, index, tunnel_options)?;
        if let Some(mac) = tunnel_options.mac
            && let Some(name) = self.macs.get(&mac)
        {
            return Err(error(Place::Mac(index), mac, Fault::DuplicateMac(name.clone())));
        }
        let Some(tunnel) = self.overlay.tunnel_between(&self.own, tunnel_options) else {
            let fault = Fault::NothingInCommon(self.overlay.tunnel_of(&self.own));
            return Err(error(Place::Codec(index), self.overlay.tunnel_of(tunnel_options), fault));
        };
        let place =
            if tunnel_options.port.is_some() { Place::Port(index) } else { Place::Codec(index) };
        match self.ports.get(&tunnel.port) {
            Some(codec) if *codec == tunnel.codec => {}
            Some(codec) => return Err(error(place, tunnel, Fault::PortTwice(*codec))),
            None if self.ports.len() >= MAX_PORTS => {
                return Err(error(place, tunnel, Fault::TooManyPorts));
            }
            None => drop(self.ports.insert(tunnel.port, tunnel.codec)),
        }
        if let Some(mac) = tunnel_options.mac {
            self.macs.insert(mac, node.name.clone());
        }
        Ok(())
    }
}

/// Checks an entry by itself.
fn check_entry(index: usize, tunnel_options: &TunnelOptions) -> Result<(), TableError> {
    match *tunnel_options {
        TunnelOptions { codec: None, port: Some(port), .. } => {
            Err(error(Place::Port(index), port, Fault::PortWithoutCodec))
        }
        TunnelOptions { port: Some(0), .. } => Err(error(Place::Port(index), 0, Fault::BadPort)),
        TunnelOptions { mac: Some(mac), .. } if !mac.is_unicast() => {
            Err(error(Place::Mac(index), mac, Fault::BadMac))
        }
        TunnelOptions { codec: Some(codec @ CodecKind::Vxlan), mac: None, .. } => {
            Err(error(Place::Codec(index), codec, Fault::MacMissing))
        }
        TunnelOptions {
            codec: Some(codec @ (CodecKind::VxlanGpe | CodecKind::IpUdp)),
            mac: Some(mac),
            ..
        } => Err(error(Place::Mac(index), mac, Fault::MacUnused(codec))),
        TunnelOptions { .. } => Ok(()),
    }
}

/// Checks what an entry says of whether its node seals.
fn check_sealing(
    overlay: &Overlay,
    index: usize,
    tunnel_options: &TunnelOptions,
) -> Result<(), TableError> {
    let TunnelOptions { codec, keys, plain, .. } = tunnel_options;
    match *codec {
        None if *plain => Err(error(Place::Plain(index), plain, Fault::PlainWithoutCodec)),
        None => Ok(()),
        Some(codec) => match keys.iter().next() {
            Some(key) => Err(error(Place::Key(index, 0), key, Fault::KeyUnused(codec))),
            None if overlay.foreign.must_be_plain && !plain => {
                Err(error(Place::Codec(index), codec, Fault::NotPlain(codec)))
            }
            None => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests;
