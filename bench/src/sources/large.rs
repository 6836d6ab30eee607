//! A table of ten thousand nodes: how it is loaded, what a change costs, and whether a hundred
//! changes a second disturb the traffic of others.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use culvert_lab::clock;
use culvert_lab::{Lab, Node, interrupt};
use serde::Serialize;

use super::stage::{Kind, MOVER, PLACES, Stage};
use crate::programs::Programs;
use crate::progress::Progress;
use crate::traffic::udp::{Flow, Offered};
use crate::traffic::{Pod, pause};
use crate::usage::{self, CpuTime};

/// Nodes of the table, these two and the mover included.
const SIZE: u32 = 10_000;
const NODES: u16 = 2;

/// Packets a second between two pods that nobody changes.
const RATE: f64 = 5_000.0;
const PAYLOAD_LEN: usize = 512;

/// Changes a second while they flow.
const CHANGES_PER_SECOND: u32 = 100;

/// How much of everything.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Amount {
    pub(super) starts: usize,
    pub(super) changes: u32,
    pub(super) traffic: Duration,
    pub(super) idle: Duration,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Large {
    /// Seconds from the start of a daemon until it was ready, by start.
    pub(super) ready_seconds: Vec<f64>,
    /// Resident memory, the most that was seen, and the most that there ever was, in MiB.
    pub(super) resident_mib: f64,
    pub(super) peak_mib: f64,
    /// CPU time of the daemon for one change, less what it needs anyway, in ms.
    pub(super) change_cpu_ms: f64,
    /// CPU time of the daemon when nothing changes, in ms a second.
    pub(super) idle_cpu_ms: f64,
    /// Tables that were taken for so many changes.
    pub(super) tables: u64,
    pub(super) changes: u32,
    pub(super) storm: Storm,
}

/// Changes and traffic at once.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Storm {
    pub(super) changes_per_second: f64,
    pub(super) sent: u64,
    pub(super) lost: u64,
    /// Packets that the kernel dropped on their way between namespaces (`softnet_stat`).
    pub(super) lost_by_kernel: u64,
    /// Packets that the two daemons dropped, whatever the reason.
    pub(super) dropped: u64,
    /// Tables taken by one daemon meanwhile.
    pub(super) tables: u64,
}

impl Amount {
    /// About how long it takes for one source.
    pub(super) fn duration(self, kind: Kind) -> Duration {
        let starts = Duration::from_millis(700) * u32::try_from(self.starts).unwrap_or(u32::MAX);
        starts + spacing(kind) * self.changes + self.traffic + self.idle
    }
}

/// Time between two changes that are to be taken one by one: a file is looked at five times a
/// second, and the daemon takes no more than twenty tables a second.
fn spacing(kind: Kind) -> Duration {
    match kind {
        Kind::File => Duration::from_millis(300),
        Kind::Etcd | Kind::Kubernetes => Duration::from_millis(100),
    }
}

pub(super) fn measure(
    kind: Kind,
    programs: &Programs,
    amount: Amount,
    progress: &mut Progress,
) -> Result<Large> {
    let name = kind.name();
    progress.say(&format!("{name}: building a table of {SIZE} nodes"));
    let mut stage = Stage::build(kind, programs, NODES, SIZE - u32::from(NODES) - 1)?;
    progress.step(&format!("{name}: {SIZE} nodes"), amount.duration(kind));

    let mut memory = Memory::default();
    let mut ready_seconds = Vec::new();
    for _ in 0..amount.starts {
        interrupt::check()?;
        stage.lab.node(1).stop()?;
        let start = clock::now();
        stage.lab.node(1).start()?;
        ready_seconds.push(start.elapsed().as_secs_f64());
        memory.look(stage.lab.node(1))?;
    }
    stage.lab.node(2).start()?;
    let pods = [pod(&stage.lab, 1)?, pod(&stage.lab, 2)?];

    let node = stage.lab.node(1);
    let id = node.pid().context("the daemon has ended")?;
    let cpu = || Ok::<_, anyhow::Error>(CpuTime::so_far(&[id])?.daemons);
    pause(Duration::from_secs(1))?;
    let begin = cpu()?;
    pause(amount.idle)?;
    let idle = (cpu()? - begin).as_secs_f64() / amount.idle.as_secs_f64();

    let generation = generation(node)?;
    let (begin, start) = (cpu()?, clock::now());
    for change in 0..amount.changes {
        stage.move_to((change as usize + 1) % PLACES.len())?;
        pause(spacing(kind))?;
    }
    let used = (cpu()? - begin).as_secs_f64() - idle * start.elapsed().as_secs_f64();
    let tables = self::generation(stage.lab.node(1))? - generation;
    memory.look(stage.lab.node(1))?;

    let storm = storm(&mut stage, &pods, amount.traffic)?;
    memory.look(stage.lab.node(1))?;
    Ok(Large {
        ready_seconds,
        resident_mib: memory.resident,
        peak_mib: memory.peak,
        change_cpu_ms: used * 1e3 / f64::from(amount.changes),
        idle_cpu_ms: idle * 1e3,
        tables,
        changes: amount.changes,
        storm,
    })
}

