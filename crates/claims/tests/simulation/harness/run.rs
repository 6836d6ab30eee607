//! The course of a run: some ten minutes of trouble, then none.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::{Happening, Held, Protocol, Trouble, World};
use crate::report::{Outcome, Violation};

const TROUBLE: Duration = Duration::from_secs(600);

/// The longest that a call takes, a machine stands still, a lease lives or a daemon pauses; a look
/// at refused claims, and more.
const SETTLED: Duration = Duration::from_secs(200);

/// How often pods come and go while there is trouble.
const POD_CHANGES: usize = 100;

/// Runs a seed.
pub(crate) fn run<P: Protocol>(seed: u64, traced: bool) -> Outcome {
    let mut world = World::<P>::new(seed, traced);
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    let result = result
        .unwrap_or_else(|_| Err(Violation::new("nothing panics", "see the message above".into())));
    let (events, fates) = (world.events, std::mem::take(&mut world.fates));
    Outcome { trace: world.into_trace(), events, fates, result }
}

impl<P: Protocol> World<P> {
    fn run(&mut self) -> Held {
        // Most nodes start together.
        for number in 0..self.random.between(2, 5) {
            let node = P::join(self, number);
            let delay = Duration::from_millis(self.random.between(0, 3000));
            self.clock.after(delay, Happening::Start { node });
        }
        for _ in 0..self.random.between(0, 30) {
            let at = self.any_moment();
            self.clock.at(at, Happening::Trouble);
        }
        for _ in 0..POD_CHANGES {
            let at = self.any_moment();
            self.clock.at(at, Happening::Pod);
        }
        self.pass(TROUBLE)?;
        self.heal();
        self.pass(SETTLED)?;
        P::check_settled(self)?;
        for node in 0..self.nodes.len() {
            if self.nodes[node].daemon.contested.is_some() {
                self.count("a node was drained");
                self.nodes[node].disk.pods.clear();
            }
        }
        self.pass(P::RECOVERY)?;
        P::check(self)?;
        let writes = self.protocol.writes();
        self.pass(SETTLED)?;
        match self.protocol.writes() - writes {
            0 => Ok(()),
            more => Err(Violation::new(
                "nodes that have what they need write nothing",
                format!("{more} writes"),
            )),
        }
    }

    fn any_moment(&mut self) -> Duration {
        let end = u64::try_from(TROUBLE.as_millis()).unwrap();
        Duration::from_millis(self.random.between(0, end))
    }

    /// Troubles come one upon another, or minutes apart.
    pub(super) fn troubles(&mut self) -> Held {
        self.make_trouble()?;
        if self.random.percent(30) {
            self.make_trouble()?;
        }
        Ok(())
    }

    fn make_trouble(&mut self) -> Held {
        let trouble = self.random.pick(P::TROUBLES);
        let node = self.random.below(self.nodes.len());
        let time = Duration::from_millis(self.random.between(10, 90_000));
        self.say(|| match trouble {
            Trouble::Fault(fault) => format!("trouble: {fault:?}, node {node}, {time:?}"),
            Trouble::Own(trouble) => format!("trouble: {trouble:?}, node {node}, {time:?}"),
        });
        match trouble {
            Trouble::Fault(fault) => self.fault(fault, node, time),
            Trouble::Own(trouble) => P::trouble(self, trouble, node, time),
        }
    }

    pub(super) fn change_pods(&mut self) {
        let node = self.random.below(self.nodes.len());
        if self.random.percent(60) {
            if let Some(pod) = self.nodes[node].attach() {
                self.count("a pod was attached");
                self.say(|| format!("node {node} attaches {pod}"));
            }
        } else if self.random.percent(50) {
            self.say(|| format!("node {node} detaches all"));
            self.nodes[node].disk.pods.clear();
        } else {
            self.nodes[node].disk.pods.pop();
        }
    }

    /// Ends all trouble: everybody runs, and hears everybody.
    fn heal(&mut self) {
        self.say(|| "all trouble ends".into());
        self.trouble = false;
        self.up = true;
        P::heal(self);
        for node in 0..self.nodes.len() {
            self.nodes[node].cut = false;
            self.start(node);
        }
        self.tell_watches();
    }
}
