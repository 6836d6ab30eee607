//! What this node asks its peers inside the tunnel, and what follows: the driver of [`Prober`].
//!
//! A task on the control runtime owns it ([`task`]). It sends questions through the data path,
//! takes answers from the workers, leads flows around paths that are lost, says in the log what has
//! changed, and tells the daemon's main loop what paths carry. Readiness never depends on it. What
//! is asked of it waits in a short queue, and is lost if that is full.

mod aims;
mod census;
mod log;
mod notes;
mod pings;
mod rtt;
mod task;
mod traces;
mod traffic;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use culvert_dataplane::DataPlane;
use culvert_dataplane::engine::{Membership, NodeEntry, router_of};
use culvert_probe::{Entry, Options, Prober};
use overlay_proto::Family;
use overlay_proto::oam::{self, Digest, Ends};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use self::aims::{Aim, Aims};
use super::in_force::InForce;
use super::path_mtus::PathMtus;
use super::view::{Facts, explain_source};
use crate::config::Config;
use crate::control::source::Notebook;
use crate::explain::Question;
use crate::observe::{PeerTable, PingQuestion, PingRound};
pub(super) use rtt::BOUNDS;
use rtt::RttHistogram;
pub(super) use traces::own as own_half;

/// Requests that wait for the task at most.
const COMMANDS: usize = 64;

/// What the task is told.
enum Command {
    /// Somebody says that nobody listens there.
    Refused(IpAddr),
    /// A person asks.
    Ping(PingQuestion, oneshot::Sender<anyhow::Result<PingRound>>),
    /// A person asks which tables the peers have.
    Tables(oneshot::Sender<anyhow::Result<Vec<PeerTable>>>),
    /// A person asks what the node of the destination does with a packet.
    Trace(Question, oneshot::Sender<anyhow::Result<traces::Answered>>),
    /// This is what a peer's question about a packet is answered.
    Explained(Box<Explained>),
}

/// A peer's question about a packet, answered.
struct Explained {
    peer: IpAddr,
    ends: Ends,
    answer: oam::Answer,
    trace: Vec<u8>,
}

/// What is known of the peers, for whoever looks.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) prober: Prober,
    pub(super) rtt: RttHistogram,
    /// What peers of the table last said of themselves, and when.
    pub(super) digests: HashMap<IpAddr, (Instant, Digest)>,
    /// How often peers with traffic are asked; zero if nobody is.
    pub(super) interval: Duration,
}

/// The task in the hands of the daemon; it ends with this.
pub(super) struct Probes {
    commands: mpsc::Sender<Command>,
    aims: Arc<Aims>,
    /// What the task was told last, with the revision of what is known of paths.
    told: Option<(Membership, u64)>,
    mtus: watch::Receiver<HashMap<IpAddr, u16>>,
    task: JoinHandle<()>,
}

/// Where requests of people go.
#[derive(Clone)]
pub(super) struct Pinger(mpsc::Sender<Command>);

impl Probes {
    /// Starts the task; it knows nobody yet.
    pub(super) fn start(
        config: &Config,
        plane: Arc<DataPlane>,
        facts: Arc<Facts>,
        notebook: Notebook,
    ) -> Self {
        let explain = explain_source(config, Arc::clone(&facts));
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let (told, mtus) = watch::channel(HashMap::new());
        let interval = config.probe.interval.unwrap_or_default();
        let options = if interval.is_zero() { Options::default() } else { Options { interval } };
        let known = Arc::new(Mutex::new(Known {
            prober: Prober::new(options, seed()),
            rtt: RttHistogram::default(),
            digests: HashMap::new(),
            interval,
        }));
        facts.show_probes(Arc::clone(&known), Pinger(commands.clone()));
        let aims = Arc::new(Aims::default());
        let ways = task::Ways {
            commands: receiver,
            own: commands.downgrade(),
            aims: Arc::clone(&aims),
            told,
            notebook,
        };
        let task = task::Task::new(plane, facts, known, ways, explain);
        Self { commands, aims, told: None, mtus, task: tokio::spawn(task.run()) }
    }

