//! The versions of the CNI specification that this plugin speaks, and what differs between them.

use std::fmt;

use crate::environment::Command;

/// A version of the CNI specification, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CniVersion {
    V0_1_0,
    V0_2_0,
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl CniVersion {
    /// Every version, oldest first.
    pub(crate) const ALL: [Self; 7] = [
        Self::V0_1_0,
        Self::V0_2_0,
        Self::V0_3_0,
        Self::V0_3_1,
        Self::V0_4_0,
        Self::V1_0_0,
        Self::V1_1_0,
    ];

    /// What a configuration without `cniVersion` means, by the specification.
    pub(crate) const OLDEST: Self = Self::V0_1_0;

    /// What an answer says when the request's version is unknown.
    pub(crate) const NEWEST: Self = Self::V1_1_0;

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version that brought `command`.
    ///
    /// VERSION came with 0.2.0, but is how a runtime finds out, so it is answered in any version.
    pub(crate) fn that_brought(command: Command) -> Self {
        match command {
            Command::Add | Command::Del | Command::Version => Self::OLDEST,
            Command::Check => Self::V0_4_0,
            Command::Gc | Command::Status => Self::V1_1_0,
        }
    }

    /// Whether a result has one address of each family, as `ip4` and `ip6`, and no interfaces.
    pub(crate) fn result_is_by_family(self) -> bool {
        self < Self::V0_3_0
    }

    /// Whether each address in a result says `"version": "4"` or `"6"`.
    pub(crate) fn ips_have_version(self) -> bool {
        self < Self::V1_0_0
    }

    /// Whether a result says an interface's MTU, and more of a route than where it goes.
    pub(crate) fn result_is_detailed(self) -> bool {
        self >= Self::V1_1_0
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
