//! Where the subnet table comes from: one interface for a file, etcd and Kubernetes.
//!
//! Owns the task that follows a source, and the words in which it tells what it sees: everything
//! first, then what changes. A source that is lost says so and says nothing else, so that whoever
//! listens keeps what it has: stale is better than empty. Never decides what to forward. Runs on
//! the control runtime; a listener that is slow makes the source wait, and the source then reads
//! everything anew if it was left behind.

#[cfg(feature = "databases")]
mod backoff;
mod file;
mod members;
mod notes;
mod parameters;
#[cfg(feature = "databases")]
mod pods;
mod saved;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

#[cfg(feature = "databases")]
use super::{etcd, kubernetes};
use crate::config::{Config, TableSource};

#[cfg(feature = "databases")]
pub(super) use backoff::Backoff;
pub use culvert_claims::{Candidate, NodeKeys, Parameters, Proposal, Update};
pub use members::{Unsound, members};
pub use notes::{Notebook, Notes, Reason};
pub use parameters::{configured, overlay};
#[cfg(feature = "databases")]
pub(super) use pods::held_addresses;
pub use saved::Saved;
#[cfg(feature = "databases")]
pub(super) use saved::write;

/// Updates that wait for the daemon at most; the source waits when there are more. A burst in a
/// large cluster fits, and is less than a whole table.
const QUEUE: usize = 4096;

/// What the daemon tells a source. Only the latest counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceRequests {
    /// Grows when everything is to be read again.
    pub reloads: u64,
    /// Grows when addresses of this machine came or went.
    pub moves: u64,
    /// Whether packets flow.
    pub ready: bool,
    /// By what peers are to know this node; where the table is a file, its author writes them.
    pub keys: NodeKeys,
    /// What people are to be told of this node.
    pub notes: Notes,
}

/// What a source works with.
pub(super) struct Link {
    pub(super) updates: mpsc::Sender<Update>,
    pub(super) requests: watch::Receiver<SourceRequests>,
}

impl Link {
    /// Tells the daemon; waits while it is busy. Nobody listens only when everything ends.
    pub(super) async fn say(&self, update: Update) {
        let _ = self.updates.send(update).await;
    }

    /// Waits until the daemon has heard everything that was said.
    #[cfg(feature = "databases")]
    pub(super) async fn heard(&self) {
        let _ = self.updates.reserve_many(self.updates.max_capacity()).await;
    }
}

/// A source that is being followed. Ends with this value.
#[derive(Debug)]
pub struct Source {
    updates: mpsc::Receiver<Update>,
    requests: watch::Sender<SourceRequests>,
    task: JoinHandle<()>,
}

impl Source {
    /// Starts following the source that `config` names, on the current tokio runtime.
    pub fn start(config: &Config) -> Self {
        let (sender, updates) = mpsc::channel(QUEUE);
        let (requests, requested) = watch::channel(SourceRequests::default());
        let link = Link { updates: sender, requests: requested };
        let task = match &config.table {
            TableSource::File { path } => {
                let path = path.clone();
                tokio::spawn(async move { file::follow(&path, link).await })
            }
            #[cfg(feature = "databases")]
            TableSource::Etcd(etcd) => {
                tokio::spawn(etcd::follow(etcd.clone(), config.clone(), link))
            }
            #[cfg(feature = "databases")]
            TableSource::Kubernetes(kubernetes) => {
                tokio::spawn(kubernetes::follow(kubernetes.clone(), config.clone(), link))
            }
            #[cfg(not(feature = "databases"))]
            TableSource::Etcd(_) | TableSource::Kubernetes(_) => {
                unreachable!("the configuration refuses what the program lacks")
            }
        };
        Self { updates, requests, task }
    }

    /// A source that tells what a test has to tell.
    #[cfg(test)]
    pub fn of(updates: mpsc::Receiver<Update>) -> Self {
        let (requests, _) = watch::channel(SourceRequests::default());
        Self { updates, requests, task: tokio::spawn(std::future::pending()) }
    }

    /// The next updates, at least one, in their order; none once the source has ended.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub async fn next(&mut self) -> Vec<Update> {
        let mut updates = Vec::new();
        self.updates.recv_many(&mut updates, QUEUE).await;
        updates
    }

    /// Where notes for people are taken.
    pub fn notebook(&self) -> Notebook {
        Notebook::of(self.requests.clone())
    }

    /// Has everything read again.
    pub fn reload(&self) {
        self.requests.send_modify(|requests| requests.reloads += 1);
    }

    /// Tells it that addresses of this machine came or went.
    pub fn moved(&self) {
        self.requests.send_modify(|requests| requests.moves += 1);
    }

    /// Has peers know this node by these public keys.
    pub fn keys(&self, keys: NodeKeys) {
        self.requests
            .send_if_modified(|requests| std::mem::replace(&mut requests.keys, keys) != keys);
    }

    /// Tells it whether packets flow.
    pub fn ready(&self, ready: bool) {
        self.requests
            .send_if_modified(|requests| std::mem::replace(&mut requests.ready, ready) != ready);
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The URL as it may be shown: without who logs in, and with what.
pub(crate) fn without_login(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    match scheme {
        "" => format!("{host}{path}"),
        scheme => format!("{scheme}://{host}{path}"),
    }
}

/// What a source is called in logs and status.
pub fn describe(source: &TableSource) -> String {
    match source {
        TableSource::File { path } => format!("file {}", path.display()),
        TableSource::Etcd(etcd) => {
            let members: Vec<String> =
                etcd.endpoints.iter().map(|url| without_login(url)).collect();
            format!("etcd {} under {}", members.join(","), etcd.prefix)
        }
        TableSource::Kubernetes(_) => "kubernetes".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_is_called_without_who_logs_in_there() {
        for (url, shown) in [
            ("http://192.0.2.8:2379", "http://192.0.2.8:2379"),
            ("https://root:s3cret@etcd-0:2379/x@y", "https://etcd-0:2379/x@y"),
            ("root:s3c@ret@[2001:db8::1]:2379", "[2001:db8::1]:2379"),
        ] {
            assert_eq!(without_login(url), shown);
        }
    }
}
