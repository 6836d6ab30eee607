//! From TOML to a checked [`Config`].

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_dataplane::engine::reserved;
use culvert_dataplane::platform::tun::MAX_NAME_LEN;
use culvert_node::node_file::{DEFAULT_RUN_DIR, DEFAULT_STATE_DIR};
use ipnet::IpNet;
use overlay_proto::{CodecKind, Family, Mtu, Vni};
use serde::Deserialize;
use toml::Spanned;

use super::policy::{self, PolicyTable};
use super::sealed::{self, SealedTable};
use super::source::{self, EtcdTable, KubernetesTable, SourceTable};
use super::{
    Bridge, Complaint, Config, Egress, Flows, Network, Node, Observe, Overrides, PeerMetrics,
    Probe, SealedMode, TableSource, Tun, Underlay, line_of,
};
use crate::platform::sysctl;

/// Network identifier of a cluster that does not choose one; flannel's too.
const DEFAULT_VNI: i64 = 1;
const DEFAULT_TUN: &str = "culvert0";
const DEFAULT_BRIDGE: &str = "v-net-0";
/// Most worker threads: each has some 2 MiB of buffers.
const MAX_QUEUES: i64 = 64;
/// Longer than half a round trip through two daemons, shorter than anybody would notice as load.
const DEFAULT_BUSY_POLL: Duration = Duration::from_micros(60);
/// Reached by programs of the machine only.
const DEFAULT_OBSERVE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4791);
const MAX_BUSY_POLL: Duration = Duration::from_millis(1);
/// A peer that dies is noticed within 13 seconds, and one of sixteen paths within three minutes.
const DEFAULT_PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// Rarer than this, what is found out is history.
const MAX_PROBE_INTERVAL: Duration = Duration::from_secs(600);
/// Few enough to cost less than a hundredth of what packets cost anyway, and a flow of a megabyte
/// is seen a dozen times.
const DEFAULT_SAMPLE: u32 = 64;
const MAX_SAMPLE: u32 = 65_536;
/// What is wrong with a reserved address, and what to write instead of it.
const UNUSABLE: &str = "not an address that datagrams can be sent to";
const ADDRESS: &str = "write the address by which peers reach this node, without a length";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    network: Spanned<NetworkTable>,
    #[serde(default)]
    node: NodeTable,
    #[serde(default)]
    underlay: UnderlayTable,
    #[serde(default)]
    sealed: SealedTable,
    #[serde(default)]
    tun: TunTable,
    #[serde(default)]
    bridge: BridgeTable,
    table: Spanned<SourceTable>,
    #[serde(default)]
    etcd: EtcdTable,
    #[serde(default)]
    kubernetes: KubernetesTable,
    #[serde(default)]
    policy: PolicyTable,
    #[serde(default)]
    egress: EgressTable,
    #[serde(default)]
    observe: ObserveTable,
    #[serde(default)]
    probe: ProbeTable,
    #[serde(default)]
    flows: FlowsTable,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkTable {
    cidrs: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default)]
    service_cidrs: Vec<Spanned<String>>,
    vni: Option<Spanned<i64>>,
    vxlan_vni: Option<Spanned<i64>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeTable {
    name: Option<Spanned<String>>,
    address: Option<Spanned<String>>,
    run_dir: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    sysctl_dir: Option<PathBuf>,
    stand_by: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct UnderlayTable {
    port: Option<Spanned<i64>>,
    vxlan_port: Option<Spanned<i64>>,
    ip_udp_port: Option<Spanned<i64>>,
    address: Option<Spanned<String>>,
    mtu: Option<Spanned<i64>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TunTable {
    name: Option<Spanned<String>>,
    queues: Option<Spanned<i64>>,
    offload: Option<bool>,
    busy_poll_us: Option<Spanned<i64>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct BridgeTable {
    name: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct EgressTable {
    masquerade: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ObserveTable {
    address: Option<Spanned<String>>,
    peer_metrics: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProbeTable {
    interval: Option<Spanned<i64>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FlowsTable {
    sample: Option<Spanned<i64>>,
    export: Option<PathBuf>,
}

pub(super) fn parse(path: &Path, text: &str, overrides: &Overrides) -> Result<Config, Complaint> {
    let document: Document =
        toml::from_str(text).map_err(|error| Complaint::of_toml(path, text, &error))?;
    Reader { path, text }.config(document, overrides)
}

/// Turns raw values into checked ones, and knows where each stood.
pub(super) struct Reader<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
}

impl Reader<'_> {
    fn config(&self, document: Document, overrides: &Overrides) -> Result<Config, Complaint> {
        let table =
            source::read(self, document.table, document.etcd, document.kubernetes, overrides)?;
        let network = self.network(document.network, &table)?;
        let node = self.node(document.node, overrides)?;
        let underlay = self.underlay(document.underlay, overrides)?;
        let config = Config {
            sealed: sealed::read(self, &document.sealed, &node.state_dir, &underlay, overrides)?,
            network,
            node,
            underlay,
            tun: self.tun(document.tun)?,
            bridge: Bridge {
                name: self.device("bridge.name", document.bridge.name, DEFAULT_BRIDGE)?,
            },
            policy: policy::read(self, &document.policy, &table)?,
            table,
            egress: Egress { masquerade: document.egress.masquerade.unwrap_or(true) },
            probe: self.probe(&document.probe)?,
            observe: self.observe(document.observe, overrides)?,
            flows: self.flows(document.flows)?,
        };
        if config.tun.name == config.bridge.name {
            return Err(Complaint::of_file(
                self.path,
                "the TUN device and the bridge have one name",
            )
            .key("tun.name, bridge.name")
            .value(&config.tun.name)
            .remedy("give each a name of its own"));
        }
        if config.is_from_flannel() && config.sealed.mode == SealedMode::Require {
            return Err(Complaint::of_file(self.path, "flannel's nodes seal nothing")
                .key("sealed.mode")
                .value("\"require\"")
                .remedy("write \"prefer\" as long as there is kubernetes.migrate_from"));
        }
        Ok(config)
    }

    fn network(
        &self,
        table: Spanned<NetworkTable>,
        source: &TableSource,
    ) -> Result<Network, Complaint> {
        let cidrs = match &table.get_ref().cidrs {
            Some(cidrs) => self.networks("network.cidrs", cidrs.get_ref())?,
            None => Vec::new(),
        };
        // etcd can hold what all nodes share, so that it is written once.
        if cidrs.is_empty() && !matches!(source, TableSource::Etcd(_)) {
            let complaint = match &table.get_ref().cidrs {
                Some(cidrs) => {
                    self.fault("network.cidrs", cidrs, "[]", "the cluster needs a pod network")
                }
                None => self.fault("network.cidrs", &table, "", "the cluster needs a pod network"),
            };
            return Err(
                complaint.remedy("write one prefix per family, such as [\"10.244.0.0/16\"]")
            );
        }
        let table = table.get_ref();
        for (index, (place, cidr)) in cidrs.iter().enumerate() {
            let family = Family::of(cidr.addr());
            if cidrs[..index].iter().any(|(_, other)| Family::of(other.addr()) == family) {
                return Err(self
                    .fault("network.cidrs", place, cidr, "a second network of the same family")
                    .remedy("keep one prefix per family, wide enough for every node"));
            }
        }
        let service_cidrs = self.networks("network.service_cidrs", &table.service_cidrs)?;
        for (place, service) in &service_cidrs {
            if let Some((_, cidr)) = cidrs.iter().find(|(_, cidr)| overlap(cidr, service)) {
                return Err(self
                    .fault(
                        "network.service_cidrs",
                        place,
                        service,
                        &format!("overlaps the pod network {cidr} of network.cidrs"),
                    )
                    .remedy("choose networks that have no address in common"));
            }
        }
        let vni = self.vni("network.vni", table.vni.as_ref())?;
        let vxlan_vni = self.vni("network.vxlan_vni", table.vxlan_vni.as_ref())?;
        Ok(Network {
            cidrs: cidrs.into_iter().map(|(_, cidr)| cidr).collect(),
            service_cidrs: service_cidrs.into_iter().map(|(_, cidr)| cidr).collect(),
            vni,
            vxlan_vni,
        })
    }

    fn vni(&self, key: &str, value: Option<&Spanned<i64>>) -> Result<Vni, Complaint> {
        let number = value.map_or(DEFAULT_VNI, |value| *value.get_ref());
        Vni::new(u32::try_from(number).unwrap_or(u32::MAX)).map_err(|error| match value {
            Some(place) => self.fault(key, place, number, &error.to_string()),
            None => Complaint::of_file(self.path, error.to_string()),
        })
    }

    fn networks<'s>(
        &self,
        key: &str,
        values: &'s [Spanned<String>],
    ) -> Result<Vec<(&'s Spanned<String>, IpNet)>, Complaint> {
        values
            .iter()
            .map(|value| {
                let net: IpNet = value.get_ref().parse().map_err(|_| {
                    self.fault(key, value, quoted(value), "not a prefix")
                        .remedy("write an address and a length, such as \"10.244.0.0/16\"")
                })?;
                if net.trunc() != net {
                    return Err(self
                        .fault(key, value, quoted(value), "has bits set beyond its length")
                        .remedy(format!("write \"{}\"", net.trunc())));
                }
                if let Some(block) = reserved(&net) {
                    let problem = format!("has addresses of {block}, which no pod can have");
                    return Err(self
                        .fault(key, value, quoted(value), &problem)
                        .remedy("choose a network of unicast addresses"));
                }
                Ok((value, net))
            })
            .collect()
    }

    fn node(&self, table: NodeTable, overrides: &Overrides) -> Result<Node, Complaint> {
        let name = match (&overrides.node_name, &table.name) {
            (Some(name), _) => name.clone(),
            (None, Some(name)) => name.get_ref().clone(),
            (None, None) => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        };
        if name.is_empty() || name.chars().any(char::is_control) {
            return Err(Complaint::of_file(self.path, "not a name")
                .key("node.name")
                .value(format!("{name:?}"))
                .remedy("write this node's name as the subnet table has it"));
        }
        let directory = |value: Option<PathBuf>, file: Option<PathBuf>, default: &str| {
            value.or(file).unwrap_or_else(|| PathBuf::from(default))
        };
        let address = self.address("node.address", table.address.as_ref())?;
        Ok(Node {
            name,
            address,
            run_dir: directory(overrides.run_dir.clone(), table.run_dir, DEFAULT_RUN_DIR),
            state_dir: directory(overrides.state_dir.clone(), table.state_dir, DEFAULT_STATE_DIR),
            sysctl_dir: directory(None, table.sysctl_dir, sysctl::DEFAULT_ROOT),
            stand_by: table.stand_by.unwrap_or(false),
        })
    }

    fn underlay(&self, table: UnderlayTable, overrides: &Overrides) -> Result<Underlay, Complaint> {
        let [port, vxlan_port, ip_udp_port] = self.ports(&table)?;
        let address = match overrides.underlay_address {
            Some(address) if reserved(&address.into()).is_some() => {
                return Err(Complaint::of_file(self.path, UNUSABLE)
                    .key("--underlay-address")
                    .value(address)
                    .remedy(ADDRESS));
            }
            Some(address) => Some(address),
            None => self.address("underlay.address", table.address.as_ref())?,
        };
        let mtu = match &table.mtu {
            None => None,
            Some(mtu) => Some(
                Mtu::new(u32::try_from(*mtu.get_ref()).unwrap_or_default()).map_err(|error| {
                    self.fault("underlay.mtu", mtu, mtu.get_ref(), &error.to_string())
                        .remedy("leave it out to follow the routes to the peers")
                })?,
            ),
        };
        Ok(Underlay { port, vxlan_port, ip_udp_port, address, mtu })
    }

    /// An address by which peers can reach this node.
    fn address(
        &self,
        key: &str,
        value: Option<&Spanned<String>>,
    ) -> Result<Option<IpAddr>, Complaint> {
        let Some(value) = value else { return Ok(None) };
        let fault = |problem| self.fault(key, value, quoted(value), problem).remedy(ADDRESS);
        let address: IpAddr = value.get_ref().parse().map_err(|_| fault("not an IP address"))?;
        if reserved(&address.into()).is_some() {
            return Err(fault(UNUSABLE));
        }
        Ok(Some(address))
    }

    /// The port of each codec, none twice: the port tells the codec.
    fn ports(&self, table: &UnderlayTable) -> Result<[u16; 3], Complaint> {
        let keys = [
            ("underlay.port", &table.port, CodecKind::VxlanGpe),
            ("underlay.vxlan_port", &table.vxlan_port, CodecKind::Vxlan),
            ("underlay.ip_udp_port", &table.ip_udp_port, CodecKind::IpUdp),
        ];
        let mut ports = [0; 3];
        for (index, (key, value, codec)) in keys.iter().enumerate() {
            ports[index] = match value {
                None => codec.default_port(),
                Some(value) => u16::try_from(*value.get_ref())
                    .ok()
                    .filter(|port| *port != 0)
                    .ok_or_else(|| {
                        self.fault(key, value, value.get_ref(), "not a port").remedy("1 to 65535")
                    })?,
            };
            if let Some(other) = ports[..index].iter().position(|port| *port == ports[index]) {
                let problem = format!("also the value of {}", keys[other].0);
                let complaint = match value {
                    Some(place) => self.fault(key, place, ports[index], &problem),
                    None => Complaint::of_file(self.path, problem).key(*key).value(ports[index]),
                };
                return Err(complaint.remedy("give each codec a port of its own"));
            }
        }
        Ok(ports)
    }

    fn tun(&self, table: TunTable) -> Result<Tun, Complaint> {
        let queues = match &table.queues {
            None => None,
            Some(queues) => Some(
                usize::try_from(*queues.get_ref())
                    .ok()
                    .filter(|_| (1..=MAX_QUEUES).contains(queues.get_ref()))
                    .ok_or_else(|| {
                        self.fault("tun.queues", queues, queues.get_ref(), "not a number of queues")
                            .remedy(format!(
                                "1 to {MAX_QUEUES}; leave it out for two per CPU, at most 8"
                            ))
                    })?,
            ),
        };
        let busy_poll = match &table.busy_poll_us {
            None => DEFAULT_BUSY_POLL,
            Some(micros) => u64::try_from(*micros.get_ref())
                .ok()
                .map(Duration::from_micros)
                .filter(|time| *time <= MAX_BUSY_POLL)
                .ok_or_else(|| {
                    let value = micros.get_ref();
                    self.fault("tun.busy_poll_us", micros, value, "not a time to look for packets")
                        .remedy(format!("0 (never) to {} microseconds", MAX_BUSY_POLL.as_micros()))
                })?,
        };
        Ok(Tun {
            name: self.device("tun.name", table.name, DEFAULT_TUN)?,
            queues,
            offload: table.offload.unwrap_or(true),
            busy_poll,
        })
    }

    /// Checks a device name by the kernel's rules (`dev_valid_name`).
    fn device(
        &self,
        key: &str,
        value: Option<Spanned<String>>,
        default: &str,
    ) -> Result<String, Complaint> {
        let Some(value) = value else {
            return Ok(default.to_owned());
        };
        let name = value.get_ref();
        let refused = name.is_empty()
            || name.len() > MAX_NAME_LEN
            || matches!(name.as_str(), "." | ".." | "all" | "default" | "lo")
            || name.chars().any(|c| !c.is_ascii_graphic() || matches!(c, '/' | ':' | '%'));
        if refused {
            return Err(self.fault(key, &value, quoted(&value), "not a device name").remedy(
                format!(
                    "1 to {MAX_NAME_LEN} letters, digits, '-', '_' or '.', such as \"{default}\""
                ),
            ));
        }
        Ok(value.into_inner())
    }

    fn observe(&self, table: ObserveTable, overrides: &Overrides) -> Result<Observe, Complaint> {
        const BOTH: &str = "write both, such as \"127.0.0.1:4791\" or \"[::1]:4791\"; or \"off\"";
        const PROBLEM: &str = "not an address and port";
        let read = |text: &str| match text {
            "off" => Some(None),
            text => text.parse().ok().map(Some),
        };
        let address = match (&overrides.observe_address, &table.address) {
            (Some(text), _) => read(text).ok_or_else(|| {
                Complaint::of_file(self.path, PROBLEM)
                    .key("--observe-address")
                    .value(format!("\"{text}\""))
                    .remedy(BOTH)
            })?,
            (None, Some(text)) => read(text.get_ref()).ok_or_else(|| {
                self.fault("observe.address", text, quoted(text), PROBLEM).remedy(BOTH)
            })?,
            (None, None) => Some(DEFAULT_OBSERVE),
        };
        let peer_metrics = match &table.peer_metrics {
            None => PeerMetrics::default(),
            Some(word) => match word.get_ref().as_str() {
                "active" => PeerMetrics::Active,
                "none" => PeerMetrics::None,
                "all" => PeerMetrics::All,
                _ => {
                    let problem = "not a choice of peers";
                    return Err(self
                        .fault("observe.peer_metrics", word, quoted(word), problem)
                        .remedy("write \"active\", \"none\" or \"all\""));
                }
            },
        };
        Ok(Observe { address, peer_metrics })
    }

    fn probe(&self, table: &ProbeTable) -> Result<Probe, Complaint> {
        let Some(interval) = &table.interval else {
            return Ok(Probe { interval: Some(DEFAULT_PROBE_INTERVAL) });
        };
        let seconds = u64::try_from(*interval.get_ref()).ok().map(Duration::from_secs);
        let seconds =
            seconds.filter(|seconds| *seconds <= MAX_PROBE_INTERVAL).ok_or_else(|| {
                let value = interval.get_ref();
                self.fault("probe.interval", interval, value, "not a time between two questions")
                    .remedy(format!(
                        "1 to {} seconds, or 0: nobody is asked",
                        MAX_PROBE_INTERVAL.as_secs()
                    ))
            })?;
        Ok(Probe { interval: Some(seconds).filter(|seconds| !seconds.is_zero()) })
    }

    fn flows(&self, table: FlowsTable) -> Result<Flows, Complaint> {
        let sample = match &table.sample {
            None => DEFAULT_SAMPLE,
            Some(sample) => u32::try_from(*sample.get_ref())
                .ok()
                .filter(|sample| (1..=MAX_SAMPLE).contains(sample))
                .ok_or_else(|| {
                    self.fault("flows.sample", sample, sample.get_ref(), "not a sample")
                        .remedy(format!("1 (every packet) to {MAX_SAMPLE} (one in so many)"))
                })?,
        };
        Ok(Flows { sample, export: table.export })
    }

    pub(super) fn fault<T>(
        &self,
        key: &str,
        place: &Spanned<T>,
        value: impl std::fmt::Display,
        problem: &str,
    ) -> Complaint {
        let complaint =
            Complaint::of_file(self.path, problem).line(line_of(self.text, &place.span())).key(key);
        let value = value.to_string();
        if value.is_empty() { complaint } else { complaint.value(value) }
    }
}

pub(super) fn quoted(value: &Spanned<String>) -> String {
    format!("\"{}\"", value.get_ref())
}

/// Whether two prefixes have an address in common.
pub(crate) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}
