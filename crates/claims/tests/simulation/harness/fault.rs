//! What goes wrong with nodes and the network, whatever the store.

use std::time::Duration;

use super::{Happening, Held, Protocol, World};

/// A thing that goes wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trouble<T> {
    /// With a node or the network.
    Fault(Fault),
    /// In the store.
    Own(T),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// A node is cut off from the store.
    Cut,
    /// The store is down.
    Down,
    /// Every connection ends.
    Breakage,
    /// A daemon is restarted.
    Restart,
    /// A daemon is away for a while.
    Away,
    /// The clock of a node jumps ahead.
    Jump,
    /// A machine stands still.
    Freeze,
    /// An operator has everything read again.
    Reload,
}

impl<P: Protocol> World<P> {
    /// A fault of the node, or that it sees, for so long.
    pub(super) fn fault(&mut self, fault: Fault, node: usize, time: Duration) -> Held {
        match fault {
            Fault::Cut => self.cut(node, time),
            Fault::Down => {
                self.up = false;
                self.break_connections();
                self.clock.after(time, Happening::Up);
            }
            Fault::Breakage => self.break_connections(),
            Fault::Restart => {
                self.stop(node);
                self.clock.after(Duration::from_millis(200), Happening::Start { node });
            }
            Fault::Away => {
                self.stop(node);
                self.clock.after(time, Happening::Start { node });
            }
            Fault::Jump => {
                self.nodes[node].ahead += time * 60;
                return self.go_on(node);
            }
            Fault::Freeze => {
                let until = self.nodes[node].frozen_until.max(self.clock.now() + time);
                self.nodes[node].frozen_until = until;
                self.clock.at(until, Happening::Thaw { node });
            }
            Fault::Reload => {
                self.nodes[node].reload = true;
                return self.go_on(node);
            }
        }
        self.tell_watches();
        Ok(())
    }
}
