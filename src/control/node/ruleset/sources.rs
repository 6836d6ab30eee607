//! What processes of the node may send under, and as.
//!
//! IPv6 lets any process send from any address (`IPV6_FREEBIND`), a pod's as well, or another
//! node's. The table leaves that to root.

use std::collections::BTreeSet;
use std::net::IpAddr;

use culvert_nft::{
    Base, Chain, ChainKind, Comparison, Element, Expression, Field, Hook, KeyPart, Membership,
    Place, Register, Set,
};
use culvert_node::node_file::gateway;
use overlay_proto::Family;
use overlay_proto::oam::REFLECTOR_PORT;

use super::family::ClusterFamily;
use super::ports::{UDP, UDP_DESTINATION};
use super::{DROP, FILTER};
use crate::control::node::NodeSpec;

/// Name of the set of IPv6 addresses that this node has in its subnets.
pub(super) const OWN_ADDRESSES: &str = "own_v6";

/// The first half of an IPv6 packet's source, and that of the link-local addresses.
const IPV6_SOURCE_PREFIX: Field = Field { base: Base::Network, offset: 8, len: 8 };
const LINK_LOCAL: [u8; 8] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0];

/// What this node's processes send: from addresses of the pod networks only if they are its own,
/// to its pods from no address but this machine's, and to other nodes nothing that these take for
/// a question of this one's daemon. What a proxy in the kernel sends on has no process, nor has
/// what the kernel itself tells its neighbours.
pub(super) fn chain(spec: &NodeSpec, ipv6: Option<&ClusterFamily>) -> Chain {
    let is_ipv6 = ClusterFamily::is_ip(Family::V6);
    let is_process = Expression::is_unprivileged();
    let in_cluster = ipv6.map(|family| {
        let cluster =
            Expression::field_in(family.source(), Membership::Inside, &family.cluster_set());
        let foreign = Expression::field_in(family.source(), Membership::Outside, OWN_ADDRESSES);
        [&is_process[..], &is_ipv6, &cluster, &foreign, &DROP].concat()
    });
    // The daemon's own leave by its sockets, and not by the TUN.
    let questions = [
        &Expression::output_name(Comparison::Equal, &spec.tun)[..],
        &is_process,
        &Expression::upper_protocol_is(UDP),
        &Expression::field_is(UDP_DESTINATION, &REFLECTOR_PORT.to_be_bytes()),
        &DROP,
    ]
    .concat();
    let to_pods = Expression::output_name(Comparison::Equal, &spec.bridge);
    let link_local = |comparison| {
        [
            Expression::Payload(IPV6_SOURCE_PREFIX, Register::One),
            Expression::Compare(comparison, LINK_LOCAL.to_vec()),
        ]
    };
    // A link-local address is one device's, any other the whole machine's.
    let to_pods =
        [(Comparison::Equal, Place::OutputDevice), (Comparison::NotEqual, Place::Anywhere)].map(
            |(comparison, place)| {
                let from_elsewhere = Expression::is_from_elsewhere(place);
                let source = link_local(comparison);
                [&to_pods[..], &is_process, &is_ipv6, &source, &from_elsewhere, &DROP].concat()
            },
        );
    Chain {
        name: "sources",
        kind: ChainKind::Filter,
        hook: Hook::Output,
        priority: FILTER,
        // kernel: IPv4 refuses to send from what is no address of the machine.
        rules: in_cluster.into_iter().chain([questions]).chain(to_pods).collect(),
    }
}

/// The addresses that this node has in its own subnets: the TUN's and the bridge's.
pub(super) fn own_addresses(spec: &NodeSpec) -> Set {
    let elements: BTreeSet<_> = spec
        .local_subnets
        .iter()
        .flat_map(|subnet| [subnet.network(), gateway(subnet).addr()])
        .filter_map(|address| match address {
            IpAddr::V6(address) => Some(address.octets()),
            IpAddr::V4(_) => None,
        })
        .collect();
    Set {
        name: OWN_ADDRESSES.to_owned(),
        key: vec![KeyPart::Ipv6Address],
        is_interval: false,
        can_expire: false,
        decides: false,
        elements: elements.iter().map(|address| Element::of(&[address])).collect(),
    }
}
