//! One daemon and peers by the thousand: until all have sessions, what those take of memory, and
//! what renewing them loses; then one peer whose lanes take different times.

use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_dataplane::engine::DropReason;
use culvert_lab::{Lab, TableFile, clock, interrupt};
use serde::Serialize;

use super::crowd::{Crowd, Members, PODS};
use super::load::{self, Carried};
use crate::networks::{PREFIX, bypass_filters};
use crate::programs::Programs;
use crate::traffic::Pod;
use crate::usage;

/// How long all sessions may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Packets sent without a pause: a round of them takes less than what waits for a session lives.
const BURST: u32 = 50;
const PAUSE: Duration = Duration::from_millis(1);

/// A start with peers by the thousand.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Growth {
    pub(super) peers: u32,
    /// From the start of the daemon until it was ready.
    pub(super) ready_seconds: f64,
    /// From the first packet until the last session served.
    pub(super) sessions_seconds: f64,
    /// From the start after `kill -9` until then, while a pod sends to all peers all the time.
    pub(super) again_seconds: f64,
    /// What the sessions added to the daemon's resident memory, in MiB.
    pub(super) added_mib: f64,
    pub(super) resident_mib: f64,
}

/// What became of packets while sessions were renewed.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Renewals {
    pub(super) renewed: u64,
    pub(super) sent: u64,
    pub(super) lost: u64,
    pub(super) per_second: f64,
    /// Of those that were lost, those that the daemon says that it dropped.
    pub(super) dropped: u64,
    /// Datagrams that the peers could not open or not answer.
    pub(super) refused: u64,
}

/// The same while lanes take different times.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Lanes {
    pub(super) sent: u64,
    pub(super) lost: u64,
    pub(super) per_second: f64,
    pub(super) replayed: u64,
}

/// A daemon, a pod, and the peers.
struct Stage {
    crowd: Crowd,
    pod: Pod,
    lab: Lab,
}

fn build(programs: &Programs, peers: u32, spread: Duration) -> Result<(Stage, f64)> {
    let lab = Lab::builder(format!("{PREFIX}sealed"))
        .nodes(2)
        .pods(0)
        .without_daemons()
        .culvert(&programs.culvert)
        .plugin(&programs.plugin)
        .sealed("require")
        .config(PODS)
        // Questions to peers that answer none are no part of this.
        .config("[probe]\ninterval = 0")
        .replace()
        .up()?;
    bypass_filters(&lab)?;
    let members = Members::new(peers)?;
    let mut table = TableFile { nodes: lab.table().nodes.into_iter().take(1).collect() };
    table.nodes.extend(members.entries());
    lab.write_table(&table.to_toml())?;
    let crowd = members.gather(&lab, spread)?;
    let start = clock::now();
    lab.node(1).start()?;
    let ready = start.elapsed().as_secs_f64();
    let pod = Pod::from(&lab.add_pod(1)?);
    Ok((Stage { crowd, pod, lab }, ready))
}

impl Stage {
    fn resident(&self) -> Result<f64> {
        let id = self.lab.node(1).pid().context("the daemon has ended")?;
        Ok(usage::memory(id)?.resident as f64 / f64::from(1 << 20))
    }

    /// Sends to every peer, again and again, until so many sessions serve.
    fn send_until(&self, peers: u32, sessions: u64) -> Result<()> {
        let socket = self.pod.netns.run(|| UdpSocket::bind((self.pod.address, 0)))?;
        let socket = socket.context("bind in the pod")?;
        let start = clock::now();
        while self.crowd.sessions() < sessions {
            interrupt::check()?;
            ensure!(
                start.elapsed() < LIMIT,
                "{} of {sessions} sessions after {LIMIT:?}",
                self.crowd.sessions()
            );
            for number in 0..peers {
                if number % BURST == 0 {
                    if self.crowd.sessions() >= sessions {
                        break;
                    }
                    thread::sleep(PAUSE);
                }
                // Before the daemon is there, nobody takes it.
                let _ = socket.send_to(b"here", (Members::pod(number), 9));
            }
        }
        Ok(())
    }

    fn drops(&self) -> Result<u64> {
        let node = self.lab.node(1);
        DropReason::ALL.into_iter().map(|reason| node.drops(reason.as_str())).sum()
    }
}

pub(super) fn growth(programs: &Programs, peers: u32) -> Result<Growth> {
    let (stage, ready_seconds) = build(programs, peers, Duration::ZERO)?;
    let before = stage.resident()?;
    let start = clock::now();
    stage.send_until(peers, peers.into())?;
    let sessions_seconds = start.elapsed().as_secs_f64();
    let resident_mib = stage.resident()?;
    let node = stage.lab.node(1);
    node.kill9()?;
    let (known, start) = (stage.crowd.sessions(), clock::now());
    node.spawn()?;
    stage.send_until(peers, known + u64::from(peers))?;
    let again_seconds = start.elapsed().as_secs_f64();
    Ok(Growth {
        peers,
        ready_seconds,
        sessions_seconds,
        again_seconds,
        added_mib: resident_mib - before,
        resident_mib,
    })
}

/// Has as many sessions renewed as there are peers, which takes two minutes.
pub(super) fn renewals(programs: &Programs, peers: u32, lasts: Duration) -> Result<Renewals> {
    let (stage, _) = build(programs, peers, Duration::ZERO)?;
    stage.send_until(peers, peers.into())?;
    // What this sends may still be on its way.
    thread::sleep(Duration::from_millis(500));
    let (sessions, drops) = (stage.crowd.sessions(), stage.drops()?);
    let refused = stage.crowd.refused();
    let targets: Vec<Ipv4Addr> = (0..peers).map(Members::pod).collect();
    let carried = load::carry(&stage.pod, &targets, 4, 64, lasts)?;
    Ok(Renewals {
        renewed: stage.crowd.sessions() - sessions,
        sent: carried.sent,
        lost: carried.lost(),
        per_second: carried.per_second(),
        dropped: stage.drops()? - drops,
        refused: stage.crowd.refused() - refused,
    })
}

/// Has what comes from a peer take up to `spread`, on each of sixteen lanes another time.
pub(super) fn lanes(programs: &Programs, spread: Duration, lasts: Duration) -> Result<Lanes> {
    let (stage, _) = build(programs, 1, spread)?;
    stage.send_until(1, 1)?;
    let carried: Carried = load::carry(&stage.pod, &[Members::pod(0)], 64, 64, lasts)?;
    Ok(Lanes {
        sent: carried.sent,
        lost: carried.lost(),
        per_second: carried.per_second(),
        replayed: stage.lab.node(1).drops(DropReason::Replayed.as_str())?,
    })
}
