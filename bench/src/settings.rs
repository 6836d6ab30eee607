//! How much of everything: rounds, times, sizes.

use std::time::Duration;

use serde::Serialize;

use crate::traffic::tcp::Timing;

/// How long and how often things are measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Effort {
    /// Rounds of the comparison.
    pub(crate) rounds: usize,
    /// Bulk TCP: time without counting, then with.
    #[serde(skip)]
    pub(crate) tcp: Timing,
    /// UDP: how long one rate is tried.
    pub(crate) udp_trial: Duration,
    /// Ping-pong: for how long.
    pub(crate) ping: Duration,
    /// Rounds of the growth measures.
    pub(crate) growth_rounds: usize,
    /// Sizes of the table.
    pub(crate) table_nodes: Vec<u32>,
    /// Numbers of peers.
    pub(crate) peers: Vec<u8>,
}

impl Effort {
    /// Everything, in less than 25 minutes with eight networks; three minutes more for each other.
    pub(crate) fn full() -> Self {
        Self {
            rounds: 5,
            tcp: Timing { warm_up: ms(300), window: ms(1700) },
            udp_trial: ms(250),
            ping: ms(700),
            growth_rounds: 5,
            table_nodes: vec![3, 100, 1000, 10_000],
            peers: vec![1, 2, 4, 8, 16, 32, 64],
        }
    }

    /// Everything, in less than four minutes.
    pub(crate) fn quick() -> Self {
        Self {
            rounds: 2,
            tcp: Timing { warm_up: ms(150), window: ms(450) },
            udp_trial: ms(100),
            ping: ms(200),
            growth_rounds: 2,
            table_nodes: vec![3, 100, 1000, 10_000],
            peers: vec![1, 8, 64],
        }
    }
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}
