//! A node without a data path: it follows a source as the daemon does, and remembers what it heard.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use culvert::config::{Config, Overrides};
use culvert::control::source::{NodeKeys, Proposal, Reason, Source, Update};
use culvert_lab::wait_until;
use ipnet::IpNet;
use tokio::sync::oneshot;

/// How long something may take that takes a fraction of a second on an idle machine. A source that
/// was away for long is tried again every ten seconds.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// What was heard so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    pub(crate) proposal: Proposal,
    pub(crate) snapshots: usize,
    pub(crate) lost: Option<String>,
    pub(crate) losses: usize,
    /// The pod networks that all nodes share, where the source says so.
    pub(crate) networks: Vec<IpNet>,
    pub(crate) differs: Option<String>,
    pub(crate) contested: Option<String>,
}

impl Heard {
    fn take(&mut self, update: Update) {
        match &update {
            Update::Everything(proposal) => {
                let parameters = proposal.parameters.as_ref();
                self.networks = parameters.map(|all| all.cidrs.clone()).unwrap_or_default();
                self.snapshots += 1;
                self.lost = None;
            }
            Update::Lost(reason) => {
                self.lost = Some(reason.clone());
                self.losses += 1;
            }
            Update::Differs(reason) => self.differs.clone_from(reason),
            Update::Contested(reason) => self.contested.clone_from(reason),
            Update::Put(_) | Update::Remove(_) | Update::Unreadable { .. } | Update::Refused(_) => {
            }
        }
        self.proposal.take(update);
    }

    /// Names of the nodes, in their order.
    pub(crate) fn names(&self) -> Vec<String> {
        self.proposal.nodes().map(|node| node.entry.name.clone()).collect()
    }

    /// Public keys of the node `name`.
    pub(crate) fn keys(&self, name: &str) -> NodeKeys {
        let node = self.proposal.nodes().find(|node| node.entry.name == name);
        node.map(|node| node.entry.tunnel_options.keys).unwrap_or_default()
    }

    /// Subnets of the node `name`.
    pub(crate) fn subnets(&self, name: &str) -> Vec<IpNet> {
        let node = self.proposal.nodes().find(|node| node.entry.name == name);
        node.map(|node| node.entry.subnets.clone()).unwrap_or_default()
    }
}

/// What a test tells a source.
enum Wish {
    Reload,
    Ready(bool),
    Keys(NodeKeys),
    Note(Reason, String),
}

/// The node; it ends, without a word to the source, with this value.
pub(crate) struct Listener {
    heard: Arc<Mutex<Heard>>,
    requests: tokio::sync::mpsc::UnboundedSender<Wish>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Follows the source that the configuration `text` names.
    pub(crate) fn start(text: &str) -> Self {
        let config = Config::parse(Path::new("test"), text, &Overrides::default()).unwrap();
        let heard = Arc::new(Mutex::new(Heard::default()));
        let (end, ended) = oneshot::channel();
        let (requests, mut requested) = tokio::sync::mpsc::unbounded_channel();
        let hearing = Arc::clone(&heard);
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let mut source = Source::start(&config);
                tokio::pin!(ended);
                loop {
                    tokio::select! {
                        _ = &mut ended => return,
                        Some(wish) = requested.recv() => match wish {
                            Wish::Reload => source.reload(),
                            Wish::Ready(ready) => source.ready(ready),
                            Wish::Keys(keys) => source.keys(keys),
                            Wish::Note(reason, text) => source.notebook().note(reason, text),
                        },
                        updates = source.next() => {
                            let mut heard = hearing.lock().unwrap();
                            updates.into_iter().for_each(|update| heard.take(update));
                        }
                    }
                }
            });
        });
        Self { heard, requests, end: Some(end), thread: Some(thread) }
    }

    pub(crate) fn heard(&self) -> Heard {
        self.heard.lock().unwrap().clone()
    }

    pub(crate) fn reload(&self) {
        self.requests.send(Wish::Reload).ok().unwrap();
    }

    pub(crate) fn ready(&self, ready: bool) {
        self.requests.send(Wish::Ready(ready)).ok().unwrap();
    }

    pub(crate) fn note(&self, reason: Reason, text: &str) {
        self.requests.send(Wish::Note(reason, text.to_owned())).ok().unwrap();
    }

    pub(crate) fn keys(&self, keys: NodeKeys) {
        self.requests.send(Wish::Keys(keys)).ok().unwrap();
    }

    /// Waits until what was heard is as `condition` says.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, condition: impl Fn(&Heard) -> bool) -> Heard {
        if let Err(late) = wait_until(LIMIT, what, || condition(&self.heard.lock().unwrap())) {
            panic!("{late}: {:#?}", self.heard());
        }
        self.heard()
    }

    /// Waits until exactly these nodes are known.
    #[track_caller]
    pub(crate) fn until_names(&self, names: &[&str]) -> Heard {
        self.until(&format!("the nodes {names:?}"), |heard| heard.names() == names)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
