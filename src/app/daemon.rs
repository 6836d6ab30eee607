//! The daemon of a node: start, the loop that keeps the node as it should be, and the end.

mod mode;
mod table;
mod takeover;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use culvert_dataplane::engine::{Membership, PeerRegistry};
use culvert_dataplane::platform::clock;
use culvert_dataplane::platform::tun::Offload;
use culvert_dataplane::{DataPlane, DataPlaneOptions, Notice};
use culvert_seal::mesh::Event;
use ipnet::IpNet;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Interval, MissedTickBehavior, interval};

use self::mode::Insisting;
pub(super) use self::mode::Reread;
use self::table::{binding, preflight};
use self::takeover::Takeover;
use super::announcer::Announcer;
use super::doubt::Doubt;
use super::feed::Feed;
use super::in_force::{InForce, underlay_address};
use super::last_good::When;
use super::owner::Owner;
use super::path_mtus::PathMtus;
use super::policy::Enforcement;
use super::probes::Probes;
use super::sealed::Sealed;
use super::view::Facts;
use crate::config::Config;
use crate::control::node::{
    Changes, Failure, Hint, Kernel, KernelEvents, NodeSpec, Report, Stranded,
};
use crate::lifecycle::{Need, Readiness, ReloadSignal, Supervisor};
use crate::platform::sysctl::Sysctls;

/// How often everything is looked at although nothing called for it: the kernel does not announce
/// changes of parameters, and a notice may have been lost.
const FULL_CHECK: Duration = Duration::from_secs(10);

/// How long after a failure to repair the next attempt follows.
const RETRY: Duration = Duration::from_secs(1);

/// Workers for each CPU when their number is not set. Flows are put to queues by their hash; the
/// more queues, the more seldom several busy flows share one while a CPU has nothing to do.
const WORKERS_PER_CPU: usize = 2;

/// Most workers when their number is not set: each has some 2 MiB of buffers, and eight carry more
/// than the links of most nodes. Larger machines may set `tun.queues`.
const MAX_WORKERS: usize = 8;

/// What there is before a table, and goes on with it.
pub(super) struct Beginning {
    pub(super) config: Arc<Config>,
    pub(super) reread: Reread,
    pub(super) facts: Arc<Facts>,
    pub(super) readiness: Readiness,
    pub(super) sealed: Sealed,
    pub(super) supervisor: Supervisor,
}

/// A node that is set up, and what keeps it so.
pub(super) struct Daemon {
    config: Arc<Config>,
    reread: Reread,
    insisting: Option<Insisting>,
    feed: Feed,
    in_force: InForce,
    paths: PathMtus,
    registry: PeerRegistry,
    kernel: Kernel,
    events: KernelEvents,
    plane: Arc<DataPlane>,
    notices: Receiver<Notice>,
    owner: Owner,
    announcer: Announcer,
    probes: Probes,
    supervisor: Supervisor,
    sealed: Sealed,
    policy: Enforcement,
    /// What the data path tells of handshakes and sessions.
    sealed_events: Option<Receiver<Event>>,
    doubt: Doubt,
    facts: Arc<Facts>,
    /// This machine's addresses when they were last looked at.
    own_addresses: Vec<IpNet>,
    /// Pods that have an address in none of this node's subnets.
    stranded: Vec<Stranded>,
    /// What works less well than it could.
    hints: Vec<Hint>,
    /// What is wrong with its own underlay address, by them.
    address_fault: Option<String>,
    /// Why the MTUs to the peers are those of before.
    mtu_fault: Option<String>,
    /// Whether the proposed table is refused for a reason of this machine, which may pass.
    refused_here: bool,
}

