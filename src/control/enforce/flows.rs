//! Tracked connections that must not go on: those that policies no longer allow, and those of
//! addresses that are another pod's now.
//!
//! On a thread of its own. kernel: to list connections is to take the lock of every bucket of their
//! table, which takes ten milliseconds with the usual 262,144 however few connections there are; no
//! change of rules waits for that.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use culvert_nft::{Flow, FlowFate, Socket};
use culvert_policy::Plan;

use super::allow::{Connection, allows};
use super::trial;
use crate::control::worker::Worker;
use crate::platform::netlink::Netlink;

/// `IPPROTO_TCP`.
const TCP: u8 = 6;

/// How long going through connections may take: a million of them take a second.
const PATIENCE: Duration = Duration::from_secs(10);

/// What connections are gone through for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sweep {
    /// The rules that are in force, if they may forbid what is under way.
    pub(crate) cut: Option<Arc<Plan>>,
    /// Addresses that were given to a pod, or taken from one.
    pub(crate) forget: BTreeSet<IpAddr>,
}

impl Sweep {
    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.cut.is_none() && self.forget.is_empty()
    }

    /// What `later` asks for as well.
    pub(crate) fn add(&mut self, later: Self) {
        if later.cut.is_some() {
            self.cut = later.cut;
        }
        self.forget.extend(later.forget);
    }
}

/// The kernel's connections.
#[derive(Default)]
struct Flows {
    sockets: Option<(Socket, Netlink)>,
}

impl Flows {
    /// Forgets the connections that `sweep` is about, and returns how many of them the rules
    /// forbid. The next packet of each is judged anew, or is none that begins a connection.
    ///
    /// A datagram that answers one from before would begin a flow in the other direction, which may
    /// be allowed, and what was forbidden would count as answers to it. So what the rules forbid is
    /// barred for both ends, until the rules allow it.
    fn sweep(&mut self, sweep: &Sweep) -> anyhow::Result<usize> {
        let outcome = self.try_sweep(sweep);
        if outcome.is_err() {
            self.sockets = None;
        }
        outcome
    }

    fn try_sweep(&mut self, sweep: &Sweep) -> anyhow::Result<usize> {
        let (nft, netlink) = match &mut self.sockets {
            Some(sockets) => sockets,
            closed => closed.insert((Socket::open()?, Netlink::open()?)),
        };
        let own = netlink.socket.addresses().context("looking at own addresses")?;
        let own: BTreeSet<IpAddr> = own.iter().map(|address| address.net.addr()).collect();
        let mut cut = 0;
        let fate = |flow: &Flow| {
            if is_of(&sweep.forget, flow) {
                return FlowFate::Forgotten;
            }
            let Some(plan) = &sweep.cut else { return FlowFate::Stays };
            match (is_forbidden(plan, &own, flow), flow.is_barred) {
                (true, true) | (false, false) => FlowFate::Stays,
                (false, true) => FlowFate::Forgotten,
                (true, false) => {
                    cut += 1;
                    // What of TCP begins no connection belongs to none, and is dropped.
                    if flow.protocol == TCP { FlowFate::Forgotten } else { FlowFate::Barred }
                }
            }
        };
        nft.sweep_flows(fate).context("going through the tracked connections")?;
        if sweep.cut.is_some() {
            trial::reached("cut");
        }
        if !sweep.forget.is_empty() {
            trial::reached("forgotten");
        }
        Ok(cut)
    }
}

fn is_forbidden(plan: &Plan, own: &BTreeSet<IpAddr>, flow: &Flow) -> bool {
    let connection = Connection::from(flow);
    let ends = [connection.source, connection.destination];
    ends.iter().any(|end| plan.isolated.contains(end))
        && !ends.iter().any(|end| own.contains(end))
        && !allows(plan, &connection)
}

fn is_of(addresses: &BTreeSet<IpAddr>, flow: &Flow) -> bool {
    let ends = [flow.source, flow.destination, flow.answers_from, flow.answers_to];
    ends.iter().any(|end| addresses.contains(end))
}

/// The way to the thread that goes through connections.
pub(crate) struct FlowThread(Worker<Flows>);

impl FlowThread {
    /// Starts the thread, in this thread's network namespace.
    ///
    /// # Errors
    ///
    /// The kernel refuses a thread.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let worker = Worker::start("flows", Flows::default(), PATIENCE);
        Ok(Self(worker.context("starting the thread that goes through connections")?))
    }

    /// Goes through connections, and returns how many were cut because the rules forbid them.
    ///
    /// # Errors
    ///
    /// The kernel refuses, or does not answer in time.
    pub(crate) async fn sweep(&self, sweep: Sweep) -> anyhow::Result<usize> {
        let swept = self.0.ask(move |flows| flows.sweep(&sweep)).await;
        swept.context("waiting for the tracked connections")?
    }
}
