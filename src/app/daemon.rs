//! `culvert run`: start, the loop that keeps the node as it should be, and the end.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use culvert_cni::node_file::NodeFile;
use ipnet::IpNet;
use tokio::net::TcpListener;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::capture::capture_source;
use super::feed::{Feed, describe};
use super::members::{Mtus, Paths, longest_header, node_spec};
use super::owner::Owner;
use super::turn::Turn;
use super::view::{Facts, explain_source, status_source};
use crate::config::Config;
use crate::control::ipam::keep_sweeping;
use crate::control::narrow_paths::{Answer, Finding, NarrowPaths, Question};
use crate::control::node::{Action, Changes, KernelEvents, Reconciler};
use crate::dataplane::{DataPlane, Notice, PathClaim, Settings, super_packet_limit};
use crate::engine::{Membership, PeerRegistry, Tunnel};
use crate::lifecycle::{Readiness, Signal, Signals, State};
use crate::observe::{Services, serve_http};
use crate::platform::sysctl::Sysctls;
use crate::platform::tun::Offload;
use crate::platform::{clock, udp};

/// How often everything is looked at although nothing called for it: the kernel does not announce
/// changes of parameters, and a notice may have been lost.
const FULL_CHECK: Duration = Duration::from_secs(10);

/// How long after a failure to repair the next attempt follows.
const RETRY: Duration = Duration::from_secs(1);

/// Workers for each CPU when their number is not set. Flows are put to queues by their hash; the more
/// queues, the more seldom several busy flows share one while a CPU has nothing to do.
const WORKERS_PER_CPU: usize = 2;

/// Most workers when their number is not set: each has some 2 MiB of buffers, and eight carry more
/// than the links of most nodes. Larger machines may set `tun.queues`.
const MAX_WORKERS: usize = 8;

/// Runs the daemon until a signal ends it.
///
/// # Errors
///
/// What prevents the start: the message says what to change.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("taking over signals")?;
    std::fs::create_dir_all(&config.node.run_dir)
        .with_context(|| format!("creating {}", config.node.run_dir.display()))?;
    let Some(Turn { admin, claim }) = Turn::take(&config, &mut signals).await? else {
        return Ok(());
    };
    let http = match config.observe.address {
        Some(address) => Some(TcpListener::bind(address).await.with_context(|| {
            format!(
                "listening on observe.address {address}, which must be an address of this \
                         machine and a port that no other program has"
            )
        })?),
        None => None,
    };
    NodeFile::remove(&config.node.run_dir).context("removing the node file of an earlier run")?;

    // Whoever asks is answered from here on, whatever the start has to wait for.
    let facts = Arc::new(Facts::new(clock::now()));
    let readiness = Readiness::new();
    let status = status_source(&config, Arc::clone(&facts), readiness.clone());
    let services = Services {
        status: status.clone(),
        explain: explain_source(&config, Arc::clone(&facts)),
        capture: capture_source(Arc::clone(&facts)),
    };
    let mut tasks = vec![tokio::spawn(admin.serve(services))];
    tasks.extend(http.map(|listener| tokio::spawn(serve_http(listener, status))));
    let sweeping = tokio::spawn(keep_sweeping(config.node.state_dir.clone()));

    let served = serve(config, facts, readiness, &mut signals).await;
    sweeping.abort();
    for task in tasks {
        task.abort();
        // The admin socket's file and the HTTP port go with their tasks.
        let _ = task.await;
    }
    let stopped = match served {
        Ok(Some(daemon)) => daemon.stop().await,
        Ok(None) => {
            tracing::info!("stopped before there was a subnet table");
            Ok(())
        }
        Err(error) => Err(error),
    };
    // A daemon that stands by takes all of this over in this moment.
    drop(claim);
    stopped
}

