//! What a node's kernel state should be, as plain values derived from its [`NodeSpec`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use culvert_netlink::{MAIN_TABLE, Route, default_priority};
use culvert_nft::{Flow, Table};
use culvert_node::living;
use culvert_node::node_file::gateway;
use ipnet::IpNet;
use overlay_proto::{Family, Mac};

use super::diff::Actual;
use super::ruleset::ruleset;
use super::{NodeSpec, PROTOCOL, TUN_QUEUE_PACKETS};

/// Alias of the TUN: marks it as ours.
pub(super) const TUN_ALIAS: &str = "culvert: overlay";

/// Alias of a bridge that we made, and may delete.
pub(super) const BRIDGE_ALIAS: &str = "culvert: pod bridge";

/// Alias of a bridge that was there before us: we configure it, and leave it when we go.
pub(super) const ADOPTED_ALIAS: &str = "culvert: adopted pod bridge";

/// How the alias of every device of ours begins.
pub(super) const ALIAS_PREFIX: &str = "culvert: ";

/// First bytes of the hardware address of a bridge of ours: locally administered, unicast.
pub(super) const MAC_PREFIX: [u8; 2] = [0x02, 0xcf];

/// The switch of IPv6 forwarding. Devices that go by router advertisements cease to when it is
/// switched on, see [`Actual::advertised`](super::diff::Actual::advertised).
pub(super) const IPV6_FORWARDING: &str = "net/ipv6/conf/all/forwarding";

/// The kernel state that a node should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Desired {
    pub(super) tun: Device,
    pub(super) bridge: Device,
    pub(super) bridge_mac: Mac,
    pub(super) tx_queue_len: u32,
    /// Addresses inside these on the bridge are ours to remove.
    pub(super) cluster_networks: Vec<IpNet>,
    /// Routes to the TUN.
    pub(super) routes: Vec<DesiredRoute>,
    /// Routes to the bridge: the kernel makes them with the bridge's addresses.
    pub(super) connected: Vec<DesiredRoute>,
    pub(super) sysctls: Vec<Parameter>,
    pub(super) ruleset: Table,
    /// Whether what pods send to the outside is to be translated.
    pub(super) masquerade: bool,
    /// What stands behind the bridge, as far as the subnet table says.
    pub(super) pods: living::Bridge,
}

/// A device that a node should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) name: String,
    pub(super) mtu: u32,
    pub(super) addresses: Vec<IpNet>,
}

/// A kernel parameter that a node should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parameter {
    /// Its name, written with slashes.
    pub(super) key: String,
    pub(super) value: &'static str,
    /// Whether the node does not work where the kernel has no such parameter.
    pub(super) needed: bool,
}

/// A direct route that a node should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DesiredRoute {
    pub(super) destination: IpNet,
    pub(super) source: Option<IpAddr>,
    /// Largest packet, if not that of the device.
    pub(super) mtu: Option<u16>,
}

impl DesiredRoute {
    /// The route as it should be in the kernel, but for the link, which has no index yet.
    pub(super) fn route(&self) -> Route {
        // kernel: `RT_SCOPE_LINK`; IPv6 knows no scopes.
        let scope = if self.destination.addr().is_ipv4() { 253 } else { 0 };
        Route {
            destination: self.destination,
            table: MAIN_TABLE,
            protocol: PROTOCOL,
            scope,
            priority: default_priority(&self.destination),
            link: None,
            gateway: None,
            source: self.source,
            mtu: self.mtu.map(u32::from),
            advmss: None,
            direct: true,
        }
    }
}

