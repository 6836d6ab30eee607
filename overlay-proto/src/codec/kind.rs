//! What can be said of a codec before anything is known of a tunnel's ends: name, port, sizes.

use core::error::Error;
use core::fmt;
use core::str::FromStr;

use super::{gpe, ip_udp, vxlan};
use crate::{Family, Overhead};

/// Length of a UDP header (RFC 768).
const UDP_HEADER_LEN: usize = 8;

/// Which [`Codec`](super::Codec).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CodecKind {
    /// VXLAN-GPE: an eight-byte header, then a bare IP packet.
    #[default]
    VxlanGpe,
    /// VXLAN: an eight-byte header, then an Ethernet frame.
    Vxlan,
    /// Bare IP in UDP: no header.
    IpUdp,
}

impl CodecKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::VxlanGpe, Self::Vxlan, Self::IpUdp];

    /// Returns the number of bytes between the UDP header and the inner IP packet.
    #[inline]
    #[must_use]
    pub const fn header_len(self) -> usize {
        match self {
            Self::VxlanGpe => gpe::HEADER_LEN,
            Self::Vxlan => vxlan::HEADER_LEN,
            Self::IpUdp => ip_udp::HEADER_LEN,
        }
    }

    /// Returns what this codec adds to an inner packet on an underlay of `underlay`.
    ///
    /// Outer IP header without options, UDP header and the codec's own: 36 or 56 bytes for
    /// VXLAN-GPE, 50 or 70 for VXLAN, 28 or 48 for bare IP in UDP.
    #[expect(clippy::cast_possible_truncation, reason = "a sum of three short headers")]
    #[inline]
    #[must_use]
    pub const fn overhead(self, underlay: Family) -> Overhead {
        let bytes = underlay.header_len() + UDP_HEADER_LEN + self.header_len();
        Overhead::from_bytes(bytes as u16)
    }

    /// Returns the UDP port that this codec is expected on unless something else was agreed upon.
    #[inline]
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::VxlanGpe => gpe::PORT,
            Self::Vxlan => vxlan::PORT,
            Self::IpUdp => ip_udp::PORT,
        }
    }

    /// Returns the name used in tables, configuration and labels.
    #[inline]
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VxlanGpe => "vxlan-gpe",
            Self::Vxlan => "vxlan",
            Self::IpUdp => "ip-udp",
        }
    }
}

impl fmt::Display for CodecKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for CodecKind {
    type Err = CodecNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name).ok_or(CodecNameError)
    }
}

/// The name is not that of a [`CodecKind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodecNameError;

impl fmt::Display for CodecNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a codec; those known are")?;
        for (index, kind) in CodecKind::ALL.into_iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma} {kind}")?;
        }
        Ok(())
    }
}

impl Error for CodecNameError {}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn overheads_are_the_sums_of_their_headers() {
        for (kind, v4, v6) in
            [(CodecKind::VxlanGpe, 36, 56), (CodecKind::Vxlan, 50, 70), (CodecKind::IpUdp, 28, 48)]
        {
            assert_eq!(kind.overhead(Family::V4).get(), v4, "{kind}");
            assert_eq!(kind.overhead(Family::V6).get(), v6, "{kind}");
        }
    }

    #[test]
    fn names_round_trip() {
        for kind in CodecKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert_eq!("VXLAN-GPE".parse::<CodecKind>(), Err(CodecNameError));
        assert_eq!(
            CodecNameError.to_string(),
            "not a codec; those known are vxlan-gpe, vxlan, ip-udp"
        );
    }
}
