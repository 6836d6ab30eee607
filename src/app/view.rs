//! What the daemon shows of itself, gathered when somebody asks.

mod peers;
mod questions;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use anyhow::Context as _;
use culvert_dataplane::engine::{DropReason, Local};
use culvert_dataplane::platform::clock;
use culvert_dataplane::{DataPlane, HandshakeTimes};
use culvert_node::ipam::Range;
use culvert_seal::Suite;
use culvert_seal::mesh::Role;
use ipnet::IpNet;

use super::checkup::Checkup;
use super::drop_history::DropHistory;
use super::feed::{Following, Standing};
use super::path_mtus::MtuOrigin;
use super::probes::{BOUNDS, Known, Pinger};
use crate::config::Config;
use crate::control::enforce::PolicyThread;
use crate::control::node::NodeSpec;
use crate::control::source;
use crate::lifecycle::Readiness;
use crate::observe::{
    AddressUse, Handshakes, LastDrop, PeerStatus, PolicyStatus, ProbeStatus, ProcessStatus, SCHEMA,
    SealedStatus, Status, StatusSource, TableStatus, Times, TunnelStatus, UnderlayStatus,
};
use crate::platform::process;

use self::peers::path_status;
pub(super) use self::peers::peer_status;
pub(super) use self::questions::{
    explain_source, find_source, ping_source, setup, setup_source, tables_source, trace_source,
};

/// Facts that the daemon's main loop knows and others may look at.
pub(super) struct Facts {
    started: Instant,
    /// What doctor finds on this node.
    pub(super) checkup: Checkup,
    /// The same, in seconds since 1970.
    started_unix: f64,
    pub(super) repairs: AtomicU64,
    pub(super) generation: AtomicU64,
    pub(super) mtu: Mutex<u16>,
    standing: Mutex<Standing>,
    /// What is wrong with this node's own address, by the kernel.
    address: Mutex<Option<String>>,
    stranded: Mutex<Vec<String>>,
    hints: Mutex<Vec<String>>,
    /// Why metrics and health are not served, where they are to be.
    observe: Mutex<Option<String>>,
    /// And since when the first of the keys in it is in use.
    sealed: Mutex<(SealedStatus, Option<Instant>)>,
    policy: Mutex<PolicyStatus>,
    tun_drops: Mutex<Option<u64>>,
    drop_history: Mutex<DropHistory>,
    /// The addresses that the store holds.
    held: Mutex<Vec<IpAddr>>,
    spec: Mutex<Option<(NodeSpec, IpAddr)>>,
    plane: OnceLock<Arc<DataPlane>>,
    /// Who knows the policies, where some are enforced.
    policies: OnceLock<Arc<PolicyThread>>,
    /// What is known of peers' answers, and where people ask for more.
    probes: OnceLock<(Arc<Mutex<Known>>, Pinger)>,
    /// How it is known what the paths carry, where not by their routes.
    mtu_origins: Mutex<HashMap<IpAddr, MtuOrigin>>,
    is_ready: AtomicBool,
}