impl Daemon {
    /// Checks the machine, starts the workers and brings the node up.
    pub(super) async fn start(
        beginning: Beginning,
        feed: Feed,
        members: Membership,
    ) -> anyhow::Result<Self> {
        let Beginning { config, reread, facts, readiness, sealed, supervisor } = beginning;
        let kernel =
            Kernel::start(Sysctls::at(&config.node.sysctl_dir), config.node.run_dir.clone())?;
        let events = KernelEvents::open()?;
        let mut paths = PathMtus::new(&config);
        let mtus = paths.measure(&members, &kernel).await?;
        let in_force = InForce::new(members, mtus);
        preflight(&config, &in_force, &kernel).await?;

        let registry = PeerRegistry::default();
        let options = DataPlaneOptions {
            tun: config.tun.name.clone(),
            workers: config.tun.queues.unwrap_or_else(default_workers),
            offload: if config.tun.offload { Offload::TcpUdp } else { Offload::None },
            busy_poll: config.tun.busy_poll,
            started: facts.started(),
            sealed: sealed.options(&in_force.members),
        };
        let ends = in_force.ends(&config);
        let takeover = Takeover::of(&in_force, &config, &kernel).await?;
        let first = takeover.as_ref().map_or_else(|| ends.clone(), |it| it.before(&ends));
        let (plane, notices) = DataPlane::start(options, in_force.compile(&registry, None), &first)
            .with_context(|| binding(&config, &first))?;
        let plane = Arc::new(plane);
        facts.set_plane(Arc::clone(&plane));
        let policy = Enforcement::start(&config, &facts, &readiness, &in_force.members).await?;
        let probes =
            Probes::start(&config, Arc::clone(&plane), Arc::clone(&facts), feed.notebook());
        let mut daemon = Self {
            policy,
            owner: Owner(Arc::clone(&plane)),
            sealed_events: plane.take_sealed_events(),
            announcer: Announcer::new(config.node.run_dir.clone(), readiness),
            probes,
            supervisor,
            config,
            reread,
            insisting: None,
            sealed,
            doubt: Doubt::default(),
            feed,
            in_force,
            paths,
            registry,
            kernel,
            events,
            plane,
            notices,
            facts,
            own_addresses: Vec::new(),
            stranded: Vec::new(),
            hints: Vec::new(),
            address_fault: None,
            mtu_fault: None,
            refused_here: false,
        };
        daemon.show_spec();
        daemon.use_keys();
        daemon.show_paths();
        daemon.facts.generation.store(1, Ordering::Relaxed);
        if let Some(takeover) = takeover {
            daemon.set_up(|spec| takeover.let_carry(spec)).await?;
            takeover.complete(&daemon.config, &daemon.kernel, &daemon.plane, &ends).await?;
        }
        daemon.set_up(|_as_it_is| ()).await?;
        daemon.announcer.set(Need::Table, None);
        daemon.announce().await;
        daemon.feed.taken(daemon.in_force.members.overlay()).await;
        Ok(daemon)
    }

    /// Makes the kernel's state what it should be for the first time, as `adjust` has it.
    async fn set_up(&mut self, adjust: impl FnOnce(&mut NodeSpec)) -> anyhow::Result<()> {
        let mut spec = self.in_force.spec(&self.config);
        adjust(&mut spec);
        match self.kernel.reconcile(spec, self.owner.clone(), Changes::ALL).await {
            Ok(mut report) => {
                // A start is no repair.
                for action in report.done.drain(..) {
                    tracing::debug!(%action, "set up");
                }
                self.go_by(report);
            }
            // It is repeated until it tells something.
            Err(Failure::Unknown(error)) => self.wonder(&error),
            Err(Failure::Broken(error)) => return Err(error.context("setting up this node")),
        }
        Ok(())
    }

