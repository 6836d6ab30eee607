//! What a reconcile did and found, or why it could not.

use ipnet::IpNet;

use super::action::Action;
use super::hint::Hint;
use super::stranded::Stranded;

/// The state of the node after a reconcile, all of it from one look at the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What it took: nothing, for a healthy node.
    pub done: Vec<Action>,
    /// Whether pods came or went since the report before, if there was one.
    pub pods_moved: bool,
    /// Whether the node is to be something else than at the report before, if there was one.
    pub spec_changed: bool,
    /// Whether the TUN takes packets. The kernel announces when that changes.
    pub carrying: bool,
    /// Why packets between pods do not take the way that they should, and what to do about it.
    pub obstacle: Option<String>,
    /// The addresses of this machine's own interfaces: neither ours nor loopback nor link-local.
    pub own_addresses: Vec<IpNet>,
    /// The pods that have an address in none of this node's subnets.
    pub stranded: Vec<Stranded>,
    /// What works less well than it could.
    pub hints: Vec<Hint>,
    /// Packets of pods that the kernel dropped because the daemon did not fetch them in time, since
    /// the TUN was made; none if the kernel does not tell.
    pub tun_drops: Option<u64>,
}

/// Why a reconcile did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The kernel could not be looked at, this time: nothing is known to be wrong.
    #[error("{0:#}")]
    Unknown(anyhow::Error),
    /// Something is wrong and could not be repaired.
    #[error("{0:#}")]
    Broken(anyhow::Error),
}

impl Failure {
    /// What it means that a look failed with `error`.
    pub(super) fn of_look(error: anyhow::Error) -> Self {
        let is_interrupted = error.chain().any(|cause| {
            cause
                .downcast_ref::<culvert_netlink::Error>()
                .is_some_and(culvert_netlink::Error::is_interrupted)
                || cause
                    .downcast_ref::<culvert_nft::Error>()
                    .is_some_and(culvert_nft::Error::is_interrupted)
        });
        if is_interrupted { Self::Unknown(error) } else { Self::Broken(error) }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn look_that_was_interrupted_is_no_broken_node() {
        let look = |kind: io::ErrorKind| {
            let error = culvert_netlink::Error::new("list", "devices", io::Error::from(kind));
            Failure::of_look(anyhow::Error::new(error).context("looking"))
        };
        assert!(matches!(look(io::ErrorKind::Interrupted), Failure::Unknown(_)));
        assert!(matches!(look(io::ErrorKind::TimedOut), Failure::Unknown(_)));
        assert!(matches!(look(io::ErrorKind::PermissionDenied), Failure::Broken(_)));
    }
}
