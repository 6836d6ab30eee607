//! The targets, one file each.

pub(crate) mod admin_request;
pub(crate) mod capture_file;
pub(crate) mod cni_stdin;
pub(crate) mod coalesce;
pub(crate) mod config;
pub(crate) mod datagram;
pub(crate) mod expectation;
pub(crate) mod icmp;
pub(crate) mod inner_packet;
pub(crate) mod node_file;
pub(crate) mod outer_header;
pub(crate) mod split;
pub(crate) mod table_file;
pub(crate) mod tun_read;