    /// Reacts to everything that may happen; ends only by an error.
    ///
    /// # Cancel safety
    ///
    /// What is dropped is not continued: the daemon can only stop then.
    pub(super) async fn keep(&mut self, reload: &mut ReloadSignal) -> anyhow::Result<()> {
        let mut full_check = ticks(FULL_CHECK);
        let mut retry = ticks(RETRY);
        let mut insist = ticks(mode::LOOK);
        let mut broken = false;
        loop {
            // Whether something happened that may let a table come into force which was refused.
            let mut again = false;
            let mut is_reload = false;
            let changes = tokio::select! {
                () = reload.next() => {
                    is_reload = self.announcer.was_ready() && self.supervisor.reloading();
                    self.reread_config().await;
                    self.reread_keys().await;
                    self.feed.source().reload();
                    again = true;
                    Changes::ALL
                }
                changed = self.feed.changed() => {
                    if changed {
                        self.take_table().await;
                    }
                    Changes::default()
                }
                changes = self.events.changed() => {
                    let changes = changes.context("watching the kernel")?;
                    if changes.routing {
                        self.paths.outdate();
                        again = true;
                    }
                    changes
                }
                Some(notice) = self.notices.recv() => {
                    if !self.note(notice) {
                        continue;
                    }
                    Changes::default()
                }
                () = self.paths.changed() => Changes::default(),
                () = self.policy.changed() => Changes::default(),
                () = self.probes.changed() => {
                    self.paths.set_probed(self.probes.mtus());
                    Changes::default()
                }
                () = self.sealed.changed() => {
                    self.reread_keys().await;
                    continue;
                }
                event = next_event(&mut self.sealed_events) => {
                    self.sealed.note(event);
                    self.facts.show_sealed(self.sealed.status(), self.sealed.in_use_since());
                    continue;
                }
                _ = full_check.tick() => {
                    self.paths.renew_narrow(self.underlay_address(), &self.in_force.members);
                    self.feed.keep(self.in_force.members.overlay(), When::Due).await;
                    self.check_keys();
                    again = true;
                    Changes::ALL
                }
                _ = insist.tick(), if self.insisting.is_some() => {
                    self.insist().await;
                    if self.insisting.is_some() {
                        continue;
                    }
                    Changes::default()
                }
                _ = retry.tick(), if broken => Changes::ALL,
            };
            if self.plane.has_failed() {
                anyhow::bail!("a worker has ended by itself; this is a bug");
            }
            if again && self.refused_here {
                self.take_table().await;
            }
            broken = !self.repair(changes).await;
            self.announce().await;
            self.feed.source().ready(self.announcer.is_ready());
            if is_reload {
                // That is over; whether packets flow is in the words about the daemon.
                self.supervisor.ready();
            }
        }
    }

    /// Makes the kernel's state what it should be; says whether it is.
    async fn repair(&mut self, changes: Changes) -> bool {
        let fault = self.refresh_mtus().await.err().map(|error| format!("{error:#}"));
        self.show_mtu_fault(fault);
        match self.reconcile(changes).await {
            Ok(report) => {
                self.go_by(report);
                true
            }
            Err(Failure::Unknown(error)) => {
                self.wonder(&error);
                false
            }
            Err(Failure::Broken(error)) => {
                self.announcer.set(Need::Kernel, Some(format!("{error:#}; trying again")));
                false
            }
        }
    }

    /// Makes the kernel's state what it should be.
    async fn reconcile(&mut self, changes: Changes) -> Result<Report, Failure> {
        let spec = self.in_force.spec(&self.config);
        self.kernel.reconcile(spec, self.owner.clone(), changes).await
    }