    /// Has the peers of this table asked from now on.
    pub(super) fn set_table(&mut self, in_force: &InForce, paths: &PathMtus) {
        let members = &in_force.members;
        let (before, revision) = match self.told.take() {
            Some((before, revision)) => (Some(before), Some(revision)),
            None => (None, None),
        };
        let changes = before.as_ref().map(|before| members.changes(before)).unwrap_or_default();
        let local = members.local();
        let is_local_new = before.as_ref().is_none_or(|before| before.local() != local);
        let is_all_new = is_local_new || revision != Some(paths.revision());
        self.aims.tell(|news| {
            news.peers.extend(changes.left.iter().map(|node| (node.address, None)));
            let aim = |node: &Arc<NodeEntry>| {
                let route_mtu = paths.promised(node.address);
                (node.address, Some(Aim { node: Arc::clone(node), route_mtu }))
            };
            if is_local_new {
                news.local = Some(Arc::clone(local));
            }
            if is_all_new {
                news.peers.extend(members.peers().map(aim));
            } else {
                // This node is not among them, or all were told.
                news.peers.extend(changes.came.iter().map(aim));
            }
        });
        self.told = Some((members.clone(), paths.revision()));
    }

    /// Takes note that somebody says that nobody listens at the peer's port.
    pub(super) fn on_refused(&self, peer: IpAddr) {
        // Full: the next datagram says it again.
        let _ = self.commands.try_send(Command::Refused(peer));
    }

    /// Waits until it is known of another path than before what it carries.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn changed(&mut self) {
        if self.mtus.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// What the paths carry that were found to be narrower than their routes.
    pub(super) fn mtus(&mut self) -> HashMap<IpAddr, u16> {
        self.mtus.borrow_and_update().clone()
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Pinger {
    /// Asks a peer once by each of some paths.
    pub(super) async fn ping(&self, question: PingQuestion) -> anyhow::Result<PingRound> {
        let (reply, answer) = oneshot::channel();
        let gone = "the task that asks peers has ended";
        self.0.send(Command::Ping(question, reply)).await.map_err(|_| anyhow::anyhow!(gone))?;
        answer.await.map_err(|_| anyhow::anyhow!(gone))?
    }

    /// Asks every peer for the hash of its table.
    pub(super) async fn tables(&self) -> anyhow::Result<Vec<PeerTable>> {
        let (reply, answer) = oneshot::channel();
        let gone = "the task that asks peers has ended";
        self.0.send(Command::Tables(reply)).await.map_err(|_| anyhow::anyhow!(gone))?;
        answer.await.map_err(|_| anyhow::anyhow!(gone))?
    }

    /// Asks the node of the destination what it does with a packet, and with the answer to it.
    pub(super) async fn trace(&self, question: Question) -> anyhow::Result<traces::Answered> {
        let (reply, answer) = oneshot::channel();
        let gone = "the task that asks peers has ended";
        let command = Command::Trace(question, reply);
        self.0.send(command).await.map_err(|_| anyhow::anyhow!(gone))?;
        answer.await.map_err(|_| anyhow::anyhow!(gone))?
    }
}

/// A peer, as the machine has to know it.
fn entry(local: &NodeEntry, aim: &Aim) -> Entry {
    let Aim { node, route_mtu } = aim;
    Entry {
        address: node.address,
        spread: spread(&node.name),
        may_know_stamp: both_speak_stamp(local, node),
        route_mtu: *route_mtu,
    }
}

/// Who speaks Culvert's own codec runs Culvert.
fn both_speak_stamp(local: &NodeEntry, peer: &NodeEntry) -> bool {
    [local, peer].iter().all(|node| node.tunnel_options.codec.is_none())
}

/// From bridge to bridge, in a family that both have pods of.
fn ends(local: &NodeEntry, peer: &NodeEntry) -> Option<Ends> {
    let router = |node: &NodeEntry, family: Family| {
        let of_family = |subnet: &&ipnet::IpNet| Family::of(subnet.addr()) == family;
        node.subnets.iter().find(of_family).map(router_of)
    };
    [Family::V4, Family::V6].into_iter().find_map(|family| {
        Some(Ends { source: router(local, family)?, destination: router(peer, family)? })
    })
}

/// FNV-1a: peers are asked at other times than each other, and at the same after a restart.
fn spread(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// What nobody can guess: answers that nobody was asked for prove nothing then.
fn seed() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one("culvert")
}
