//! Ways to write the usual matches: a few expressions each.

use crate::expression::Expression;
use crate::flow::BARRED;
use crate::operand::{Comparison, Connection, Field, LOCAL, Membership, Meta, Place, Register};

/// `IFNAMSIZ`: names of interfaces are compared with all their padding.
pub(crate) const INTERFACE_NAME_BYTES: usize = 16;

impl Expression {
    /// What came in by the interface called `name`, or did not.
    #[must_use]
    pub fn input_name(comparison: Comparison, name: &str) -> [Self; 2] {
        Self::interface(Meta::InputName, comparison, name)
    }

    /// What leaves by the interface called `name`, or does not.
    #[must_use]
    pub fn output_name(comparison: Comparison, name: &str) -> [Self; 2] {
        Self::interface(Meta::OutputName, comparison, name)
    }

    fn interface(key: Meta, comparison: Comparison, name: &str) -> [Self; 2] {
        let mut padded = name.as_bytes().to_vec();
        padded.resize(INTERFACE_NAME_BYTES, 0);
        [Self::Meta(key, Register::One), Self::Compare(comparison, padded)]
    }

    /// What came in by an interface of the group `group`.
    #[must_use]
    pub fn input_group_is(group: u32) -> [Self; 2] {
        [
            Self::Meta(Meta::InputGroup, Register::One),
            Self::Compare(Comparison::Equal, group.to_ne_bytes().to_vec()),
        ]
    }

    /// IPv4 packets, in a table for both families.
    #[must_use]
    pub fn is_ipv4() -> [Self; 2] {
        const NFPROTO_IPV4: u8 = 2;
        Self::is_of(NFPROTO_IPV4)
    }

    /// IPv6 packets, in a table for both families.
    #[must_use]
    pub fn is_ipv6() -> [Self; 2] {
        const NFPROTO_IPV6: u8 = 10;
        Self::is_of(NFPROTO_IPV6)
    }

    fn is_of(family: u8) -> [Self; 2] {
        [Self::Meta(Meta::Family, Register::One), Self::Compare(Comparison::Equal, vec![family])]
    }

    /// What has the mark `mark`.
    #[must_use]
    pub fn mark_is(mark: u32) -> [Self; 2] {
        [
            Self::Meta(Meta::Mark, Register::One),
            Self::Compare(Comparison::Equal, mark.to_ne_bytes().to_vec()),
        ]
    }

    /// What has a bit of `bits` in its mark.
    #[must_use]
    pub fn mark_has(bits: u32) -> [Self; 3] {
        [
            Self::Meta(Meta::Mark, Register::One),
            Self::Mask(bits.to_ne_bytes().to_vec()),
            Self::Compare(Comparison::NotEqual, vec![0; 4]),
        ]
    }

    /// Gives the packet the bits of `bits` in its mark.
    #[must_use]
    pub fn set_mark_bits(bits: u32) -> [Self; 3] {
        [
            Self::Meta(Meta::Mark, Register::One),
            Self::SetBits(bits.to_ne_bytes().to_vec()),
            Self::SetMeta(Meta::Mark),
        ]
    }

    /// What a process of this machine sends that is not root's.
    #[must_use]
    pub fn is_unprivileged() -> [Self; 2] {
        [
            Self::Meta(Meta::SocketUser, Register::One),
            Self::Compare(Comparison::NotEqual, vec![0; 4]),
        ]
    }

    /// What does not have an address of this machine as its source.
    #[must_use]
    pub fn is_from_elsewhere(place: Place) -> [Self; 2] {
        [Self::SourceType(place), Self::Compare(Comparison::NotEqual, LOCAL.to_vec())]
    }

    /// What has an address of this machine as its source.
    #[must_use]
    pub fn is_from_here() -> [Self; 2] {
        [Self::SourceType(Place::Anywhere), Self::Compare(Comparison::Equal, LOCAL.to_vec())]
    }

    /// What does not have an address of this machine as its destination.
    #[must_use]
    pub fn is_for_elsewhere() -> [Self; 2] {
        [Self::DestinationType, Self::Compare(Comparison::NotEqual, LOCAL.to_vec())]
    }

    /// What belongs to a connection that both ends know, or is an error about one.
    #[must_use]
    pub fn is_established() -> [Self; 3] {
        [
            Self::Connection(Connection::State),
            Self::Mask(Connection::ESTABLISHED_OR_RELATED.to_vec()),
            Self::Compare(Comparison::NotEqual, vec![0; 4]),
        ]
    }

    /// What is an error about a connection, or begins one that another announced.
    #[must_use]
    pub fn is_related() -> [Self; 3] {
        [
            Self::Connection(Connection::State),
            Self::Mask(Connection::RELATED.to_vec()),
            Self::Compare(Comparison::NotEqual, vec![0; 4]),
        ]
    }

    /// What connection tracking has looked at.
    #[must_use]
    pub fn is_tracked() -> [Self; 2] {
        [
            Self::Connection(Connection::State),
            Self::Compare(Comparison::NotEqual, Connection::UNTRACKED.to_vec()),
        ]
    }

