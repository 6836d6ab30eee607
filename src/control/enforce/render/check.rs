//! What every packet to or from a pod passes before the policies of that pod.

use culvert_nft::{Base, Comparison, Expression, Field, Membership, Register};
use culvert_policy::plan::Direction;
use overlay_proto::Family;

use super::{
    ACCEPT, DROP, FAMILIES, INGRESS, IPV4_DESTINATION, IPV6_DESTINATION, IPV6_SOURCE, MIDSTREAM,
    behind_address, decide, destination, goto, half, is_family, jump, source,
};

const HOP_LIMIT: Field = Field { base: Base::Network, offset: 7, len: 1 };
const TCP_FLAGS: Field = Field { base: Base::Transport, offset: 13, len: 1 };
const ICMP_TYPE: Field = Field { base: Base::Transport, offset: 0, len: 1 };

/// Whom a packet was for that an error quotes, behind the eight bytes of the error itself.
const ICMP_QUOTED_DESTINATION: Field =
    Field { base: Base::Transport, offset: 8 + IPV4_DESTINATION.offset, len: 4 };
const ICMPV6_QUOTED_DESTINATION: Field =
    Field { base: Base::Transport, offset: 8 + IPV6_DESTINATION.offset, len: 16 };

/// fe80::/10, and the first byte of ff00::/8 (RFC 4291 §2.4).
const LINK_LOCAL: [u8; 2] = [0xfe, 0x80];
const LINK_LOCAL_MASK: [u8; 2] = [0xff, 0xc0];
const MULTICAST: [u8; 1] = [0xff];

/// Protocols, and types of ICMP (RFC 792, RFC 4861).
const ICMP: u8 = 1;
const TCP: u8 = 6;
const ICMPV6: u8 = 58;
const REDIRECT: u8 = 5;
const REDIRECT_V6: u8 = 137;
pub(in crate::control::enforce) const NEIGHBOUR_DISCOVERY: [u8; 2] = [135, 136];

/// Flags of TCP: `fin | syn | rst | ack`, of which the first packet of a connection has `syn`
/// alone.
const OPENING_FLAGS: u8 = 0x17;
const SYN: u8 = 0x02;

/// What becomes of a packet that is on its way out.
pub(super) fn check() -> Vec<Vec<Expression>> {
    let mut rules = vec![[&Expression::is_barred()[..], &DROP].concat()];
    rules.extend(FAMILIES.map(errors_about_others));
    rules.push([&Expression::is_established()[..], &[Expression::Counter, ACCEPT]].concat());
    // Where frames of the bridge pass this hook, so do questions for neighbours. No router lets one
    // of these through from elsewhere.
    rules.extend(NEIGHBOUR_DISCOVERY.map(|kind| {
        [
            &Expression::is_ipv6()[..],
            &Expression::upper_protocol_is(ICMPV6),
            &Expression::field_is(ICMP_TYPE, &[kind]),
            &Expression::field_is(HOP_LIMIT, &[255]),
            &[ACCEPT],
        ]
        .concat()
    }));
    rules.push(
        [
            &Expression::upper_protocol_is(TCP)[..],
            &[
                Expression::Payload(TCP_FLAGS, Register::One),
                Expression::Mask(vec![OPENING_FLAGS]),
                Expression::Compare(Comparison::NotEqual, vec![SYN]),
                jump(MIDSTREAM),
            ],
        ]
        .concat(),
    );
    rules.push([&Expression::is_from_here()[..], &[ACCEPT]].concat());
    rules.push(from_link_local());
    rules.extend(FAMILIES.map(|family| {
        let steps = [
            Expression::Payload(source(family), Register::One),
            Expression::Payload(destination(family), behind_address(family)),
            Expression::Lookup(Membership::Inside, half("self", family)),
            ACCEPT,
        ];
        [&is_family(family)[..], &steps].concat()
    }));
    rules.extend(FAMILIES.map(|family| decide(family, source(family), Direction::Egress)));
    rules.push(vec![goto(INGRESS)]);
    rules
}

/// Errors that a pod under a policy sends about packets that were not for it (RFC 792, RFC 4443
/// §3): they count as part of the connection that they quote, whoever sends them, and carry what
/// their sender likes.
fn errors_about_others(family: Family) -> Vec<Expression> {
    let (protocol, quoted) = match family {
        Family::V4 => (ICMP, ICMP_QUOTED_DESTINATION),
        Family::V6 => (ICMPV6, ICMPV6_QUOTED_DESTINATION),
    };
    let isolated = half("isolated", family);
    let is_isolated = Expression::field_in(source(family), Membership::Inside, &isolated);
    let is_about_another = [
        Expression::Payload(source(family), Register::One),
        Expression::Payload(quoted, behind_address(family)),
        Expression::Lookup(Membership::Outside, half("self", family)),
    ];
    [
        &Expression::is_related()[..],
        &is_family(family),
        &Expression::upper_protocol_is(protocol),
        &is_isolated,
        &is_about_another,
        &DROP,
    ]
    .concat()
}

/// A pod's link-local address is in no set, and is known on the link only.
///
/// kernel: a packet with such a source is forwarded all the same, if it leaves by the device that
/// it came by (`ip6_forward`).
fn from_link_local() -> Vec<Expression> {
    let top = |field: Field| Field { len: 2, ..field };
    let is = |field, comparison| {
        [
            Expression::Payload(top(field), Register::One),
            Expression::Mask(LINK_LOCAL_MASK.to_vec()),
            Expression::Compare(comparison, LINK_LOCAL.to_vec()),
        ]
    };
    let is_to_one = [
        Expression::Payload(Field { len: 1, ..IPV6_DESTINATION }, Register::One),
        Expression::Compare(Comparison::NotEqual, MULTICAST.to_vec()),
    ];
    [
        &Expression::is_ipv6()[..],
        &is(IPV6_SOURCE, Comparison::Equal),
        &is(IPV6_DESTINATION, Comparison::NotEqual),
        &is_to_one,
        &DROP,
    ]
    .concat()
}

/// Packets of one pod to another go through the node although both are on its bridge. A host says
/// so to whoever sends them (a redirect), for each packet, and would teach pods another way.
pub(super) fn redirects(bridge: &str) -> Vec<Vec<Expression>> {
    let to_bridge = Expression::output_name(Comparison::Equal, bridge);
    [(Family::V4, ICMP, REDIRECT), (Family::V6, ICMPV6, REDIRECT_V6)]
        .map(|(family, protocol, kind)| {
            [
                &to_bridge[..],
                &is_family(family),
                &Expression::upper_protocol_is(protocol),
                &Expression::field_is(ICMP_TYPE, &[kind]),
                &DROP,
            ]
            .concat()
        })
        .into()
}
