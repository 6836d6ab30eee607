//! The expressions that rules are made of: load a field, compare or look up, decide.
//!
//! Each is encoded attribute by attribute in the order in which the kernel lists it (6.18), so that
//! a rule that was read back has the bytes that were sent.

use crate::attribute::Attributes;
use crate::operand::{
    ADDRESS_TYPE, Comparison, Connection, Field, Membership, Meta, Place, Register,
};
use crate::verdict::Verdict;

/// `NFTA_EXPR_NAME`, `NFTA_EXPR_DATA`.
pub(crate) const EXPRESSION_NAME: u16 = 1;
pub(crate) const EXPRESSION_DATA: u16 = 2;

/// `NFTA_DATA_VALUE`.
const DATA_VALUE: u16 = 1;

/// `NFT_REG_VERDICT`.
const VERDICT_REGISTER: u32 = 0;

/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
const FULLY_RANDOM: u32 = 1 << 4;

/// `NFT_NAT_DNAT`, `NFPROTO_IPV4`, `NFPROTO_IPV6`, and `NF_NAT_RANGE_MAP_IPS` with
/// `NF_NAT_RANGE_PROTO_SPECIFIED`.
const DESTINATION: u32 = 1;
const NFPROTO_IPV4: u32 = 2;
const NFPROTO_IPV6: u32 = 10;
const ADDRESS_AND_PORT: u32 = 1 | 1 << 1;

/// `NFTA_FIB_F_DADDR`.
const OF_DESTINATION: u32 = 1 << 1;

/// How often a rule may match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// So often a second.
    pub per_second: u64,
    /// So often at once, after a pause.
    pub burst: u32,
}

