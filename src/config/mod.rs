//! The daemon's configuration: read once, checked whole, and never again in doubt.
//!
//! Owns the file's keys, their defaults and their errors. A [`Config`] that exists is valid; what
//! depends on the machine (overlaps with its routes, say) is checked by `control`.

mod complaint;
mod file;
mod policy;
mod sealed;
mod source;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_node::bounded_file;
use culvert_seal::Suites;
use culvert_seal::noise::PostQuantum;
use ipnet::IpNet;
use overlay_proto::{Mtu, Vni};

pub use complaint::Complaint;
pub(crate) use complaint::line_of;
pub(crate) use file::overlap;

/// Everything that the daemon is told. `deploy/config.example.toml` explains each key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[network]`: what spans the cluster.
    pub network: Network,
    /// `[node]`: this machine's part.
    pub node: Node,
    /// `[underlay]`: how datagrams travel.
    pub underlay: Underlay,
    /// `[sealed]`: whether traffic between nodes is encrypted.
    pub sealed: Sealed,
    /// `[tun]`.
    pub tun: Tun,
    /// `[bridge]`.
    pub bridge: Bridge,
    /// `[table]`: where the subnet table comes from.
    pub table: TableSource,
    /// `[policy]`: network policies.
    pub policy: Policy,
    /// `[egress]`: pods and the world outside the cluster.
    pub egress: Egress,
    /// `[observe]`: metrics and health.
    pub observe: Observe,
    /// `[probe]`: whether peers answer, and by which paths.
    pub probe: Probe,
    /// `[flows]`: who talks to whom.
    pub flows: Flows,
}

/// `[network]`: what spans the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Pod networks of the cluster, at most one per family; none if the table source knows them.
    pub cidrs: Vec<IpNet>,
    /// Networks of service addresses, which must not overlap the pod networks.
    pub service_cidrs: Vec<IpNet>,
    /// Network identifier in VXLAN-GPE, which nodes that run Culvert speak.
    pub vni: Vni,
    /// Network identifier in VXLAN, which others may speak.
    pub vxlan_vni: Vni,
}

/// `[node]`: this machine's part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Name of this node in the subnet table.
    pub name: String,
    /// The address that a table source tells the peers, where the node itself puts it there; found
    /// by the routes unless set.
    pub address: Option<IpAddr>,
    /// Directory of the admin socket and the node file.
    pub run_dir: PathBuf,
    /// Directory of what must survive a reboot.
    pub state_dir: PathBuf,
    /// Directory where the kernel's parameters are.
    pub sysctl_dir: PathBuf,
    /// Whether to wait while another daemon serves this node, instead of refusing to start.
    pub stand_by: bool,
}

/// `[underlay]`: how datagrams travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// UDP port of VXLAN-GPE, on every node.
    pub port: u16,
    /// UDP port of VXLAN, on nodes that speak it.
    pub vxlan_port: u16,
    /// UDP port of bare IP in UDP, on nodes that speak it.
    pub ip_udp_port: u16,
    /// Address to bind; this node's address in the subnet table unless set.
    pub address: Option<IpAddr>,
    /// Underlay MTU; that of the routes to the peers unless set.
    pub mtu: Option<Mtu>,
}

impl Underlay {
    /// The UDP ports of every codec.
    #[must_use]
    pub fn codec_ports(&self) -> [u16; 3] {
        [self.port, self.vxlan_port, self.ip_udp_port]
    }
}

/// `[sealed]`: whether traffic between nodes is encrypted, and with which keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Between whom.
    pub mode: SealedMode,
    /// UDP port of sealed traffic and its handshakes, on every node.
    pub port: u16,
    /// The file with this node's private key; made at the first start.
    pub key_file: PathBuf,
    /// Files with secrets that the cluster shares: the first is used, all are accepted.
    pub psk_files: Vec<PathBuf>,
    /// Whether handshakes withstand who can break X25519.
    pub post_quantum: PostQuantum,
    /// What this node seals with; what this machine is good at unless set.
    pub ciphers: Option<Suites>,
    /// Where keys of sessions are written for Wireshark; nowhere unless set.
    pub key_log: Option<PathBuf>,
}

/// Between which nodes traffic is sealed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SealedMode {
    /// Between none.
    Off,
    /// Between those of which the table has keys.
    #[default]
    Prefer,
    /// Between all; a node without a key is not spoken to.
    Require,
}

impl SealedMode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Off, Self::Prefer, Self::Require];

    /// The word in the configuration and in status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Prefer => "prefer",
            Self::Require => "require",
        }
    }
}

/// `[tun]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tun {
    /// Name of the TUN device.
    pub name: String,
    /// Queues of the device, each with a worker thread; two per CPU, up to a limit, unless set.
    pub queues: Option<usize>,
    /// Whether the kernel may hand over and take super-packets.
    pub offload: bool,
    /// How long a worker looks for the next packet before it sleeps; zero is not at all.
    pub busy_poll: Duration,
}

