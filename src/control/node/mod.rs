//! Keeps this node's kernel state as it should be: TUN, bridge, routes, parameters, nftables.
//!
//! Owns everything that the daemon makes in the kernel, and recognises it again: devices by their
//! alias, routes and addresses by [`PROTOCOL`], rules by their table. Start, restart and repair are
//! one path: look, compare, change what differs. Never holds the TUN's file descriptors (see
//! [`TunOwner`]) and never carries a packet. Runs on the control runtime; when it is slow, a repair
//! comes later and nothing queues.

mod action;
mod cleanup;
mod desired;
mod diff;
mod events;
mod execute;
mod firewall;
#[cfg(test)]
mod fixture;
mod observe;
mod path_errors;
mod path_mtu;
mod preflight;
mod ruleset;

use anyhow::{Context as _, bail};
use culvert_cni::pod_port::PodPort;
use ipnet::IpNet;

pub use self::action::Action;
pub use self::cleanup::Cleanup;
use self::desired::{ALIAS_PREFIX, Desired};
use self::diff::{Ruleset, diff};
pub use self::events::{Changes, KernelEvents};
use self::execute::Executor;
use self::firewall::Firewall;
pub use self::path_mtu::PathMtu;
pub use self::preflight::Conflict;
use crate::platform::netlink::Netlink;
use crate::platform::sysctl::Sysctls;

/// The number by which our routes and addresses are known.
///
/// Neither iproute2's `rt_protos` nor FRR (which claims 191 to 198) nor BIRD, Cilium or Calico use it.
pub const PROTOCOL: u8 = 0xcf;

/// Packets that the kernel queues for the daemon before it drops, on each queue of the TUN.
///
/// The default, 500, is less than two milliseconds of small packets at the rates that the data path
/// reaches; a worker that is descheduled for one scheduler tick (4 ms) must find them waiting. Each may
/// be a super-packet of 64 KiB, so that this is 128 MiB of kernel memory at worst.
const TUN_QUEUE_PACKETS: u32 = 2_000;

/// Rounds of look, compare and change before we say that somebody works against us. One suffices
/// unless a change makes the kernel change more: a device that goes down loses its routes.
const ROUNDS: usize = 4;

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
    /// UDP ports of the tunnel, one for each codec in use.
    pub underlay_ports: Vec<u16>,
    /// Whether pods' traffic to outside the cluster leaves with the node's address.
    pub masquerade: bool,
}

/// Whoever holds the TUN's file descriptors.
pub trait TunOwner: Send {
    /// Whether the descriptors still belong to the device of that name: nobody deleted it.
    fn is_attached(&self) -> bool;

    /// Creates the device, persistent, or attaches to the one of that name.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    fn open(&mut self) -> crate::platform::Result<()>;
}

/// Brings the kernel's state to what a [`NodeSpec`] asks for, and keeps it there.
pub struct Reconciler {
    netlink: Netlink,
    sysctls: Sysctls,
    firewall: Firewall,
}

impl Reconciler {
    /// Connects to the kernel, on the current tokio runtime and in this thread's network namespace.
    ///
    /// # Errors
    ///
    /// When the netlink socket cannot be opened.
    pub fn open() -> anyhow::Result<Self> {
        Ok(Self {
            netlink: Netlink::open()?,
            sysctls: Sysctls::default(),
            firewall: Firewall::default(),
        })
    }

    /// The same, with kernel parameters where `sysctls` has them.
    #[must_use]
    pub fn with_sysctls(self, sysctls: Sysctls) -> Self {
        Self { sysctls, ..self }
    }

