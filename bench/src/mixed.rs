//! Small packets and full ones, mixed, from one pod to the pods of eight peers at once.
//!
//! Traffic of a node that serves many is like that: no two packets after one another have the same
//! way. The peers must cost little, so they are the kernel's own devices, for Culvert as for the
//! kernel's VXLAN.

use std::time::Duration;

use anyhow::{Context as _, Result};
use culvert_lab::{Lab, interrupt, probe, wait_for};

use crate::growth::peers;
use crate::metric::{Metric, hunt_duration};
use crate::networks::kernel_vxlan::KernelVxlan;
use crate::networks::{BASELINE, PREFIX};
use crate::programs::Programs;
use crate::progress::Progress;
use crate::report::{Figures, NetworkFacts};
use crate::settings::Effort;
use crate::traffic::udp::{Flow, Hunt};
use crate::traffic::{Pod, pause};

/// Peers that packets go to.
const PEERS: u8 = 8;

/// Payload of a small packet and of a full one.
const SMALL: usize = 64;
const FULL: usize = 1400;

/// Of so many packets to a peer one is full.
const ONE_IN: usize = 4;

/// Time between two networks, for what the first left in queues to drain.
const BREATH: Duration = Duration::from_millis(50);

/// How long a peer may take until it answers, and how long an answer may.
const REACH_LIMIT: Duration = Duration::from_secs(5);
const ECHO_LIMIT: Duration = Duration::from_millis(200);

/// A node with a pod, and peers with a pod each.
pub(crate) struct Crowd {
    pub(crate) pod: Pod,
    pub(crate) peers: Vec<Pod>,
    pub(crate) lab: Lab,
}

/// The builds of Culvert to measure, by the names of their networks.
pub(crate) struct Plan {
    pub(crate) builds: Vec<(String, Programs)>,
}

impl Plan {
    pub(crate) fn steps(&self, settings: &Effort) -> usize {
        if self.builds.is_empty() { 0 } else { settings.rounds * (self.builds.len() + 1) }
    }

    pub(crate) fn duration(&self, settings: &Effort) -> Duration {
        let each = hunt_duration(settings) + BREATH;
        each * u32::try_from(self.steps(settings)).unwrap_or(u32::MAX)
    }

    /// Measures it, beside the kernel's VXLAN; what fails is noted in `failures`, unless the user
    /// interrupts.
    pub(crate) fn measure(
        &self,
        settings: &Effort,
        progress: &mut Progress,
        figures: &mut Figures,
        facts: &mut Vec<NetworkFacts>,
        failures: &mut Vec<String>,
    ) -> Result<()> {
        if self.builds.is_empty() {
            return Ok(());
        }
        let mut crowds = Vec::new();
        for (name, build) in self.recipes() {
            progress.say(&format!("building {name} with {PEERS} peers"));
            match build() {
                Ok(crowd) => crowds.push((name, crowd)),
                Err(error) => {
                    interrupt::check()?;
                    failures.push(format!("{name} with {PEERS} peers: {error:#}"));
                }
            }
        }
        for round in 0..settings.rounds {
            for turn in 0..crowds.len() {
                let (name, crowd) = &crowds[(turn + round) % crowds.len()];
                let what = format!("round {}: {}, {name}", round + 1, Metric::Mixed.title());
                progress.step(&what, hunt_duration(settings) + BREATH);
                let last = figures.latest(name, Metric::Mixed);
                match crowd.highest_rate(Hunt::near(last, settings.udp_trial)) {
                    Ok(rate) => figures.add(name, Metric::Mixed, round, rate / 1000.0),
                    Err(error) => {
                        interrupt::check()?;
                        failures.push(format!("{what}: {error:#}"));
                    }
                }
                pause(BREATH)?;
            }
        }
        for (name, _) in crowds {
            if !facts.iter().any(|known| known.name == name) {
                facts.push(NetworkFacts { name, about: format!("toward {PEERS} peers") });
            }
        }
        Ok(())
    }

    /// How to build each network.
    #[expect(clippy::type_complexity, reason = "a list of names and ways to build")]
    fn recipes(&self) -> Vec<(String, Box<dyn Fn() -> Result<Crowd> + '_>)> {
        let lab = |name: &str| format!("{PREFIX}{name}-{PEERS}");
        let mut recipes: Vec<(String, Box<dyn Fn() -> Result<Crowd>>)> =
            vec![(BASELINE.to_owned(), Box::new(move || KernelVxlan::crowd(lab(BASELINE), PEERS)))];
        for (name, programs) in &self.builds {
            let build = move || peers::build(&lab(name), programs, PEERS);
            recipes.push((name.clone(), Box::new(build)));
        }
        recipes
    }
}

impl Crowd {
    /// Waits until every peer answers.
    pub(crate) fn wait_reachable(&self) -> Result<()> {
        let from = &self.pod.netns;
        self.peers.iter().try_for_each(|peer| {
            let what = format!("the peer at {} to answer", peer.address);
            wait_for(REACH_LIMIT, &what, || {
                let echo = probe::udp_echo(from, &peer.netns, peer.address, SMALL, ECHO_LIMIT);
                Ok(echo.ok())
            })
            .map(drop)
        })
    }

    /// Packets per second that arrive with little loss.
    fn highest_rate(&self, hunt: Hunt) -> Result<f64> {
        let peers = self.peers.len();
        // Each peer gets a full packet once in a while, and never all of them at once.
        let packets: Vec<(&Pod, usize)> = (0..peers * ONE_IN)
            .map(|index| {
                let full = (index + index / peers).is_multiple_of(ONE_IN);
                (&self.peers[index % peers], if full { FULL } else { SMALL })
            })
            .collect();
        let mut flow = Flow::open(&self.pod, &packets)?;
        flow.highest_rate(hunt).with_context(|| format!("send to {peers} peers"))
    }
}
