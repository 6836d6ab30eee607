//! What is told to whoever helps: each field by name. What has no field here is told to nobody.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Serialize;

use crate::config::{Config, TableSource};
use crate::observe::Status;

/// The daemon's state.
#[derive(Debug, Serialize)]
pub(super) struct StatusPart {
    version: String,
    node: String,
    verdict: String,
    ready: bool,
    missing: Vec<String>,
    uptime_seconds: f64,
    mtu: u16,
    vni: u32,
    subnets: Vec<IpNet>,
    underlay_address: Option<IpAddr>,
    ports: Vec<(String, u16)>,
    sealed_port: Option<u16>,
    sealed_mode: String,
    sealed_failing: Vec<String>,
    handshakes: BTreeMap<String, u64>,
    handshake_failures: BTreeMap<String, u64>,
    table_source: String,
    table_hash: String,
    table_generation: u64,
    table_nodes: usize,
    table_age_seconds: f64,
    table_remarks: Vec<String>,
    stranded: Vec<String>,
    hints: Vec<String>,
    offload: String,
    workers: usize,
    peers: Vec<PeerPart>,
    drops: BTreeMap<String, u64>,
    kernel_drops_socket: Option<u64>,
    kernel_drops_damaged: Option<u64>,
    kernel_drops_tun: Option<u64>,
    icmp_replies: u64,
    fragmented_packets: u64,
    fragments: u64,
    offload_refusals: u64,
    repairs: u64,
    cpu_seconds: f64,
    resident_bytes: u64,
    open_files: u64,
    threads: u64,
}

/// One peer.
#[derive(Debug, Serialize)]
struct PeerPart {
    name: String,
    address: IpAddr,
    subnets: Vec<IpNet>,
    codec: String,
    port: u16,
    sealed: Option<String>,
    plain: bool,
    mtu: u16,
    egress_packets: u64,
    egress_bytes: u64,
    ingress_packets: u64,
    ingress_bytes: u64,
    last_heard_seconds: Option<f64>,
}

impl StatusPart {
    pub(super) fn of(status: &Status) -> Self {
        let underlay = &status.underlay;
        let tunnels = underlay.tunnels.iter();
        let drops = status.drops.iter().filter(|(_, count)| **count > 0);
        let peer = |peer: &crate::observe::PeerStatus| PeerPart {
            name: peer.name.clone(),
            address: peer.address,
            subnets: peer.subnets.clone(),
            codec: peer.codec.to_string(),
            port: peer.port,
            sealed: peer.sealed.clone(),
            plain: peer.plain,
            mtu: peer.mtu,
            egress_packets: peer.egress.packets,
            egress_bytes: peer.egress.bytes,
            ingress_packets: peer.ingress.packets,
            ingress_bytes: peer.ingress.bytes,
            last_heard_seconds: peer.last_heard_seconds,
        };
        Self {
            version: status.version.clone(),
            node: status.node.clone(),
            verdict: status.verdict(),
            ready: status.ready,
            missing: status.missing.iter().map(ToString::to_string).collect(),
            uptime_seconds: status.uptime_seconds,
            mtu: status.mtu,
            vni: status.vni,
            subnets: status.subnets.clone(),
            underlay_address: underlay.address,
            ports: tunnels.map(|tunnel| (tunnel.codec.to_string(), tunnel.port)).collect(),
            sealed_port: underlay.sealed_port,
            sealed_mode: status.sealed.mode.clone(),
            sealed_failing: status.sealed.failing.clone(),
            handshakes: status.sealed.handshakes.made.clone(),
            handshake_failures: status.sealed.handshakes.failed.clone(),
            table_source: status.table.source.clone(),
            table_hash: status.table.hash.clone(),
            table_generation: status.table.generation,
            table_nodes: status.table.nodes,
            table_age_seconds: status.table.age_seconds,
            table_remarks: status.table.remarks(),
            stranded: status.stranded.clone(),
            hints: status.hints.clone(),
            offload: status.offload.as_str().to_owned(),
            workers: status.workers,
            peers: status.peers.iter().map(peer).collect(),
            drops: drops.map(|(reason, count)| (reason.as_str().to_owned(), *count)).collect(),
            kernel_drops_socket: status.receive_drops,
            kernel_drops_damaged: status.receive_damaged,
            kernel_drops_tun: status.tun_drops,
            icmp_replies: status.icmp_replies,
            fragmented_packets: status.fragmented_packets,
            fragments: status.fragments,
            offload_refusals: status.offload_refusals,
            repairs: status.repairs,
            cpu_seconds: status.process.cpu_seconds,
            resident_bytes: status.process.resident_bytes,
            open_files: status.process.open_files,
            threads: status.process.threads,
        }
    }
}

/// The configuration: of what leads to a secret, only that it is there.
#[derive(Debug, Serialize)]
pub(super) struct ConfigPart {
    cidrs: Vec<IpNet>,
    service_cidrs: Vec<IpNet>,
    vni: u32,
    vxlan_vni: u32,
    node_name: String,
    node_address: Option<IpAddr>,
    run_dir: PathBuf,
    state_dir: PathBuf,
    sysctl_dir: PathBuf,
    stand_by: bool,
    ports: [u16; 3],
    underlay_address: Option<IpAddr>,
    underlay_mtu: Option<u16>,
    sealed_mode: &'static str,
    sealed_port: u16,
    shared_secrets: usize,
    writes_key_log: bool,
    tun: String,
    queues: Option<usize>,
    offload: bool,
    busy_poll_us: u128,
    bridge: String,
    table_source: &'static str,
    etcd_members: Option<usize>,
    etcd_lease_seconds: Option<u64>,
    masquerade: bool,
    observe_address: Option<SocketAddr>,
    flow_sample: u32,
    exports_flows: bool,
}

impl ConfigPart {
    pub(super) fn of(config: &Config) -> Self {
        let (table_source, etcd) = match &config.table {
            TableSource::File { .. } => ("file", None),
            TableSource::Etcd(etcd) => ("etcd", Some(etcd)),
            TableSource::Kubernetes(_) => ("kubernetes", None),
        };
        let Config { network, node, underlay, sealed, tun, .. } = config;
        Self {
            cidrs: network.cidrs.clone(),
            service_cidrs: network.service_cidrs.clone(),
            vni: network.vni.get(),
            vxlan_vni: network.vxlan_vni.get(),
            node_name: node.name.clone(),
            node_address: node.address,
            run_dir: node.run_dir.clone(),
            state_dir: node.state_dir.clone(),
            sysctl_dir: node.sysctl_dir.clone(),
            stand_by: node.stand_by,
            ports: underlay.codec_ports(),
            underlay_address: underlay.address,
            underlay_mtu: underlay.mtu.map(|mtu| mtu.get()),
            sealed_mode: sealed.mode.as_str(),
            sealed_port: sealed.port,
            shared_secrets: sealed.psk_files.len(),
            writes_key_log: sealed.key_log.is_some(),
            tun: tun.name.clone(),
            queues: tun.queues,
            offload: tun.offload,
            busy_poll_us: tun.busy_poll.as_micros(),
            bridge: config.bridge.name.clone(),
            table_source,
            etcd_members: etcd.map(|etcd| etcd.endpoints.len()),
            etcd_lease_seconds: etcd.map(|etcd| etcd.lease.as_secs()),
            masquerade: config.egress.masquerade,
            observe_address: config.observe.address,
            flow_sample: config.flows.sample,
            exports_flows: config.flows.export.is_some(),
        }
    }
}
