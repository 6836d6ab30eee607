//! The expressions that rules are made of: load a field, compare or look up, decide.
//!
//! Each is encoded attribute by attribute in the order in which the kernel lists it (6.18), so that
//! a rule that was read back has the bytes that were sent.

use crate::attribute::Attributes;

/// `NFTA_EXPR_NAME`, `NFTA_EXPR_DATA`.
pub(crate) const EXPRESSION_NAME: u16 = 1;
pub(crate) const EXPRESSION_DATA: u16 = 2;

/// `NFTA_DATA_VALUE`, `NFTA_DATA_VERDICT`, `NFTA_VERDICT_CODE`.
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;

/// `NFT_REG_VERDICT`.
const VERDICT_REGISTER: u32 = 0;

/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
const FULLY_RANDOM: u32 = 1 << 4;

/// `IFNAMSIZ`: names of interfaces are compared with all their padding.
pub(crate) const INTERFACE_NAME_BYTES: usize = 16;

/// A register of 16 bytes. Keys of several parts fill one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// The first.
    One,
    /// The second, and what follows the first 16 bytes of a key.
    Two,
}

impl Register {
    const fn number(self) -> u32 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }
}

/// What is known of a packet beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meta {
    /// Name of the interface that it came in by; 16 bytes.
    InputName,
    /// Name of the interface that it leaves by; 16 bytes.
    OutputName,
    /// Group of the interface that it came in by; four bytes of the host's order.
    InputGroup,
    /// The mark that its socket or another rule gave it; four bytes of the host's order.
    Mark,
    /// The user whose process sends it, four bytes of the host's order. A rule about a packet that
    /// no socket of this machine sends does not match.
    SocketUser,
    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`; one byte.
    Family,
    /// Protocol behind the IP header and its extensions; one byte.
    UpperProtocol,
}

impl Meta {
    const fn number(self) -> u32 {
        match self {
            Self::Mark => 3,
            Self::InputName => 6,
            Self::OutputName => 7,
            Self::SocketUser => 10,
            Self::Family => 15,
            Self::UpperProtocol => 16,
            Self::InputGroup => 21,
        }
    }
}

/// What connection tracking knows of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// The direction that the packet has in its connection, one byte: 0 from the one who opened it,
    /// 1 to it. A rule about a packet that belongs to no connection does not match.
    Direction,
    /// One bit for each state, in four bytes of the host's order; every packet has one.
    State,
    /// One bit for each thing that happened to the connection, in four bytes of the host's order. A
    /// rule about a packet that belongs to no connection does not match.
    Status,
}

impl Connection {
    /// `IP_CT_DIR_REPLY`.
    pub const REPLY: [u8; 1] = [1];

    /// In the [`Connection::Status`] of one whose destination was translated (`IPS_DST_NAT`).
    pub const DESTINATION_TRANSLATED: [u8; 4] = (1_u32 << 5).to_ne_bytes();

    /// The [`Connection::State`] of a packet that is not tracked (`NF_CT_STATE_UNTRACKED_BIT`).
    pub const UNTRACKED: [u8; 4] = (1_u32 << 6).to_ne_bytes();

    const fn number(self) -> u32 {
        match self {
            Self::State => 0,
            Self::Direction => 1,
            Self::Status => 2,
        }
    }
}

/// Where the source of a packet has to be an address of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On any device.
    Anywhere,
    /// On the device that the packet leaves by.
    OutputDevice,
}

impl Place {
    /// `NFTA_FIB_F_SADDR`, and `NFTA_FIB_F_OIF`.
    const fn flags(self) -> u32 {
        match self {
            Self::Anywhere => 1,
            Self::OutputDevice => 1 | 1 << 4,
        }
    }
}

/// `NFT_FIB_RESULT_ADDRTYPE`.
const ADDRESS_TYPE: u32 = 3;

/// `RTN_LOCAL`, as it is in a register: four bytes of the host's order.
const LOCAL: [u8; 4] = 2_u32.to_ne_bytes();

/// The header that the offset of a field counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// Ethernet, with a VLAN tag if the frame came with one.
    Link,
    /// IP or ARP.
    Network,
    /// Behind the IP header and its extensions.
    Transport,
}

impl Base {
    const fn number(self) -> u32 {
        match self {
            Self::Link => 0,
            Self::Network => 1,
            Self::Transport => 2,
        }
    }
}

/// Some bytes of a packet. A rule whose field is not in the packet does not match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Where the offset counts from.
    pub base: Base,
    /// In bytes.
    pub offset: u32,
    /// In bytes.
    pub len: u32,
}

/// How a register has to compare with a value for the rule to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// The same.
    Equal,
    /// Not the same.
    NotEqual,
}

/// How a key has to relate to a set for the rule to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// In the set.
    Inside,
    /// Not in the set.
    Outside,
}

/// The end of a packet's way through a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Gone.
    Drop,
    /// On to the next chain.
    Accept,
}

/// One step of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// Load what is known of the packet.
    Meta(Meta, Register),
    /// Load what is known of the packet's connection.
    Connection(Connection),
    /// Load what kind of address the routes say the packet's source is there.
    SourceType(Place),
    /// Load bytes of the packet.
    Payload(Field, Register),
    /// Keep the bits of the first register that the mask has; the mask is as long as the field.
    Mask(Vec<u8>),
    /// Compare the first register.
    Compare(Comparison, Vec<u8>),
    /// Look the key that begins in the first register up in the set of that name.
    Lookup(Membership, String),
    /// Count.
    Counter,
    /// Do not track the connection.
    NoTrack,
    /// Translate the source to the address of the interface that it leaves by, with a port of no
    /// pattern.
    Masquerade,
    /// Drop, and tell the sender that there is no such host (ICMP of its family).
    RejectHost,
    /// Decide.
    Verdict(Verdict),
}

impl Expression {
    /// What the kernel calls it.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Meta(..) => "meta",
            Self::Connection(_) => "ct",
            Self::SourceType(_) => "fib",
            Self::Payload(..) => "payload",
            Self::Mask(_) => "bitwise",
            Self::Compare(..) => "cmp",
            Self::Lookup(..) => "lookup",
            Self::Counter => COUNTER,
            Self::NoTrack => "notrack",
            Self::Masquerade => "masq",
            Self::RejectHost => "reject",
            Self::Verdict(_) => "immediate",
        }
    }

    /// Writes name and data.
    pub(crate) fn encode(&self, out: &mut Attributes) {
        out.text(EXPRESSION_NAME, self.name());
        // The kernel lists these two without data, or with data that changes.
        if !matches!(self, Self::NoTrack | Self::Counter) {
            out.nested(EXPRESSION_DATA, |data| self.encode_data(data));
        }
    }

    fn encode_data(&self, data: &mut Attributes) {
        let first = Register::One.number();
        match self {
            Self::Meta(key, register) => {
                data.number(2, key.number());
                data.number(1, register.number());
            }
            Self::Connection(key) => {
                data.number(1, first);
                data.number(2, key.number());
            }
            Self::SourceType(place) => {
                data.number(1, first);
                data.number(2, ADDRESS_TYPE);
                data.number(3, place.flags());
            }
            Self::Payload(field, register) => {
                data.number(1, register.number());
                data.number(2, field.base.number());
                data.number(3, field.offset);
                data.number(4, field.len);
            }
            Self::Mask(mask) => {
                data.number(1, first);
                data.number(2, first);
                data.number(3, u32::try_from(mask.len()).unwrap_or(u32::MAX));
                // `NFT_BITWISE_MASK_XOR`, with nothing to flip.
                data.number(6, 0);
                data.nested(4, |value| value.bytes(DATA_VALUE, mask));
                data.nested(5, |value| value.bytes(DATA_VALUE, &vec![0; mask.len()]));
            }
            Self::Compare(comparison, value) => {
                data.number(1, first);
                data.number(2, u32::from(*comparison == Comparison::NotEqual));
                data.nested(3, |data| data.bytes(DATA_VALUE, value));
            }
            Self::Lookup(membership, set) => {
                data.text(1, set);
                data.number(2, first);
                data.number(5, u32::from(*membership == Membership::Outside));
            }
            Self::Masquerade => data.number(1, FULLY_RANDOM),
            Self::RejectHost => {
                // `NFT_REJECT_ICMPX_UNREACH`, `NFT_REJECT_ICMPX_HOST_UNREACH`.
                data.number(1, 2);
                data.bytes(2, &[2]);
            }
            Self::Verdict(verdict) => {
                data.number(1, VERDICT_REGISTER);
                data.nested(2, |data| {
                    data.nested(DATA_VERDICT, |data| {
                        data.number(VERDICT_CODE, u32::from(*verdict == Verdict::Accept));
                    });
                });
            }
            Self::Counter | Self::NoTrack => {}
        }
    }
}

/// The kernel's name of [`Expression::Counter`], whose listing says how far it has counted.
pub(crate) const COUNTER: &str = "counter";

/// Ways to write the usual matches.
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
}
