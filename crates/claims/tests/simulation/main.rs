//! How nodes come to their subnets, in one process under a virtual clock: thousands of runs, each
//! drawn from a seed.
//!
//! The machines are the daemon's own. `etcd` runs many of them against a store in memory,
//! `kubernetes` against an API server in memory. Nothing here needs root, and the same seed is the
//! same run.
//!
//! `make simulate-claims RUNS=100000` looks further than `make test`; `make simulate-claims
//! SOURCE=etcd SEED=…` shows one run.

#![expect(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    reason = "a test may fail where it stands"
)]
#![expect(clippy::wildcard_enum_match_arm, reason = "a simulation names what it is about")]

#[path = "../../../dataplane/tests/simulation/clock.rs"]
mod clock;
mod etcd;
mod harness;
mod kubernetes;
#[path = "../../../dataplane/tests/simulation/random.rs"]
#[expect(dead_code, reason = "the simulation of packets draws more kinds of things")]
mod random;
mod report;

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};

use etcd::Etcd;
use kubernetes::Kubernetes;
use report::Simulation;

const ETCD: Simulation = Simulation { name: "etcd", run: harness::run::<Etcd> };
const KUBERNETES: Simulation = Simulation { name: "kubernetes", run: harness::run::<Kubernetes> };

/// Runs of one test, unless `CULVERT_SIM_RUNS` says otherwise.
const RUNS: u64 = 500;

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}; it must be a number")))
}

/// `CULVERT_SIM_SEED` shows one run instead, `CULVERT_SIM_RUNS` makes more of them, and
/// `CULVERT_SIM_SOURCE` chooses the simulation.
fn fresh(simulation: &Simulation) {
    let wanted = std::env::var("CULVERT_SIM_SOURCE").unwrap_or_default();
    if !wanted.is_empty() && wanted != simulation.name {
        return;
    }
    if let Some(seed) = variable("CULVERT_SIM_SEED") {
        return simulation.show(seed);
    }
    let first = RandomState::new().hash_one("culvert") >> 16;
    let runs = variable("CULVERT_SIM_RUNS").unwrap_or(RUNS);
    simulation.run_all(first..first + runs);
}

#[test]
fn fixed_seeds_of_etcd_hold_every_invariant_and_reach_what_they_are_about() {
    let fates = ETCD.run_all(0..RUNS);
    reaches(
        &fates,
        &[
            "a database was restored or emptied",
            "a disk was full",
            "a lease ran out",
            "a lease was gone when it was used",
            "a node changed its key",
            "a node looked at its pods",
            "a node said that it is contested",
            "a node was drained",
            "a node was too late",
            "a pod was attached",
            "a session failed",
            "a subnet was claimed",
            "a watch was left behind",
        ],
    );
}

/// A machine with a new disk claims its subnets by name and address, and moves while the
/// transaction is under way: etcd has still its own claim, at the address that it has left.
#[test]
fn a_node_that_moves_while_it_claims_takes_its_subnets_from_nobody() {
    let seed = 260_825_389_012_978;
    let fates = ETCD.run_all(seed..seed + 1);
    reaches(&fates, &["a node kept its subnet by a mark that it had lost meanwhile"]);
}

/// After a restore, nodes come back to subnets of different lengths, and two claim prefixes that
/// overlap at one time. If a claim did not compare that no subnet was written since, both would get
/// theirs.
#[test]
fn overlapping_subnets_that_are_claimed_at_one_time_go_to_one_node() {
    let seed = 265_142_361_109_376;
    let fates = ETCD.run_all(seed..seed + 1);
    reaches(
        &fates,
        &["a subnet of another length was claimed", "a claim of another length was too late"],
    );
}

#[test]
fn fixed_seeds_of_kubernetes_hold_every_invariant_and_reach_what_they_are_about() {
    let fates = KUBERNETES.run_all(0..RUNS);
    reaches(
        &fates,
        &[
            "a change came too late",
            "a node looked at its pods",
            "a node said that it is contested",
            "a node was drained",
            "a pod was attached",
            "a session failed",
            "a watch was left behind",
        ],
    );
}

fn reaches(fates: &BTreeMap<&'static str, u64>, wanted: &[&str]) {
    for fate in wanted {
        assert!(fates.contains_key(fate), "it never came to this: {fate}: {fates:?}");
    }
}

#[test]
fn fresh_seeds_of_kubernetes_hold_every_invariant() {
    fresh(&KUBERNETES);
}

/// A daemon starts from its last good table, takes pods, and hears seconds later that its Node has
/// another podCIDR. It never told the API that pods could come; it must still say that they cannot.
#[test]
fn a_node_that_is_contested_says_so_whatever_the_daemon_before_it_said() {
    let seed = 71_534_221_674_344;
    KUBERNETES.run_all(seed..seed + 1);
}

/// A machine stands still, and again for a shorter or a longer while before it goes on. What one
/// watch tells must still come in its order.
#[test]
fn a_machine_that_stands_still_twice_hears_everything_in_its_order() {
    for seed in [25_366_108_477_410, 244_071_555_951_284] {
        KUBERNETES.run_all(seed..seed + 1);
    }
}

/// A session ends while the daemon has yet to hear what it told. The next one has asked for
/// something else by the time that it has heard.
#[test]
fn what_an_earlier_session_waited_for_is_no_answer_to_the_next() {
    for seed in [214_689_913_624_833, 165_917_185_998_945] {
        KUBERNETES.run_all(seed..seed + 1);
    }
}

#[test]
fn fresh_seeds_of_etcd_hold_every_invariant() {
    fresh(&ETCD);
}

#[test]
fn a_seed_is_the_same_run_every_time() {
    for simulation in [ETCD, KUBERNETES] {
        for seed in [1, 2, 3] {
            let (first, second) = ((simulation.run)(seed, true), (simulation.run)(seed, true));
            assert!(first.trace.lines().count() > 100, "the trace tells what happened");
            assert_eq!(first.trace, second.trace);
        }
    }
}
