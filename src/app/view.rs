//! What the daemon shows of itself, gathered when somebody asks.

mod peers;
mod questions;
mod status;

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use anyhow::Context as _;
use culvert_dataplane::DataPlane;
use culvert_dataplane::engine::DropReason;
use culvert_dataplane::platform::clock;

use super::checkup::Checkup;
use super::drop_history::DropHistory;
use super::feed::Standing;
use super::path_mtus::MtuOrigin;
use super::probes::{Known, Pinger};
use crate::control::enforce::PolicyThread;
use crate::control::node::NodeSpec;
use crate::observe::{PolicyStatus, SealedStatus};

pub(super) use self::peers::peer_status;
pub(super) use self::questions::{
    explain_source, find_source, ping_source, setup, setup_source, tables_source, trace_source,
};
pub(super) use self::status::status_source;

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

/// The number of this thread's network namespace, where the kernel shows it.
pub(crate) fn own_netns() -> Option<u64> {
    std::fs::metadata("/proc/thread-self/ns/net").ok().map(|file| file.ino())
}
