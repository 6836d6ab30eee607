//! What the simulations of all table sources share: virtual time, nodes that start, stop and die, a
//! network that delays, loses and parts, daemons that take what they are told, and the course of a
//! run.
//!
//! A [`Protocol`] brings the machine of a node, the store that nodes share, and what goes wrong
//! there.

mod daemon;
mod driver;
mod fault;
mod network;
mod node;
mod protocol;
mod run;
mod world;

pub(crate) use fault::{Fault, Trouble};
pub(crate) use node::{Disk, Node, Waiting};
pub(crate) use protocol::{Answer, Call, End, Held, News, Protocol, Step};
pub(crate) use run::run;
pub(crate) use world::{Happening, World};
