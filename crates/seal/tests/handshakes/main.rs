//! Whole meshes under a virtual clock, on a network that loses, doubles and reorders, with clocks
//! that are years off, restarts, other keys and somebody who sends everything again.
//!
//! `CULVERT_SIM_SEED=…` shows one run, `CULVERT_SIM_RUNS=…` makes as many fresh ones.

#![expect(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    reason = "a test may fail where it stands"
)]
#![expect(clippy::print_stdout, reason = "a broken run says how to see it again")]

mod node;
mod random;
mod world;

use std::hash::{BuildHasher as _, RandomState};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use random::Random;
use world::{Outcome, Plan, World};

fn run(seed: u64, plan: Plan) -> Outcome {
    World::new(Random::new(seed), plan).run()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// As many runs at once as there are processors; a run that breaks a promise says its seed.
fn all(test: &str, seeds: impl Iterator<Item = u64> + Send, plan: fn(u64) -> Plan) {
    let seeds = std::sync::Mutex::new(seeds);
    let runs = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let worker = || {
        loop {
            let next = seeds.lock().unwrap().next();
            let Some(seed) = next else { return };
            let outcome = std::panic::catch_unwind(|| run(seed, plan(seed)));
            if outcome.is_err() {
                println!("see it again: make simulate-handshakes TEST={test} SEED={seed}");
                std::process::exit(101);
            }
            runs.fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(worker);
        }
    });
    assert!(runs.into_inner() > 0);
}

/// The runs that are always made, as many fresh ones as somebody asks for, or one that is shown.
fn simulate(test: &str, seeds: Range<u64>, plan: fn(u64) -> Plan) {
    if let Some(seed) = number("CULVERT_SIM_SEED") {
        println!("{test}: {:?}", run(seed, Plan { log: true, ..plan(seed) }));
        return;
    }
    match number("CULVERT_SIM_RUNS") {
        Some(runs) => {
            let first = RandomState::new().hash_one("culvert") >> 16;
            all(test, first..first + runs, plan);
        }
        None => all(test, seeds, plan),
    }
}

fn bad_network(seed: u64) -> Plan {
    Plan { loss: seed % 4 * 10, trouble: true, ..Plan::default() }
}

#[test]
fn the_promises_hold_on_a_bad_network() {
    simulate("the_promises_hold_on_a_bad_network", 0..60, bad_network);
}

/// Two tables are on their way to a node at once. It ends with the newer one.
#[test]
fn a_node_does_not_go_back_to_an_older_table() {
    all("the_promises_hold_on_a_bad_network", std::iter::once(6961), bad_network);
}

/// Nobody begins before both have something to send at one moment or nearly so, so that INITs
/// cross, or meet the answer to another.
#[test]
fn crossing_inits_come_to_one_session() {
    let plan = |_| Plan { crossing: true, seconds: 1, calm: 1, ..Plan::default() };
    simulate("crossing_inits_come_to_one_session", 1000..2000, plan);
}

/// A mesh that goes from plain to sealed while packets flow: on a network that loses nothing, none
/// is lost and none is refused.
#[test]
fn the_change_from_plain_to_sealed_loses_nothing() {
    simulate("the_change_from_plain_to_sealed_loses_nothing", 2000..2040, |_| Plan {
        prefer: true,
        ..Plan::default()
    });
}

/// Renewals and another key for every node, while packets flow on a network that loses nothing.
#[test]
fn renewals_and_rotation_lose_nothing() {
    simulate("renewals_and_rotation_lose_nothing", 3000..3010, |_| Plan {
        rotation: true,
        seconds: 600,
        ..Plan::default()
    });
}
