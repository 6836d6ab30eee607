//! A node that asks its peers, on a network under a virtual clock: paths that break one way, peers
//! that die and come back, links that narrow without a word, and questions that get lost by chance.
//!
//! `CULVERT_SIM_SEED=…` shows one run, `CULVERT_SIM_RUNS=…` makes as many fresh ones. The same seed
//! is the same run.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]
#![expect(clippy::print_stdout, reason = "a broken run says how to see it again")]

mod random;
mod scenes;
mod world;

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Mutex;

use scenes::SCENES;

/// Runs of each scene, unless `CULVERT_SIM_RUNS` says otherwise.
const RUNS: u64 = 60;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// As many runs at once as there are processors; one that breaks a promise says its seed.
fn all(seeds: std::ops::Range<u64>) {
    let (seeds, broken) = (Mutex::new(seeds), Mutex::new(None));
    let worker = || {
        loop {
            let next = seeds.lock().unwrap().next();
            let Some(seed) = next else { return };
            if std::panic::catch_unwind(|| scenes::run(seed, false)).is_err() {
                *seeds.lock().unwrap() = 0..0;
                *broken.lock().unwrap() = Some(seed);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        (0..threads).for_each(|_| {
            scope.spawn(worker);
        });
    });
    let broken = broken.into_inner().unwrap();
    assert!(broken.is_none(), "CULVERT_SIM_SEED={} shows what is broken", broken.unwrap());
}

#[test]
fn fixed_seeds_keep_every_promise() {
    all(0..RUNS * SCENES.len() as u64);
}

#[test]
fn fresh_seeds_keep_every_promise() {
    if let Some(seed) = number("CULVERT_SIM_SEED") {
        return scenes::run(seed, true);
    }
    let first = RandomState::new().hash_one("culvert") >> 16;
    let runs = number("CULVERT_SIM_RUNS").unwrap_or(RUNS);
    all(first..first + runs * SCENES.len() as u64);
}