    /// Takes what a look at the kernel found for the truth.
    fn go_by(&mut self, report: Report) {
        if self.doubt.clear() {
            tracing::info!("the kernel can be looked at again");
        }
        // Neither is a repair: whoever changed what is to be has said so.
        let (followed, repaired): (Vec<_>, Vec<_>) = report
            .done
            .iter()
            .partition(|action| report.spec_changed || report.pods_moved && action.follows_pods());
        for action in followed {
            tracing::debug!(%action, "followed what changed");
        }
        if let Some(first) = repaired.first() {
            tracing::warn!(steps = repaired.len(), %first, "put back what this node's set-up lacked");
        }
        for action in &repaired {
            tracing::info!(%action, "repaired");
        }
        let repairs = u64::try_from(repaired.len()).unwrap_or(u64::MAX);
        self.facts.repairs.fetch_add(repairs, Ordering::Relaxed);
        // The kernel announces the carrier, which brings us here again.
        let missing = if report.carrying {
            report.obstacle
        } else {
            Some(format!("{} has no carrier yet", self.config.tun.name))
        };
        self.announcer.set(Need::Kernel, missing);
        self.check_own_address(report.own_addresses);
        self.show_stranded(report.stranded);
        self.show_hints(report.hints);
        self.facts.show_tun_drops(report.tun_drops);
    }

    /// Goes by what was known before, since a look at the kernel told nothing; for a while.
    fn wonder(&mut self, error: &anyhow::Error) {
        let (is_news, is_too_long) = self.doubt.grow(clock::now());
        if is_too_long {
            let why = format!("the kernel could not be looked at for a minute: {error:#}");
            self.announcer.set(Need::Kernel, Some(why));
        } else if is_news {
            let error = format!("{error:#}");
            tracing::warn!(error, "a look at the kernel told nothing; looking again");
        }
    }

    /// Names the pods that a changed subnet of this node has left without a network.
    fn show_stranded(&mut self, stranded: Vec<Stranded>) {
        if stranded == self.stranded {
            return;
        }
        for pod in stranded.iter().filter(|pod| !self.stranded.contains(pod)) {
            tracing::warn!(reason = %pod, "a pod has no network");
        }
        let gone = self.stranded.iter().filter(|pod| !stranded.contains(pod)).count();
        if gone > 0 {
            let left = stranded.len();
            tracing::info!(pods = gone, left, "pods without a network are gone");
        }
        self.facts.show_stranded(stranded.iter().map(ToString::to_string).collect());
        self.stranded = stranded;
    }

    /// Says once what works less well than it could.
    fn show_hints(&mut self, hints: Vec<Hint>) {
        if hints == self.hints {
            return;
        }
        for hint in hints.iter().filter(|hint| !self.hints.contains(hint)) {
            tracing::warn!(reason = %hint, "something works less well than it could");
        }
        for hint in self.hints.iter().filter(|hint| !hints.contains(hint)) {
            tracing::info!(was = %hint, "that works as well as it could again");
        }
        self.facts.show_hints(hints.iter().map(ToString::to_string).collect());
        self.hints = hints;
    }

    /// Tells the plugin and everybody else whether packets flow.
    async fn announce(&mut self) {
        // What flows goes on; but no pod may get an address that another node may give too.
        self.announcer.set(Need::Claims, self.feed.contested().cloned());
        self.facts.set_ready(self.announcer.is_ready());
        if self.announcer.announce(&self.in_force.node_file(&self.config)).await {
            tracing::info!(
                node = self.config.node.name,
                mtu = self.in_force.mtus.device.get(),
                peers = self.in_force.members.peer_count(),
                offload = self.plane.offload().as_str(),
                workers = self.plane.workers(),
                "ready"
            );
        }
    }

    /// Reads this node's secrets again, and goes by them.
    async fn reread_keys(&mut self) {
        self.sealed.reread().await;
        self.feed.source().keys(self.sealed.public_keys());
        self.use_keys();
    }

    /// Has the data path go by this node's secrets and the table in force.
    fn use_keys(&mut self) {
        self.sealed.hand_over(&self.plane, &self.in_force.members);
        self.compare_keys();
    }

    /// Compares this node's keys with those of the table that was just taken.
    fn compare_keys(&mut self) {
        self.sealed.forget_others(&self.in_force.members);
        if self.sealed.is_listed_by_hand() {
            self.check_keys();
        }
        self.facts.show_sealed(self.sealed.status(), self.sealed.in_use_since());
    }

