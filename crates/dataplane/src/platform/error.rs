//! What went wrong, during what, on which object.

use std::io;

/// A failed request to the kernel or to a program of the system.
#[derive(Debug, thiserror::Error)]
#[error("{op} {target}: {cause}")]
pub struct Error {
    /// What was attempted, in words that an operator knows: "create link", "add route".
    pub op: &'static str,
    /// The object it was attempted on: a device, prefix, file or table name.
    pub target: String,
    /// What the kernel said. Part of the display, so not a source: a chain would say it twice.
    pub cause: io::Error,
}

/// Result of a request to the kernel.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Names the request that failed with `cause`.
    pub fn new(op: &'static str, target: impl Into<String>, cause: impl Into<io::Error>) -> Self {
        Self { op, target: target.into(), cause: cause.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_names_the_cause_once() {
        let error = Error::new("create bridge", "br0", io::Error::from_raw_os_error(libc::EPERM));
        let chain = format!("{:#}", anyhow::Error::new(error).context("setting up"));
        assert_eq!(chain, "setting up: create bridge br0: Operation not permitted (os error 1)");
    }
}
