//! The targets, one file each.

#[cfg(feature = "daemon")]
pub(crate) mod admin_request;
#[cfg(feature = "daemon")]
pub(crate) mod capture_file;
#[cfg(feature = "daemon")]
pub(crate) mod cni_stdin;
pub(crate) mod coalesce;
#[cfg(feature = "daemon")]
pub(crate) mod config;
pub(crate) mod datagram;
pub(crate) mod esp;
#[cfg(feature = "daemon")]
pub(crate) mod expectation;
pub(crate) mod handshake;
pub(crate) mod icmp;
pub(crate) mod inner_packet;
#[cfg(feature = "daemon")]
pub(crate) mod node_file;
pub(crate) mod oam;
pub(crate) mod outer_header;
#[cfg(feature = "daemon")]
pub(crate) mod policy_objects;
pub(crate) mod split;
#[cfg(feature = "daemon")]
pub(crate) mod table_file;
pub(crate) mod tun_read;
