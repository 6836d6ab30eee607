//! What a pod's start costs more where the plugin asks about policies.

use std::time::Duration;

use anyhow::{Context as _, Result};
use culvert_lab::{clock, interrupt};

use super::stage::Stage;

/// Calls that do not count.
const WARM_UP: usize = 3;

/// Milliseconds of `count` ADDs in each cluster, in turns, without and with policies.
pub(super) fn measure(off: &Stage, on: &Stage, count: usize) -> Result<[Vec<f64>; 2]> {
    let mut took = [Vec::new(), Vec::new()];
    for round in 0..count + WARM_UP {
        for turn in 0..2 {
            interrupt::check()?;
            let which = (turn + round) % 2;
            let stage = if which == 0 { off } else { on };
            let time = add(stage)?;
            if round >= WARM_UP {
                took[which].push(time.as_secs_f64() * 1e3);
            }
        }
    }
    Ok(took)
}

/// Detaches a pod and attaches it again; how long the latter takes.
fn add(stage: &Stage) -> Result<Duration> {
    let (node, pod) = (stage.lab.node(1), stage.third());
    node.cni("DEL", pod)?;
    let start = clock::now();
    node.cni("ADD", pod).context("attach a pod")?;
    Ok(start.elapsed())
}