    /// Makes the node what `spec` says, and returns what that took: nothing, for a healthy node.
    ///
    /// `changes` says what to look at. Links, addresses, routes and parameters cost a few dumps and
    /// are always looked at; the nftables tables, of which one grows with the pods, are looked at when
    /// `changes` or a new `spec` asks for it.
    ///
    /// # Errors
    ///
    /// The first action that failed; those before it are done, and the next call continues.
    pub async fn reconcile(
        &mut self,
        spec: &NodeSpec,
        tun: &mut dyn TunOwner,
        changes: Changes,
    ) -> anyhow::Result<Vec<Action>> {
        let desired = Desired::new(spec);
        let mut done = Vec::new();
        let mut look = changes.nft;
        for _round in 0..ROUNDS {
            let mut observed =
                observe::observe(&mut self.netlink, &self.sysctls, &desired, tun.is_attached())
                    .await?;
            observed.actual.ruleset = self.ruleset_state(spec, &desired, look)?;
            if look {
                observed.actual.source_check = self.source_check_state(&observed.pods)?;
            }
            look = false;
            let actions = diff(&desired, &observed.actual);
            if actions.is_empty() {
                return Ok(done);
            }
            let mut executor = Executor {
                netlink: &mut self.netlink,
                firewall: &mut self.firewall,
                tun,
                indexes: observed.indexes,
                ruleset: Some(&desired.ruleset),
                sysctls: &self.sysctls,
            };
            for action in actions {
                executor.execute(&action).await?;
                done.push(action);
            }
        }
        let observed =
            observe::observe(&mut self.netlink, &self.sysctls, &desired, tun.is_attached()).await?;
        match diff(&desired, &observed.actual).first() {
            None => Ok(done),
            Some(action) => bail!(
                "the kernel's state does not stay as it was set; another program may be managing the \
                 same devices (next would be: {action})"
            ),
        }
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

    /// Compares the pods' source check with what it should be.
    fn source_check_state(&mut self, pods: &[PodPort]) -> anyhow::Result<Ruleset> {
        match self.firewall.look_at_source_check(pods) {
            // The plugin says so too, to whoever attaches a pod that is to be checked.
            Err(error) if error.is_unsupported() => {
                tracing::warn!(%error, "pods of this node can use one another's addresses");
                Ok(Ruleset::Unchecked)
            }
            other => other.context("checking the pods' source check"),
        }
    }

    /// Whether the TUN takes packets.
    ///
    /// kernel: a device whose last queue was closed loses its carrier, and one whose queue is opened
    /// again gets it back from a work item that may have to wait; until then every packet is dropped.
    ///
    /// # Errors
    ///
    /// When the kernel cannot be asked.
    pub async fn is_carrying(&mut self, spec: &NodeSpec) -> anyhow::Result<bool> {
        let links = self.netlink.links().await?;
        Ok(links.iter().any(|link| link.name == spec.tun && link.running))
    }

    /// Lists the addresses of this machine's own interfaces: neither ours nor loopback nor link-local.
    ///
    /// # Errors
    ///
    /// When the kernel cannot be asked.
    pub async fn local_addresses(&mut self) -> anyhow::Result<Vec<IpNet>> {
        let own: Vec<u32> = self
            .netlink
            .links()
            .await?
            .into_iter()
            .filter(|link| link.alias.starts_with(ALIAS_PREFIX))
            .map(|link| link.index)
            .collect();
        Ok(self
            .netlink
            .addresses()
            .await?
            .into_iter()
            .filter(|address| !own.contains(&address.link))
            .map(|address| address.net)
            // By address and not by device: a node may have its routed address on the loopback device.
            .filter(|net| !net.addr().is_loopback() && !is_link_local(net))
            .collect())
    }
}

fn is_link_local(net: &IpNet) -> bool {
    match net {
        IpNet::V4(net) => net.addr().is_link_local(),
        IpNet::V6(net) => net.addr().is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The control runtime may move a task between threads.
    fn movable(future: impl Future + Send) {
        drop(future);
    }

    #[tokio::test]
    async fn requests_can_move_between_threads() {
        struct Nobody;
        impl TunOwner for Nobody {
            fn is_attached(&self) -> bool {
                false
            }
            fn open(&mut self) -> crate::platform::Result<()> {
                Ok(())
            }
        }
        let spec = NodeSpec {
            tun: "culvert0".into(),
            bridge: "v-net-0".into(),
            cluster_networks: Vec::new(),
            local_subnets: Vec::new(),
            mtu: 1464,
            underlay_ports: vec![4790],
            masquerade: false,
        };
        // None of these is polled, so nothing on this machine is read or changed.
        let mut reconciler = Reconciler::open().unwrap();
        movable(reconciler.reconcile(&spec, &mut Nobody, Changes::ALL));
        movable(reconciler.cleanup());
        movable(reconciler.path_mtu(std::iter::empty()));
        movable(reconciler.local_addresses());
        movable(reconciler.preflight(&spec, &[], &[]));
        movable(KernelEvents::open().unwrap().changed());
    }
}
