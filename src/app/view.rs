//! What the daemon shows of itself, gathered when somebody asks.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use anyhow::Context as _;

use crate::config::Config;
use crate::control::source;
use crate::dataplane::DataPlane;
use crate::engine::{DropReason, Local, Peer};
use crate::explain::{Devices, explain};
use crate::lifecycle::{Readiness, State};
use crate::observe::{
    ExplainSource, PeerStatus, Status, StatusSource, TableStatus, TunnelStatus, UnderlayStatus,
};
use crate::platform::clock;

/// Facts that the daemon's main loop knows and others may look at.
pub(super) struct Facts {
    started: Instant,
    pub(super) repairs: AtomicU64,
    pub(super) generation: AtomicU64,
    pub(super) mtu: Mutex<u16>,
    table: Mutex<TableFacts>,
    plane: OnceLock<Arc<DataPlane>>,
}

/// Where the table and its source stand.
#[derive(Debug, Default)]
pub(super) struct TableFacts {
    /// Whether the source is being followed.
    pub(super) current: bool,
    /// When it last was.
    pub(super) current_until: Option<Instant>,
    /// Why it is not.
    pub(super) source_error: Option<String>,
    /// Why its newest version was refused.
    pub(super) error: Option<String>,
    /// What of the settings that all nodes share this one does not go by.
    pub(super) differs: Option<String>,
    /// Entries that were left out.
    pub(super) left_out: Vec<String>,
    /// What is wrong with this node's own entry, by the source.
    pub(super) contested: Option<String>,
    /// What is wrong with this node's own address, by the kernel.
    pub(super) address: Option<String>,
}

impl TableFacts {
    /// What keeps this node from taking pods, or an operator should know of its own entry.
    fn own(&self) -> Option<String> {
        self.contested.clone().or_else(|| self.address.clone())
    }
}

impl Facts {
    pub(super) fn new(started: Instant) -> Self {
        Self {
            started,
            repairs: AtomicU64::default(),
            generation: AtomicU64::default(),
            mtu: Mutex::default(),
            table: Mutex::default(),
            plane: OnceLock::new(),
        }
    }

    /// When the daemon started.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// Changes, or looks at, what is known of the table.
    pub(super) fn table<T>(&self, with: impl FnOnce(&mut TableFacts) -> T) -> T {
        with(&mut self.table.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_mtu(&self, mtu: u16) {
        *self.mtu.lock().unwrap_or_else(PoisonError::into_inner) = mtu;
    }

    /// The workers.
    ///
    /// # Errors
    ///
    /// There are none yet.
    pub(super) fn plane(&self) -> anyhow::Result<&Arc<DataPlane>> {
        self.plane.get().context(
            "this node carries no packets yet; `culvert status` says what it waits for, ask again then",
        )
    }

    /// Shows the workers from now on.
    pub(super) fn set_plane(&self, plane: Arc<DataPlane>) {
        // Set once, by the one start that there is.
        let _ = self.plane.set(plane);
    }
}

/// Makes the function that gathers a [`Status`], at any time from before the first table on.
pub(super) fn status_source(
    config: &Config,
    facts: Arc<Facts>,
    readiness: Readiness,
) -> StatusSource {
    let config = config.clone();
    let source = source::describe(&config.table);
    Arc::new(move || {
        let now = clock::now();
        let uptime = now.saturating_duration_since(facts.started).as_secs_f64();
        let not_ready_because = match readiness.state() {
            State::Ready => None,
            State::NotReady(reason) => Some(reason),
        };
        let plane = facts.plane.get();
        let table = plane.map(|plane| plane.table());
        let local = table.as_ref().map(|table| table.local());
        Status {
            node: config.node.name.clone(),
            ready: not_ready_because.is_none(),
            not_ready_because,
            uptime_seconds: uptime,
            mtu: *facts.mtu.lock().unwrap_or_else(PoisonError::into_inner),
            vni: table.as_ref().map_or(config.network.vni, |table| table.vni()).get(),
            subnets: local.map(|local| local.subnets.clone()).unwrap_or_default(),
            underlay: underlay_status(local, config.underlay.address),
            table: facts.table(|known| TableStatus {
                source: source.clone(),
                current: known.current,
                age_seconds: match (known.current, known.current_until) {
                    (true, _) => 0.0,
                    (false, Some(until)) => now.saturating_duration_since(until).as_secs_f64(),
                    (false, None) => uptime,
                },
                source_error: known.source_error.clone(),
                generation: facts.generation.load(Ordering::Relaxed),
                nodes: table.as_ref().map_or(0, |table| table.peers().len() + 1),
                error: known.error.clone().or_else(|| known.differs.clone()),
                left_out: known.left_out.clone(),
                contested: known.own(),
            }),
            offload: plane.map_or("none", |plane| plane.offload().as_str()).to_owned(),
            workers: plane.map_or(0, |plane| plane.workers()),
            peers: table
                .iter()
                .flat_map(|table| table.peers())
                .map(|peer| peer_status(peer, uptime))
                .collect(),
            drops: DropReason::ALL
                .into_iter()
                .map(|reason| {
                    (reason.as_str().to_owned(), plane.map_or(0, |plane| plane.drops(reason)))
                })
                .collect(),
            icmp_replies: plane.map_or(0, |plane| plane.replies()),
            offload_refusals: plane.map_or(0, |plane| plane.degraded()),
            repairs: facts.repairs.load(Ordering::Relaxed),
        }
    })
}

/// What is known of the tunnels' ends here; `address` is what the configuration says.
fn underlay_status(local: Option<&Local>, address: Option<IpAddr>) -> UnderlayStatus {
    let tunnels = local.map_or(&[][..], |local| &local.tunnels);
    UnderlayStatus {
        address: address.or_else(|| Some(local?.address)),
        port: tunnels.first().map_or(0, |tunnel| tunnel.port),
        tunnels: tunnels
            .iter()
            .map(|tunnel| TunnelStatus { codec: tunnel.codec.to_string(), port: tunnel.port })
            .collect(),
        mac: local.map(|local| local.mac.to_string()),
    }
}

/// Makes the function that answers questions about packets by the table that workers have.
pub(super) fn explain_source(config: &Config, facts: Arc<Facts>) -> ExplainSource {
    let devices = Devices { bridge: config.bridge.name.clone(), tun: config.tun.name.clone() };
    Arc::new(move |question| Ok(explain(&facts.plane()?.table(), &devices, question)?))
}

fn peer_status(peer: &Peer, age_seconds: f64) -> PeerStatus {
    PeerStatus {
        name: peer.name().to_owned(),
        address: peer.address(),
        subnets: peer.subnets().to_vec(),
        codec: peer.codec.to_string(),
        port: peer.endpoint.port(),
        mtu: peer.mtu.get(),
        egress: peer.counters.egress(),
        ingress: peer.counters.ingress(),
        last_heard_seconds: peer.counters.last_heard_ms().map(|ms| {
            let heard = std::time::Duration::from_millis(ms).as_secs_f64();
            (age_seconds - heard).max(0.0)
        }),
    }
}
