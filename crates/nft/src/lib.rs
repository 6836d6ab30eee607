//! nftables tables, applied and read back over netlink, without the program `nft`.
//!
//! Owns the encoding of tables, sets, chains and rules for the few expressions that Culvert's own
//! tables use, transactions, reading a table back for comparison, and forgetting tracked
//! connections. Never decides what a table says: the daemon and the plugin bring it as values.
//! Every call blocks, and acts in the network namespace of the thread that opened the socket;
//! [`culvert_netlink`] says for how long.
//!
//! Numbers are those of `linux/netfilter/nf_tables.h` and `nfnetlink.h`.

#![forbid(unsafe_code)]

mod attribute;
mod batch;
mod difference;
mod error;
mod expression;
mod flow;
mod hooks;
pub mod kernel;
mod listing;
mod message;
mod socket;
mod table;
mod wire;

pub use batch::Batch;
pub use error::{Error, Result};
pub use expression::{
    Base, Comparison, Connection, Expression, Field, Membership, Meta, Place, Register, Verdict,
};
pub use flow::Flow;
pub use hooks::BaseChain;
pub use listing::{ChainListing, Listing, SetListing};
pub use socket::Socket;
pub use table::{Chain, ChainKind, Element, Hook, KeyPart, Set, Table, TableFamily};