impl Desired {
    pub(super) fn new(spec: &NodeSpec) -> Self {
        let mtu = u32::from(spec.mtu);
        let tun_addresses = tun_addresses(&spec.local_subnets);
        Self {
            bridge: Device {
                name: spec.bridge.clone(),
                mtu,
                addresses: spec.local_subnets.iter().map(gateway).collect(),
            },
            bridge_mac: bridge_mac(&spec.local_subnets),
            tx_queue_len: TUN_QUEUE_PACKETS,
            cluster_networks: spec.cluster_networks.clone(),
            routes: routes(spec, &tun_addresses),
            connected: spec
                .local_subnets
                .iter()
                .filter(|subnet| subnet.prefix_len() < subnet.max_prefix_len())
                .map(|subnet| DesiredRoute {
                    destination: subnet.trunc(),
                    source: Some(gateway(subnet).addr()).filter(IpAddr::is_ipv4),
                    mtu: None,
                })
                .collect(),
            sysctls: sysctls(spec),
            ruleset: ruleset(spec),
            masquerade: spec.masquerade,
            pods: living::Bridge {
                name: spec.bridge.clone(),
                mac: bridge_mac(&spec.local_subnets),
                subnets: spec.local_subnets.clone(),
                has_strangers: false,
            },
            tun: Device { name: spec.tun.clone(), mtu, addresses: tun_addresses },
        }
    }
}

impl Desired {
    /// Has the bridge take packets for 127.0.0.1: answers of pods to whom ports of the node lead.
    pub(super) fn lead_from_localhost(&mut self) {
        self.sysctls.push(route_localnet(&self.bridge.name, "1", true));
    }

    /// Takes the bridge of somebody else as it is, whose hardware address pods remember.
    pub(super) fn follow_adopted(&mut self, actual: &Actual) {
        let adopted = actual.bridge.as_ref().filter(|bridge| bridge.alias != BRIDGE_ALIAS);
        if let Some(mac) = adopted.and_then(|bridge| bridge.mac) {
            self.pods.mac = mac;
        }
    }

    /// What tells connections of local pods to the outside that are not translated and should be;
    /// none when none should.
    ///
    /// One whose answers come from inside the cluster was sent to a service.
    pub(super) fn untranslated(&self) -> Option<impl Fn(&Flow) -> bool + use<>> {
        let (local, cluster) = (self.pods.subnets.clone(), self.cluster_networks.clone());
        let has = |networks: &[IpNet], address: &IpAddr| {
            networks.iter().any(|network| network.contains(address))
        };
        self.masquerade.then_some(move |flow: &Flow| {
            has(&local, &flow.source)
                && !has(&cluster, &flow.destination)
                && !has(&cluster, &flow.answers_from)
                && !flow.destination.is_multicast()
                && flow.answers_to == flow.source
        })
    }
}

/// Whether the bridge takes packets for 127.0.0.1.
pub(super) fn route_localnet(bridge: &str, value: &'static str, needed: bool) -> Parameter {
    Parameter { key: format!("net/ipv4/conf/{bridge}/route_localnet"), value, needed }
}

/// The network address of each family's first subnet, alone: no pod has it, and it routes back.
fn tun_addresses(subnets: &[IpNet]) -> Vec<IpNet> {
    Family::BOTH
        .iter()
        .filter_map(|family| {
            let subnet = subnets.iter().find(|subnet| Family::of(subnet.addr()) == *family)?;
            Some(IpNet::from(subnet.network()))
        })
        .collect()
}

/// Routes to the TUN: of each cluster network, and of each subnet of which the kernel has to know
/// that its path is narrow (docs/decisions/0196).
fn routes(spec: &NodeSpec, tun_addresses: &[IpNet]) -> Vec<DesiredRoute> {
    let networks = spec.cluster_networks.iter().map(|network| (network, None));
    let narrow = spec.narrow_subnets.iter().map(|(subnet, mtu)| (subnet, Some(*mtu)));
    let route = |(network, mtu): (&IpNet, Option<u16>)| DesiredRoute {
        destination: network.trunc(),
        source: tun_addresses
            .iter()
            .map(IpNet::addr)
            .find(|address| address.is_ipv4() == network.addr().is_ipv4()),
        mtu,
    };
    networks.chain(narrow).map(route).collect()
}

/// A hardware address that follows from the first subnet, and so differs between nodes.
fn bridge_mac(subnets: &[IpNet]) -> Mac {
    let tail = match subnets.first().map(IpNet::network) {
        Some(IpAddr::V4(network)) => network,
        Some(IpAddr::V6(network)) => Ipv4Addr::from(fold(network)),
        None => Ipv4Addr::UNSPECIFIED,
    };
    let [first, second] = MAC_PREFIX;
    let [a, b, c, d] = tail.octets();
    Mac::new([first, second, a, b, c, d])
}

