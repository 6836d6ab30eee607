//! The versions of the CNI specification that this plugin speaks.

use std::fmt;

/// A version of the CNI specification, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CniVersion {
    V0_3_1,
    V0_4_0,
    V1_0_0,
}

impl CniVersion {
    /// Every version, oldest first.
    pub(crate) const ALL: [Self; 3] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0];

    /// What an answer says when the request's version is unknown.
    pub(crate) const NEWEST: Self = Self::V1_0_0;

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
        }
    }

    /// Whether the version knows the verb CHECK.
    pub(crate) fn has_check(self) -> bool {
        self >= Self::V0_4_0
    }

    /// Whether each address in a result says `"version": "4"` or `"6"`.
    pub(crate) fn ips_have_version(self) -> bool {
        self < Self::V1_0_0
    }

    /// Every version, for messages.
    pub(crate) fn list() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }
}

impl fmt::Display for CniVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}
