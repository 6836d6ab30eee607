//! This node's keys: the one that it uses, and beside it the next or the one before.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use culvert_claims::NodeKeys;
use culvert_seal::keys::{Error, NodeKey};

/// What stands behind the name of the key's file in the names of those beside it.
const NEXT: &str = ".next";
const FORMER: &str = ".former";

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Handshakes begin with it.
    Current,
    /// It is published, and used once everybody knows it.
    Next,
    /// It was used before, and is still accepted.
    Former,
}

impl Use {
    /// The word for it.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Next => "next",
            Self::Former => "former",
        }
    }
}

/// The keys of a node.
#[derive(Clone, Debug)]
pub(crate) struct KeyRing {
    current: Arc<NodeKey>,
    next: Option<Arc<NodeKey>>,
    former: Option<Arc<NodeKey>>,
}

/// Where the next key is, if there is one.
pub(super) fn next_file(key_file: &Path) -> PathBuf {
    beside(key_file, NEXT)
}

/// Where the one before is, if there is one.
pub(super) fn former_file(key_file: &Path) -> PathBuf {
    beside(key_file, FORMER)
}

/// Every file that a key of the node may be in, that of the present one first.
pub(super) fn files(key_file: &Path) -> [PathBuf; 3] {
    [key_file.to_owned(), next_file(key_file), former_file(key_file)]
}

fn beside(key_file: &Path, end: &str) -> PathBuf {
    let mut name = key_file.as_os_str().to_owned();
    name.push(end);
    name.into()
}

impl KeyRing {
    /// Reads the keys, and makes the present one if the node has none yet.
    ///
    /// # Errors
    ///
    /// A file that is there and cannot be used.
    pub(crate) fn read_or_make(key_file: &Path) -> Result<Self, Error> {
        Self::around(NodeKey::read_or_make(key_file)?, key_file)
    }

    /// Reads the keys. Where the present one is gone, none takes its place unasked.
    ///
    /// # Errors
    ///
    /// A file that cannot be used.
    pub(crate) fn read(key_file: &Path) -> Result<Self, Error> {
        Self::around(NodeKey::read(key_file)?, key_file)
    }

    fn around(current: NodeKey, key_file: &Path) -> Result<Self, Error> {
        // While one takes the place of another it stands in both files.
        let beside = |path: &Path| {
            let key = read_if_there(path)?.filter(|key| key.public() != current.public());
            Ok::<_, Error>(key.map(Arc::new))
        };
        Ok(Self {
            next: beside(&next_file(key_file))?,
            former: beside(&former_file(key_file))?,
            current: Arc::new(current),
        })
    }

    /// The keys and what each is for, the one to begin with first.
    pub(crate) fn with_uses(&self) -> impl Iterator<Item = (Use, &Arc<NodeKey>)> {
        let current = [(Use::Current, &self.current)].into_iter();
        let next = self.next.iter().map(|key| (Use::Next, key));
        current.chain(next).chain(self.former.iter().map(|key| (Use::Former, key)))
    }

    /// The keys, the one to begin with first.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &Arc<NodeKey>> {
        self.with_uses().map(|(_, key)| key)
    }

    /// What peers are to know this node by.
    #[must_use]
    pub(crate) fn public(&self) -> NodeKeys {
        // Two, since nobody makes a next one before the former one is gone. Whoever copied files
        // may have three, of which the former is the one that is on its way out.
        NodeKeys::new(self.keys().take(2).map(|key| *key.public())).unwrap_or_default()
    }

    /// The line of the table's entry of this node.
    #[must_use]
    pub(crate) fn line(&self) -> String {
        let keys: Vec<String> = self.public().iter().map(|key| format!("\"{key}\"")).collect();
        format!("public_keys = [{}]", keys.join(", "))
    }
}

fn read_if_there(path: &Path) -> Result<Option<NodeKey>, Error> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // Whatever else is wrong is what reading says too.
        Ok(_) | Err(_) => {}
    }
    match NodeKey::read(path) {
        Ok(key) => Ok(Some(key)),
        // It went in this moment; a link that leads nowhere is somebody's intention.
        Err(Error::System { source, .. })
            if source.kind() == io::ErrorKind::NotFound && !path.is_symlink() =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
