//! What people should know of handshakes and sessions.

use std::fmt;
use std::time::Duration;

use crate::suite::Suite;

/// Who began a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// This node.
    Initiator,
    /// The peer.
    Responder,
}

impl Role {
    /// The name used in labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Initiator => "initiator",
            Self::Responder => "responder",
        }
    }
}

/// Something happened with a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The peer's name.
    pub peer: String,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A session serves from now on. Whoever began has waited for so long since the first INIT, and
    /// whoever answered since the answer.
    Established(Role, Suite, Duration),
    /// A session ended without a successor.
    Ended,
    /// Nobody answered for as long as anybody waited.
    NoAnswer,
    /// The peer says that this node's clock is behind what it has said before.
    ClockBehind,
    /// An INIT was older than another: the peer's clock is behind, or somebody sent it again.
    StaleInit,
    /// A message of the peer's was not made with the keys that the table has.
    WrongKeys(Role),
    /// The answer was made with none of the pre-shared keys, or changed on the way.
    WrongPsk,
    /// The two nodes have no cipher in common.
    NoCommonSuite,
    /// The peer insists on post-quantum security, or does without, unlike this node.
    PostQuantumDiffers,
    /// More INITs than are answered.
    TooManyInits,
}

impl What {
    /// Whether it keeps packets from their way.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        match self {
            Self::Established(..) | Self::Ended | Self::ClockBehind | Self::StaleInit => false,
            Self::NoAnswer
            | Self::WrongKeys(_)
            | Self::WrongPsk
            | Self::NoCommonSuite
            | Self::PostQuantumDiffers
            | Self::TooManyInits => true,
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Established(Role::Initiator, suite, _) => {
                write!(f, "session established with {suite}, begun here")
            }
            Self::Established(Role::Responder, suite, _) => {
                write!(f, "session established with {suite}, begun by the peer")
            }
            Self::Ended => f.write_str("session ended"),
            Self::NoAnswer => f.write_str("the peer does not answer handshakes"),
            Self::ClockBehind => f.write_str(
                "the peer has seen a later handshake of this node: its clock was ahead before",
            ),
            Self::StaleInit => f.write_str(
                "the peer began a handshake that is older than another: its clock is behind, or \
                 somebody sent it again",
            ),
            Self::WrongKeys(_) => f.write_str(
                "the peer's handshake was not made with the keys that the table has of both",
            ),
            Self::WrongPsk => f.write_str(
                "the peer's answer was made with another pre-shared key, or changed on the way",
            ),
            Self::NoCommonSuite => f.write_str("the peer has no cipher in common with this node"),
            Self::PostQuantumDiffers => {
                f.write_str("the peer's setting of sealed.post_quantum is not this node's")
            }
            Self::TooManyInits => f.write_str("the peer begins more handshakes than are answered"),
        }
    }
}
