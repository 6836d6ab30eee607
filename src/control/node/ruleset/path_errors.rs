//! Whose word this node takes on how long packets may be.
//!
//! kernel: an ICMP error "too big" that reaches the node shortens what the node sends *and
//! forwards* to the quoted destination, for ten minutes and for everybody, whoever wrote the
//! error; where it quotes an answer to an echo, no socket is asked (`icmp_err`, `icmpv6_err`).
//! About packets into the pod networks the daemon alone has a say, which tells it through the TUN
//! device under an address of this node; nobody else can come from there under one. Pods, local
//! ones and those behind the tunnel, have no say about anything else either: not about what nodes
//! send to one another.

use culvert_nft::{Base, Chain, ChainKind, Comparison, Expression, Field, Hook, Membership};
use overlay_proto::Family;

use super::family::ClusterFamily;
use super::{ACCEPT, DROP, FILTER};
use crate::control::node::NodeSpec;

/// "Fragmentation needed" and "packet too big", as the first bytes of an ICMP message have them.
const FRAGMENTATION_NEEDED: [u8; 2] = [3, 4];
const PACKET_TOO_BIG: [u8; 1] = [2];

/// `IPPROTO_ICMP`, `IPPROTO_ICMPV6`.
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Bytes before the quoted packet.
const ICMP_HEADER_LEN: u32 = 8;

/// What the node itself is told.
pub(super) fn chain(spec: &NodeSpec, families: &[ClusterFamily]) -> Chain {
    let from = |device: &str| Expression::input_name(Comparison::Equal, device);
    let by_daemon = Family::BOTH.into_iter().map(|family| {
        let is_ours = Expression::is_from_here();
        [&from(&spec.tun)[..], &is_too_big(family), &is_ours, &ACCEPT].concat()
    });
    let about_pods = families.iter().map(|family| {
        let quoted = Field {
            base: Base::Transport,
            offset: ICMP_HEADER_LEN + family.destination().offset,
            ..family.destination()
        };
        let is_inside = Expression::field_in(quoted, Membership::Inside, &family.cluster_set());
        [&is_too_big(family.family)[..], &is_inside, &DROP].concat()
    });
    // What is cut so short that its quote cannot be read comes here too.
    let others = [&spec.bridge, &spec.tun].into_iter().flat_map(|device| {
        Family::BOTH
            .into_iter()
            .map(move |family| [&from(device)[..], &is_too_big(family), &DROP].concat())
    });
    Chain {
        name: "path_errors",
        kind: ChainKind::Filter,
        hook: Hook::Input,
        priority: FILTER,
        rules: by_daemon.chain(about_pods).chain(others).collect(),
    }
}

fn is_too_big(family: Family) -> Vec<Expression> {
    let (protocol, start): (u8, &[u8]) = match family {
        Family::V4 => (ICMP, &FRAGMENTATION_NEEDED),
        Family::V6 => (ICMPV6, &PACKET_TOO_BIG),
    };
    let len = u32::try_from(start.len()).unwrap_or_default();
    let field = Field { base: Base::Transport, offset: 0, len };
    [
        &ClusterFamily::is_ip(family)[..],
        &Expression::upper_protocol_is(protocol),
        &Expression::field_is(field, start),
    ]
    .concat()
}
