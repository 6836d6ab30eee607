//! Whole nodes in one process under a virtual clock: thousands of runs, each drawn from a seed,
//! each checked packet by packet.
//!
//! A run is a few nodes with the daemon's own engine and data path over in-memory devices (`node`,
//! `ports`), an underlay that delays, loses, doubles and reorders (`network`), an operator who
//! changes the table (`cluster`), and those who mean harm (`adversary`). `scenario` draws what
//! happens; `turns` compares every step with a slow reference (`reference`); `ledger` keeps the
//! account of every packet. Nothing here needs root, and the same seed is the same run.
//!
//! `make simulate RUNS=100000` looks further than `make test`; `make simulate SEED=…` shows one
//! run.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod adversary;
mod clock;
mod cluster;
mod ledger;
mod network;
mod node;
mod packet;
mod ports;
mod random;
mod reference;
mod report;
mod scenario;
mod turns;
mod world;

use std::hash::{BuildHasher as _, RandomState};

/// Runs of one test, unless `CULVERT_SIM_RUNS` says otherwise.
const RUNS: u64 = 500;

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}; it must be a number")))
}

#[test]
fn fixed_seeds_hold_every_invariant_and_reach_every_fate() {
    let summary = report::run_all(0..RUNS);
    let fates: Vec<_> = summary.fates.keys().copied().collect();
    for fate in [
        // Each check of the way in.
        "unknown_peer",
        "too_short",
        "version",
        "flags",
        "reserved",
        "next_protocol",
        "vni",
        "inner_family_mismatch",
        "inner_truncated",
        "spoofed_source",
        "not_our_destination",
        "congestion",
        // Each check of the way out.
        "multicast",
        "foreign_source",
        "own_subnet",
        "no_owner",
        "too_big",
        "fragmented",
        // What the kernel refuses, and what becomes of the rest.
        "underlay_full",
        "underlay_refused",
        "tun_full",
        "tun_refused",
        "delivered",
        "lost on the wire",
        "lost with its node",
        "hops used up",
        "back into the tunnel",
    ] {
        assert!(fates.contains(&fate), "no packet met the fate {fate}: {:?}", summary.fates);
    }
}

/// `CULVERT_SIM_SEED` shows one run instead, `CULVERT_SIM_RUNS` makes more of them.
#[test]
fn fresh_seeds_hold_every_invariant() {
    if let Some(seed) = variable("CULVERT_SIM_SEED") {
        return report::show(seed);
    }
    let first = RandomState::new().hash_one("culvert") >> 16;
    let runs = variable("CULVERT_SIM_RUNS").unwrap_or(RUNS);
    let summary = report::run_all(first..first + runs);
    println!("{} runs from seed {first}, {} events", summary.runs, summary.events);
    for (fate, count) in &summary.fates {
        println!("{count:>12}  {fate}");
    }
}

#[test]
fn a_seed_is_the_same_run_every_time() {
    for seed in [1, 2, 3] {
        let (first, second) = (report::run(seed, true), report::run(seed, true));
        assert!(first.trace.lines().count() > 100, "the trace tells what happened");
        assert_eq!(first.trace, second.trace);
        assert_eq!(first.last_delivery, second.last_delivery);
    }
}
