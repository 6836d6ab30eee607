//! How the daemon sets its node up, for a program that looks at the node from beside it.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What the daemon goes by, as far as its [`Status`](super::Status) does not say it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// The network namespace of the daemon, as the kernel numbers it.
    pub netns: Option<u64>,
    /// Name of the TUN device.
    pub tun: String,
    /// Name of the pods' bridge.
    pub bridge: String,
    /// Networks that span the cluster.
    pub cluster_networks: Vec<IpNet>,
    /// This node's pod subnets.
    pub local_subnets: Vec<IpNet>,
    /// MTU of both devices, in bytes.
    pub mtu: u16,
    /// The address that the sockets are bound to.
    pub address: Option<IpAddr>,
    /// UDP ports of the tunnel, and that of what is sealed.
    pub underlay_ports: Vec<u16>,
    /// UDP ports of every wire format.
    pub codec_ports: Vec<u16>,
    /// Whether what pods send to the outside gets the node's address.
    pub masquerade: bool,
    /// Whether nothing plain leaves.
    pub sealed_only: bool,
    /// Directory of what survives a reboot.
    pub state_dir: PathBuf,
    /// Where the kernel's parameters are.
    pub sysctl_dir: PathBuf,
    /// The source ports of the tunnel, in the order of paths; empty where no daemon has them.
    #[serde(default)]
    pub source_ports: Vec<u16>,
    /// The file of the subnet table, if it is one.
    #[serde(default)]
    pub table: Option<PathBuf>,
}
