//! How soon a node finds out what is wrong between it and a peer, from the moment it is broken.
//!
//! Each is broken at another time of the turn in which peers are asked. What counts is what
//! `culvert status` says, which is asked twenty times a second.

use std::fmt;
use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use culvert_lab::probe::{self, Transfer};
use culvert_lab::{Fault, Lab, LabBuilder, clock, interrupt};
use overlay_proto::Family;
use serde_json::Value;

use crate::networks::{PREFIX, bypass_filters};
use crate::programs::Programs;
use crate::statistics::Summary;

/// How often a pod sends: all the time, or so seldom that a peer is asked every ten seconds and not
/// more often.
const OFTEN: Duration = Duration::from_millis(50);
const SELDOM: Duration = Duration::from_secs(15);

/// How long anything is waited for that takes some seconds, and some minutes.
const SOON: Duration = Duration::from_secs(60);
const LATE: Duration = Duration::from_secs(400);

/// Nodes where paths break: the first asks all others, each in a turn of its own.
const NODES: u16 = 5;

/// What a transfer through a black hole sends.
const TRANSFER: u64 = 16 << 20;

/// What was found out so often, and how soon.
pub(super) struct Found {
    what: String,
    target: Duration,
    samples: Vec<Duration>,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = self.target.as_secs();
        match Summary::of(self.samples.iter().map(Duration::as_secs_f64)) {
            Some(Summary { median, min, max }) => write!(
                f,
                "{}: {min:.2} to {max:.2} s, median {median:.2}, of {} (target: {target})",
                self.what,
                self.samples.len()
            ),
            None => write!(f, "{}: not measured (target: {target})", self.what),
        }
    }
}

/// Peers that die: where their kernels say so, and where nobody does.
pub(super) fn peers(programs: &Programs, rounds: u32) -> Result<Vec<Found>> {
    let lab = up(programs, lab("dead").nodes(2))?;
    let mut found = Vec::new();
    for (what, refuses, pause, target) in [
        ("a dead peer whose kernel answers", true, OFTEN, 1),
        ("a dead peer under traffic", false, OFTEN, 13),
        ("a dead peer with a packet now and then", false, SELDOM, 13),
    ] {
        let samples = talking(&lab, pause, || {
            (0..rounds).map(|round| peer_dies(&lab, refuses, round)).collect()
        })?;
        found.push(Found { what: what.to_owned(), target: Duration::from_secs(target), samples });
    }
    Ok(found)
}

fn peer_dies(lab: &Lab, refuses: bool, round: u32) -> Result<Duration> {
    let peer = lab.node(2);
    await_path(lab, SOON, |path| path["state"] == "answers")?;
    thread::sleep(part_of(Duration::from_secs(10), round));
    let broken = clock::now();
    if refuses {
        peer.kill9()?;
        await_path(lab, SOON, |path| path["state"] == "refused")?;
    } else {
        lab.inflict(&Fault::Cut { node: peer.name().to_owned() })?;
        await_path(lab, SOON, |path| path["state"] == "silent")?;
    }
    let passed = broken.elapsed();
    if refuses {
        peer.start()?
    } else {
        lab.mend().map(drop)?
    }
    Ok(passed)
}

/// One source port of sixteen that leads nowhere, to several peers at once.
pub(super) fn paths(programs: &Programs, rounds: u32) -> Result<Vec<Found>> {
    let lab = up(programs, lab("paths").nodes(NODES))?;
    let said = lab.node(1).culvert(&["ping", "node2", "--all-paths", "--count", "1", "--json"])?;
    let said: Value = serde_json::from_str(&said).context("read what ping says")?;
    let ports = said["paths"].as_array().context("the paths of a ping")?;
    let mut found = Vec::new();
    for (what, pause, target) in [
        ("a lost path under traffic", OFTEN, 15),
        ("a lost path with a packet now and then", SELDOM, 165),
    ] {
        let rounds = rounds.div_ceil(u32::from(NODES) - 1);
        let samples: Vec<Vec<Duration>> = talking(&lab, pause, || {
            let number = |round: u32| (round * 7 + 3) as usize % ports.len().max(1);
            (0..rounds).map(|round| path_breaks(&lab, &ports[number(round)], round)).collect()
        })?;
        let samples = samples.into_iter().flatten().collect();
        found.push(Found { what: what.to_owned(), target: Duration::from_secs(target), samples });
    }
    Ok(found)
}