/// What of a packet a program is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Number of the group that the program listens to.
    pub group: u16,
    /// What stands before it: less than 128 bytes.
    pub prefix: String,
    /// So many bytes of the packet at most.
    pub snap_len: u32,
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
    /// Load what kind of address the routes say the packet's destination is.
    DestinationType,
    /// Load bytes of the packet.
    Payload(Field, Register),
    /// Keep the bits of the first register that the mask has; the mask is as long as the field.
    Mask(Vec<u8>),
    /// Set the bits of the first register that the value has, and keep the others.
    SetBits(Vec<u8>),
    /// Compare the first register.
    Compare(Comparison, Vec<u8>),
    /// Look the key that begins in the first register up in the set of that name.
    Lookup(Membership, String),
    /// Look the key that begins in the first register up in the map of that name, and do what it
    /// says; go on where it says nothing.
    Decide(String),
    /// Put a value into the first register.
    Load(Vec<u8>),
    /// Put a value into the second register.
    LoadSecond(Vec<u8>),
    /// Set what is known of the packet to what the first register has.
    SetMeta(Meta),
    /// Write the first register into the packet, without its checksums.
    SetPayload(Field),
    /// Go on so often only.
    Limit(Rate),
    /// Tell whichever program listens to the group.
    Log(Report),
    /// A note for whoever lists the rule; at most 127 bytes of it are kept.
    Comment(String),
    /// Count.
    Counter,
    /// Do not track the connection.
    NoTrack,
    /// Translate the source to the address of the interface that it leaves by, with a port of no
    /// pattern.
    Masquerade,
    /// Translate the destination to the address in the first register and the port in the second.
    TranslateDestination {
        /// Whether the address is one of IPv4.
        is_ipv4: bool,
    },
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
            Self::SourceType(_) | Self::DestinationType => "fib",
            Self::Payload(..) => "payload",
            Self::Mask(_) | Self::SetBits(_) => "bitwise",
            Self::Compare(..) => "cmp",
            Self::Lookup(..) | Self::Decide(_) => "lookup",
            Self::Load(_) | Self::LoadSecond(_) | Self::Verdict(_) => "immediate",
            Self::SetMeta(_) => "meta",
            Self::SetPayload(_) => "payload",
            Self::Limit(_) => "limit",
            Self::Log(_) => "log",
            Self::Comment(_) => "comment",
            Self::Counter => COUNTER,
            Self::NoTrack => "notrack",
            Self::Masquerade => "masq",
            Self::TranslateDestination { .. } => "nat",
            Self::RejectHost => "reject",
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
            Self::DestinationType => {
                data.number(1, first);
                data.number(2, ADDRESS_TYPE);
                data.number(3, OF_DESTINATION);
            }
            Self::Payload(field, register) => {
                data.number(1, register.number());
                data.number(2, field.base.number());
                data.number(3, field.offset);
                data.number(4, field.len);
            }
            Self::Mask(mask) => encode_bits(data, mask, &vec![0; mask.len()]),
            Self::SetBits(bits) => {
                let others: Vec<u8> = bits.iter().map(|bits| !bits).collect();
                encode_bits(data, &others, bits);
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
            Self::Decide(map) => {
                data.text(1, map);
                data.number(2, first);
                data.number(3, VERDICT_REGISTER);
                data.number(5, 0);
            }
            Self::Load(value) => {
                data.number(1, first);
                data.nested(2, |data| data.bytes(DATA_VALUE, value));
            }
            Self::LoadSecond(value) => {
                data.number(1, Register::Two.number());
                data.nested(2, |data| data.bytes(DATA_VALUE, value));
            }
            Self::SetMeta(key) => {
                data.number(2, key.number());
                data.number(3, first);
            }
            Self::SetPayload(field) => {
                data.number(5, first);
                data.number(2, field.base.number());
                data.number(3, field.offset);
                data.number(4, field.len);
                // `NFT_PAYLOAD_CSUM_NONE`, its offset and its flags.
                data.number(6, 0);
                data.number(7, 0);
                data.number(8, 0);
            }
            Self::Limit(rate) => {
                data.bytes(1, &rate.per_second.to_be_bytes());
                // Seconds.
                data.bytes(2, &1_u64.to_be_bytes());
                data.number(3, rate.burst);
                // `NFT_LIMIT_PKTS`, and no flags.
                data.number(4, 0);
                data.number(5, 0);
            }
            Self::Log(report) => {
                data.text(2, &report.prefix);
                data.bytes(1, &report.group.to_be_bytes());
                data.number(3, report.snap_len);
            }
            Self::Masquerade => data.number(1, FULLY_RANDOM),
            Self::TranslateDestination { is_ipv4 } => {
                let (address, port) = (first, Register::Two.number());
                data.number(1, DESTINATION);
                data.number(2, if *is_ipv4 { NFPROTO_IPV4 } else { NFPROTO_IPV6 });
                // From and to are one value each; the kernel lists both, and what follows.
                for (kind, register) in [(3, address), (4, address), (5, port), (6, port)] {
                    data.number(kind, register);
                }
                data.number(7, ADDRESS_AND_PORT);
            }
            Self::RejectHost => {
                // `NFT_REJECT_ICMPX_UNREACH`, `NFT_REJECT_ICMPX_HOST_UNREACH`.
                data.number(1, 2);
                data.bytes(2, &[2]);
            }
            Self::Verdict(verdict) => {
                data.number(1, VERDICT_REGISTER);
                data.nested(2, |data| verdict.encode(data));
            }
            Self::Counter | Self::NoTrack | Self::Comment(_) => {}
        }
    }
}

/// Keeps the bits of the first register that `mask` has, and flips those of `flip`.
fn encode_bits(data: &mut Attributes, mask: &[u8], flip: &[u8]) {
    let register = Register::One.number();
    data.number(1, register);
    data.number(2, register);
    data.number(3, u32::try_from(mask.len()).unwrap_or(u32::MAX));
    // `NFT_BITWISE_MASK_XOR`.
    data.number(6, 0);
    data.nested(4, |value| value.bytes(DATA_VALUE, mask));
    data.nested(5, |value| value.bytes(DATA_VALUE, flip));
}

/// The kernel's name of [`Expression::Counter`], whose listing says how far it has counted.
pub(crate) const COUNTER: &str = "counter";
