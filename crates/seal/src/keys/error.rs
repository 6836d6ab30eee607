//! Why a file with a secret is not used.

use std::io;
use std::path::PathBuf;

/// What was attempted on which file, what is wrong with it, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refuses it.
    #[error("cannot {op} {}: {source}", path.display())]
    System {
        /// What was attempted, as a verb.
        op: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is a directory, a device or the like.
    #[error("{}: not a regular file; put a file with the secret there", path.display())]
    NotRegular {
        /// Which file.
        path: PathBuf,
    },
    /// Others than its owner may read or write it.
    #[error(
        "{}: mode {mode:04o} lets others than its owner use it; run `chmod 600 {}`, and make a new \
         secret if one of them may have read it",
        path.display(),
        path.display()
    )]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It belongs to neither root nor whoever runs this.
    #[error("{}: belongs to user {owner}, who could exchange it; run `chown {ours} {}`", path.display(), path.display())]
    Owner {
        /// Which file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Whose it should be.
        ours: u32,
    },
    /// It does not hold a secret.
    #[error("{}: {problem}; {remedy}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The random numbers of the operating system or the arithmetic failed.
    #[error("cannot make a key: the cryptographic library refuses")]
    Generate,
}