fn path_breaks(lab: &Lab, path: &Value, round: u32) -> Result<Vec<Duration>> {
    let port = path["port"].as_u64().and_then(|port| u16::try_from(port).ok());
    let port = port.context("the port of a path")?;
    await_all(lab, LATE, |path| path["lost"] == Value::Array(Vec::new()))?;
    thread::sleep(part_of(Duration::from_secs(10), round));
    let node = lab.node(1).name().to_owned();
    let broken = clock::now();
    lab.inflict(&Fault::Lose { node, percent: 100, source_port: Some(port) })?;
    let samples = await_all(lab, LATE, |path| path["lost"][0]["port"] == port)?;
    lab.mend()?;
    Ok(samples.into_iter().map(|at| at.saturating_duration_since(broken)).collect())
}

/// Transfers over a path that swallows long packets, each to a peer that was never spoken to.
pub(super) fn holes(programs: &Programs, rounds: u32) -> Result<Vec<Found>> {
    type Choose = fn(LabBuilder) -> LabBuilder;
    let kinds: [(&str, Choose); 3] = [
        ("over IPv4", |lab| lab),
        ("over IPv6", |lab| lab.underlay(Family::V6)),
        ("sealed", |lab| lab.sealed("require")),
    ];
    let mut found = Vec::new();
    for (what, choose) in kinds {
        let samples = (0..rounds)
            .map(|_| {
                let lab = up(programs, choose(lab("hole").nodes(2)))?;
                lab.inflict(&Fault::Narrow { node: "node2".to_owned(), mtu: 1400 })?;
                let (from, to) = (lab.pod(1, 1), lab.pod(2, 1));
                let began = clock::now();
                let transfer = Transfer::of(TRANSFER).timeout(SOON);
                probe::transfer(from.netns(), to.netns(), to.ipv4(), &transfer)?;
                Ok(began.elapsed())
            })
            .collect::<Result<_>>()?;
        let what = format!("16 MiB through a black hole, {what}");
        found.push(Found { what, target: Duration::from_secs(4), samples });
    }
    Ok(found)
}

fn lab(name: &str) -> LabBuilder {
    Lab::builder(format!("{PREFIX}{name}")).pods(1).replace()
}

fn up(programs: &Programs, builder: LabBuilder) -> Result<Lab> {
    let lab = builder.culvert(&programs.culvert).plugin(&programs.plugin).up()?;
    bypass_filters(&lab)?;
    Ok(lab)
}

/// Does something while the first node's pod sends a datagram to each other one after each `pause`.
fn talking<T>(lab: &Lab, pause: Duration, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let from = lab.pod(1, 1);
    let others: Vec<IpAddr> =
        (2..).take(lab.nodes().len() - 1).map(|node| lab.pod(node, 1).ipv4()).collect();
    let socket = from.netns().run(|| UdpSocket::bind((from.ipv4(), 0)))?;
    let socket = socket.context("bind in the pod")?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut last: Option<Instant> = None;
            while !stop.load(Ordering::Relaxed) {
                if last.is_none_or(|last| last.elapsed() >= pause) {
                    last = Some(clock::now());
                    for other in &others {
                        // What the kernel says of it is the daemon's to hear.
                        let _ = socket.send_to(b"here", (*other, 9));
                    }
                }
                thread::sleep(OFTEN);
            }
        });
        let done = work();
        stop.store(true, Ordering::Relaxed);
        done
    })
}

/// Waits until what the first node knows of the path to its first peer is so.
fn await_path(lab: &Lab, limit: Duration, is: impl Fn(&Value) -> bool) -> Result<()> {
    let began = clock::now();
    while began.elapsed() < limit {
        interrupt::check()?;
        if is(&lab.node(1).status()?["peers"][0]["path"]) {
            return Ok(());
        }
        thread::sleep(OFTEN);
    }
    anyhow::bail!("waited for {} s in vain", limit.as_secs())
}

/// Waits until what the first node knows of the paths to all its peers is so; since when, of each.
fn await_all(lab: &Lab, limit: Duration, is: impl Fn(&Value) -> bool) -> Result<Vec<Instant>> {
    let began = clock::now();
    let mut since = vec![None; lab.nodes().len() - 1];
    while since.contains(&None) {
        interrupt::check()?;
        ensure!(began.elapsed() < limit, "waited for {} s in vain", limit.as_secs());
        let status = lab.node(1).status()?;
        for (number, since) in since.iter_mut().enumerate().filter(|(_, since)| since.is_none()) {
            *since = is(&status["peers"][number]["path"]).then(clock::now);
        }
        thread::sleep(OFTEN);
    }
    Ok(since.into_iter().flatten().collect())
}

/// A part of `span`, another one each round.
fn part_of(span: Duration, round: u32) -> Duration {
    span * (round * 37 % 100) / 100
}
