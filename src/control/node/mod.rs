//! Keeps this node's kernel state as it should be: TUN, bridge, routes, parameters, nftables.
//!
//! Owns everything that the daemon makes in the kernel, and recognises it again: devices by their
//! alias, routes and addresses by `PROTOCOL`, rules by their table. Start, restart and repair are
//! one path: look, compare, change what differs. Never holds the TUN's file descriptors (see
//! [`TunOwner`]) and never carries a packet. Runs on the control runtime; when it is slow, a repair
//! comes later and nothing queues.

mod action;
mod cleanup;
mod desired;
mod diff;
mod events;
mod examination;
mod execute;
mod firewall;
#[cfg(test)]
mod fixture;
mod flannel;
mod hint;
mod host_ports;
mod kernel;
mod notes;
mod observe;
mod path_mtu;
mod preflight;
mod reach;
mod report;
mod ruleset;
mod stranded;
mod underlay;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use culvert_netlink::{Flow, MAIN_TABLE, RouteFilter};
use culvert_node::host_ports::PodPorts;
use culvert_node::living;
use ipnet::IpNet;
use overlay_proto::Mtu;

pub use self::action::Action;
pub use self::cleanup::Cleanup;
use self::desired::Desired;
use self::diff::{Port, Ruleset, diff};
pub use self::events::{Changes, KernelEvents};
pub(crate) use self::examination::{Astray, Examination};
use self::execute::Executor;
use self::firewall::{Firewall, Pods};
pub(crate) use self::flannel::device_name;
pub use self::hint::Hint;
pub(crate) use self::kernel::Kernel;
use self::notes::Notes;
use self::observe::Observed;
pub use self::path_mtu::PathMtu;
pub use self::preflight::Conflict;
use self::reach::{Detour, Devices, Probe};
pub use self::report::{Failure, Report};
pub use self::stranded::Stranded;
use crate::platform::netlink::Netlink;
use crate::platform::sysctl::Sysctls;

/// The number by which our routes and addresses are known.
///
/// Neither iproute2's `rt_protos` nor FRR (which claims 191 to 198) nor BIRD, Cilium or Calico use
/// it.
pub(crate) const PROTOCOL: u8 = 0xcf;

/// Packets that the kernel queues for the daemon before it drops, on each queue of the TUN.
///
/// The default, 500, is less than two milliseconds of small packets at the rates that the data path
/// reaches; a worker that is descheduled for one scheduler tick (4 ms) must find them waiting. Each
/// may be a super-packet of 64 KiB, so that this is 128 MiB of kernel memory at worst.
const TUN_QUEUE_PACKETS: u32 = 2_000;

/// Rounds of look, compare and change before we say that somebody works against us. One suffices
/// unless a change makes the kernel change more: a device that goes down loses its routes.
const ROUNDS: usize = 4;

/// How often, and how far apart, to look again when packets go astray after something was changed.
///
/// kernel: an IPv6 address gets its route from a work item, a few milliseconds after it was added.
const SETTLING_LOOKS: usize = 10;
const SETTLING_PAUSE: Duration = Duration::from_millis(2);

/// What this node should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// Name of the TUN.
    pub tun: String,
    /// Name of the pods' bridge.
    pub bridge: String,
    /// Networks that span the cluster, at least one.
    pub cluster_networks: Vec<IpNet>,
    /// This node's pod subnets, in the order of the subnet table.
    pub local_subnets: Vec<IpNet>,
    /// MTU of the TUN and of the bridge, in bytes.
    pub mtu: u16,
    /// UDP ports of the tunnel, one for each codec in use, and that of what is sealed.
    pub underlay_ports: Vec<u16>,
    /// UDP ports of every codec there is, in use or not, and that of what any node seals.
    pub codec_ports: Vec<u16>,
    /// Pod subnets of the other nodes.
    pub remote_subnets: Arc<[IpNet]>,
    /// IPv6 pod subnets of other nodes toward which less fits than the MTU, and how much does.
    pub narrow_subnets: Vec<(IpNet, u16)>,
    /// Tunnel datagrams to some of the other nodes, as the sockets send them.
    pub peers: Vec<Flow>,
    /// Whether pods' traffic to outside the cluster leaves with the node's address.
    pub masquerade: bool,
    /// Whether what nodes send one another must be sealed.
    pub sealed_only: bool,
    /// What carried the node's packets before this daemon.
    pub predecessor: Option<Predecessor>,
}

