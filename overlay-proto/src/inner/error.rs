//! Why bytes are not an inner packet: one variant per check.
//!
//! It never carries the offending bytes; it is a value to count by.

use core::error::Error;
use core::fmt;

/// Why bytes are not one whole IPv4 or IPv6 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InnerError {
    /// Shorter than the fixed IP header.
    TooShort,
    /// The version nibble is neither 4 nor 6.
    Version,
    /// The version is not the one that the overlay header announced.
    FamilyMismatch,
    /// The IPv4 header length is less than 20 bytes.
    HeaderLength,
    /// The IPv4 total length is less than the header length.
    TotalLength,
    /// An IPv6 jumbogram (RFC 2675), or an IPv6 super-packet longer than 64 KiB.
    Jumbogram,
    /// The packet says it is longer than the bytes at hand.
    Truncated,
}

impl InnerError {
    /// Every variant.
    pub const ALL: [Self; 7] = [
        Self::TooShort,
        Self::Version,
        Self::FamilyMismatch,
        Self::HeaderLength,
        Self::TotalLength,
        Self::Jumbogram,
        Self::Truncated,
    ];

    /// Returns the name used as a metric label; none is also that of a
    /// [`DecodeError`](crate::DecodeError).
    #[inline]
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooShort => "inner_too_short",
            Self::Version => "inner_version",
            Self::FamilyMismatch => "inner_family_mismatch",
            Self::HeaderLength => "inner_header_length",
            Self::TotalLength => "inner_total_length",
            Self::Jumbogram => "inner_jumbogram",
            Self::Truncated => "inner_truncated",
        }
    }
}

impl fmt::Display for InnerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Error for InnerError {}
