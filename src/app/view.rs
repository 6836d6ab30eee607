//! What the daemon shows of itself, gathered when somebody asks.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use anyhow::Context as _;
use culvert_dataplane::DataPlane;
use culvert_dataplane::engine::{DropReason, Local, Peer, Seal};
use culvert_dataplane::platform::clock;
use culvert_seal::Suite;
use culvert_seal::mesh::Role;

use super::feed::{Following, Standing};
use super::kernel_facts::KernelFacts;
use crate::config::Config;
use crate::control::source;
use crate::explain::{Node, explain};
use crate::lifecycle::Readiness;
use crate::observe::{
    ExplainSource, Handshakes, PeerStatus, SCHEMA, SealedStatus, Status, StatusSource, TableStatus,
    TunnelStatus, UnderlayStatus,
};

/// Facts that the daemon's main loop knows and others may look at.
pub(super) struct Facts {
    started: Instant,
    pub(super) repairs: AtomicU64,
    pub(super) generation: AtomicU64,
    pub(super) mtu: Mutex<u16>,
    standing: Mutex<Standing>,
    /// What is wrong with this node's own address, by the kernel.
    address: Mutex<Option<String>>,
    stranded: Mutex<Vec<String>>,
    hints: Mutex<Vec<String>>,
    sealed: Mutex<SealedStatus>,
    plane: OnceLock<Arc<DataPlane>>,
}

impl Facts {
    pub(super) fn new(started: Instant) -> Self {
        Self {
            started,
            repairs: AtomicU64::default(),
            generation: AtomicU64::default(),
            mtu: Mutex::default(),
            standing: Mutex::default(),
            address: Mutex::default(),
            stranded: Mutex::default(),
            hints: Mutex::default(),
            sealed: Mutex::default(),
            plane: OnceLock::new(),
        }
    }

    /// When the daemon started.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// Shows how the table source stands.
    pub(super) fn show_standing(&self, standing: Standing) {
        *locked(&self.standing) = standing;
    }

    /// Shows what is wrong with this node's own address.
    pub(super) fn show_address(&self, fault: Option<String>) {
        *locked(&self.address) = fault;
    }

    /// Shows the pods that have an address in none of this node's subnets.
    pub(super) fn show_stranded(&self, stranded: Vec<String>) {
        *locked(&self.stranded) = stranded;
    }

    /// Shows what works less well than it could.
    pub(super) fn show_hints(&self, hints: Vec<String>) {
        *locked(&self.hints) = hints;
    }

    /// Shows how it stands with this node's keys.
    pub(super) fn show_sealed(&self, sealed: SealedStatus) {
        *locked(&self.sealed) = sealed;
    }

    pub(super) fn set_mtu(&self, mtu: u16) {
        *locked(&self.mtu) = mtu;
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

/// Nobody panics while he holds one of these.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        let missing = readiness.missing();
        let standing = locked(&facts.standing).clone();
        let plane = facts.plane.get();
        let table = plane.map(|plane| plane.table());
        let local = table.as_ref().map(|table| table.local());
        Status {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: config.node.name.clone(),
            ready: missing.is_empty(),
            missing,
            uptime_seconds: uptime,
            mtu: *locked(&facts.mtu),
            vni: table.as_ref().map_or(config.network.vni, |table| table.vni()).get(),
            subnets: local.map(|local| local.subnets.clone()).unwrap_or_default(),
            underlay: underlay_status(local, config.underlay.address),
            table: TableStatus {
                source: source.clone(),
                current: standing.following == Following::Current,
                age_seconds: match &standing.following {
                    Following::Current => 0.0,
                    Following::Waiting => uptime,
                    Following::Lost { since, .. } => {
                        now.saturating_duration_since(*since).as_secs_f64()
                    }
                },
                source_error: match standing.following {
                    Following::Lost { why, .. } => Some(why),
                    Following::Waiting | Following::Current => None,
                },
                hash: table.as_ref().map(|table| table.digest().to_string()).unwrap_or_default(),
                generation: facts.generation.load(Ordering::Relaxed),
                nodes: table.as_ref().map_or(0, |table| table.peers().len() + 1),
                error: standing.malformed.or(standing.refused).or(standing.differs),
                left_out: standing.left_out,
                contested: standing.contested.or_else(|| locked(&facts.address).clone()),
            },
            stranded: locked(&facts.stranded).clone(),
            hints: locked(&facts.hints).clone(),
            sealed: SealedStatus {
                handshakes: plane.map(|plane| handshakes(plane)).unwrap_or_default(),
                ..locked(&facts.sealed).clone()
            },
            offload: plane.map(|plane| plane.offload()).unwrap_or_default(),
            workers: plane.map_or(0, |plane| plane.workers()),
            peers: table
                .iter()
                .flat_map(|table| table.peers())
                .map(|peer| peer_status(peer, uptime))
                .collect(),
            drops: DropReason::ALL
                .into_iter()
                .map(|reason| (reason, plane.map_or(0, |plane| plane.drops(reason))))
                .collect(),
            receive_drops: plane.and_then(|plane| plane.receive_drops()),
            icmp_replies: plane.map_or(0, |plane| plane.replies()),
            offload_refusals: plane.map_or(0, |plane| plane.degraded()),
            repairs: facts.repairs.load(Ordering::Relaxed),
        }
    })
}

