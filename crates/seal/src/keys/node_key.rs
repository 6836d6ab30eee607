//! The key by which a node proves who it is, and the file that it survives restarts in.

use std::fmt;
use std::path::{Path, PathBuf};

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use zeroize::Zeroizing;

use super::secret_file::{self, Secret};
use super::{Error, KEY_LEN, KeyId, PublicKey, SharedSecret};

/// Name of the file under the state directory.
pub const FILE_NAME: &str = "node.key";

const REMEDY: &str = "restore it from a copy, or remove it to let the node have a new key, which its \
                      peers must then learn from the subnet table";

/// The X25519 private key of a node, and the public key that belongs to it.
///
/// The private part is inside the cryptographic library, which zeroes it when it is dropped.
pub struct NodeKey {
    private: PrivateKey,
    public: PublicKey,
}

impl NodeKey {
    /// Where the key of a node is, unless the configuration says otherwise.
    #[must_use]
    pub fn path(state_dir: &Path) -> PathBuf {
        state_dir.join(FILE_NAME)
    }

    /// Reads the key from its file.
    ///
    /// # Errors
    ///
    /// It cannot be read, others may read it, or it holds something else.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let secret = secret_file::read(path, REMEDY)?;
        Self::from_secret(&secret).map_err(|_| Error::Content {
            path: path.to_owned(),
            problem: "not an X25519 private key".to_owned(),
            remedy: REMEDY,
        })
    }

    /// Reads the key from its file, and makes it if there is none yet. Never replaces one.
    ///
    /// Whoever else does this at the same time gets the same key.
    ///
    /// # Errors
    ///
    /// As [`NodeKey::read`]; a new one cannot be made or written.
    pub fn read_or_make(path: &Path) -> Result<Self, Error> {
        if !secret_file::exists(path)? {
            let _lock = secret_file::lock(path)?;
            if !secret_file::exists(path)? {
                secret_file::create(path, &random()?)?;
            }
        }
        Self::read(path)
    }

    /// The key that belongs to a secret of 32 bytes, as RFC 7748 has it.
    ///
    /// # Errors
    ///
    /// The cryptographic library refuses it.
    pub fn from_secret(secret: &Zeroizing<[u8; KEY_LEN]>) -> Result<Self, Error> {
        let private = PrivateKey::from_private_key(&X25519, secret.as_slice())
            .map_err(|_| Error::Generate)?;
        let public = private.compute_public_key().map_err(|_| Error::Generate)?;
        let public = public.as_ref().try_into().map_err(|_| Error::Generate)?;
        let public = PublicKey::new(public).map_err(|_| Error::Generate)?;
        Ok(Self { private, public })
    }

    /// What others know this key by.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// By what a handshake names this key.
    #[must_use]
    pub fn id(&self) -> KeyId {
        KeyId::of(&self.public)
    }

    /// X25519 of this private key and somebody's public one: `None` if the result is known to all.
    #[must_use]
    pub fn agree(&self, peer: &PublicKey) -> Option<SharedSecret> {
        let peer = UnparsedPublicKey::new(&X25519, peer.as_bytes());
        agreement::agree(&self.private, peer, (), |shared| {
            shared.try_into().map(SharedSecret::new).map_err(|_| ())
        })
        .ok()
    }
}

/// A secret that nobody else has.
pub(super) fn random() -> Result<Secret, Error> {
    let mut secret = Secret::default();
    aws_lc_rs::rand::fill(&mut secret[..]).map_err(|_| Error::Generate)?;
    Ok(secret)
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeKey").field("public", &self.public).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// RFC 7748, 6.1.
    const ALICE: [u8; KEY_LEN] = [
        0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1, 0x72, 0x51, 0xb2, 0x66,
        0x45, 0xdf, 0x4c, 0x2f, 0x87, 0xeb, 0xc0, 0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5, 0x1d, 0xb9,
        0x2c, 0x2a,
    ];
    const BOB_PUBLIC: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";
    const AGREED: [u8; KEY_LEN] = [
        0x4a, 0x5d, 0x9d, 0x5b, 0xa4, 0xce, 0x2d, 0xe1, 0x72, 0x8e, 0x3b, 0xf4, 0x80, 0x35, 0x0f,
        0x25, 0xe0, 0x7e, 0x21, 0xc9, 0x47, 0xd1, 0x9e, 0x33, 0x76, 0xf0, 0x9b, 0x3c, 0x1e, 0x16,
        0x17, 0x42,
    ];

    #[test]
    fn public_keys_and_agreements_are_those_of_the_rfc() {
        let alice = NodeKey::from_secret(&Zeroizing::new(ALICE)).unwrap();
        let text = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
        assert_eq!(alice.public().to_string(), text);
        assert_eq!(alice.id().to_string(), "300c9c9603b92a4b");
        let agreed = alice.agree(&BOB_PUBLIC.parse().unwrap()).unwrap();
        assert_eq!(agreed.expose(), &AGREED);
    }

    #[test]
    fn no_secret_is_shown() {
        let alice = NodeKey::from_secret(&Zeroizing::new(ALICE)).unwrap();
        let shown = format!("{alice:?}");
        assert!(shown.starts_with("NodeKey { public: PublicKey("), "{shown}");
        assert!(!shown.contains("119, 7, 109"), "{shown}");
        let agreed = alice.agree(&BOB_PUBLIC.parse().unwrap()).unwrap();
        assert_eq!(format!("{agreed:?}"), "SharedSecret(hidden)");
    }

    #[test]
    fn a_key_is_made_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = NodeKey::path(directory.path());
        let made = *NodeKey::read_or_make(&path).unwrap().public();
        assert_eq!(*NodeKey::read_or_make(&path).unwrap().public(), made);
        let other = tempfile::tempdir().unwrap();
        let other = NodeKey::read_or_make(&NodeKey::path(other.path())).unwrap();
        assert_ne!(*other.public(), made);
    }

    #[test]
    fn all_who_make_a_key_at_once_get_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = NodeKey::path(directory.path());
        let keys: Vec<PublicKey> = std::thread::scope(|scope| {
            let make = || *NodeKey::read_or_make(&path).unwrap().public();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    }

    #[test]
    fn a_file_that_cannot_be_used_is_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = NodeKey::path(directory.path());
        let refused = |text: &str, mode: u32| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = NodeKey::read_or_make(&path).unwrap_err().to_string();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            error
        };
        let error = refused("", 0o600);
        assert!(error.contains("node.key: empty; restore it from a copy"), "{error}");
        assert!(refused(&BOB_PUBLIC[..40], 0o600).contains("not 44 characters"));
        assert!(refused(BOB_PUBLIC, 0o644).contains("mode 0644"));
        fs::remove_file(&path).unwrap();
        // A link that leads nowhere is somebody's intention, not a node without a key.
        std::os::unix::fs::symlink("/nowhere/key", &path).unwrap();
        let error = NodeKey::read_or_make(&path).unwrap_err().to_string();
        assert!(error.contains("cannot open"), "{error}");
        assert!(path.is_symlink());
    }
}
