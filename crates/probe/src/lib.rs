//! Which peer is asked when, by which path and how long, and what follows from the answers.
//!
//! It owns what a node knows of its paths to the others: who answers, which of the source ports
//! lead nowhere, and how much each path carries. It never sends, never reads a clock and draws no
//! number that does not follow from its seed: [`Prober`] takes `now` and what has arrived, and says
//! what to send and what has changed. Any thread may run it; in the daemon control does. It costs a
//! bounded number of questions and [`PEER_LEN`] bytes a peer, whatever happens.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod event;
mod moment;
mod peer;
mod peers;
mod prober;
mod schedule;
mod search;
mod trial;
mod under_way;

pub use event::{Arrived, Entry, Event, Form, Hint, Question, State, View};
pub use moment::Moment;
pub use peers::PEER_LEN;
pub use prober::{Options, Prober};

/// Source ports of a node, and so paths to each peer and back.
pub const PATHS: u8 = 16;

/// A question that tells of itself: those that a person asks have the other half of the numbers.
pub const FIRST_FOREIGN_SEQUENCE: u32 = 1 << 31;