/// Folds an IPv6 address into 32 bits in which neighbouring prefixes stay distinct.
fn fold(address: Ipv6Addr) -> u32 {
    address.octets().chunks_exact(4).fold(0, |sum: u32, word| {
        let word = word.iter().fold(0, |word, octet| (word << 8) | u32::from(*octet));
        sum.rotate_left(5) ^ word
    })
}

fn sysctls(spec: &NodeSpec) -> Vec<Parameter> {
    let uses = |family| {
        spec.cluster_networks
            .iter()
            .chain(&spec.local_subnets)
            .any(|network| Family::of(network.addr()) == family)
    };
    let parameter = |key: &str, value| Parameter { key: key.to_owned(), value, needed: true };
    let NodeSpec { tun, bridge, .. } = spec;
    let mut sysctls = Vec::new();
    if uses(Family::V4) {
        sysctls.push(parameter("net/ipv4/ip_forward", "1"));
        for device in [tun, bridge] {
            sysctls.extend([
                // The switch above sets this on the devices of that moment; a later one copies
                // `default`, which an administrator may have set otherwise.
                parameter(&format!("net/ipv4/conf/{device}/forwarding"), "1"),
                // Loose. The kernel applies the larger of this and `all`, so 0 would leave a strict
                // `all` (systemd's default) in force, and strict drops what pods send whose way
                // back is another device.
                parameter(&format!("net/ipv4/conf/{device}/rp_filter"), "2"),
            ]);
        }
        // The daemon answers on the TUN (ICMP errors) from the node's own gateway address.
        sysctls.push(parameter(&format!("net/ipv4/conf/{tun}/accept_local"), "1"));
    }
    // No pod may configure its node, and in a cluster without IPv6 the kernel listens all the same.
    // Where it has no IPv6, or the device too small an MTU for it, there is nothing to switch off.
    for device in [tun, bridge] {
        let key = format!("net/ipv6/conf/{device}/accept_ra");
        sysctls.push(Parameter { key, value: "0", needed: uses(Family::V6) });
    }
    if uses(Family::V6) {
        sysctls.push(parameter(IPV6_FORWARDING, "1"));
        for device in [tun, bridge] {
            sysctls.extend([
                parameter(&format!("net/ipv6/conf/{device}/disable_ipv6"), "0"),
                // Addresses are assigned, not chosen; the wait for duplicates serves nobody.
                parameter(&format!("net/ipv6/conf/{device}/accept_dad"), "0"),
            ]);
        }
        // 1 is "none": nobody shares a link with the TUN, so a link-local address is of no use.
        sysctls.push(parameter(&format!("net/ipv6/conf/{tun}/addr_gen_mode"), "1"));
    }
    sysctls
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(subnets: &[&str], networks: &[&str]) -> NodeSpec {
        NodeSpec {
            tun: "culvert0".into(),
            bridge: "v-net-0".into(),
            cluster_networks: networks.iter().map(|net| net.parse().unwrap()).collect(),
            local_subnets: subnets.iter().map(|net| net.parse().unwrap()).collect(),
            mtu: 1464,
            underlay_ports: vec![4790],
            codec_ports: vec![4790, 8472, 8285],
            remote_subnets: [].into(),
            peers: Vec::new(),
            masquerade: true,
            sealed_only: false,
            narrow_subnets: Vec::new(),
            predecessor: None,
        }
    }

    #[test]
    fn tun_has_the_network_address_of_each_familys_first_subnet() {
        let desired = Desired::new(&spec(
            &["fd00:1::/64", "10.244.1.0/24", "10.244.9.0/24"],
            &["10.244.0.0/16", "fd00::/16"],
        ));
        let expected: Vec<IpNet> =
            vec!["10.244.1.0/32".parse().unwrap(), "fd00:1::/128".parse().unwrap()];
        assert_eq!(desired.tun.addresses, expected);
        let sources: Vec<_> = desired.routes.iter().map(|route| route.source).collect();
        assert_eq!(
            sources,
            [Some("10.244.1.0".parse().unwrap()), Some("fd00:1::".parse().unwrap())]
        );
    }

    #[test]
    fn subnets_behind_narrow_paths_have_routes_that_say_so() {
        let spec = spec(&["fd00:1::/64"], &["fd00::/16"]);
        let narrow_subnets = vec![("fd00:2::/64".parse().unwrap(), 1364)];
        let desired = Desired::new(&NodeSpec { narrow_subnets, ..spec });
        let routes: Vec<_> = desired.routes.iter().map(DesiredRoute::route).collect();
        let seen: Vec<_> = routes.iter().map(|it| (it.destination.to_string(), it.mtu)).collect();
        assert_eq!(seen, [("fd00::/16".to_owned(), None), ("fd00:2::/64".to_owned(), Some(1364))]);
        assert_eq!(routes[0].source, routes[1].source);
    }

    #[test]
    fn bridge_has_the_first_host_address_of_every_subnet() {
        let desired = Desired::new(&spec(&["10.244.1.0/24", "10.244.9.0/25"], &[]));
        let expected: Vec<IpNet> =
            vec!["10.244.1.1/24".parse().unwrap(), "10.244.9.1/25".parse().unwrap()];
        assert_eq!(desired.bridge.addresses, expected);
    }

    #[test]
    fn untranslated_is_what_pods_here_opened_to_the_outside() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let flow = |source, destination, answers_from, answers_to| Flow {
            source: ip(source),
            destination: ip(destination),
            answers_from: ip(answers_from),
            answers_to: ip(answers_to),
            protocol: 6,
            answers_from_port: Some(80),
            is_barred: false,
        };
        let spec = spec(&["10.244.1.0/24"], &["10.244.0.0/16"]);
        let is_wrong = Desired::new(&spec).untranslated().unwrap();
        assert!(is_wrong(&flow("10.244.1.2", "192.0.2.1", "192.0.2.1", "10.244.1.2")));
        for right in [
            flow("10.244.1.2", "192.0.2.1", "192.0.2.1", "192.168.1.11"),
            flow("10.244.1.2", "10.244.2.2", "10.244.2.2", "10.244.1.2"),
            flow("10.244.1.2", "10.96.0.1", "10.244.2.2", "10.244.1.2"),
            flow("192.0.2.1", "10.244.1.2", "10.244.1.2", "192.0.2.1"),
            flow("10.244.1.2", "224.0.0.1", "224.0.0.1", "10.244.1.2"),
        ] {
            assert!(!is_wrong(&right), "{right:?}");
        }
        assert!(Desired::new(&NodeSpec { masquerade: false, ..spec }).untranslated().is_none());
    }

    #[test]
    fn nodes_have_different_hardware_addresses() {
        assert_eq!(
            bridge_mac(&["10.244.1.0/24".parse().unwrap()]),
            Mac::new([0x02, 0xcf, 10, 244, 1, 0])
        );
        let macs: std::collections::BTreeSet<Mac> = (0..4096_u16)
            .map(|node| bridge_mac(&[format!("fd00:10:244:{node:x}::/64").parse().unwrap()]))
            .collect();
        assert_eq!(macs.len(), 4096);
    }

    #[test]
    fn family_that_is_not_used_is_left_alone() {
        let needed = |subnets: &[&str], networks: &[&str]| -> Vec<String> {
            let sysctls = sysctls(&spec(subnets, networks)).into_iter();
            sysctls.filter(|parameter| parameter.needed).map(|parameter| parameter.key).collect()
        };
        assert!(
            needed(&["10.244.1.0/24"], &["10.244.0.0/16"])
                .iter()
                .all(|key| key.starts_with("net/ipv4"))
        );
        assert!(
            needed(&["fd00:1::/64"], &["fd00::/16"]).iter().all(|key| key.starts_with("net/ipv6"))
        );
    }

    #[test]
    fn no_device_of_ours_takes_router_advertisements_whatever_the_families() {
        for (subnet, network) in [("10.244.1.0/24", "10.244.0.0/16"), ("fd00:1::/64", "fd00::/16")]
        {
            let sysctls = sysctls(&spec(&[subnet], &[network]));
            for device in ["culvert0", "v-net-0"] {
                let key = format!("net/ipv6/conf/{device}/accept_ra");
                let found = sysctls.iter().find(|parameter| parameter.key == key);
                assert_eq!(found.map(|parameter| parameter.value), Some("0"), "{network}");
            }
        }
    }
}