/// The IPv6 subnets of `peers`, each with the MTU of the path to it, that are reached by less than
/// the `device` carries, and by how much (see docs/decisions/0196). IPv6 promises its senders 1280
/// bytes on every path.
pub(crate) fn narrow_subnets<'a>(
    device: u16,
    peers: impl Iterator<Item = (&'a [IpNet], u16)>,
) -> Vec<(IpNet, u16)> {
    let all = peers.flat_map(|(subnets, mtu)| {
        let subnets = subnets.iter().filter(|subnet| subnet.addr().is_ipv6());
        subnets.map(move |subnet| (*subnet, mtu.max(Mtu::IPV6_MIN.get())))
    });
    all.filter(|(_, mtu)| *mtu < device).collect()
}

/// The tunnel's device of the network before this one, which may have our addresses and routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Predecessor {
    /// Its name.
    pub device: String,
    /// Whether it still carries, and the rules let it.
    pub carries: bool,
}

/// Whoever holds the TUN's file descriptors.
pub trait TunOwner: Send + Sync {
    /// Whether the descriptors still belong to the device of that name: nobody deleted it.
    fn is_attached(&self) -> bool;

    /// Creates the device, persistent, or attaches to the one of that name.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    fn open(&self) -> culvert_dataplane::platform::Result<()>;
}

/// Brings the kernel's state to what a [`NodeSpec`] asks for, and keeps it there.
pub struct Reconciler {
    netlink: Netlink,
    sysctls: Sysctls,
    /// Where the plugin writes which ports of the node lead to pods; none, if that is nobody's
    /// concern.
    run_dir: Option<PathBuf>,
    firewall: Firewall,
    /// What was on the pods' ports, whatever became of it.
    notes: Notes,
    /// Which other nodes' packets are asked about next.
    turns: reach::Turns,
    /// The ports of pods when somebody last looked.
    ports_seen: Option<Vec<String>>,
    /// What the kernel was to have then.
    desired_seen: Option<Desired>,
}

impl Reconciler {
    /// Connects to the kernel, in this thread's network namespace.
    ///
    /// # Errors
    ///
    /// When the netlink socket cannot be opened.
    pub fn open() -> anyhow::Result<Self> {
        Ok(Self {
            netlink: Netlink::open()?,
            sysctls: Sysctls::default(),
            run_dir: None,
            firewall: Firewall::default(),
            notes: Notes::default(),
            turns: reach::Turns::default(),
            ports_seen: None,
            desired_seen: None,
        })
    }

    /// Connects anew, if the kernel lets it.
    fn reopen(&mut self) {
        match Netlink::open() {
            Ok(netlink) => (self.netlink, self.firewall) = (netlink, Firewall::default()),
            Err(error) => tracing::error!(%error, "reaching the kernel failed"),
        }
    }

    /// The same, with kernel parameters where `sysctls` has them.
    #[must_use]
    pub(crate) fn with_sysctls(self, sysctls: Sysctls) -> Self {
        Self { sysctls, ..self }
    }

    /// The same, with the plugin's files about ports of the node where `run_dir` has them.
    #[must_use]
    pub(crate) fn with_run_dir(self, run_dir: PathBuf) -> Self {
        Self { run_dir: Some(run_dir), ..self }
    }

