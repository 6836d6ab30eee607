//! Everything that reads bytes from outside, each as one function that must survive any input.
//!
//! A target does more than not panic: it asserts what must hold of the result. To add one, write
//! `targets/NAME.rs` with a `pub(crate) fn run(input: &[u8])`, list it in [`TARGETS`], and put at
//! least one input under `corpus/NAME/`. `docs/testing.md` has the commands.

#![expect(clippy::unwrap_used, reason = "a target tells by panicking")]

mod cluster;
mod input;
mod targets;

/// One function under test.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name of its corpus directory.
    pub name: &'static str,
    /// Takes any bytes; panics when something that must hold does not.
    pub run: fn(&[u8]),
}

/// Every target: of the data path first, then what the daemon and the plugin read beside packets.
pub const TARGETS: &[Target] = &[
    Target { name: "outer_header", run: targets::outer_header::run },
    Target { name: "oam", run: targets::oam::run },
    Target { name: "esp", run: targets::esp::run },
    Target { name: "inner_packet", run: targets::inner_packet::run },
    Target { name: "icmp", run: targets::icmp::run },
    Target { name: "fragments", run: targets::fragments::run },
    Target { name: "split", run: targets::split::run },
    Target { name: "coalesce", run: targets::coalesce::run },
    Target { name: "datagram", run: targets::datagram::run },
    Target { name: "handshake", run: targets::handshake::run },
    Target { name: "tun_read", run: targets::tun_read::run },
    #[cfg(feature = "daemon")]
    Target { name: "table_file", run: targets::table_file::run },
    #[cfg(feature = "daemon")]
    Target { name: "config", run: targets::config::run },
    #[cfg(feature = "daemon")]
    Target { name: "cni_stdin", run: targets::cni_stdin::run },
    #[cfg(feature = "daemon")]
    Target { name: "node_file", run: targets::node_file::run },
    #[cfg(feature = "daemon")]
    Target { name: "admin_request", run: targets::admin_request::run },
    #[cfg(feature = "daemon")]
    Target { name: "capture_file", run: targets::capture_file::run },
    #[cfg(feature = "daemon")]
    Target { name: "expectation", run: targets::expectation::run },
    #[cfg(feature = "daemon")]
    Target { name: "policy_objects", run: targets::policy_objects::run },
];

/// The target called `name`.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
