//! What was attempted on which object, and why the kernel refused.

use std::io;

use thiserror::Error as ThisError;

/// The transaction was composed for a generation that is no longer the kernel's (`ERESTART`).
const STALE: i32 = 85;

/// A request that the kernel refused or that could not be made.
#[derive(Debug, ThisError)]
#[error("cannot {op} {target}: {cause}")]
pub struct Error {
    /// What was attempted: a phrase that reads after "cannot".
    pub(crate) op: &'static str,
    /// The object.
    pub(crate) target: String,
    /// What the kernel said.
    pub(crate) cause: io::Error,
}

/// The result of a request.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(op: &'static str, target: impl Into<String>, cause: io::Error) -> Self {
        Self { op, target: target.into(), cause }
    }

    /// Whether a table, set or element is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.cause.kind() == io::ErrorKind::NotFound
    }

    /// Whether what was to be made is there already.
    #[must_use]
    pub fn is_exists(&self) -> bool {
        self.cause.kind() == io::ErrorKind::AlreadyExists
    }

    /// Whether somebody changed a table after the generation that the transaction was bound to.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.cause.raw_os_error() == Some(STALE)
    }

    /// Whether this kernel lacks nftables, the table's family, or tables with an owner.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        use rustix::io::Errno;
        let errno = Errno::from_io_error(&self.cause);
        [Errno::AFNOSUPPORT, Errno::PROTONOSUPPORT, Errno::OPNOTSUPP, Errno::INVAL]
            .map(Some)
            .contains(&errno)
            && (["open", "claim"].contains(&self.op) || errno != Some(Errno::INVAL))
    }
}