    /// Makes the node what `spec` says, and reports what that took and whether packets get through.
    ///
    /// `changes` says what to look at. Links, addresses, routes and parameters cost a few dumps and
    /// are always looked at; the nftables tables, of which one grows with the pods, are looked at
    /// when `changes` or a new `spec` asks for it.
    ///
    /// # Errors
    ///
    /// That the kernel could not be looked at, or the first action that failed; those before it are
    /// done, and the next call continues.
    pub fn reconcile(
        &mut self,
        spec: &NodeSpec,
        tun: &dyn TunOwner,
        changes: Changes,
    ) -> Result<Report, Failure> {
        // Before any look at devices: a file whose device is not there then is left over.
        let host_ports = self.host_ports();
        let mut desired = Desired::new(spec);
        if host_ports.iter().any(PodPorts::are_at_localhost) {
            desired.lead_from_localhost();
        }
        let mut done = Vec::new();
        let mut look = changes.nft;
        let mut prepended = false;
        let mut settling = SETTLING_LOOKS;
        let mut round = 0;
        let mut ports_before = Vec::new();
        loop {
            let mut observed =
                self.observe(spec, &desired, tun, (look, &host_ports)).map_err(Failure::of_look)?;
            look = false;
            desired.follow_adopted(&observed.actual);
            let mut actions = diff(&desired, &observed.actual);
            let mut obstacle = None;
            if actions.is_empty() && observed.carrying {
                let is_kernels = changes.is_any() || !done.is_empty();
                let count = if is_kernels { reach::WINDOW } else { reach::FEW };
                let detours = self.detours(spec, &observed, count).map_err(Failure::of_look)?;
                if !detours.is_empty() && !done.is_empty() && settling > 0 {
                    settling -= 1;
                    thread::sleep(SETTLING_PAUSE);
                    continue;
                }
                // Once: whoever does it again and again does it on purpose.
                if !prepended {
                    actions = unhide(&desired, &detours);
                    prepended = true;
                }
                obstacle = reach::captured(&observed.captured)
                    .or_else(|| detours.into_iter().next().map(|detour| detour.obstacle));
                if obstacle.is_none() {
                    obstacle = self.underlay_fault(spec, &observed).map_err(Failure::of_look)?;
                }
            }
            let ports: Vec<String> =
                observed.pods.ports.iter().map(|port| port.device.clone()).collect();
            // While pods come and go, each look finds another that is not finished yet; the next
            // call looks again.
            let is_moving = round == ROUNDS
                && ports != ports_before
                && actions.iter().all(|action| action.is_about_pods());
            ports_before = ports;
            let next = actions.first().filter(|_| !is_moving);
            let Some(next) = next else {
                let seen = self.ports_seen.replace(ports_before.clone());
                let spec_changed = self.desired_seen.as_ref().is_some_and(|seen| *seen != desired);
                self.desired_seen = Some(desired);
                let stranded = stranded::stranded(&spec.local_subnets, &observed.pods.ports);
                let Observed { carrying, own_addresses, noteless, .. } = observed;
                let noteless = noteless.into_iter().map(Hint::NoNote);
                let hints = Hint::of(&self.sysctls).into_iter().chain(noteless).collect();
                // Only a figure to show: what it is asked of may be gone by now.
                let tun_drops = self.netlink.socket.dropped_packets(&spec.tun).unwrap_or_default();
                return Ok(Report {
                    done,
                    pods_moved: seen.is_some_and(|seen| seen != ports_before),
                    spec_changed,
                    carrying,
                    obstacle,
                    own_addresses,
                    stranded,
                    hints,
                    tun_drops,
                });
            };
            if round == ROUNDS {
                return Err(Failure::Broken(anyhow!(
                    "the kernel's state does not stay as it was set; another program, or another \
                     daemon with the same bridge, may be managing the same devices (next would be: \
                     {next})"
                )));
            }
            round += 1;
            let mut executor = Executor {
                netlink: &mut self.netlink,
                firewall: &mut self.firewall,
                tun,
                indexes: std::mem::take(&mut observed.indexes),
                desired: Some(&desired),
                sysctls: &self.sysctls,
                run_dir: self.run_dir.as_deref(),
            };
            for action in actions {
                match executor.execute(&action) {
                    Ok(true) => done.push(action),
                    // The plugin was about to do it, and was seen in the midst of it.
                    Ok(false) => {}
                    Err(error) => {
                        if action.guards_pods() && !is_stale(&error) {
                            executor.shut_ports(&observed.pods.ports);
                        }
                        return Err(Failure::Broken(error));
                    }
                }
            }
        }
    }

    fn observe(
        &mut self,
        spec: &NodeSpec,
        desired: &Desired,
        tun: &dyn TunOwner,
        (look, host_ports): (bool, &[PodPorts]),
    ) -> anyhow::Result<Observed> {
        let mut observed = observe::observe(
            &mut self.netlink,
            &self.sysctls,
            desired,
            tun.is_attached(),
            (&mut self.firewall, &mut self.notes),
        )?;
        // No port comes up without a look at what guards it, and none of the node's leads to a pod
        // that is gone.
        let look = look
            || !observed.actual.ports.iter().all(Port::is_right)
            || self.firewall.is_surprised_by(&observed.pods)
            || host_ports.iter().any(|pod| !observed.devices.contains(&pod.device));
        observed.actual.ruleset = self.ruleset_state(spec, desired, look)?;
        if look {
            observed.actual.source_check = self.pods_state(&observed.pods, &desired.pods)?;
            let devices = &observed.devices;
            observed.actual.host_ports =
                self.host_ports_state(host_ports, devices, &desired.pods)?;
        }
        Ok(observed)
    }

