//! What goes in and what comes out.

use std::net::IpAddr;
use std::time::Duration;

/// A peer, as the machine has to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its underlay address, by which it is known here.
    pub address: IpAddr,
    /// A number that follows from its name and spreads peers over time.
    pub spread: u64,
    /// Whether it may know questions of STAMP; else its kernel is asked.
    pub may_know_stamp: bool,
    /// The longest underlay packet that its route promises, in bytes.
    pub route_mtu: u16,
}

/// A question to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Whom it goes to.
    pub peer: IpAddr,
    /// Its number.
    pub sequence: u32,
    /// A number that nobody can guess, which the answer has to repeat.
    pub nonce: u64,
    /// By which source port it leaves, counted from 0.
    pub path: u8,
    /// By which source port of the peer's the answer is to leave.
    pub answer_path: u8,
    /// How long the underlay packet is to be; as short as can be if not set.
    pub packet_len: Option<u16>,
    /// What is sent.
    pub form: Form,
}

/// In what form a peer is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// By STAMP, which its daemon answers.
    Stamp,
    /// By ICMP echo, which its kernel answers.
    Echo,
}

/// An answer that has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// Who sent it.
    pub peer: IpAddr,
    /// The question's number; of ICMP echo its lower half.
    pub sequence: u32,
    /// What the question had, and only who has seen it knows.
    pub nonce: u64,
    /// In what form it came.
    pub form: Form,
}

/// What somebody claims, which is only a reason to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Nobody listens at the peer's port.
    Refused,
    /// The peer was heard.
    Heard,
    /// The path to it is no longer as narrow as it was found to be.
    Wider,
}

/// Whether a peer answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// It has not been asked yet, or never answered and need not be able to.
    #[default]
    Unknown,
    /// It answers.
    Well,
    /// It answers nothing, by no path.
    Silent,
    /// The same, and somebody says that nobody listens there.
    Refused,
}

impl State {
    /// Whether it should answer and does not.
    #[must_use]
    pub const fn is_lost(self) -> bool {
        matches!(self, Self::Silent | Self::Refused)
    }
}

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A peer does not answer any more, or has never done.
    Lost(IpAddr, State),
    /// A peer that was lost answers.
    Back(IpAddr),
    /// Other paths to a peer are lost than before, by their bits: those of this node's source
    /// ports, and those of the peer's.
    Paths(IpAddr, u16, u16),
    /// The paths to a peer carry only so many bytes, or, if not set, as much as its route promises.
    Mtu(IpAddr, Option<u16>),
}

impl Event {
    /// Whom it is about.
    #[must_use]
    pub const fn peer(&self) -> IpAddr {
        match self {
            Self::Lost(peer, _) | Self::Back(peer) | Self::Paths(peer, ..) | Self::Mtu(peer, _) => {
                *peer
            }
        }
    }
}

/// What is known of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Whether it answers.
    pub state: State,
    /// This node's source ports that lead nowhere, a bit for each.
    pub lost_paths: u16,
    /// The peer's source ports that lead nowhere.
    pub lost_answers: u16,
    /// What the paths carry, if that was found to be less than the route promises.
    pub mtu: Option<u16>,
    /// Whether the path was found to carry what is said of it.
    pub is_mtu_known: bool,
    /// How long an answer takes, smoothed; none before the first.
    pub rtt: Option<Duration>,
}
