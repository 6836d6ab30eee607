//! Which pods' word this node takes on how long packets may be.
//!
//! kernel: an ICMP error "too big" that reaches the node shortens what the node sends to the quoted
//! destination, for ten minutes and for every program, whoever wrote the error. Pods, local ones
//! and those behind the tunnel, have a say about packets into the pod networks, which are what they
//! carry, and about nothing else: not about what nodes send to one another.

use culvert_nft::{Base, Chain, ChainKind, Comparison, Expression, Field, Hook, Membership};
use overlay_proto::Family;

use super::NodeSpec;
use super::ruleset::{ACCEPT, ClusterFamily, DROP, FILTER};

/// "Fragmentation needed" and "packet too big", as the first bytes of an ICMP message have them.
const FRAGMENTATION_NEEDED: [u8; 2] = [3, 4];
const PACKET_TOO_BIG: [u8; 1] = [2];

/// `IPPROTO_ICMP`, `IPPROTO_ICMPV6`.
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Bytes before the quoted packet.
const ICMP_HEADER_LEN: u32 = 8;

/// What pods tell the node itself.
pub(super) fn chain(spec: &NodeSpec, families: &[ClusterFamily]) -> Chain {
    let devices = [&spec.bridge, &spec.tun];
    let from = |device: &str| Expression::input_name(Comparison::Equal, device);
    let about_pods = devices.iter().flat_map(|device| {
        families.iter().map(move |family| {
            let quoted = Field {
                base: Base::Transport,
                offset: ICMP_HEADER_LEN + family.destination().offset,
                ..family.destination()
            };
            let is_inside = Expression::field_in(quoted, Membership::Inside, &family.cluster_set());
            [&from(device)[..], &is_too_big(family.family), &is_inside, &ACCEPT].concat()
        })
    });
    // What is cut so short that its quote cannot be read comes here too.
    let others = devices.iter().flat_map(|device| {
        Family::BOTH
            .into_iter()
            .map(move |family| [&from(device)[..], &is_too_big(family), &DROP].concat())
    });
    Chain {
        name: "path_errors",
        kind: ChainKind::Filter,
        hook: Hook::Input,
        priority: FILTER,
        rules: about_pods.chain(others).collect(),
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
