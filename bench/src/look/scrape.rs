//! How large a scrape of a node is that knows ten thousand others, and how long it takes.
//!
//! More peers have traffic than have series of their own, and names as long as in clouds: a scrape
//! is as large as it gets.

use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_lab::{clock, wait_until};
use serde::Serialize;

use crate::programs::Programs;
use crate::stand_ins::{Crowd, StandIns};
use crate::traffic::pause;

/// Peers, and how many of them talk.
const PEERS: u32 = 9_999;
const ACTIVE: u32 = 600;

/// Time between two scrapes: one that comes sooner gets the answer of the one before.
pub(super) const APART: Duration = Duration::from_millis(700);

/// How long a daemon may take for its table.
const LIMIT: Duration = Duration::from_secs(30);

/// What came out.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Scrapes {
    /// Bytes of the largest.
    pub(super) bytes: usize,
    /// Samples in it.
    pub(super) samples: usize,
    /// Peers with traffic that have series of their own, and that have none.
    pub(super) shown: usize,
    pub(super) omitted: usize,
    /// Milliseconds from the connection to the last byte, of each.
    pub(super) ms: Vec<f64>,
}

/// Scrapes so often.
pub(super) fn measure(programs: &Programs, scrapes: usize) -> Result<Scrapes> {
    let crowd = Crowd { peers: PEERS, present: ACTIVE };
    let all = StandIns::build("scrape", programs, crowd, "")?;
    let node = all.node();
    node.start()?;
    wait_until(LIMIT, "the large table", || {
        let nodes = node.status().ok().and_then(|it| it["table"]["nodes"].as_u64());
        nodes == Some(u64::from(PEERS) + 1)
    })?;
    all.while_answering(|_| {
        let socket = all.pod_socket()?;
        let second = Duration::from_secs(1);
        all.talk(&socket, ACTIVE, second, 3 * second)?;
        // Nobody answers the pod from now on, and it does not read.
        drop(socket);
        let mut found = Scrapes { bytes: 0, samples: 0, shown: 0, omitted: 0, ms: Vec::new() };
        for number in 0..=scrapes {
            pause(APART)?;
            let start = clock::now();
            let (code, body) = node.http("/metrics")?;
            let took = start.elapsed();
            ensure!(code == 200, "the scrape was answered with {code}");
            // The first makes what those after it find.
            if number > 0 {
                found.ms.push(took.as_secs_f64() * 1e3);
            }
            if body.len() > found.bytes {
                found.bytes = body.len();
                found.samples = body.lines().filter(|line| !line.starts_with('#')).count();
                found.shown = body.matches("\nculvert_peer_mtu_bytes{").count();
                found.omitted = omitted(&body);
            }
        }
        let active = usize::try_from(ACTIVE).unwrap_or_default();
        ensure!(
            found.shown + found.omitted == active,
            "{} and {} of {active} peers had traffic",
            found.shown,
            found.omitted
        );
        Ok(found)
    })
}

fn omitted(body: &str) -> usize {
    let mut lines = body.lines();
    let value = lines.find_map(|line| line.strip_prefix("culvert_peers_omitted "));
    value.and_then(|value| value.parse().ok()).unwrap_or_default()
}
