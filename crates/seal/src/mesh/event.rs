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
    /// The peer says that this node's clock is behind what it has said before.
    ClockBehind,
    /// An INIT was older than another: the peer's clock is behind, or somebody sent it again.
    StaleInit,
    /// Handshakes fail in which this node has that role.
    Failed(Role, Failure),
}

/// Why handshakes fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody answered for as long as anybody waited.
    NoAnswer,
    /// A message of the peer's was not made with the keys that the table has.
    WrongKeys,
    /// The answer was made with none of the pre-shared keys, or changed on the way.
    WrongPsk,
    /// The two nodes have no cipher in common.
    NoCommonSuite,
    /// The peer insists on post-quantum security, or does without, unlike this node.
    PostQuantumDiffers,
    /// More INITs than are answered.
    TooManyInits,
}

impl Failure {
    /// Each, with every role in which a node notices it.
    pub const ALL: [(Role, Self); 8] = [
        (Role::Initiator, Self::NoAnswer),
        (Role::Initiator, Self::WrongKeys),
        (Role::Initiator, Self::WrongPsk),
        (Role::Initiator, Self::PostQuantumDiffers),
        (Role::Responder, Self::WrongKeys),
        (Role::Responder, Self::NoCommonSuite),
        (Role::Responder, Self::PostQuantumDiffers),
        (Role::Responder, Self::TooManyInits),
    ];

    /// The name used in labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoAnswer => "no_answer",
            Self::WrongKeys => "wrong_keys",
            Self::WrongPsk => "wrong_psk",
            Self::NoCommonSuite => "no_common_suite",
            Self::PostQuantumDiffers => "post_quantum_differs",
            Self::TooManyInits => "too_many_inits",
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
            Self::ClockBehind => f.write_str(
                "the peer has seen a later handshake of this node: its clock was ahead before",
            ),
            Self::StaleInit => f.write_str(
                "the peer began a handshake that is older than another: its clock is behind, or \
                 somebody sent it again",
            ),
            Self::Failed(_, failure) => failure.fmt(f),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoAnswer => "the peer does not answer handshakes",
            Self::WrongKeys => {
                "the peer's handshake was not made with the keys that the table has of both"
            }
            Self::WrongPsk => {
                "the peer's answer was made with another pre-shared key, or changed on the way"
            }
            Self::NoCommonSuite => "the peer has no cipher in common with this node",
            Self::PostQuantumDiffers => {
                "the peer's setting of sealed.post_quantum is not this node's"
            }
            Self::TooManyInits => "the peer begins more handshakes than are answered",
        })
    }
}
