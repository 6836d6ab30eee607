//! `culvert run`: start, the loop that keeps the node as it should be, and the end.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use culvert_cni::node_file::NodeFile;
use tokio::net::TcpListener;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::capture::capture_source;
use super::members::{Mtus, Narrow, longest_header, node_spec, overlay};
use super::owner::Owner;
use super::table_path;
use super::turn::Turn;
use super::view::{Facts, explain_source, status_source};
use crate::config::Config;
use crate::control::ipam::keep_sweeping;
use crate::control::node::{Action, Changes, KernelEvents, Reconciler};
use crate::control::table_file::TableFile;
use crate::dataplane::{DataPlane, Notice, Settings, super_packet_limit};
use crate::engine::{Membership, PeerRegistry, Tunnel};
use crate::lifecycle::{Readiness, Signal, Signals, State};
use crate::observe::{Services, StatusSource, serve_http};
use crate::platform::sysctl::Sysctls;
use crate::platform::tun::Offload;
use crate::platform::{clock, udp};

/// How often everything is looked at although nothing called for it: the kernel does not announce
/// changes of parameters, and a notice may have been lost.
const FULL_CHECK: Duration = Duration::from_secs(10);

/// How long after a failure to repair the next attempt follows.
const RETRY: Duration = Duration::from_secs(1);

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
        Some(address) => Some(
            TcpListener::bind(address)
                .await
                .with_context(|| format!("listening on observe.address {address}"))?,
        ),
        None => None,
    };
    NodeFile::remove(&config.node.run_dir).context("removing the node file of an earlier run")?;

    let mut daemon = Daemon::start(config).await?;
    let status = daemon.status.clone();
    let services = Services {
        status: status.clone(),
        explain: explain_source(&daemon.config, Arc::clone(&daemon.plane)),
        capture: capture_source(Arc::clone(&daemon.plane)),
    };
    let serving = tokio::spawn(admin.serve(services));
    let http = http.map(|listener| tokio::spawn(serve_http(listener, status)));
    let sweeping = tokio::spawn(keep_sweeping(daemon.config.node.state_dir.clone()));
    let kept = daemon.keep(&mut signals).await;
    sweeping.abort();
    kept?;
    for serving in [Some(serving), http].into_iter().flatten() {
        serving.abort();
        // The admin socket's file and the HTTP port go with their tasks.
        let _ = serving.await;
    }
    let stopped = daemon.stop().await;
    // A daemon that stands by takes all of this over in this moment.
    drop(claim);
    stopped
}

struct Daemon {
    config: Config,
    source: TableFile,
    members: Membership,
    registry: PeerRegistry,
    kernel: Reconciler,
    events: KernelEvents,
    mtus: Mtus,
    narrow: Narrow,
    plane: Arc<DataPlane>,
    notices: Receiver<Notice>,
    owner: Owner,
    /// The node file as it was last written.
    node_file: Option<NodeFile>,
    facts: Arc<Facts>,
    readiness: Readiness,
    status: StatusSource,
}

