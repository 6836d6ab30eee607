//! One batch of pods that come and go, and the figures of a point.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use culvert_lab::clock;
use serde::Serialize;

use super::contender::Contender;
use crate::statistics::{Summary, percentile, ratio};

/// What was there while a point was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Present {
    /// Pods, or addresses.
    pub(super) pods: usize,
    /// Whether they were attached; else only their addresses were held.
    pub(super) attached: bool,
}

/// What both contenders did at one point, by round.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Point {
    pub(super) present: Present,
    pub(super) at_once: usize,
    pub(super) stock: Vec<Batch>,
    pub(super) culvert: Vec<Batch>,
}

/// What came of one batch.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Batch {
    pub(super) add_p50_ms: f64,
    pub(super) add_p99_ms: f64,
    pub(super) del_p50_ms: f64,
    pub(super) del_p99_ms: f64,
    /// Pods that came and went, by the time that both took.
    pub(super) pods_per_second: f64,
    /// Processor time of the plugins for each pod, ADD and DEL, in ms.
    pub(super) cpu_ms: f64,
    /// How much of it was the kernel's.
    pub(super) kernel_share: f64,
}

/// Attaches and detaches `pods` pods, `at_once` at a time, in as many waves as the subnet's room
/// demands.
pub(super) fn measure(contender: &Contender, pods: usize, at_once: usize) -> Result<Batch> {
    let (user_before, kernel_before) = children()?;
    let start = clock::now();
    let (mut add, mut del) = (Vec::new(), Vec::new());
    while add.len() < pods {
        let wave = contender.room().min(pods - add.len()).max(1);
        add.extend(contender.churn("ADD", wave, at_once)?);
        del.extend(contender.churn("DEL", wave, at_once)?);
    }
    let took = start.elapsed();
    let (add, del) = (sorted(add), sorted(del));
    let (user, kernel) = children()?;
    let (user, kernel) = (user - user_before, kernel - kernel_before);
    let ms = |times: &[Duration], per_mille| {
        let time = percentile(times, per_mille).context("a batch has pods")?;
        Ok::<_, anyhow::Error>(time.as_secs_f64() * 1e3)
    };
    Ok(Batch {
        add_p50_ms: ms(&add, 500)?,
        add_p99_ms: ms(&add, 990)?,
        del_p50_ms: ms(&del, 500)?,
        del_p99_ms: ms(&del, 990)?,
        pods_per_second: pods as f64 / took.as_secs_f64(),
        cpu_ms: (user + kernel) * 1e3 / pods as f64,
        kernel_share: kernel / (user + kernel).max(f64::MIN_POSITIVE),
    })
}

impl Point {
    /// The median over rounds of what `figure` says.
    pub(super) fn median(batches: &[Batch], figure: impl Fn(&Batch) -> f64) -> f64 {
        Summary::of(batches.iter().map(figure)).map_or(f64::NAN, |summary| summary.median)
    }

    /// What ours is to the stock pair's, in the same round.
    pub(super) fn ratio(&self, figure: impl Fn(&Batch) -> f64) -> Option<f64> {
        let values = |batches: &[Batch]| batches.iter().map(|batch| Some(figure(batch))).collect();
        let (ours, theirs): (Vec<_>, Vec<_>) = (values(&self.culvert), values(&self.stock));
        ratio(&ours, &theirs)
    }
}

fn sorted(mut times: Vec<Duration>) -> Vec<Duration> {
    times.sort_unstable();
    times
}

/// Seconds that all children that have ended spent in user space and in the kernel.
fn children() -> Result<(f64, f64)> {
    let text = fs::read_to_string("/proc/self/stat").context("read /proc/self/stat")?;
    let ticks = child_ticks(&text).context("understand /proc/self/stat")?;
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    Ok((ticks.0 as f64 / per_second, ticks.1 as f64 / per_second))
}

/// `cutime` and `cstime`, the 16th and 17th field (`proc_pid_stat(5)`). The second field is a name
/// in parentheses, which may contain anything.
fn child_ticks(stat: &str) -> Option<(u64, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(13);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn child_ticks_are_found_behind_any_name() {
        let stat = "1 (a) b) S 0 1 1 0 -1 4 1 2 3 4 5 6 77 88 20 0 1";
        assert_eq!(child_ticks(stat), Some((77, 88)));
        assert_eq!(child_ticks("1 (a) S"), None);
    }
}