impl Facts {
    pub(super) fn new(started: Instant, checkup: Checkup) -> Self {
        Self {
            started,
            checkup,
            started_unix: unix_seconds(),
            repairs: AtomicU64::default(),
            generation: AtomicU64::default(),
            mtu: Mutex::default(),
            standing: Mutex::default(),
            address: Mutex::default(),
            stranded: Mutex::default(),
            hints: Mutex::default(),
            observe: Mutex::default(),
            sealed: Mutex::default(),
            policy: Mutex::default(),
            tun_drops: Mutex::default(),
            drop_history: Mutex::default(),
            held: Mutex::default(),
            spec: Mutex::default(),
            plane: OnceLock::new(),
            policies: OnceLock::new(),
            probes: OnceLock::new(),
            mtu_origins: Mutex::default(),
            is_ready: AtomicBool::new(false),
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

    /// Shows why metrics and health are not served.
    pub(super) fn show_observe(&self, fault: Option<String>) {
        *locked(&self.observe) = fault;
    }

    /// Shows how it stands with this node's keys.
    pub(super) fn show_sealed(&self, sealed: SealedStatus, in_use_since: Option<Instant>) {
        *locked(&self.sealed) = (sealed, in_use_since);
    }

    fn sealed(&self, now: Instant) -> SealedStatus {
        let (sealed, in_use_since) = locked(&self.sealed).clone();
        let in_use_seconds =
            in_use_since.map(|since| now.saturating_duration_since(since).as_secs_f64());
        let handshakes = self.plane.get().map(|plane| handshakes(plane)).unwrap_or_default();
        SealedStatus { in_use_seconds, handshakes, ..sealed }
    }

    /// Shows how it stands with network policies.
    pub(super) fn show_policy(&self, policy: PolicyStatus) {
        *locked(&self.policy) = policy;
    }

    /// Shows what is known of peers' answers, and where people ask, from now on.
    pub(super) fn show_probes(&self, known: Arc<Mutex<Known>>, pinger: Pinger) {
        // Set once, by the one start that there is.
        let _ = self.probes.set((known, pinger));
    }

    /// Shows how it is known what the paths carry.
    pub(super) fn show_mtu_origins(&self, origins: HashMap<IpAddr, MtuOrigin>) {
        *locked(&self.mtu_origins) = origins;
    }

    /// Takes note whether packets flow.
    pub(super) fn set_ready(&self, is_ready: bool) {
        self.is_ready.store(is_ready, Ordering::Relaxed);
    }

    /// Whether packets flow.
    pub(super) fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Relaxed)
    }

    /// MTU of the overlay.
    pub(super) fn mtu(&self) -> u16 {
        *locked(&self.mtu)
    }

    /// Where people ask peers.
    ///
    /// # Errors
    ///
    /// There is no table yet.
    pub(super) fn pinger(&self) -> anyhow::Result<Pinger> {
        self.plane()?;
        let probes = self.probes.get().context("this node is starting; ask again")?;
        Ok(probes.1.clone())
    }

    /// Shows how many packets of pods the kernel has dropped on the TUN device.
    pub(super) fn show_tun_drops(&self, drops: Option<u64>) {
        *locked(&self.tun_drops) = drops;
    }

    /// Takes note of what was dropped so far, so that it is known later what is new.
    pub(super) fn note_drops(&self, plane: &DataPlane, now: Instant) {
        let counts = || DropReason::ALL.map(|reason| plane.drops(reason));
        locked(&self.drop_history).note(now, counts);
    }

    /// Shows which addresses pods have.
    pub(super) fn show_held(&self, addresses: Vec<IpAddr>) {
        *locked(&self.held) = addresses;
    }

    /// Shows what the node is to be, with an address to bind, from now on.
    pub(super) fn show_spec(&self, spec: NodeSpec, address: IpAddr) {
        *locked(&self.mtu) = spec.mtu;
        *locked(&self.spec) = Some((spec, address));
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

    /// Has questions about policies answered from now on.
    pub(super) fn set_policies(&self, policies: Arc<PolicyThread>) {
        // Set once, by the one start that there is.
        let _ = self.policies.set(policies);
    }

    /// Shows the workers from now on.
    pub(super) fn set_plane(&self, plane: Arc<DataPlane>) {
        // Set once, by the one start that there is.
        let _ = self.plane.set(plane);
    }
}

/// Seconds since 1970.
fn unix_seconds() -> f64 {
    std::time::Duration::from_nanos(clock::unix_nanos()).as_secs_f64()
}

/// Nobody panics while he holds one of these.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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
        let ports = plane.map(|plane| plane.source_ports()).unwrap_or_default();
        let fragmented = plane.map(|plane| plane.fragmented()).unwrap_or_default();
        let receive_drops = plane.and_then(|plane| plane.receive_drops());
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
            hints: {
                let unserved = locked(&facts.observe).clone();
                unserved.into_iter().chain(locked(&facts.hints).clone()).collect()
            },
            sealed: facts.sealed(now),
            policy: locked(&facts.policy).clone(),
            offload: plane.map(|plane| plane.offload()).unwrap_or_default(),
            workers: plane.map_or(0, |plane| plane.workers()),
            peers: table
                .iter()
                .flat_map(|table| table.peers())
                .map(|peer| PeerStatus {
                    path: path_status(peer, &facts, &ports),
                    ..peer_status(peer, uptime, now)
                })
                .collect(),
            probes: probe_status(&facts, plane.map(|plane| &**plane)),
            drops: DropReason::ALL
                .into_iter()
                .map(|reason| (reason, plane.map_or(0, |plane| plane.drops(reason))))
                .collect(),
            last_drops: last_drops(&facts, plane.map(|plane| &**plane), now),
            receive_drops: receive_drops.map(|drops| drops.late),
            receive_damaged: receive_drops.map(|drops| drops.damaged),
            tun_drops: *locked(&facts.tun_drops),
            addresses: address_use(local.map_or(&[], |local| &local.subnets), &locked(&facts.held)),
            process: process_status(facts.started_unix),
            icmp_replies: plane.map_or(0, |plane| plane.replies()),
            fragmented_packets: fragmented.0,
            fragments: fragmented.1,
            offload_refusals: plane.map_or(0, |plane| plane.degraded()),
            repairs: facts.repairs.load(Ordering::Relaxed),
        }
    })
}

