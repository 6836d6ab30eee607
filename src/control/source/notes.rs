//! What is told to people where the table comes from: in Kubernetes, as events of this node's Node.
//!
//! The newest of each kind counts, so that a burst costs nothing: whoever tells them does so when
//! he may, and tells what holds then.

use std::collections::BTreeMap;

use tokio::sync::watch;

use super::SourceRequests;

/// A kind of note, by its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Peers do not answer.
    PeerUnreachable,
    /// All peers answer again.
    PeersReachable,
    /// Source ports lead nowhere.
    PathLost,
    /// A path carries less than its route promises.
    PathMtu,
    /// The newest table is refused.
    TableRefused,
}

impl Reason {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::PeerUnreachable => "PeerUnreachable",
            Self::PeersReachable => "PeersReachable",
            Self::PathLost => "PathLost",
            Self::PathMtu => "PathMTU",
            Self::TableRefused => "TableRefused",
        }
    }

    /// Whether somebody should look.
    #[must_use]
    pub const fn is_warning(self) -> bool {
        match self {
            Self::PeerUnreachable | Self::PathLost | Self::TableRefused => true,
            Self::PeersReachable | Self::PathMtu => false,
        }
    }
}

/// The newest note of each kind, and how many of it there were.
pub type Notes = BTreeMap<Reason, (u64, String)>;

/// Who takes notes.
#[derive(Clone, Debug)]
pub struct Notebook(watch::Sender<SourceRequests>);

impl Notebook {
    pub(super) const fn of(requests: watch::Sender<SourceRequests>) -> Self {
        Self(requests)
    }

    /// Takes a note, in place of the last one of its kind.
    pub fn note(&self, reason: Reason, text: String) {
        self.0.send_modify(|requests| {
            let note = requests.notes.entry(reason).or_default();
            *note = (note.0 + 1, text);
        });
    }
}
