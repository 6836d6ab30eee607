//! What was attempted on which object, and why the kernel refused.

use culvert_netlink::Error as NetlinkError;
use rustix::io::Errno;

/// The transaction was composed for a generation that is no longer the kernel's (`ERESTART`).
const STALE: i32 = 85;

/// A request that the kernel refused or that could not be made.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(#[from] NetlinkError);

/// The result of a request.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Whether a table, set or element is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.0.is_missing()
    }

    /// Whether what was to be made is there already.
    #[must_use]
    pub fn is_exists(&self) -> bool {
        self.0.is_exists()
    }

    /// Whether a key of a map leads elsewhere already, or something is in use.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.0.errno() == Some(Errno::BUSY)
    }

    /// Whether nothing is known to be wrong: the kernel did not answer in time, or the tables
    /// changed faster than they could be listed.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.0.is_interrupted()
    }

    /// Whether somebody changed a table after the generation that the transaction was bound to.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.0.cause.raw_os_error() == Some(STALE)
    }

    /// The set, chain or table that the refused request of a transaction was about.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.0.target.split_once(crate::batch::FAMILY_MARK).map(|(name, _family)| name)
    }

    /// Whether this kernel lacks nftables, the table's family, or tables with an owner.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        match self.0.errno() {
            Some(Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT | Errno::OPNOTSUPP) => true,
            Some(Errno::INVAL) => ["open", "claim"].contains(&self.0.op),
            _ => false,
        }
    }
}