/// The newest drop for each reason that has occurred.
fn last_drops(
    facts: &Facts,
    plane: Option<&DataPlane>,
    now: Instant,
) -> BTreeMap<DropReason, LastDrop> {
    let Some(plane) = plane else { return BTreeMap::new() };
    let history = locked(&facts.drop_history);
    let of = |reason| {
        let last = plane.last_drop(reason)?;
        Some(LastDrop {
            seconds_ago: now.saturating_duration_since(last.at).as_secs_f64(),
            last_minute: history.in_last_minute(reason, plane.drops(reason), now),
            from: last.from,
        })
    };
    DropReason::ALL.into_iter().filter_map(|reason| Some((reason, of(reason)?))).collect()
}

/// What was counted of questions and answers.
fn probe_status(facts: &Facts, plane: Option<&DataPlane>) -> ProbeStatus {
    let (answered, refused) = plane.map(DataPlane::probes_answered).unwrap_or_default();
    let Some((known, _)) = facts.probes.get() else { return ProbeStatus::default() };
    let known = locked(known);
    ProbeStatus {
        interval_seconds: known.interval.as_secs(),
        rtt_bounds: BOUNDS.to_vec(),
        rtt_counts: known.rtt.counts.to_vec(),
        rtt_sum: known.rtt.sum,
        answered,
        refused,
    }
}

/// How many addresses of each subnet are among those that are `held`.
fn address_use(subnets: &[IpNet], held: &[IpAddr]) -> Vec<AddressUse> {
    let of_subnet = |subnet: &IpNet| {
        let used = held.iter().filter(|address| subnet.contains(*address)).count() as u64;
        let free = Range::whole(*subnet).capacity().saturating_sub(used.into());
        #[expect(clippy::cast_precision_loss, reason = "of 2^64 addresses nobody counts the last")]
        let free = free as f64;
        AddressUse { subnet: *subnet, used, free }
    };
    subnets.iter().map(of_subnet).collect()
}

/// What this process takes; nothing where /proc cannot be read.
fn process_status(started: f64) -> ProcessStatus {
    let Some(usage) = process::usage() else { return ProcessStatus::default() };
    ProcessStatus {
        cpu_seconds: usage.cpu.as_secs_f64(),
        resident_bytes: usage.resident_bytes,
        virtual_bytes: usage.virtual_bytes,
        open_files: usage.open_files,
        open_files_limit: usage.open_files_limit,
        threads: usage.threads,
        started,
    }
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
    let failed = counters.failures().map(|(role, failure, count)| {
        let key = format!("{} {}", role.as_str(), failure.as_str());
        (key, count)
    });
    Handshakes {
        made,
        failed: failed.collect(),
        refused: plane.refused_handshakes(),
        sessions_ended: counters.ended(),
        seconds: [Role::Initiator, Role::Responder]
            .map(|role| (role.as_str().to_owned(), times(counters.times(role))))
            .into(),
    }
}

fn times(HandshakeTimes { counts, sum }: HandshakeTimes) -> Times {
    let [counts @ .., longer] = counts;
    Times { buckets: HandshakeTimes::BOUNDS.into_iter().zip(counts).collect(), longer, sum }
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

/// The number of this thread's network namespace, where the kernel shows it.
pub(crate) fn own_netns() -> Option<u64> {
    std::fs::metadata("/proc/thread-self/ns/net").ok().map(|file| file.ino())
}
