//! What the machine is like, as far as Culvert depends on it.

use std::collections::BTreeMap;
use std::fs;

use culvert_netlink::{Link, MAIN_TABLE, Route, RouteFilter, Rtnetlink, Socket};
use ipnet::IpNet;
use serde::Serialize;

/// Parameters of the kernel that matter, below /proc/sys/net.
const PARAMETERS: [&str; 14] = [
    "ipv4/ip_forward",
    "ipv6/conf/all/forwarding",
    "ipv6/conf/all/disable_ipv6",
    "ipv4/conf/all/rp_filter",
    "ipv4/conf/default/rp_filter",
    "ipv4/conf/culvert0/rp_filter",
    "ipv6/conf/all/accept_ra",
    "bridge/bridge-nf-call-iptables",
    "bridge/bridge-nf-call-ip6tables",
    "netfilter/nf_conntrack_count",
    "netfilter/nf_conntrack_max",
    "core/rmem_max",
    "core/wmem_max",
    "core/netdev_max_backlog",
];

/// Counters of the kernel that matter, by their names in /proc/net/snmp and netstat.
const COUNTERS: [&str; 14] = [
    "InDatagrams",
    "NoPorts",
    "InErrors",
    "OutDatagrams",
    "RcvbufErrors",
    "SndbufErrors",
    "InCsumErrors",
    "ForwDatagrams",
    "InDiscards",
    "OutDiscards",
    "OutNoRoutes",
    "ReasmFails",
    "FragFails",
    "InNoRoutes",
];

/// The machine.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    kernel: String,
    architecture: String,
    system: String,
    cpus: usize,
    is_root: bool,
    parameters: BTreeMap<&'static str, String>,
    counters: BTreeMap<String, u64>,
}

/// What the kernel has of networks.
#[derive(Debug, Serialize)]
pub(super) struct Networks {
    devices: Vec<Device>,
    routes: Vec<String>,
    chains: Vec<String>,
}

/// One device.
#[derive(Debug, Serialize)]
struct Device {
    name: String,
    kind: String,
    up: bool,
    running: bool,
    mtu: u32,
    controller: Option<u32>,
    index: u32,
    addresses: Vec<IpNet>,
}

impl Machine {
    pub(super) fn read() -> Self {
        let uname = rustix::system::uname();
        let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        let parameter = |name: &&'static str| {
            let value = fs::read_to_string(format!("/proc/sys/net/{name}")).ok()?;
            Some((*name, value.trim().to_owned()))
        };
        let mut counters = BTreeMap::new();
        for file in ["snmp", "netstat"] {
            let text = fs::read_to_string(format!("/proc/net/{file}")).unwrap_or_default();
            counters.extend(counted(&text));
        }
        Self {
            kernel: text(uname.release()),
            architecture: text(uname.machine()),
            system: system(&fs::read_to_string("/etc/os-release").unwrap_or_default()),
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            is_root: rustix::process::geteuid().is_root(),
            parameters: PARAMETERS.iter().filter_map(parameter).collect(),
            counters,
        }
    }
}

/// Name and version of the distribution.
fn system(release: &str) -> String {
    let field = |name: &str| {
        let line = release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches('"').to_owned()
    };
    format!("{} {}", field("ID"), field("VERSION_ID")).trim().to_owned()
}

/// Counters of a file that has a line of names above a line of values for each protocol.
fn counted(text: &str) -> BTreeMap<String, u64> {
    let lines: Vec<&str> = text.lines().collect();
    let mut counters = BTreeMap::new();
    for pair in lines.chunks_exact(2) {
        let (mut names, mut values) = (pair[0].split(' '), pair[1].split(' '));
        let protocol = names.next().unwrap_or_default();
        if values.next() != Some(protocol) {
            continue;
        }
        let wanted = names.zip(values).filter(|(name, _)| COUNTERS.contains(name));
        counters.extend(wanted.filter_map(|(name, value)| {
            Some((format!("{}{name}", protocol.trim_end_matches(':')), value.parse().ok()?))
        }));
    }
    counters
}

impl Networks {
    /// Reads it in this process's network namespace.
    ///
    /// # Errors
    ///
    /// The kernel refuses, or does not answer.
    pub(super) fn read() -> anyhow::Result<Self> {
        let mut socket: Socket<Rtnetlink> = Socket::open()?;
        let links = socket.links_despite_changes()?;
        let addresses = socket.addresses()?;
        let routes = socket.routes(RouteFilter::Table(MAIN_TABLE))?;
        let name = |index: Option<u32>| {
            let link = links.iter().find(|link| Some(link.index) == index);
            link.map_or("?", |link| link.name.as_str())
        };
        let device = |link: &Link| Device {
            name: link.name.clone(),
            kind: link.kind.to_string(),
            up: link.up,
            running: link.running,
            mtu: link.mtu,
            controller: link.controller,
            index: link.index,
            addresses: addresses
                .iter()
                .filter(|address| address.link == link.index)
                .map(|address| address.net)
                .collect(),
        };
        let describe = |route: &Route| {
            let mut text = format!("{} dev {}", route.destination, name(route.link));
            if let Some(gateway) = route.gateway {
                text.push_str(&format!(" via {gateway}"));
            }
            if let Some(mtu) = route.mtu {
                text.push_str(&format!(" mtu {mtu}"));
            }
            text + &format!(" proto {} priority {}", route.protocol, route.priority)
        };
        let routes = routes.iter().map(describe).collect();
        let chains = chains().unwrap_or_default();
        Ok(Self { devices: links.iter().map(device).collect(), routes, chains })
    }
}

/// The base chains of every nftables table, and which of them drop what no rule accepts.
fn chains() -> anyhow::Result<Vec<String>> {
    let chains = culvert_nft::Socket::open()?.base_chains()?;
    let describe = |chain: culvert_nft::BaseChain| {
        let policy = if chain.drops { "drop" } else { "accept" };
        format!("{} {} {}, policy {policy}", chain.family(), chain.table, chain.name)
    };
    Ok(chains.into_iter().map(describe).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_protocol_and_name() {
        let text = "Udp: InDatagrams NoPorts IgnoredMulti\nUdp: 7 2 3\nIp: Forwarding InDiscards\n\
                    Ip: 1 5\n";
        let found = counted(text);
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            [
                ("IpInDiscards".to_owned(), 5),
                ("UdpInDatagrams".to_owned(), 7),
                ("UdpNoPorts".to_owned(), 2),
            ]
        );
    }

    #[test]
    fn system_has_name_and_version() {
        assert_eq!(system("NAME=\"Debian\"\nID=debian\nVERSION_ID=\"12\"\n"), "debian 12");
        assert_eq!(system(""), "");
    }
}
