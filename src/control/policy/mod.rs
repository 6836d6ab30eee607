//! Where policies, pods and namespaces come from: one interface for a directory and Kubernetes.
//!
//! Owns the task that follows a source, and the words in which it tells what it sees: everything
//! first, then what changes. A source that is away, or that makes no sense, says so and nothing
//! else, so that whoever listens keeps what it has. Never decides what may pass. Runs on the
//! control runtime; a listener that is slow makes the source wait, and the source then reads
//! everything anew if it was left behind.

pub(crate) mod directory;
#[cfg(feature = "databases")]
mod kubernetes;

use culvert_policy::object::{Change, Kind, Object};
use culvert_policy::read::Finding;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::config::Config;

/// Updates that wait for the daemon at most; the source waits when there are more.
const QUEUE: usize = 256;

/// What the daemon has to ask that waits at most; what is more is asked again by whoever waits.
const QUESTIONS: usize = 64;

/// What a source tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyUpdate {
    /// This is everything that there is.
    Everything {
        /// Every object of every kind.
        objects: Vec<Object>,
        /// What is not understood of them.
        findings: Vec<Finding>,
    },
    /// This is everything of one kind.
    Kind {
        /// Which kind.
        kind: Kind,
        /// Every object of it.
        objects: Vec<Object>,
        /// What is not understood of them.
        findings: Vec<Finding>,
    },
    /// Something changed.
    Changes {
        /// What did, in order.
        changes: Vec<Change>,
        /// What is not understood of the objects that are new or other ones.
        findings: Vec<Finding>,
    },
    /// What the source has makes no sense; what it had before stays in force.
    Refused(String),
    /// The source cannot be followed; it is tried again.
    Lost {
        /// Of which kind it does not tell; none, if of no kind.
        kind: Option<Kind>,
        /// Why.
        why: String,
    },
}

/// What the daemon asks of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Question {
    /// Everything anew.
    Reload,
    /// The pod of this namespace and name as it is now.
    Pod(String, String),
}

/// What a source works with.
struct Link {
    updates: mpsc::Sender<PolicyUpdate>,
    questions: mpsc::Receiver<Question>,
}

impl Link {
    /// Tells the daemon; waits while it is busy. Nobody listens only when everything ends.
    async fn say(&self, update: PolicyUpdate) {
        let _ = self.updates.send(update).await;
    }
}

/// A source of policies that is being followed. Ends with this value.
#[derive(Debug)]
pub struct PolicySource {
    updates: mpsc::Receiver<PolicyUpdate>,
    questions: mpsc::Sender<Question>,
    task: JoinHandle<()>,
}

impl PolicySource {
    /// Starts following the source that `config` names, on the current tokio runtime. Of
    /// ClusterNetworkPolicies `known` are in force.
    #[must_use]
    pub fn start(config: &Config, known: Vec<Object>) -> Self {
        let (sender, updates) = mpsc::channel(QUEUE);
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let link = Link { updates: sender, questions: asked };
        let task = match (&config.table, &config.policy.directory) {
            #[cfg(feature = "databases")]
            (crate::config::TableSource::Kubernetes(kubernetes), _) => {
                let node = config.node.name.clone();
                tokio::spawn(kubernetes::follow(kubernetes.clone(), node, known, link))
            }
            // Files are there, or not, as a whole.
            (_, Some(path)) => {
                drop(known);
                tokio::spawn(directory::follow(path.clone(), link))
            }
            (_, None) => unreachable!("the configuration refuses a mode without policies"),
        };
        Self { updates, questions, task }
    }

    /// The next updates, at least one, in their order; none once the source has ended.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub async fn next(&mut self) -> Vec<PolicyUpdate> {
        let mut updates = Vec::new();
        self.updates.recv_many(&mut updates, QUEUE).await;
        updates
    }

    /// Has everything read again.
    pub fn reload(&self) {
        let _ = self.questions.try_send(Question::Reload);
    }

    /// Has one pod looked up now: it comes as a change, if there is such a pod. Whoever waits for
    /// it asks again when it does not come.
    pub fn ask_pod(&self, namespace: &str, name: &str) {
        let _ = self.questions.try_send(Question::Pod(namespace.to_owned(), name.to_owned()));
    }
}

impl Drop for PolicySource {
    fn drop(&mut self) {
        self.task.abort();
    }
}
