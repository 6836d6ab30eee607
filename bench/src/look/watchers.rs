//! What it costs traffic that somebody looks at it.
//!
//! Two networks exist at once. Nobody ever looks at the one; at the other `culvert flows` and
//! `culvert top` look in turns, on both nodes, and then nobody. Each round measures all four, and
//! the next begins with another.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_lab::{Lab, Node};
use serde::Serialize;

use super::Amount;
use crate::networks::{PREFIX, bypass_filters};
use crate::programs::Programs;
use crate::progress::Progress;
use crate::traffic::tcp::{self, Stream};
use crate::traffic::udp::{Flow, Hunt};
use crate::traffic::{Pod, pause};

/// Until a command looks for certain, and until the daemon has noticed that it has gone, which it
/// does once a second.
const BEGIN: Duration = Duration::from_millis(300);
const END: Duration = Duration::from_millis(1_200);

/// Bytes of a small packet.
const SMALL: usize = 64;

/// What is measured side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Look {
    /// Nobody has looked since the daemons have been started.
    Never,
    /// Somebody did, and has gone.
    Nobody,
    /// `culvert flows`.
    Flows,
    /// `culvert top`.
    Top,
}

impl Look {
    pub(super) const ALL: [Self; 4] = [Self::Never, Self::Nobody, Self::Flows, Self::Top];

    const fn place(self) -> usize {
        self as usize
    }

    /// The command that looks.
    const fn command(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Never | Self::Nobody => None,
            Self::Flows => Some(&["flows", "--follow", "--json"]),
            Self::Top => Some(&["top", "--by", "flow", "--every", "1", "--json"]),
        }
    }
}

/// Values by round, of each of [`Look::ALL`].
pub(super) type Rounds = [Vec<f64>; 4];

/// What came out.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Traffic {
    /// Gbit/s of one stream.
    pub(super) gbits: Rounds,
    /// Seconds of the daemons' CPU for a gigabyte of it.
    pub(super) cpu: Rounds,
    /// Packets of 64 bytes a second, with at most 1 % of loss.
    pub(super) small_pps: Rounds,
}

/// Two nodes and a pod on each.
struct Pair {
    lab: Lab,
    pods: [Pod; 2],
    daemons: Vec<u32>,
}

/// How long a round takes.
pub(super) fn duration(amount: &Amount) -> Duration {
    let each = amount.tcp.warm_up + amount.tcp.window + 8 * amount.udp_trial;
    4 * each + 2 * (BEGIN + END)
}

pub(super) fn measure(
    programs: &Programs,
    amount: &Amount,
    progress: &mut Progress,
) -> Result<Traffic> {
    progress.say("building two networks");
    let (spared, watched) = (build("spared", programs)?, build("watched", programs)?);
    let mut found = Traffic::default();
    let mut flows = [&spared, &watched].map(|pair| {
        let [from, to] = &pair.pods;
        Flow::open(from, &[(to, SMALL)])
    });
    for round in 0..amount.rounds {
        progress.step(&format!("round {}: who looks", round + 1), duration(amount));
        for turn in 0..Look::ALL.len() {
            let look = Look::ALL[(turn + round) % Look::ALL.len()];
            let is_spared = look == Look::Never;
            let pair = if is_spared { &spared } else { &watched };
            let lookers = Lookers::start(programs, pair, look)?;
            let [from, to] = &pair.pods;
            let moved = tcp::bulk(&[Stream { from, to }], amount.tcp, &pair.daemons)?;
            let place = look.place();
            found.gbits[place].push(moved.gbits());
            found.cpu[place].push(moved.cpu_per_gigabyte().1);
            let flow = flows[usize::from(!is_spared)].as_mut();
            let flow = flow.map_err(|error| anyhow::anyhow!("{error:#}"))?;
            let last = found.small_pps[place].last().map(|pps| pps / 1e3);
            let hunt = Hunt::near(last, amount.udp_trial);
            found.small_pps[place].push(flow.highest_rate(hunt)?);
            lookers.end()?;
        }
    }
    Ok(found)
}

fn build(name: &str, programs: &Programs) -> Result<Pair> {
    let lab = Lab::builder(format!("{PREFIX}{name}"))
        .nodes(2)
        .pods(1)
        .culvert(&programs.culvert)
        .plugin(&programs.plugin)
        .replace()
        .up()?;
    bypass_filters(&lab)?;
    let pods = [1, 2].map(|node| Pod::from(&lab.pod(node, 1)));
    let daemons = lab.nodes().iter().map(|node| node.pid().context("a daemon has ended"));
    let daemons = daemons.collect::<Result<Vec<u32>>>()?;
    Ok(Pair { lab, pods, daemons })
}

/// Commands that look, one on each node.
struct Lookers {
    running: Vec<(Child, JoinHandle<()>)>,
    /// Bytes that they have said.
    said: Arc<AtomicU64>,
}

impl Lookers {
    fn start(programs: &Programs, pair: &Pair, look: Look) -> Result<Self> {
        let said = Arc::new(AtomicU64::new(0));
        let mut running = Vec::new();
        if let Some(words) = look.command() {
            for node in pair.lab.nodes() {
                running.push(start(programs, node, words, &said)?);
            }
            pause(BEGIN)?;
        }
        Ok(Self { running, said })
    }

    /// Ends them, and waits until the daemons have noticed.
    fn end(mut self) -> Result<()> {
        if self.running.is_empty() {
            return Ok(());
        }
        let said = self.said.load(Ordering::Relaxed);
        self.stop();
        ensure!(said > 0, "nothing was seen by those who looked");
        pause(END)
    }

    fn stop(&mut self) {
        for (mut child, reader) in self.running.drain(..) {
            // It may have ended by itself, which what it said tells.
            let _ = child.kill();
            let _ = child.wait();
            let _ = reader.join();
        }
    }
}

impl Drop for Lookers {
    fn drop(&mut self) {
        self.stop();
    }
}

fn start(
    programs: &Programs,
    node: &Node,
    words: &[&str],
    said: &Arc<AtomicU64>,
) -> Result<(Child, JoinHandle<()>)> {
    let mut command: Command = node.netns().command(&programs.culvert);
    command.args(words).arg("--run-dir").arg(node.run_dir());
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("run culvert")?;
    let mut out = child.stdout.take().context("read what culvert says")?;
    let said = Arc::clone(said);
    let reader = thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(len @ 1..) = out.read(&mut buffer) {
            said.fetch_add(len as u64, Ordering::Relaxed);
        }
    });
    Ok((child, reader))
}
