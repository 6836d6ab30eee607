//! The way between nodes and the store: messages are late or lost, connections break, nodes are cut
//! off.

use std::time::Duration;

use super::protocol::Call;
use super::{Happening, Held, Protocol, World};

/// Milliseconds that most messages take.
const USUAL: u64 = 30;

impl<P: Protocol> World<P> {
    /// How long a message takes: mostly milliseconds, and sometimes longer than anybody waits.
    pub(super) fn delay(&mut self) -> Duration {
        let slow = self.trouble && self.random.percent(2);
        let (shortest, longest) = if slow { P::SLOW.into_inner() } else { (1, USUAL) };
        Duration::from_millis(self.random.between(shortest, longest))
    }

    /// Whether a node and the store hear one another.
    pub(crate) fn is_connected(&self, node: usize) -> bool {
        self.up && !self.nodes[node].cut
    }

    /// A request is at the store; it may have got there before the node was cut off.
    pub(super) fn ask(&mut self, call: Call<P>) -> Held {
        let Call { node, session, number, .. } = call;
        if !self.up || (self.nodes[node].cut && self.random.percent(80)) {
            return Ok(());
        }
        let Some(answer) = P::serve(self, call)? else { return Ok(()) };
        if !self.nodes[node].cut {
            let delay = self.delay();
            self.clock.after(delay, Happening::Answer { node, session, number, answer });
        }
        Ok(())
    }

    /// Sends each watch what it has not told yet.
    pub(crate) fn tell_watches(&mut self) {
        for node in 0..self.nodes.len() {
            if !self.is_connected(node) || !self.nodes[node].runs {
                continue;
            }
            let Some(watch) = self.nodes[node].watch.clone() else { continue };
            for watched in P::news(self, node, watch) {
                self.send(node, watched);
            }
        }
    }

    /// Sends what a watch tells, behind what it told before.
    pub(crate) fn send(&mut self, node: usize, watched: P::Watched) {
        let at = (self.clock.now() + self.delay()).max(self.nodes[node].told_at);
        let it = &mut self.nodes[node];
        it.told_at = at;
        let session = it.session;
        self.clock.at(at, Happening::Told { node, session, watched });
    }

    /// Every connection ends; each node notices after a moment.
    pub(crate) fn break_connections(&mut self) {
        for node in 0..self.nodes.len() {
            self.nodes[node].watch = None;
            let session = self.nodes[node].session;
            let delay = Duration::from_millis(self.random.between(1, 300));
            self.clock.after(delay, Happening::Broken { node, session });
        }
    }

    pub(crate) fn cut(&mut self, node: usize, length: Duration) {
        self.nodes[node].cut = true;
        self.say(|| format!("node {node} is cut off for {length:?}"));
        self.clock.after(length, Happening::Heal { node });
        if length > P::NOTICED {
            let session = self.nodes[node].session;
            self.clock.after(P::NOTICED, Happening::Broken { node, session });
        }
    }
}