/// Starts the daemon and keeps it until a signal asks for the end; none if that was before there was
/// a table to start with.
async fn serve(
    mut config: Config,
    facts: Arc<Facts>,
    readiness: Readiness,
    signals: &mut Signals,
) -> anyhow::Result<Option<Daemon>> {
    tracing::info!(node = config.node.name, ?config, "starting");
    let mut feed = Feed::start(&config, Arc::clone(&facts));
    let members = tokio::select! {
        members = feed.first(&mut config, &readiness) => members?,
        () = stop_signal(signals) => return Ok(None),
    };
    let mut daemon = Daemon::start(config, feed, members, facts, readiness).await?;
    daemon.keep(signals).await?;
    Ok(Some(daemon))
}

struct Daemon {
    config: Config,
    feed: Feed,
    members: Membership,
    registry: PeerRegistry,
    kernel: Reconciler,
    events: KernelEvents,
    mtus: Mtus,
    paths: Paths,
    narrow: NarrowPaths,
    /// Paths that are being asked what they carry.
    asked: JoinSet<(Question, Option<Answer>)>,
    /// Whether the MTUs in force may not be those of `narrow`.
    narrow_outdated: bool,
    plane: Arc<DataPlane>,
    notices: Receiver<Notice>,
    owner: Owner,
    /// The node file as it was last written.
    node_file: Option<NodeFile>,
    facts: Arc<Facts>,
    readiness: Readiness,
    /// This machine's addresses when they were last looked at.
    own_addresses: Vec<IpNet>,
}

impl Daemon {
    /// Checks the machine, starts the workers and brings the node up.
    async fn start(
        config: Config,
        feed: Feed,
        members: Membership,
        facts: Arc<Facts>,
        readiness: Readiness,
    ) -> anyhow::Result<Self> {
        let mut kernel = reconciler(&config)?;
        let events = KernelEvents::open()?;
        let narrow = NarrowPaths::default();
        let mut paths = Paths::default();
        let mtus = Mtus::measure(&config, &members, &mut paths, &narrow, &mut kernel).await?;
        preflight(&config, &members, &mtus, &mut kernel).await?;

        let registry = PeerRegistry::default();
        let settings = Settings {
            tun: config.tun.name.clone(),
            workers: config.tun.queues.unwrap_or_else(default_workers),
            offload: if config.tun.offload { Offload::TcpUdp } else { Offload::None },
            busy_poll: config.tun.busy_poll,
            started: facts.started(),
        };
        let table = mtus.compile(&members, &registry);
        let address = underlay_address(&config, &members);
        let (plane, notices) = DataPlane::start(settings, table, address)
            .with_context(|| binding(&config, address, &members.tunnels()))?;
        let plane = Arc::new(plane);
        facts.set_plane(Arc::clone(&plane));
        let mut daemon = Self {
            owner: Owner(Arc::clone(&plane)),
            node_file: None,
            config,
            feed,
            members,
            registry,
            kernel,
            events,
            mtus,
            paths,
            narrow,
            asked: JoinSet::new(),
            narrow_outdated: false,
            plane,
            notices,
            facts,
            readiness,
            own_addresses: Vec::new(),
        };
        daemon.facts.set_mtu(daemon.mtus.device.get());
        daemon.facts.generation.store(1, Ordering::Relaxed);
        for action in daemon.reconcile(Changes::ALL).await.context("setting up this node")? {
            tracing::debug!(%action, "set up");
        }
        daemon.feed.in_force(&daemon.config).await;
        daemon.feed.save(&daemon.config, true).await;
        daemon.check_own_address().await;
        Ok(daemon)
    }