    /// What was sent to another address, such as that of a service.
    #[must_use]
    pub fn is_to_service() -> [Self; 3] {
        [
            Self::Connection(Connection::Status),
            Self::Mask(Connection::DESTINATION_TRANSLATED.to_vec()),
            Self::Compare(Comparison::NotEqual, vec![0; 4]),
        ]
    }

    /// What is of a connection that was barred ([`FlowFate::Barred`](crate::FlowFate::Barred)).
    #[must_use]
    pub fn is_barred() -> [Self; 2] {
        [
            Self::Connection(Connection::Mark),
            Self::Compare(Comparison::Equal, BARRED.to_ne_bytes().to_vec()),
        ]
    }

    /// What answers the one who opened its connection.
    #[must_use]
    pub fn is_reply() -> [Self; 2] {
        [
            Self::Connection(Connection::Direction),
            Self::Compare(Comparison::Equal, Connection::REPLY.to_vec()),
        ]
    }

    /// What has `value` in `field`.
    #[must_use]
    pub fn field_is(field: Field, value: &[u8]) -> [Self; 2] {
        [Self::Payload(field, Register::One), Self::Compare(Comparison::Equal, value.to_vec())]
    }

    /// What has `protocol` behind the IP header and its extensions.
    #[must_use]
    pub fn upper_protocol_is(protocol: u8) -> [Self; 2] {
        Self::upper_protocol(Comparison::Equal, protocol)
    }

    /// What has `protocol` behind the IP header and its extensions, or has not.
    #[must_use]
    pub fn upper_protocol(comparison: Comparison, protocol: u8) -> [Self; 2] {
        [Self::Meta(Meta::UpperProtocol, Register::One), Self::Compare(comparison, vec![protocol])]
    }

    /// What has `field` in the set called `set`, or not.
    #[must_use]
    pub fn field_in(field: Field, membership: Membership, set: &str) -> [Self; 2] {
        [Self::Payload(field, Register::One), Self::Lookup(membership, set.to_owned())]
    }

    /// What has the name of its interface together with `field` in the set called `set`, or not.
    #[must_use]
    pub fn input_and_field_in(field: Field, membership: Membership, set: &str) -> [Self; 3] {
        [
            Self::Meta(Meta::InputName, Register::One),
            Self::Payload(field, Register::Two),
            Self::Lookup(membership, set.to_owned()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::Attributes;

    /// The bytes of `{length, type}` and a number in network order.
    fn number(kind: u16, value: u32) -> Vec<u8> {
        [&8_u16.to_ne_bytes()[..], &kind.to_ne_bytes(), &value.to_be_bytes()].concat()
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
    }

    fn encoded(expression: &Expression) -> Vec<u8> {
        let mut out = Attributes(Vec::new());
        expression.encode(&mut out);
        out.0
    }

    #[test]
    fn question_whether_a_source_is_local_has_register_result_and_flags() {
        for (place, flags) in [(Place::Anywhere, 0x01), (Place::OutputDevice, 0x11)] {
            let data = [number(1, 1), number(2, 3), number(3, flags)].concat();
            // The kernel's name of it, with its zero.
            let expected = [attribute(1, b"fib\0"), attribute(2, &data)].concat();
            assert_eq!(encoded(&Expression::SourceType(place)), expected, "{place:?}");
            let [_type, is_not_local] = Expression::is_from_elsewhere(place);
            let value = attribute(3, &attribute(1, &2_u32.to_ne_bytes()));
            let data = [number(1, 1), number(2, 1), value].concat();
            let expected = [attribute(1, b"cmp\0"), attribute(2, &data)].concat();
            assert_eq!(encoded(&is_not_local), expected);
        }
    }

    #[test]
    fn bits_of_a_mark_are_set_without_touching_others() {
        let [_load, set, _store] = Expression::set_mark_bits(1 << 13);
        let mask = attribute(4, &attribute(1, &(!(1_u32 << 13)).to_ne_bytes()));
        let flip = attribute(5, &attribute(1, &(1_u32 << 13).to_ne_bytes()));
        let data = [number(1, 1), number(2, 1), number(3, 4), number(6, 0), mask, flip].concat();
        let expected = [attribute(1, b"bitwise\0"), attribute(2, &data)].concat();
        assert_eq!(encoded(&set), expected);
    }

    #[test]
    fn translation_has_address_and_port_from_two_registers() {
        for (is_ipv4, family) in [(true, 2), (false, 10)] {
            let data = [
                number(1, 1),
                number(2, family),
                number(3, 1),
                number(4, 1),
                number(5, 2),
                number(6, 2),
                number(7, 3),
            ];
            let expected = [attribute(1, b"nat\0"), attribute(2, &data.concat())].concat();
            assert_eq!(encoded(&Expression::TranslateDestination { is_ipv4 }), expected);
        }
        let [of_destination, _is_local] = Expression::is_for_elsewhere();
        let data = [number(1, 1), number(2, 3), number(3, 2)].concat();
        let expected = [attribute(1, b"fib\0"), attribute(2, &data)].concat();
        assert_eq!(encoded(&of_destination), expected);
    }
}
