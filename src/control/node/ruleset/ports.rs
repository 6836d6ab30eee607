//! The UDP ports of tunnels: as sets of the table, and as what a packet goes to.

use std::collections::BTreeSet;

use culvert_nft::{Base, Element, Expression, Field, KeyPart, Membership, Set};

use crate::control::node::NodeSpec;

/// Name of the set of UDP ports that this node's tunnels use.
pub(super) const TUNNEL_PORTS: &str = "tunnel_ports";

/// Name of the set of UDP ports of all codecs: whatever this node's table says, another node may
/// listen there.
pub(super) const CODEC_PORTS: &str = "codec_ports";

/// `IPPROTO_UDP`.
pub(super) const UDP: u8 = 17;

pub(super) const UDP_DESTINATION: Field = Field { base: Base::Transport, offset: 2, len: 2 };

/// Both sets.
pub(super) fn sets(spec: &NodeSpec) -> [Set; 2] {
    let in_use: BTreeSet<u16> = spec.underlay_ports.iter().copied().collect();
    let of_any_codec = spec.codec_ports.iter().copied().chain(in_use.clone()).collect();
    [port_set(TUNNEL_PORTS, &in_use), port_set(CODEC_PORTS, &of_any_codec)]
}

fn port_set(name: &str, ports: &BTreeSet<u16>) -> Set {
    Set {
        name: name.to_owned(),
        key: vec![KeyPart::Service],
        is_interval: false,
        can_expire: false,
        decides: false,
        elements: ports.iter().map(|port| Element::of(&[&port.to_be_bytes()])).collect(),
    }
}

/// Matches UDP, of which all there is at this place, to a port of the set.
pub(super) fn port_in(set: &str) -> [Expression; 2] {
    Expression::field_in(UDP_DESTINATION, Membership::Inside, set)
}

/// Matches UDP to a port of the set.
pub(super) fn udp_port_in(set: &str) -> [Expression; 4] {
    let [protocol, is_udp] = Expression::upper_protocol_is(UDP);
    let [port, is_in] = port_in(set);
    [protocol, is_udp, port, is_in]
}
