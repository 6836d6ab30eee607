//! Network sysctls of the namespace that the calling thread is in.

use std::fs;
use std::path::Path;

use crate::error::Error;

/// Where the kernel keeps them.
const SYSCTL_ROOT: &str = "/proc/sys/net";

/// A sysctl under `/proc/sys/net`: the path below it, and the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sysctl {
    pub(crate) path: String,
    pub(crate) value: &'static str,
}

impl Sysctl {
    /// Writes the value in the namespace of the calling thread, if it is this one so far.
    pub(crate) fn write_over(&self, present: &str) -> Result<(), Error> {
        let path = Path::new(SYSCTL_ROOT).join(&self.path);
        match fs::read_to_string(path) {
            Ok(value) if value.trim() == present => self.write(),
            // Somebody wants another, or the kernel has none.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Writes the value in the namespace of the calling thread.
    pub(crate) fn write(&self) -> Result<(), Error> {
        let path = Path::new(SYSCTL_ROOT).join(&self.path);
        fs::write(&path, self.value).map_err(|source| Error::Sysctl {
            path,
            value: self.value,
            source,
        })
    }
}

/// Whether the kernel has IPv6 at all (it lacks the directory after `ipv6.disable=1`).
pub(crate) fn kernel_has_ipv6() -> bool {
    Path::new(SYSCTL_ROOT).join("ipv6").exists()
}
