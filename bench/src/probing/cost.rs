//! What it costs a node to ask so many peers whether they answer.
//!
//! A daemon with a table of as many nodes, all of which answer: they are addresses of one
//! namespace, where one thread speaks for all. The daemon's CPU time is taken with questions and
//! without (`probe.interval = 0`), so that what it does besides is known; both once with a packet
//! now and then, and once with packets all the time. How much memory a peer takes is measured of
//! the machine that decides who is asked, alone in this process.

use std::process::{Child, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_lab::{Node, clock};
use culvert_probe::{Entry, Moment, Options, Prober};

use crate::programs::Programs;
use crate::stand_ins::{Crowd, StandIns, underlay_address};
use crate::usage::{self, CpuTime};

/// Peers with traffic: as many as are asked every ten seconds.
const ACTIVE: u32 = 256;

/// How often each of them gets a packet: now and then, or all the time.
const SELDOM: Duration = Duration::from_secs(20);
const OFTEN: Duration = Duration::from_millis(500);

/// What one measurement came to.
pub(super) struct Outcome {
    cpu: Duration,
    lasted: Duration,
    answered: u64,
    pub(super) resident: u64,
}

impl Outcome {
    /// CPU time of a core, in percent.
    pub(super) fn percent(&self) -> f64 {
        self.cpu.as_secs_f64() / self.lasted.as_secs_f64() * 100.0
    }

    /// Questions that were answered, in a second.
    pub(super) fn rate(&self) -> f64 {
        self.answered as f64 / self.lasted.as_secs_f64()
    }
}

/// How much traffic there is, and who looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scene {
    /// A packet now and then.
    Seldom,
    /// Packets all the time.
    Often,
    /// A packet now and then, and somebody looks at the page of `culvert ui`.
    LookedAt,
}

/// What a machine that knows so many peers takes of memory, by peer.
pub(super) fn bytes_of_a_peer(peers: u32) -> Result<f64> {
    let entries: Vec<Entry> = (0..peers)
        .map(|number| Entry {
            address: underlay_address(number).into(),
            spread: u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            may_know_stamp: true,
            route_mtu: 1500,
        })
        .collect();
    let before = usage::memory(std::process::id())?.resident;
    let mut prober = Prober::new(Options::default(), 1);
    entries.iter().for_each(|entry| prober.set_peer(entry, Moment::default()));
    let after = usage::memory(std::process::id())?.resident;
    ensure!(prober.due().is_some(), "nobody is asked");
    Ok(after.saturating_sub(before) as f64 / f64::from(peers))
}

/// Lets a daemon with these peers run for a while.
pub(super) fn measure(
    programs: &Programs,
    peers: u32,
    config: &str,
    scene: Scene,
    lasts: Duration,
) -> Result<Outcome> {
    let pause = if scene == Scene::Often { OFTEN } else { SELDOM };
    let crowd = Crowd { peers, present: peers };
    let stand_ins = StandIns::build("probes", programs, crowd, config)?;
    let node = stand_ins.node();
    stand_ins.while_answering(|answered| {
        node.start()?;
        let socket = stand_ins.pod_socket()?;
        let daemon = node.pid().context("the daemon has ended")?;
        // Until everybody with traffic was asked once, and is asked regularly.
        stand_ins.talk(&socket, ACTIVE, pause, Duration::from_secs(30))?;
        let _page = (scene == Scene::LookedAt).then(|| Page::open(node, programs)).transpose()?;
        let (before, at) = (CpuTime::so_far(&[daemon])?, clock::now());
        let counted = answered.load(Ordering::Relaxed);
        stand_ins.talk(&socket, ACTIVE, pause, lasts)?;
        let cpu = CpuTime::so_far(&[daemon])?.since(&before).daemons;
        let answered = answered.load(Ordering::Relaxed) - counted;
        let resident = usage::memory(daemon)?.resident;
        Ok(Outcome { cpu, lasted: at.elapsed(), answered, resident })
    })
}

/// `culvert ui`, which asks the daemon every two seconds for as long as this lives.
struct Page(Child);

impl Page {
    fn open(node: &Node, programs: &Programs) -> Result<Self> {
        let mut command = node.netns().command(&programs.culvert);
        command.arg("ui").arg("--run-dir").arg(node.run_dir());
        let child = command.stdout(Stdio::null()).spawn().context("run culvert ui")?;
        Ok(Self(child))
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_take_no_more_than_is_allowed_each() {
        // That of a process that runs other tests meanwhile.
        assert!(bytes_of_a_peer(100_000).unwrap() < 200.0);
    }
}
