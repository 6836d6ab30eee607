//! The file with what this node remembers of its claims.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use culvert_claims::etcd::Memory;
use culvert_node::bounded_file;
use thiserror::Error;

use crate::control::source;

/// Name of the file under the state directory.
const FILE_NAME: &str = "claim.json";

/// The memory cannot be read or written.
#[derive(Debug, Error)]
pub(super) enum MemoryError {
    #[error("reading {}: {error}", .path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("understanding {}: {error}; if it is damaged, remove it", .path.display())]
    Understand { path: PathBuf, error: serde_json::Error },
    #[error("asking the kernel for a random name: {0}")]
    Random(io::Error),
    #[error("writing {}: {error}", .path.display())]
    Write { path: PathBuf, error: io::Error },
}

/// Reads the file under `state_dir`, or makes one for a machine that has none.
pub(super) fn open(state_dir: &Path, node: &str) -> Result<Memory, MemoryError> {
    let path = state_dir.join(FILE_NAME);
    let mut memory: Memory = match bounded_file::read(&path, bounded_file::SMALL) {
        Ok(text) => serde_json::from_slice(&text)
            .map_err(|error| MemoryError::Understand { path, error })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let instance =
                fs::read_to_string("/proc/sys/kernel/random/uuid").map_err(MemoryError::Random)?;
            Memory::new(instance.trim(), "")
        }
        Err(error) => return Err(MemoryError::Read { path, error }),
    };
    if memory.node() != node {
        memory = memory.renamed(node);
        // Before the first claim: a node that is killed in the middle must know it as its own.
        write(&memory, state_dir)?;
    }
    Ok(memory)
}

/// Writes the file under `state_dir`.
pub(super) fn write(memory: &Memory, state_dir: &Path) -> Result<(), MemoryError> {
    let failed = |error| MemoryError::Write { path: state_dir.join(FILE_NAME), error };
    let text = serde_json::to_vec_pretty(memory).map_err(|error| failed(error.into()))?;
    source::write(state_dir, FILE_NAME, &text).map_err(failed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_is_the_same_after_a_restart_and_another_on_another_disk() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut fresh = serde_json::to_value(open(one.path(), "node1").unwrap()).unwrap();
        fresh["subnets"] = json!(["10.244.1.0/24"]);
        let memory: Memory = serde_json::from_value(fresh).unwrap();
        write(&memory, one.path()).unwrap();
        assert_eq!(open(one.path(), "node1").unwrap(), memory);
        assert_eq!(memory.subnets().len(), 1);
        let other = open(two.path(), "node1").unwrap();
        assert_ne!(other.instance(), memory.instance());
        assert!(other.subnets().is_empty());
    }
}