    /// Reacts to everything that may happen, until told to stop.
    async fn keep(&mut self, signals: &mut Signals) -> anyhow::Result<()> {
        let mut full_check = ticks(FULL_CHECK);
        let mut retry = ticks(RETRY);
        let mut broken = false;
        loop {
            let changes = tokio::select! {
                signal = signals.next() => match signal {
                    Signal::Stop => return Ok(()),
                    Signal::Reload => {
                        self.feed.source().reload();
                        Changes::ALL
                    }
                },
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
                        self.narrow.outdate(clock::now());
                        self.check_own_address().await;
                    }
                    changes
                }
                Some(notice) = self.notices.recv() => {
                    if !self.note(notice) {
                        continue;
                    }
                    Changes::default()
                }
                Some(answer) = self.asked.join_next() => {
                    if let Ok((question, answer)) = answer {
                        self.take_answer(question, answer);
                    }
                    Changes::default()
                }
                _ = full_check.tick() => {
                    self.renew_narrow_paths();
                    self.check_own_address().await;
                    self.feed.save(&self.config, false).await;
                    Changes::ALL
                }
                _ = retry.tick(), if broken => Changes::ALL,
            };
            if self.plane.has_failed() {
                anyhow::bail!("a worker has ended by itself; this is a bug");
            }
            broken = !self.repair(changes).await;
            self.feed.source().ready(self.readiness.state() == State::Ready);
        }
    }

    /// Makes the kernel's state what it should be; says whether it is.
    async fn repair(&mut self, changes: Changes) -> bool {
        if let Err(error) = self.refresh_mtus().await {
            tracing::warn!(error = format!("{error:#}"), "measuring the MTUs to the peers failed");
        }
        match self.reconcile(changes).await {
            Ok(done) => {
                for action in &done {
                    tracing::info!(%action, "repaired");
                }
                let repairs = u64::try_from(done.len()).unwrap_or(u64::MAX);
                self.facts.repairs.fetch_add(repairs, Ordering::Relaxed);
                true
            }
            Err(error) => {
                let reason = format!("{error:#}");
                if self.readiness.set(State::NotReady(reason.clone())) {
                    tracing::error!(error = reason, "this node cannot be set up; trying again");
                }
                self.withdraw();
                // The way to the kernel may be what is broken.
                match reconciler(&self.config) {
                    Ok(kernel) => self.kernel = kernel,
                    Err(error) => tracing::error!(%error, "reaching the kernel failed"),
                }
                false
            }
        }
    }

    /// Makes the kernel's state what it should be, and announces the node once packets flow.
    async fn reconcile(&mut self, changes: Changes) -> anyhow::Result<Vec<Action>> {
        let spec = node_spec(&self.config, &self.members, &self.mtus);
        let done = self.kernel.reconcile(&spec, &mut self.owner, changes).await?;
        if let Some(reason) = self.feed.contested() {
            // What flows goes on; but no pod may get an address that another node may give too.
            self.readiness.set(State::NotReady(reason));
            self.withdraw();
        } else if self.kernel.is_carrying(&spec).await? {
            self.announce();
        } else {
            // The kernel announces the carrier, which brings us here again.
            self.readiness.set(State::NotReady(format!("{} has no carrier yet", spec.tun)));
        }
        Ok(done)
    }

    /// Tells the plugin and everybody else that packets flow.
    fn announce(&mut self) {
        let file = NodeFile {
            node: self.config.node.name.clone(),
            bridge: self.config.bridge.name.clone(),
            mtu: self.mtus.device.get(),
            gso_max_size: Some(super_packet_limit(self.mtus.device, longest_header(&self.members))),
            subnets: self.members.local().subnets.clone(),
            cluster_networks: self.config.network.cidrs.clone(),
            masquerade: Some(self.config.egress.masquerade),
        };
        if self.node_file.as_ref() != Some(&file) {
            if let Err(error) = file.write(&self.config.node.run_dir) {
                let reason = format!("writing the node file: {error}");
                tracing::error!(error = reason, "the plugin cannot attach pods");
                self.readiness.set(State::NotReady(reason));
                return;
            }
            self.node_file = Some(file);
        }
        if self.readiness.set(State::Ready) {
            tracing::info!(
                node = self.config.node.name,
                mtu = self.mtus.device.get(),
                peers = self.members.peers().count(),
                offload = self.plane.offload().as_str(),
                workers = self.plane.workers(),
                "ready"
            );
        }
    }

    /// Tells the plugin that pods would have no network.
    fn withdraw(&mut self) {
        if self.node_file.take().is_some()
            && let Err(error) = NodeFile::remove(&self.config.node.run_dir)
        {
            tracing::warn!(%error, "removing the node file failed");
        }
    }

    /// Takes what the source has told; keeps the old table if the new one cannot be used.
    async fn take_table(&mut self) {
        let networks = self.config.network.cidrs.clone();
        self.feed.widen(&mut self.config);
        match self.try_table().await {
            Ok(()) => self.facts.table(|table| table.error = None),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, "the new subnet table is refused; the old one stays");
                self.config.network.cidrs = networks;
                self.facts.table(|table| table.error = Some(error));
            }
        }
    }

    async fn try_table(&mut self) -> anyhow::Result<()> {
        let members =
            self.feed.members(&self.config).map_err(|error| anyhow::anyhow!(describe(&error)))?;
        if members == self.members {
            return Ok(());
        }
        let mtus =
            Mtus::measure(&self.config, &members, &mut self.paths, &self.narrow, &mut self.kernel)
                .await?;
        preflight(&self.config, &members, &mtus, &mut self.kernel).await?;
        let address = underlay_address(&self.config, &members);
        let tunnels = members.tunnels();
        let moved = address != underlay_address(&self.config, &self.members);
        if moved || tunnels != self.members.tunnels() {
            let sockets = self
                .plane
                .bind(address, &tunnels)
                .with_context(|| binding(&self.config, address, &tunnels))?;
            // The rules first: pods must not reach a port that somebody listens on.
            let spec = node_spec(&self.config, &members, &mtus);
            let rules = self.kernel.reconcile(&spec, &mut self.owner, Changes::default()).await;
            rules.context("protecting the tunnel's new ports from pods")?;
            self.plane.listen(sockets);
        }
        if moved {
            tracing::info!(%address, "this node's underlay address changed");
        }
        self.members = members;
        self.mtus = mtus;
        let peers: HashSet<IpAddr> = self.members.peers().map(|peer| peer.address).collect();
        self.narrow.retain(|peer| peers.contains(&peer));
        self.publish();
        let known = self.plane.table();
        // Only nodes of a table come into the registry, so that it is longer exactly when one left.
        if self.registry.len() > known.peers().len() {
            let names: HashSet<&str> = known.peers().iter().map(|peer| peer.name()).collect();
            self.registry.retain(|name| names.contains(name));
        }
        self.feed.in_force(&self.config).await;
        let generation = self.facts.generation.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::info!(nodes = known.peers().len() + 1, generation, "took a new subnet table");
        Ok(())
    }

    /// Says so if the address that peers send to is not this machine's (any more), and has the
    /// source look whether it should be another.
    async fn check_own_address(&mut self) {
        let address = underlay_address(&self.config, &self.members);
        let own = match self.kernel.local_addresses().await {
            Ok(own) => own,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "listing own addresses failed");
                return;
            }
        };
        let missing = (!own.iter().any(|net| net.addr() == address)).then(|| {
            format!(
                "its underlay address {address} is on no interface of this machine; add it, or \
                 correct the subnet table or underlay.address"
            )
        });
        let news = self.facts.table(|table| {
            let news = missing.is_some() && table.address != missing;
            table.address.clone_from(&missing);
            news
        });
        if let (true, Some(reason)) = (news, missing) {
            tracing::error!(reason, "peers cannot reach this node");
        }
        if self.own_addresses != own {
            self.own_addresses = own;
            self.feed.source().moved();
        }
    }

    /// Follows the routes' MTUs, and paths that are narrower than them.
    async fn refresh_mtus(&mut self) -> anyhow::Result<()> {
        let routes_settled = self.config.underlay.mtu.is_some()
            || self.paths.is_settled(&self.members, clock::now());
        if routes_settled && !self.narrow_outdated {
            return Ok(());
        }
        let mtus = Mtus::measure(
            &self.config,
            &self.members,
            &mut self.paths,
            &self.narrow,
            &mut self.kernel,
        )
        .await?;
        self.narrow_outdated = false;
        if mtus != self.mtus {
            tracing::info!(mtu = mtus.device.get(), "MTUs to the peers changed");
            self.mtus = mtus;
            self.publish();
        }
        Ok(())
    }

    fn publish(&self) {
        self.facts.set_mtu(self.mtus.device.get());
        self.plane.publish(self.mtus.compile(&self.members, &self.registry));
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
            Notice::PathClaim(PathClaim { peer, mtu }) => {
                let route = self.paths.to(peer, &self.config);
                let question = self.narrow.on_claim(peer, mtu, route, clock::now());
                question.into_iter().for_each(|question| self.ask(question));
                return false;
            }
        }
        true
    }

    /// Asks the paths again of which it is not known any more whether they are narrow.
    fn renew_narrow_paths(&mut self) {
        let now = clock::now();
        while let Some(question) =
            self.narrow.poll_question(now, |peer| self.paths.to(peer, &self.config))
        {
            self.ask(question);
        }
    }

    fn ask(&mut self, question: Question) {
        let Question { peer, packet_len, .. } = question;
        let local = underlay_address(&self.config, &self.members);
        let Some(node) = self.members.peers().find(|node| node.address == peer) else {
            return self.take_answer(question, None);
        };
        let peer = SocketAddr::new(peer, self.members.tunnel_to(node).port);
        self.asked.spawn_blocking(move || match udp::path_carries(local, peer, packet_len) {
            Ok(Some(mtu)) => (question, Some(Answer::Only(mtu))),
            Ok(None) => (question, Some(Answer::Enough)),
            Err(error) => {
                tracing::debug!(%error, %peer, "asking what the path carries failed");
                (question, None)
            }
        });
    }

    fn take_answer(&mut self, question: Question, answer: Option<Answer>) {
        let peer = question.peer;
        match self.narrow.on_answer(question, answer, clock::now()) {
            Some(Finding::Narrower(mtu)) => {
                tracing::info!(%peer, mtu, "the path to a peer is narrower than its route");
                self.narrow_outdated = true;
            }
            Some(Finding::AsWideAsRoute) => {
                tracing::info!(%peer, "the path to a peer is as wide as its route again");
                self.narrow_outdated = true;
            }
            Some(Finding::FalseClaim(mtu)) => tracing::warn!(
                %peer,
                mtu,
                "an ICMP error says that the path to a peer carries only this much; no machine on \
                 the path confirms it, and nothing changes"
            ),
            None => {}
        }
    }

    /// Lets packets drain and leaves device, addresses and routes for the next start.
    async fn stop(mut self) -> anyhow::Result<()> {
        tracing::info!("stopping");
        self.readiness.set(State::NotReady("stopping".to_owned()));
        let removed = NodeFile::remove(&self.config.node.run_dir).context("removing the node file");
        self.feed.save(&self.config, true).await;
        let plane = self.plane;
        tokio::task::spawn_blocking(move || plane.stop()).await?;
        removed
    }
}

