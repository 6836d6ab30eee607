//! Which pods of this node were given which addresses, as the plugin has told.
//!
//! An API server says so too, but later, and the rules must know a pod before its first packet.
//! Kept in the state directory, so that a daemon that starts anew knows as much as the one before.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use culvert_node::pod_admission::PodName;
use culvert_node::{bounded_file, whole_file};
use serde::{Deserialize, Serialize};

/// Name of the file under the state directory.
const FILE_NAME: &str = "policy-pods.json";

/// What one pod was given at once: the addresses of one interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attached {
    /// Which pod; none, if nobody could say.
    pub(super) pod: Option<PodName>,
    /// What it was given.
    pub(super) addresses: Vec<IpAddr>,
    /// Whether it may neither send nor receive while no object of it is known.
    pub(super) closed_while_unknown: bool,
}

/// All of them, by each of their addresses.
#[derive(Debug, Default)]
pub(super) struct Attachments {
    path: PathBuf,
    pods: BTreeMap<IpAddr, Attached>,
}

impl Attachments {
    /// What was kept in `state_dir`; nothing, if that cannot be read.
    pub(super) fn read(state_dir: &Path) -> Self {
        let path = state_dir.join(FILE_NAME);
        // An earlier release left it for all to read. A file that is not there is none to hide.
        let _absent = fs::set_permissions(&path, Permissions::from_mode(0o600));
        let pods = match bounded_file::read(&path, bounded_file::LARGE) {
            Ok(text) => serde_json::from_slice::<Vec<Attached>>(&text).unwrap_or_else(|error| {
                tracing::warn!(%error, path = %path.display(), "what pods were given is forgotten");
                Vec::new()
            }),
            Err(_none) => Vec::new(),
        };
        let mut attachments = Self { path, pods: BTreeMap::new() };
        for attached in pods {
            attachments.insert(attached);
        }
        attachments
    }

    /// Takes what a pod was given, besides what it has: it may have several interfaces, and the
    /// sandbox that it had before may still run. Whoever had one of the addresses is to be removed
    /// before.
    pub(super) fn insert(&mut self, attached: Attached) {
        for address in &attached.addresses {
            self.pods.insert(*address, attached.clone());
        }
    }

    /// Forgets whoever had one of these addresses, and returns them.
    pub(super) fn remove(&mut self, addresses: &[IpAddr]) -> Vec<Attached> {
        let mut gone: Vec<Attached> = Vec::new();
        for address in addresses {
            gone.extend(self.pods.remove(address));
        }
        gone.dedup();
        self.pods.retain(|_, attached| !gone.contains(attached));
        gone
    }

    /// Whether a pod was given `address`.
    pub(super) fn has(&self, address: &IpAddr) -> bool {
        self.pods.contains_key(address)
    }

    /// Every pod, once for each of its addresses.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Attached> {
        self.pods.values()
    }

    /// Keeps what there is.
    ///
    /// # Errors
    ///
    /// Whatever the file system says.
    pub(super) fn write(&self) -> std::io::Result<()> {
        // A pod is there once for each of its addresses; the first stands for it.
        let of_first = |(address, attached): &(&IpAddr, &Attached)| {
            attached.addresses.first() == Some(*address)
        };
        let pods: Vec<&Attached> =
            self.pods.iter().filter(of_first).map(|(_, attached)| attached).collect();
        let text = serde_json::to_vec(&pods)?;
        // No pod outlives a power loss either.
        whole_file::write_passing(&self.path, |file| file.write_all(&text))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn attached(name: &str, last: u8) -> Attached {
        Attached {
            pod: Some(PodName { namespace: "default".into(), name: name.into(), uid: None }),
            addresses: vec![
                [10, 244, 1, last].into(),
                [0xfd00, 0, 0, 0, 0, 0, 0, last.into()].into(),
            ],
            closed_while_unknown: false,
        }
    }

    #[test]
    fn pods_outlive_the_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let mut pods = Attachments::read(directory.path());
        pods.insert(attached("web", 2));
        pods.insert(attached("db", 3));
        pods.write().unwrap();
        let again = Attachments::read(directory.path());
        assert_eq!(again.pods, pods.pods);
        assert_eq!(again.iter().count(), 4);
        let text = fs::read_to_string(directory.path().join(FILE_NAME)).unwrap();
        assert_eq!(text.matches("web").count(), 1, "{text}");
        let mode = fs::metadata(directory.path().join(FILE_NAME)).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
    }

    #[test]
    fn pod_that_is_attached_again_keeps_what_it_had_until_that_is_taken() {
        let mut pods = Attachments::default();
        pods.insert(attached("web", 2));
        pods.insert(attached("web", 3));
        assert_eq!(pods.iter().count(), 4);
        assert_eq!(pods.remove(&[[10, 244, 1, 3].into()]), [attached("web", 3)]);
        assert!(pods.iter().all(|pod| pod.addresses == attached("web", 2).addresses));
        assert!(pods.has(&[10, 244, 1, 2].into()) && !pods.has(&[10, 244, 1, 3].into()));
    }

    #[test]
    fn file_that_makes_no_sense_is_as_good_as_none() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE_NAME), "{").unwrap();
        assert_eq!(Attachments::read(directory.path()).iter().count(), 0);
    }
}
