//! Whether the node can carry packets, and if not, why not.

use tokio::sync::watch;

/// Where the node stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Packets flow.
    Ready,
    /// They do not, or not all; the words say what is awaited.
    NotReady(String),
}

/// The present [`State`], for many readers; a slow reader sees only the last.
#[derive(Clone, Debug)]
pub struct Readiness {
    state: watch::Sender<State>,
}

impl Readiness {
    /// Starts out not ready.
    pub fn new() -> Self {
        Self { state: watch::Sender::new(State::NotReady("starting".to_owned())) }
    }

    /// Changes the state; says whether that was a change.
    pub fn set(&self, state: State) -> bool {
        self.state.send_if_modified(|current| {
            let modified = *current != state;
            *current = state;
            modified
        })
    }

    /// The present state.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}
