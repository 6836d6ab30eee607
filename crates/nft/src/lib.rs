//! nftables tables, applied and read back over netlink, without the program `nft`.
//!
//! Owns the encoding of tables, sets, chains and rules for the few expressions that Culvert's own
//! tables use, transactions, reading a table back for comparison, following a packet through the
//! rules of everybody, and forgetting tracked connections. Never decides what a table says:
//! the daemon and the plugin bring it as values.
//! Every call blocks, and acts in the network namespace of the thread that opened the socket;
//! [`culvert_netlink`] says for how long.
//!
//! Numbers are those of `linux/netfilter/nf_tables.h` and `nfnetlink.h`.

#![forbid(unsafe_code)]

mod attribute;
mod batch;
mod counters;
mod difference;
mod elements;
mod error;
mod expression;
mod flow;
mod hooks;
pub mod kernel;
mod listing;
mod matches;
mod message;
mod operand;
mod rules;
mod socket;
mod table;
mod update;
mod verdict;
mod wire;

pub use batch::Batch;
pub use counters::Counted;
pub use elements::Elements;
pub use error::{Error, Result};
pub use expression::{Expression, Rate, Report};
pub use flow::{Flow, FlowFate};
pub use hooks::BaseChain;
pub use listing::{ChainListing, Listing, SetListing};
pub use operand::{Base, Comparison, Connection, Field, Membership, Meta, Place, Register};
pub use rules::{
    Device, End, Fate, Obstacle, Packet, Redirection, Rules, Stage, Target, Transport, What,
};
pub use socket::Socket;
pub use table::{
    Chain, ChainKind, Element, Hook, KeyPart, LedTo, Set, Table, TableFamily, TableFlags,
};
pub use update::Update;
pub use verdict::Verdict;