    /// The packets that would not take the way that they should, of those from and to `count` of
    /// the other nodes' subnets.
    fn detours(
        &mut self,
        spec: &NodeSpec,
        observed: &Observed,
        count: usize,
    ) -> anyhow::Result<Vec<Detour>> {
        let index = |name: &str| observed.indexes.get(name).copied();
        let (Some(tun), Some(bridge)) = (index(&spec.tun), index(&spec.bridge)) else {
            return Ok(Vec::new());
        };
        let remotes = self.turns.take(&spec.remote_subnets, count);
        let probes = reach::probes(spec, Devices { tun, bridge }, &remotes);
        let answers = self.netlink.socket.look_up_routes(probes.iter().map(|probe| probe.flow))?;
        let judged = probes.iter().zip(&answers);
        let (astray, mut detours): (Vec<&Probe>, Vec<Detour>) = judged
            .filter_map(|(probe, answer)| {
                Some((probe, reach::detour(spec, probe, answer, &observed.indexes)?))
            })
            .unzip();
        self.turns.note(astray.into_iter());
        if let Some(dropped) = detours.iter_mut().find(|detour| detour.is_dropped) {
            dropped.hidden = reach::hidden_by(
                spec,
                &self.netlink.socket.routes(RouteFilter::Table(MAIN_TABLE))?,
            );
        }
        Ok(detours)
    }

    /// Why no datagram of a tunnel gets to any other node, or from there to this one.
    fn underlay_fault(
        &mut self,
        spec: &NodeSpec,
        observed: &Observed,
    ) -> anyhow::Result<Option<String>> {
        let questions = underlay::questions(spec);
        let answers = self.netlink.socket.look_up_routes(questions.iter().copied())?;
        Ok(underlay::fault(&questions, &answers, &observed.indexes, &observed.running))
    }

    /// Compares the node's nftables table with what it should be, if asked to or if that is new.
    fn ruleset_state(
        &mut self,
        spec: &NodeSpec,
        desired: &Desired,
        look: bool,
    ) -> anyhow::Result<Ruleset> {
        if !look && self.firewall.knows(&desired.ruleset) {
            return Ok(Ruleset::Unchecked);
        }
        match self.firewall.look(&desired.ruleset) {
            // Without masquerade traffic flows without the table, if less well.
            Err(error) if error.is_unsupported() && !spec.masquerade => {
                if look {
                    tracing::warn!(
                        %error,
                        "tunnel traffic fills the connection table, and pods can pass for a node"
                    );
                }
                Ok(Ruleset::Unchecked)
            }
            other => other.context("checking the nftables table"),
        }
    }

    /// Compares the pods' tables with what they should be.
    fn pods_state(&mut self, pods: &Pods, bridge: &living::Bridge) -> anyhow::Result<Ruleset> {
        match self.firewall.look_at_pods(pods, bridge) {
            // The plugin says so too, to whoever attaches a pod that is to be checked.
            Err(error) if error.is_unsupported() => {
                tracing::warn!(%error, "pods of this node can use one another's addresses");
                Ok(Ruleset::Unchecked)
            }
            other => other.context("checking the pods' nftables tables"),
        }
    }
}

/// Puts our routes before those that hide them.
fn unhide(desired: &Desired, detours: &[Detour]) -> Vec<Action> {
    let hidden = |network: &IpNet| detours.iter().any(|detour| detour.hidden == Some(*network));
    desired
        .routes
        .iter()
        .filter(|route| hidden(&route.destination))
        .map(|route| Action::PrependRoute {
            device: desired.tun.name.clone(),
            route: route.route(),
        })
        .collect()
}

/// Whether somebody else changed nftables faster than we could, so that what was there still is.
fn is_stale(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<culvert_nft::Error>().is_some_and(|error| error.is_stale())
    })
}
