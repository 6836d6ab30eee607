//! Secrets that every node of a cluster has, beside the keys of its own.

use std::fmt;
use std::path::Path;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use zeroize::Zeroizing;

use super::secret_file::{self, Secret};
use super::{Error, KEY_LEN};

const REMEDY: &str = "make one with `openssl rand -base64 32`, the same for all nodes";

/// A pre-shared key of the cluster.
#[derive(Clone)]
pub struct Psk(Secret);

impl Psk {
    /// What a handshake mixes in where the cluster has no pre-shared key.
    #[must_use]
    pub fn none() -> Self {
        Self(Zeroizing::new([0; KEY_LEN]))
    }

    /// A secret that is already in memory.
    #[must_use]
    pub fn new(bytes: Zeroizing<[u8; KEY_LEN]>) -> Self {
        Self(bytes)
    }

    /// Reads a file with one secret: 32 bytes in base64, readable by its owner only.
    ///
    /// # Errors
    ///
    /// It cannot be read, others may read it, or it holds something else.
    pub fn read(path: &Path) -> Result<Self, Error> {
        secret_file::read(path, REMEDY).map(Self)
    }

    /// The bytes, to mix into a handshake.
    #[must_use]
    pub fn expose(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl PartialEq for Psk {
    fn eq(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0[..], &other.0[..]).is_ok()
    }
}

impl Eq for Psk {}

impl fmt::Debug for Psk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Psk(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_compared_and_not_shown() {
        let [one, other] = [1, 2].map(|byte| Psk::new(Zeroizing::new([byte; KEY_LEN])));
        assert_eq!(one, one.clone());
        assert_ne!(one, other);
        assert_ne!(one, Psk::none());
        assert_eq!(format!("{one:?}"), "Psk(hidden)");
    }

    #[test]
    fn a_missing_file_is_an_error_that_names_it() {
        let error = Psk::read(Path::new("/nowhere/psk")).unwrap_err().to_string();
        assert!(error.starts_with("cannot open /nowhere/psk: No such file"), "{error}");
    }
}