/// What was counted of handshakes.
fn handshakes(plane: &DataPlane) -> Handshakes {
    let Some(counters) = plane.sealed_counters() else { return Handshakes::default() };
    let mut made = BTreeMap::new();
    for role in [Role::Initiator, Role::Responder] {
        for suite in Suite::ALL {
            let key = format!("{} {suite}", role.as_str());
            made.insert(key, counters.established(role, suite));
        }
    }
    Handshakes {
        made,
        failed: counters.failures(),
        refused: plane.refused_handshakes(),
        sessions_ended: counters.ended(),
    }
}

/// What is known of the tunnels' ends here; `address` is what the configuration says.
fn underlay_status(local: Option<&Local>, address: Option<IpAddr>) -> UnderlayStatus {
    let tunnels = local.map_or(&[][..], |local| &local.tunnels);
    let sealed_port = || local?.sealed_port;
    UnderlayStatus {
        address: address.or_else(|| Some(local?.address)),
        port: tunnels.first().map(|tunnel| tunnel.port).or_else(sealed_port).unwrap_or_default(),
        tunnels: tunnels
            .iter()
            .map(|tunnel| TunnelStatus { codec: tunnel.codec, port: tunnel.port })
            .collect(),
        sealed_port: local.and_then(|local| local.sealed_port),
        mac: local.map(|local| local.mac.to_string()),
    }
}

/// Makes the function that answers questions about packets by the table that workers have, and by
/// the kernel. It waits for the kernel.
pub(super) fn explain_source(config: &Config, facts: Arc<Facts>) -> ExplainSource {
    let node = Node {
        bridge: config.bridge.name.clone(),
        tun: config.tun.name.clone(),
        masquerade: config.egress.masquerade,
    };
    Arc::new(move |question| {
        let table = facts.plane()?.table();
        let mut kernel = KernelFacts::read(&node.bridge)?;
        Ok(explain(&table, &node, Some(&mut kernel), question)?)
    })
}

fn peer_status(peer: &Peer, age_seconds: f64) -> PeerStatus {
    PeerStatus {
        name: peer.name().to_owned(),
        address: peer.address(),
        subnets: peer.subnets().to_vec(),
        codec: peer.codec.kind(),
        port: match &peer.seal {
            Seal::Keyed(keyed) if !keyed.may_leave_plain() => keyed.endpoint.port(),
            Seal::Keyed(_) | Seal::Plain | Seal::NoKey => peer.endpoint.port(),
        },
        sealed: match &peer.seal {
            Seal::Keyed(keyed) => keyed.link.outgoing().as_ref().map(|it| it.suite().to_string()),
            Seal::Plain | Seal::NoKey => None,
        },
        plain: match &peer.seal {
            Seal::Keyed(keyed) => keyed.may_leave_plain(),
            Seal::Plain => true,
            Seal::NoKey => false,
        },
        mtu: peer.mtu.get(),
        egress: peer.counters.egress(),
        ingress: peer.counters.ingress(),
        last_heard_seconds: peer.counters.last_heard_ms().map(|ms| {
            let heard = std::time::Duration::from_millis(ms).as_secs_f64();
            (age_seconds - heard).max(0.0)
        }),
    }
}