    /// Says so if the table has other keys of this node than its files.
    fn check_keys(&mut self) {
        self.sealed.check(&self.in_force.members);
        self.facts.show_sealed(self.sealed.status(), self.sealed.in_use_since());
    }

    fn underlay_address(&self) -> IpAddr {
        underlay_address(&self.config, &self.in_force.members)
    }

    /// Says so if the address that peers send to is not this machine's (any more), and has the
    /// source look whether it should be another.
    fn check_own_address(&mut self, own: Vec<IpNet>) {
        let address = self.underlay_address();
        let missing = (!own.iter().any(|net| net.addr() == address)).then(|| {
            format!(
                "its underlay address {address} is on no interface of this machine; add it, or \
                 correct the subnet table or underlay.address"
            )
        });
        if self.address_fault != missing {
            match &missing {
                Some(reason) => tracing::error!(reason, "peers cannot reach this node"),
                None => tracing::info!(%address, "this node has its underlay address again"),
            }
            self.facts.show_address(missing.clone());
            self.address_fault = missing;
        }
        if self.own_addresses != own {
            self.own_addresses = own;
            self.feed.source().moved();
        }
    }

    /// Follows the routes' MTUs, and paths that are narrower than them.
    async fn refresh_mtus(&mut self) -> anyhow::Result<()> {
        let members = &self.in_force.members;
        if let Some(mtus) = self.paths.remeasure(members, &self.kernel).await?
            && mtus != self.in_force.mtus
        {
            self.put_in_force(InForce::new(members.clone(), mtus));
        }
        Ok(())
    }

    /// Says once why the MTUs to the peers are not what they may be by now, and when that ends.
    fn show_mtu_fault(&mut self, fault: Option<String>) {
        if fault == self.mtu_fault {
            return;
        }
        match &fault {
            Some(error) => tracing::warn!(error, "the MTUs to the peers stay as they were"),
            None => tracing::info!("the MTUs to the peers follow the routes again"),
        }
        self.mtu_fault = fault;
    }

    /// Takes what a worker found out; says whether the node may need a repair.
    fn note(&mut self, notice: Notice) -> bool {
        match notice {
            // The repair that follows says what it did.
            Notice::TunGone => tracing::debug!("a worker lost the TUN device"),
            Notice::RouteTooNarrow(peer) => {
                tracing::debug!(%peer, "a datagram was longer than its device carries");
                self.paths.outdate();
            }
            // Anybody can have these come by the thousand.
            Notice::Unreachable(peer) => {
                self.probes.on_refused(peer);
                return false;
            }
            Notice::PathClaim(claim) => {
                let from = self.underlay_address();
                self.paths.on_claim(claim, from, &self.in_force.members);
                return false;
            }
        }
        true
    }

    /// Has the peers of the table in force asked, and shows how it is known what their paths carry.
    fn show_paths(&mut self) {
        self.probes.set_table(&self.in_force, &self.paths);
        self.facts.show_mtu_origins(self.paths.origins());
    }

    /// Lets packets drain and leaves device, addresses and routes for the next start.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        tracing::info!("stopping");
        let removed = self.announcer.stop().context("removing the node file");
        self.feed.keep(self.in_force.members.overlay(), When::Now).await;
        let plane = self.plane;
        tokio::task::spawn_blocking(move || plane.stop()).await?;
        removed
    }
}

fn default_workers() -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cpus * WORKERS_PER_CPU).min(MAX_WORKERS)
}

fn ticks(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// The next that the data path tells of handshakes and sessions.
///
/// # Cancel safety
///
/// Nothing is lost.
async fn next_event(events: &mut Option<Receiver<Event>>) -> Event {
    let event = match events {
        Some(events) => events.recv().await,
        None => None,
    };
    match event {
        Some(event) => event,
        None => std::future::pending().await,
    }
}
