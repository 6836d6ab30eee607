//! What expressions work on: registers, fields of packets, and what is known beside their bytes.

/// A register of 16 bytes. Keys of several parts fill one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// The first.
    One,
    /// The second, and what follows the first 16 bytes of a key.
    Two,
    /// The word of four bytes that many words behind the beginning of the first register, where a
    /// part of a key goes that follows shorter ones.
    Word(u8),
}

impl Register {
    /// kernel: four words are a register, and the first of them is listed by the number of that.
    pub(crate) const fn number(self) -> u32 {
        /// `NFT_REG32_00`.
        const FIRST_WORD: u32 = 8;
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Word(word) if word % 4 == 0 => 1 + word as u32 / 4,
            Self::Word(word) => FIRST_WORD + word as u32,
        }
    }
}

/// What is known of a packet beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meta {
    /// Bytes of the packet, without the header of its frame; four bytes of the host's order.
    Length,
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
    /// Whom the frame was for, as its device says (`PACKET_*`); one byte.
    PacketType,
}

impl Meta {
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Length => 0,
            Self::Mark => 3,
            Self::InputName => 6,
            Self::OutputName => 7,
            Self::SocketUser => 10,
            Self::Family => 15,
            Self::UpperProtocol => 16,
            Self::PacketType => 19,
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
    /// The number that somebody gave the connection, in four bytes of the host's order; 0, if
    /// nobody did. A rule about a packet that belongs to no connection does not match.
    Mark,
}

impl Connection {
    /// `IP_CT_DIR_REPLY`.
    pub const REPLY: [u8; 1] = [1];

    /// In the [`Connection::Status`] of one whose destination was translated (`IPS_DST_NAT`).
    pub const DESTINATION_TRANSLATED: [u8; 4] = (1_u32 << 5).to_ne_bytes();

    /// In the [`Connection::State`] of a packet of a connection that both ends know, or that an
    /// error about one is in (`NF_CT_STATE_BIT` of `IP_CT_ESTABLISHED` and of `IP_CT_RELATED`).
    pub const ESTABLISHED_OR_RELATED: [u8; 4] = (1_u32 << 1 | 1 << 2).to_ne_bytes();
    /// The bit of packets that are about a connection without being part of it.
    pub const RELATED: [u8; 4] = (1_u32 << 2).to_ne_bytes();

    /// The [`Connection::State`] of a packet that is not tracked (`NF_CT_STATE_UNTRACKED_BIT`).
    pub const UNTRACKED: [u8; 4] = (1_u32 << 6).to_ne_bytes();

    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::State => 0,
            Self::Direction => 1,
            Self::Status => 2,
            Self::Mark => 3,
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
    pub(crate) const fn flags(self) -> u32 {
        match self {
            Self::Anywhere => 1,
            Self::OutputDevice => 1 | 1 << 4,
        }
    }
}

/// `NFT_FIB_RESULT_ADDRTYPE`.
pub(crate) const ADDRESS_TYPE: u32 = 3;

/// `RTN_LOCAL`, as it is in a register: four bytes of the host's order.
pub(crate) const LOCAL: [u8; 4] = 2_u32.to_ne_bytes();

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
    pub(crate) const fn number(self) -> u32 {
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