/// Waits for the signal to stop; there is nothing to reload yet.
async fn stop_signal(signals: &mut Signals) {
    while signals.next().await != Signal::Stop {}
}

fn reconciler(config: &Config) -> anyhow::Result<Reconciler> {
    Ok(Reconciler::open()?.with_sysctls(Sysctls::at(&config.node.sysctl_dir)))
}

async fn preflight(
    config: &Config,
    members: &Membership,
    mtus: &Mtus,
    kernel: &mut Reconciler,
) -> anyhow::Result<()> {
    let spec = node_spec(config, members, mtus);
    let own = members.local().address;
    let addresses: Vec<IpAddr> = members.peers().map(|peer| peer.address).chain([own]).collect();
    kernel.preflight(&spec, &config.network.service_cidrs, &addresses).await
}

/// The address that the sockets are bound to.
fn underlay_address(config: &Config, members: &Membership) -> IpAddr {
    config.underlay.address.unwrap_or_else(|| members.local().address)
}

/// What is being done while the sockets are bound, and which keys say so.
fn binding(config: &Config, address: IpAddr, tunnels: &[Tunnel]) -> String {
    let source =
        if config.underlay.address.is_some() { "underlay.address" } else { "the subnet table" };
    let tunnels: Vec<String> = tunnels.iter().map(ToString::to_string).collect();
    format!("binding the underlay address {address} (from {source}) for {}", tunnels.join(", "))
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
