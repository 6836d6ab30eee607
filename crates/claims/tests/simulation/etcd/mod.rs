//! Nodes that claim their subnets in one etcd.

pub(crate) mod node;
pub(crate) mod scenario;
pub(crate) mod store;
pub(crate) mod world;

use crate::report::{Outcome, Violation};

/// Runs a seed.
pub(crate) fn run(seed: u64, traced: bool) -> Outcome {
    let mut scenario = scenario::Scenario::new(seed, traced);
    let run = std::panic::AssertUnwindSafe(|| scenario.run());
    let result = std::panic::catch_unwind(run);
    let result = result
        .unwrap_or_else(|_| Err(Violation::new("nothing panics", "see the message above".into())));
    let world = scenario.world;
    Outcome { trace: world.trace().to_owned(), events: world.events, fates: world.fates, result }
}
