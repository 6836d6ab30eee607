//! Telling everybody else whether this node carries packets: the readiness and the node file.
//!
//! The plugin attaches pods while the node file is there, so it is there exactly while nothing is
//! missing.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use culvert_node::node_file::NodeFile;

use crate::lifecycle::{Need, Readiness};

/// What was announced.
pub(super) struct Announcer {
    place: Arc<Place>,
    readiness: Readiness,
    /// The node file as it was last written, while it is true.
    written: Option<NodeFile>,
    /// Whether there may be one, true or not.
    is_there: bool,
    was_ready: bool,
}

/// Where the node file is, and whether that is over: a file that is being written when the daemon
/// ends must not appear after its end.
struct Place {
    run_dir: PathBuf,
    is_over: Mutex<bool>,
}

impl Place {
    fn write(&self, file: &NodeFile) -> io::Result<()> {
        let is_over = self.is_over.lock().unwrap_or_else(PoisonError::into_inner);
        if *is_over { Ok(()) } else { file.write(&self.run_dir) }
    }

    fn end(&self) -> io::Result<()> {
        *self.is_over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        NodeFile::remove(&self.run_dir)
    }
}

impl Announcer {
    pub(super) fn new(run_dir: PathBuf, readiness: Readiness) -> Self {
        let place = Arc::new(Place { run_dir, is_over: Mutex::new(false) });
        Self { place, readiness, written: None, is_there: false, was_ready: false }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.readiness.is_ready()
    }

    /// Whether the node has been ready once.
    pub(super) fn was_ready(&self) -> bool {
        self.was_ready
    }

    /// Says why `what` is missing, or with `None` that it is there; answers whether that is news.
    pub(super) fn set(&self, what: Need, why: Option<String>) -> bool {
        let news = self.readiness.set(what, why.clone());
        match why {
            // A device gets its carrier a moment after its start.
            Some(why) if news && !self.was_ready && what == Need::Kernel => {
                tracing::info!(missing = %what, why, "this node is not ready yet");
            }
            Some(why) if news => tracing::error!(missing = %what, why, "this node is not ready"),
            Some(_) | None => {}
        }
        news
    }