impl Daemon {
    /// Reads the table, checks the machine, starts the workers and brings the node up.
    async fn start(config: Config) -> anyhow::Result<Self> {
        let started = clock::now();
        tracing::info!(node = config.node.name, ?config, "starting");
        let mut source = TableFile::new(table_path(&config));
        let members = source.read(&overlay(&config), &config.node.name)?;

        let mut kernel = reconciler(&config)?;
        let events = KernelEvents::open()?;
        let narrow = Narrow::new();
        let mtus = Mtus::measure(&config, &members, &narrow, &mut kernel).await?;
        preflight(&config, &members, &mtus, &mut kernel).await?;

        let registry = PeerRegistry::default();
        let settings = Settings {
            tun: config.tun.name.clone(),
            workers: config.tun.queues.unwrap_or_else(default_workers),
            offload: if config.tun.offload { Offload::TcpUdp } else { Offload::None },
            busy_poll: config.tun.busy_poll,
            started,
        };
        let table = mtus.compile(&members, &registry);
        let address = underlay_address(&config, &members);
        let (plane, notices) = DataPlane::start(settings, table, address)
            .with_context(|| binding(&config, address, &members.tunnels()))?;
        let plane = Arc::new(plane);
        let facts = Arc::new(Facts::default());
        let readiness = Readiness::new();
        let status = status_source(
            &config,
            Arc::clone(&plane),
            Arc::clone(&facts),
            readiness.clone(),
            started,
        );
        let mut daemon = Self {
            owner: Owner(Arc::clone(&plane)),
            node_file: None,
            config,
            source,
            members,
            registry,
            kernel,
            events,
            mtus,
            narrow,
            plane,
            notices,
            facts,
            readiness,
            status,
        };
        daemon.facts.set_mtu(daemon.mtus.device.get());
        daemon.facts.generation.store(1, Ordering::Relaxed);
        for action in daemon.reconcile(Changes::ALL).await.context("setting up this node")? {
            tracing::debug!(%action, "set up");
        }
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
                        self.take_table().await;
                        Changes::ALL
                    }
                },
                () = self.source.changed() => {
                    self.take_table().await;
                    Changes::default()
                }
                changes = self.events.changed() => changes.context("watching the kernel")?,
                Some(notice) = self.notices.recv() => {
                    self.note(notice);
                    Changes::default()
                }
                _ = full_check.tick() => {
                    self.measure_narrow_paths();
                    Changes::ALL
                }
                _ = retry.tick(), if broken => Changes::ALL,
            };
            if self.plane.has_failed() {
                anyhow::bail!("a worker has ended by itself; this is a bug");
            }
            broken = !self.repair(changes).await;
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
        if self.kernel.is_carrying(&spec).await? {
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

    /// Reads the table again; keeps the old one if the new one is broken.
    async fn take_table(&mut self) {
        match self.try_table().await {
            Ok(()) => self.facts.set_table_error(None),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, "the new subnet table is refused; the old one stays");
                self.facts.set_table_error(Some(error));
            }
        }
    }

    async fn try_table(&mut self) -> anyhow::Result<()> {
        let members = self.source.read(&overlay(&self.config), &self.config.node.name)?;
        if members == self.members {
            return Ok(());
        }
        let mtus = Mtus::measure(&self.config, &members, &self.narrow, &mut self.kernel).await?;
        preflight(&self.config, &members, &mtus, &mut self.kernel).await?;
        let address = underlay_address(&self.config, &members);
        let tunnels = members.tunnels();
        if address != underlay_address(&self.config, &self.members)
            || tunnels != self.members.tunnels()
        {
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
        self.members = members;
        self.mtus = mtus;
        self.publish();
        let known = self.plane.table();
        self.registry.retain(|name| known.peers().iter().any(|peer| peer.name == name));
        let generation = self.facts.generation.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::info!(nodes = known.peers().len() + 1, generation, "took a new subnet table");
        Ok(())
    }

    /// Follows the routes' MTUs, and paths that are narrower than them.
    async fn refresh_mtus(&mut self) -> anyhow::Result<()> {
        let mtus =
            Mtus::measure(&self.config, &self.members, &self.narrow, &mut self.kernel).await?;
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

    /// Takes what a worker found out.
    fn note(&mut self, notice: Notice) {
        match notice {
            // The repair that follows says what it did.
            Notice::TunGone => tracing::debug!("a worker lost the TUN device"),
            Notice::PathTooNarrow(peer) => {
                self.narrow.insert(peer, u16::MAX);
                self.measure_narrow_paths();
            }
        }
    }

    /// Asks again about paths that turned out narrower than their routes: the kernel forgets what it
    /// has found out after some minutes, and so the path is tried anew.
    fn measure_narrow_paths(&mut self) {
        let from = underlay_address(&self.config, &self.members);
        let peers: Vec<IpAddr> = self.members.peers().map(|peer| peer.address).collect();
        self.narrow.retain(|peer, known| {
            let Ok(mtu) = udp::path_mtu(from, *peer) else { return peers.contains(peer) };
            if *known != mtu {
                tracing::info!(%peer, mtu, "path MTU");
            }
            *known = mtu;
            peers.contains(peer)
        });
    }

    /// Lets packets drain and leaves device, addresses and routes for the next start.
    async fn stop(self) -> anyhow::Result<()> {
        tracing::info!("stopping");
        self.readiness.set(State::NotReady("stopping".to_owned()));
        let removed = NodeFile::remove(&self.config.node.run_dir).context("removing the node file");
        let plane = self.plane;
        tokio::task::spawn_blocking(move || plane.stop()).await?;
        removed
    }
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
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MAX_WORKERS)
}

fn ticks(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
