//! What the thread `policy` has not been told yet.
//!
//! It goes along with a round, and comes back if the round did not begin: the kernel may keep the
//! thread waiting for longer than anybody waits for it.

use std::net::IpAddr;

use crate::control::enforce::{News, Nodes, Policies};

/// News that wait at most while the thread is busy; the source waits when there are more.
const MOST: usize = 4096;

/// What there is to tell.
#[derive(Default)]
pub(super) struct Untold {
    pub(super) news: Vec<News>,
    pub(super) nodes: Option<Nodes>,
    pub(super) left: Vec<IpAddr>,
    /// Whether a round may have come to something of which nobody heard.
    pub(super) missed: bool,
}

impl Untold {
    /// Whether there is room for what a source tells at once.
    pub(super) fn has_room(&self) -> bool {
        self.news.len() < MOST
    }

    /// Tells the thread, on which this runs.
    pub(super) fn tell(self, policies: &mut Policies) {
        let Self { news, nodes, left, missed } = self;
        if missed {
            policies.say_again();
        }
        policies.take(news);
        if let Some(nodes) = nodes {
            policies.set_nodes(nodes);
        }
        let forgotten = if left.is_empty() { Ok(()) } else { policies.left(&left) };
        if let Err(error) = forgotten {
            tracing::warn!(error = format!("{error:#}"), "a pod that left is remembered");
        }
    }
}