/// `[bridge]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Name of the bridge that pods are plugged into.
    pub name: String,
}

/// `[table]`: where the subnet table comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableSource {
    /// A watched file.
    File {
        /// Its path.
        path: PathBuf,
    },
    /// An etcd cluster, in which each node claims its subnets.
    Etcd(Etcd),
    /// The nodes of a Kubernetes cluster.
    Kubernetes(Kubernetes),
}

/// `[etcd]`: the cluster, and how to speak to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Etcd {
    /// Addresses of its members, as URLs.
    pub endpoints: Vec<String>,
    /// What all keys begin with, without a slash at the end.
    pub prefix: String,
    /// How long the claim of a node outlives its last sign of life.
    pub lease: Duration,
    /// Certificates that those of members with TLS are checked against.
    pub ca_file: Option<PathBuf>,
    /// This node's certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// User, and the file with the password.
    pub login: Option<(String, PathBuf)>,
}

/// `[kubernetes]`: the API server, and what this node says there of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// How to reach the API server; what a pod finds in its surroundings unless set.
    pub kubeconfig: Option<PathBuf>,
    /// Key of the taint that is removed once packets flow.
    pub startup_taint: String,
    /// Whether the cluster changes over from flannel, node by node.
    pub from_flannel: bool,
}

/// `[policy]`: network policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether they are enforced on this node.
    pub mode: PolicyMode,
    /// Where the objects are, as files; in Kubernetes they come from the API server.
    pub directory: Option<PathBuf>,
    /// What becomes of a pod of which no object is known.
    pub unknown_pods: UnknownPods,
}

/// Whether network policies are enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyMode {
    /// Every packet passes.
    Off,
    /// What the policies say.
    On,
}

impl PolicyMode {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Off, Self::On];

    /// The word in the configuration and in status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
        }
    }
}

/// What becomes of a pod that starts on this node while no object of it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownPods {
    /// It does not start.
    #[default]
    Refuse,
    /// It starts, and neither sends nor receives until its object is known.
    Closed,
    /// It starts, and no policy applies to it until its object is known.
    Open,
}

impl UnknownPods {
    /// Every choice.
    pub const ALL: [Self; 3] = [Self::Refuse, Self::Closed, Self::Open];

    /// The word in the configuration and in status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Closed => "closed",
            Self::Open => "open",
        }
    }
}

/// `[egress]`: pods and the world outside the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Egress {
    /// Whether pods' traffic that leaves the cluster gets the node's address.
    pub masquerade: bool,
}

/// `[observe]`: metrics and health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observe {
    /// Where `/metrics`, `/healthz` and `/readyz` are served; nowhere if `None`.
    pub address: Option<SocketAddr>,
    /// Which peers have metrics of their own.
    pub peer_metrics: PeerMetrics,
}

/// `[flows]`: who talks to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flows {
    /// One packet in so many is looked at, while somebody looks.
    pub sample: u32,
    /// Where flows are written all the time; nowhere unless set.
    pub export: Option<PathBuf>,
}

/// Which peers have metrics of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PeerMetrics {
    /// Those with traffic lately, up to a limit.
    #[default]
    Active,
    /// None.
    None,
    /// All.
    All,
}

/// `[probe]`: whether peers answer, and by which paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// How often a peer with traffic is asked; none are if `None`.
    pub interval: Option<Duration>,
}

/// Values of the command line and the environment, which go before those of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `node.name`.
    pub node_name: Option<String>,
    /// `node.run_dir`.
    pub run_dir: Option<PathBuf>,
    /// `node.state_dir`.
    pub state_dir: Option<PathBuf>,
    /// `underlay.address`.
    pub underlay_address: Option<IpAddr>,
    /// `observe.address`.
    pub observe_address: Option<String>,
    /// `table.source`.
    pub table_source: Option<String>,
    /// `sealed.mode`.
    pub sealed_mode: Option<String>,
    /// `etcd.endpoints`.
    pub etcd_endpoints: Vec<String>,
    /// `kubernetes.kubeconfig`.
    pub kubeconfig: Option<PathBuf>,
}

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with it: where, what, and what to write instead.
    pub fn read(path: &Path, overrides: &Overrides) -> Result<Self, Complaint> {
        let text = bounded_file::read_text(path, bounded_file::SMALL).map_err(|error| {
            Complaint::of_file(path, format!("cannot be read: {error}"))
                .remedy("name an existing file with --config")
        })?;
        Self::parse(path, &text, overrides)
    }

    /// Checks `text`, which errors attribute to `path`.
    ///
    /// # Errors
    ///
    /// As [`Config::read`].
    pub fn parse(path: &Path, text: &str, overrides: &Overrides) -> Result<Self, Complaint> {
        file::parse(path, text, overrides)
    }

    /// Whether the cluster changes over from flannel, node by node.
    pub fn is_from_flannel(&self) -> bool {
        matches!(&self.table, TableSource::Kubernetes(kubernetes) if kubernetes.from_flannel)
    }
}

#[cfg(test)]
mod tests;