/// Changes the table over and over while packets flow between two pods.
fn storm(stage: &mut Stage, pods: &[Pod; 2], time: Duration) -> Result<Storm> {
    let [from, to] = pods;
    let mut flow = Flow::open(from, &[(to, PAYLOAD_LEN)])?;
    // The first packets find neighbours and fill caches.
    flow.offer(RATE, Duration::from_millis(200))?;
    let (before, kernel) = (drops(&stage.lab)?, kernel_drops()?);
    let tables = generation(stage.lab.node(1))?;
    let start = clock::now();
    let (changes, offered) = thread::scope(|scope| {
        let sending = scope.spawn(|| flow.offer(RATE, time));
        let mut changes = 0;
        while start.elapsed() < time {
            interrupt::check()?;
            stage.move_to((changes as usize + 1) % PLACES.len())?;
            changes += 1;
            let due = Duration::from_secs(1) * changes / CHANGES_PER_SECOND;
            thread::sleep(due.saturating_sub(start.elapsed()));
        }
        let offered = sending.join().map_err(|_| anyhow!("the sender ended"))??;
        Ok::<_, anyhow::Error>((changes, offered))
    })?;
    let took = start.elapsed();
    // What changed last must be what is in force.
    let place = PLACES[changes as usize % PLACES.len()].to_string();
    culvert_lab::wait_until(Duration::from_secs(10), "the last change", || {
        stage.lab.nodes().iter().all(|node| mover_is_at(node).is_ok_and(|at| at == place))
    })?;
    let Offered { sent, received, .. } = offered;
    Ok(Storm {
        changes_per_second: f64::from(changes) / took.as_secs_f64(),
        sent,
        lost: sent.saturating_sub(received),
        lost_by_kernel: kernel_drops()? - kernel,
        dropped: drops(&stage.lab)? - before,
        tables: generation(stage.lab.node(1))? - tables,
    })
}

fn pod(lab: &Lab, node: u16) -> Result<Pod> {
    Ok(Pod::from(&lab.add_pod(node)?))
}

fn generation(node: &Node) -> Result<u64> {
    let status = node.status()?;
    status["table"]["generation"].as_u64().context("the status has no generation")
}

fn mover_is_at(node: &Node) -> Result<String> {
    let status = node.status()?;
    let peers = status["peers"].as_array().context("the status has no peers")?;
    let mover = peers.iter().find(|peer| peer["name"] == MOVER).context("nobody moves")?;
    Ok(mover["address"].as_str().unwrap_or_default().to_owned())
}

/// Packets that the daemons of `lab` have dropped so far.
fn drops(lab: &Lab) -> Result<u64> {
    let mut all = 0;
    for node in lab.nodes() {
        let status = node.status()?;
        let drops = status["drops"].as_object().context("the status has no drops")?;
        all += drops.values().filter_map(serde_json::Value::as_u64).sum::<u64>();
    }
    Ok(all)
}

/// Packets that the kernel had no room for so far: the second column, by CPU, in hexadecimal.
fn kernel_drops() -> Result<u64> {
    let text = fs::read_to_string("/proc/net/softnet_stat").context("read softnet_stat")?;
    softnet_drops(&text).context("understand softnet_stat")
}

fn softnet_drops(text: &str) -> Option<u64> {
    let column = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    text.lines().map(column).sum()
}

/// The most memory of a daemon, in MiB.
#[derive(Default)]
struct Memory {
    resident: f64,
    peak: f64,
}

impl Memory {
    fn look(&mut self, node: &Node) -> Result<()> {
        let id = node.pid();
        ensure!(id.is_some(), "the daemon of {} has ended", node.name());
        let memory = usage::memory(id.unwrap_or_default())?;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        self.resident = self.resident.max(mib(memory.resident));
        self.peak = self.peak.max(mib(memory.peak));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_of_all_cpus_are_added() {
        assert_eq!(softnet_drops("0001 0000000a 0\n0002 00000010 0\n"), Some(26));
        assert_eq!(softnet_drops("1\n"), None);
    }
}
