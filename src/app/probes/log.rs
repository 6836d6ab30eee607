//! What is said in the log of peers and paths, and how much at once.

use std::time::{Duration, Instant};

use culvert_probe::{Event, State};

/// Lines in the log at once, and one more after each span.
const LINES: u32 = 50;
const LINE_SPAN: Duration = Duration::from_secs(1);

/// Says what has become of a peer, with the source ports of the paths that it is about.
pub(super) fn log(event: &Event, peer: &str, ports: &[u16]) {
    let named = |paths: u16| -> Vec<u16> {
        ports
            .iter()
            .enumerate()
            .filter(|(path, _)| paths & (1 << path) != 0)
            .map(|(_, it)| *it)
            .collect()
    };
    match *event {
        Event::Lost(_, State::Refused) => {
            tracing::info!(peer, "a peer does not answer: nobody listens there");
        }
        Event::Lost(..) => tracing::info!(peer, "a peer does not answer by any path"),
        Event::Back(_) => tracing::info!(peer, "a peer answers again"),
        Event::Paths(_, 0, 0) => tracing::info!(peer, "all paths to a peer and back work again"),
        Event::Paths(_, lost, lost_answers) => {
            let ours = named(lost);
            let theirs = lost_answers.count_ones();
            tracing::warn!(
                peer,
                source_ports = ?ours,
                of_the_peer = theirs,
                "paths to a peer lose everything; flows are sent by others"
            );
        }
        Event::Mtu(_, Some(mtu)) => {
            tracing::info!(peer, mtu, "the path to a peer carries less than its route promises");
        }
        Event::Mtu(_, None) => {
            tracing::info!(peer, "the path to a peer carries what its route promises again");
        }
    }
}

/// How many lines may be written: a partition changes everything at once.
pub(super) struct Lines {
    left: u32,
    filled: Option<Instant>,
}

impl Default for Lines {
    fn default() -> Self {
        Self { left: LINES, filled: None }
    }
}

impl Lines {
    pub(super) fn may_write(&mut self, now: Instant) -> bool {
        let filled = *self.filled.get_or_insert(now);
        let earned = now.saturating_duration_since(filled).as_secs() / LINE_SPAN.as_secs();
        if earned > 0 {
            self.left = self.left.saturating_add(u32::try_from(earned).unwrap_or(LINES)).min(LINES);
            self.filled = Some(now);
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}
