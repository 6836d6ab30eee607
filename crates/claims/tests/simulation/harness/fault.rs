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
                // What waits for the machine keeps its order: it goes on no sooner for this.
                let until = self.clock.now() + time;
                let it = &mut self.nodes[node];
                it.frozen_until = it.frozen_until.max(until);
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