    /// Writes `file` if nothing else is missing, and removes it otherwise, and when it cannot be
    /// written; answers whether the node has become ready by it. What fails is tried again with the
    /// next call.
    pub(super) async fn announce(&mut self, file: &NodeFile) -> bool {
        if self.readiness.missing().iter().any(|missing| missing.what != Need::NodeFile) {
            self.withdraw();
            return false;
        }
        if self.written.as_ref() != Some(file) {
            let (file, place) = (file.clone(), Arc::clone(&self.place));
            let written = tokio::task::spawn_blocking(move || place.write(&file).map(|()| file));
            match written.await.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
                Ok(file) => (self.written, self.is_there) = (Some(file), true),
                Err(error) => {
                    let why = self.give_up(&error);
                    self.set(Need::NodeFile, Some(why));
                    return false;
                }
            }
        }
        self.was_ready = true;
        self.set(Need::NodeFile, None)
    }

    /// Removes the node file that is no longer true, since the new one cannot be written: a pod
    /// would be attached by what it says. Says what is wrong.
    fn give_up(&mut self, error: &io::Error) -> String {
        self.written = None;
        let path = NodeFile::path(&self.place.run_dir);
        let why = format!("writing {} failed ({error}); make room for it or", path.display());
        let remedy = "make its directory writable, it is tried again";
        match self.remove() {
            Ok(()) => format!("{why} {remedy}. Until then there is none, and no pod is attached"),
            Err(stays) => format!(
                "{why} {remedy}. Until then pods are attached by an old one, which cannot be removed \
                 ({stays})"
            ),
        }
    }

    /// Removes the node file: a pod that is attached now would have no network.
    fn withdraw(&mut self) {
        if !self.is_there {
            return;
        }
        let is_news = self.written.take().is_some();
        self.readiness
            .set(Need::NodeFile, Some("removed until nothing else is missing".to_owned()));
        if let Err(error) = self.remove()
            && is_news
        {
            tracing::warn!(%error, "removing the node file failed; trying again");
        }
    }

    fn remove(&mut self) -> io::Result<()> {
        NodeFile::remove(&self.place.run_dir)?;
        self.is_there = false;
        Ok(())
    }

    /// The end: nobody is to rely on this node from here on.
    ///
    /// # Errors
    ///
    /// The node file cannot be removed.
    pub(super) fn stop(&mut self) -> io::Result<()> {
        self.readiness.set(Need::Daemon, Some("stopping".to_owned()));
        self.written = None;
        self.place.end()
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        // A daemon that ends by a fault is nobody to rely on either. The fault is what is told.
        let _ = self.place.end();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::mpsc;

    use culvert_node::whole_file;

    use super::*;

    fn file(mtu: u16) -> NodeFile {
        NodeFile {
            node: "node1".to_owned(),
            bridge: "v-net-0".to_owned(),
            mtu,
            gso_max_size: None,
            subnets: Vec::new(),
            cluster_networks: Vec::new(),
            masquerade: None,
            policy: false,
            own_ports: Vec::new(),
        }
    }

    #[tokio::test]
    async fn node_file_that_cannot_be_renewed_is_removed_and_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = NodeFile::path(directory.path());
        let readiness = Readiness::new();
        let mut announcer = Announcer::new(directory.path().to_owned(), readiness.clone());
        announcer.set(Need::Table, None);
        announcer.set(Need::Kernel, None);
        assert!(announcer.announce(&file(1464)).await);
        // As on a full disk, but for root too.
        let obstacle = whole_file::partial_of(&path);
        fs::create_dir(&obstacle).unwrap();
        for _again in 0..2 {
            assert!(!announcer.announce(&file(1364)).await);
            assert!(!path.exists(), "pods would be attached with the old MTU");
            let missing = readiness.missing();
            assert_eq!(missing[0].what, Need::NodeFile);
            assert!(missing[0].why.contains("make room for it"), "{}", missing[0].why);
        }
        fs::remove_dir(&obstacle).unwrap();
        assert!(announcer.announce(&file(1364)).await);
        assert_eq!(NodeFile::read(directory.path()).unwrap(), file(1364));
    }

    #[tokio::test]
    async fn node_file_that_could_not_be_removed_is_removed_later() {
        let directory = tempfile::tempdir().unwrap();
        let path = NodeFile::path(directory.path());
        let mut announcer = Announcer::new(directory.path().to_owned(), Readiness::new());
        announcer.set(Need::Table, None);
        announcer.set(Need::Kernel, None);
        assert!(announcer.announce(&file(1464)).await);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        announcer.set(Need::Kernel, Some("broken".to_owned()));
        assert!(!announcer.announce(&file(1464)).await);
        fs::remove_dir(&path).unwrap();
        fs::write(&path, "old").unwrap();
        assert!(!announcer.announce(&file(1464)).await);
        assert!(!path.exists());
    }
    /// An announcer of a node that lacks nothing but its node file.
    fn ready(run_dir: &Path) -> Announcer {
        let announcer = Announcer::new(run_dir.to_owned(), Readiness::new());
        announcer.set(Need::Table, None);
        announcer.set(Need::Kernel, None);
        announcer
    }

    #[tokio::test]
    async fn node_file_goes_with_the_daemon_however_that_ends() {
        let directory = tempfile::tempdir().unwrap();
        let path = NodeFile::path(directory.path());
        let mut announcer = ready(directory.path());
        assert!(announcer.announce(&file(1464)).await);
        assert!(path.exists());
        drop(announcer);
        assert!(!path.exists(), "pods would be attached without a daemon");
    }

    #[test]
    fn node_file_that_is_being_written_at_the_end_does_not_appear_after_it() {
        let directory = tempfile::tempdir().unwrap();
        let (mut announcer, file) = (ready(directory.path()), file(1464));
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let (go_on, held) = mpsc::channel::<()>();
            let slow = tokio::task::spawn_blocking(move || held.recv().is_err());
            tokio::select! {
                biased;
                _ = announcer.announce(&file) => panic!("the disk is slow"),
                () = std::future::ready(()) => {}
            }
            announcer.stop().unwrap();
            drop(go_on);
            assert!(slow.await.unwrap());
            tokio::task::spawn_blocking(|| ()).await.unwrap();
        });
        assert!(!NodeFile::path(directory.path()).exists());
    }
}
