//! Refusing to start where the cluster network would take somebody else's addresses.
//!
//! Pure rules over plain values, and one method that gathers the values. A cluster network that
//! overlaps something takes effect silently and breaks what it overlaps, so it is refused by name.

use std::net::IpAddr;

use anyhow::Context as _;
use culvert_netlink::{MAIN_TABLE, RouteFilter, default_priority};
use ipnet::IpNet;

use super::desired::ALIAS_PREFIX;
use super::{NodeSpec, PROTOCOL, Reconciler};
use crate::config::overlap;

/// A cluster network that cannot be used here, with what it collides with and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// With the addresses of services.
    #[error(
        "cluster network {cluster} overlaps service network {service}: give the pods or the services \
         a network of their own"
    )]
    Service {
        /// The cluster network.
        cluster: IpNet,
        /// The service network.
        service: IpNet,
    },
    /// With the address of an interface of this machine.
    #[error(
        "cluster network {cluster} contains {address} of this machine's interface {device}: its \
         neighbours there would become unreachable; choose another cluster network, or remove that \
         address"
    )]
    Interface {
        /// The cluster network.
        cluster: IpNet,
        /// The interface's address.
        address: IpNet,
        /// The interface.
        device: String,
    },
    /// With a node's underlay address.
    #[error(
        "cluster network {cluster} contains node address {node}: the tunnel would carry itself; \
         choose a cluster network outside the underlay"
    )]
    Node {
        /// The cluster network.
        cluster: IpNet,
        /// The node's address.
        node: IpAddr,
    },
    /// With a route of this machine.
    #[error(
        "the route {route} via {device} takes packets for cluster network {cluster}: choose another \
         cluster network, or remove the route (`ip route del {route}`)"
    )]
    Route {
        /// The cluster network.
        cluster: IpNet,
        /// The route's prefix.
        route: IpNet,
        /// The device that the route uses.
        device: String,
    },
    /// Two cluster networks with each other.
    #[error("cluster networks {first} and {second} overlap: keep the larger one")]
    Cluster {
        /// One network.
        first: IpNet,
        /// The other.
        second: IpNet,
    },
    /// IPv6 over devices that are too small for it.
    #[error(
        "an MTU of {mtu} bytes is too small for IPv6 pods, which need {LEAST_IPV6_MTU}: raise the MTU \
         of the underlay, or leave IPv6 out of the cluster networks"
    )]
    Mtu {
        /// In bytes.
        mtu: u16,
    },
    /// A subnet of this node with no cluster network around it.
    #[error(
        "pod subnet {subnet} of this node is in no cluster network: other nodes would have no route \
         to it; correct the subnet table, or add its network to the cluster networks"
    )]
    Outside {
        /// The subnet.
        subnet: IpNet,
    },
}

/// The kernel switches IPv6 off on a device with less (RFC 8200 section 5).
const LEAST_IPV6_MTU: u16 = 1280;

/// What a cluster network may collide with.
#[derive(Debug, Default)]
struct Surroundings {
    services: Vec<IpNet>,
    nodes: Vec<IpAddr>,
    /// Address and device.
    interfaces: Vec<(IpNet, String)>,
    /// Prefix, rank and device.
    routes: Vec<(IpNet, u32, String)>,
}

impl Reconciler {
    /// Checks that the cluster networks collide with nothing on this machine or in the cluster.
    ///
    /// Default routes do not count, and neither does anything that the daemon made itself.
    ///
    /// # Errors
    ///
    /// A [`Conflict`] (downcast it), or that the kernel cannot be asked.
    pub fn preflight(
        &mut self,
        spec: &NodeSpec,
        service_networks: &[IpNet],
        node_addresses: &[IpAddr],
    ) -> anyhow::Result<()> {
        let links = self.netlink.socket.links().context("checking for conflicts")?;
        let foreign = |index: u32| {
            let link = links.iter().find(|link| link.index == index);
            let unknown = "?".to_owned();
            let name = link.map_or(&unknown, |link| &link.name);
            let ours = *name == spec.tun
                || *name == spec.bridge
                || spec.predecessor.as_ref().is_some_and(|before| before.device == *name)
                || link.is_some_and(|link| link.alias.starts_with(ALIAS_PREFIX));
            (!ours).then(|| name.to_owned())
        };
        let interfaces = self
            .netlink
            .socket
            .addresses()?
            .into_iter()
            .filter_map(|address| Some((address.net, foreign(address.link)?)))
            .collect();
        let routes = self
            .netlink
            .socket
            .routes(RouteFilter::Table(MAIN_TABLE))?
            .into_iter()
            .filter(|route| route.protocol != PROTOCOL)
            .filter_map(|route| {
                let device = match route.link {
                    Some(link) => foreign(link)?,
                    None => "no single device".to_owned(),
                };
                Some((route.destination, route.priority, device))
            })
            .collect();
        let surroundings = Surroundings {
            services: service_networks.to_vec(),
            nodes: node_addresses.to_vec(),
            interfaces,
            routes,
        };
        match conflict(spec, surroundings) {
            Some(conflict) => Err(conflict.into()),
            None => Ok(()),
        }
    }
}

/// The first conflict, most telling kind first: an interface's subnet is also a route.
fn conflict(spec: &NodeSpec, surroundings: Surroundings) -> Option<Conflict> {
    let Surroundings { services, nodes, interfaces, routes } = surroundings;
    let clusters = &spec.cluster_networks;
    let ipv6 = clusters.iter().any(|cluster| cluster.addr().is_ipv6());
    if ipv6 && spec.mtu < LEAST_IPV6_MTU {
        return Some(Conflict::Mtu { mtu: spec.mtu });
    }
    let outside = spec
        .local_subnets
        .iter()
        .find(|subnet| !clusters.iter().any(|cluster| cluster.contains(*subnet)));
    if let Some(subnet) = outside {
        return Some(Conflict::Outside { subnet: *subnet });
    }
    for (position, &cluster) in clusters.iter().enumerate() {
        let found = clusters
            .iter()
            .skip(position + 1)
            .find(|other| overlap(&cluster, other))
            .map(|&second| Conflict::Cluster { first: cluster, second })
            .or_else(|| {
                let service = *services.iter().find(|service| overlap(&cluster, service))?;
                Some(Conflict::Service { cluster, service })
            })
            .or_else(|| {
                let node = *nodes.iter().find(|node| cluster.contains(*node))?;
                Some(Conflict::Node { cluster, node })
            })
            .or_else(|| {
                let (address, device) = interfaces
                    .iter()
                    .find(|(address, _device)| cluster.contains(&address.addr()))?;
                Some(Conflict::Interface { cluster, address: *address, device: device.clone() })
            })
            .or_else(|| {
                let (route, _rank, device) =
                    routes.iter().find(|(route, rank, _device)| hides(&cluster, route, *rank))?;
                Some(Conflict::Route { cluster, route: *route, device: device.clone() })
            });
        if found.is_some() {
            return found;
        }
    }
    None
}

/// Whether a foreign route takes packets that ours to `cluster` is there for.
///
/// The kernel goes by the longest match, so a wider one does not, whatever it leads to: a VPN's
/// 10.0.0.0/8, "unreachable" for all private networks, the default route. Of two to the same prefix
/// the lower rank counts.
fn hides(cluster: &IpNet, route: &IpNet, rank: u32) -> bool {
    cluster.contains(route) && (cluster != route || rank <= default_priority(cluster))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{net, spec};
    use super::*;

    fn found(surroundings: Surroundings) -> String {
        conflict(&spec(), surroundings).map_or_else(String::new, |conflict| conflict.to_string())
    }

    #[test]
    fn usual_surroundings_are_accepted() {
        let surroundings = Surroundings {
            services: vec![net("10.96.0.0/12"), net("fd00:10:96::/112")],
            nodes: vec!["192.168.1.11".parse().unwrap(), "fd00:1::11".parse().unwrap()],
            interfaces: vec![
                (net("192.168.1.11/24"), "eth0".into()),
                (net("10.8.0.2/8"), "tun0".into()),
            ],
            routes: vec![
                (net("0.0.0.0/0"), 0, "eth0".into()),
                (net("::/0"), 1024, "eth0".into()),
                (net("0.0.0.0/1"), 0, "tun0".into()),
                (net("10.0.0.0/8"), 0, "tun0".into()),
                (net("fc00::/7"), 1, "lo".into()),
                (net("172.17.0.0/16"), 0, "docker0".into()),
                // After ours, so that it counts only while ours is away.
                (net("10.244.0.0/16"), 4096, "lo".into()),
            ],
        };
        assert_eq!(found(surroundings), "");
    }

    #[test]
    fn each_conflict_names_both_sides_and_the_remedy() {
        let cases = [
            (
                Surroundings { services: vec![net("10.240.0.0/12")], ..Surroundings::default() },
                ["10.244.0.0/16", "10.240.0.0/12", "network of their own"],
            ),
            (
                Surroundings {
                    interfaces: vec![(net("10.244.7.1/24"), "eth1".into())],
                    ..Surroundings::default()
                },
                ["10.244.0.0/16", "10.244.7.1/24", "eth1"],
            ),
            (
                Surroundings {
                    nodes: vec!["10.244.9.9".parse().unwrap()],
                    ..Surroundings::default()
                },
                ["10.244.0.0/16", "10.244.9.9", "outside the underlay"],
            ),
            (
                Surroundings {
                    routes: vec![(net("fd00:10:244:9::/64"), 1024, "wg0".into())],
                    ..Surroundings::default()
                },
                ["fd00:10:244::/48", "fd00:10:244:9::/64", "ip route del"],
            ),
            (
                Surroundings {
                    routes: vec![(net("10.244.0.0/16"), 0, "wg0".into())],
                    ..Surroundings::default()
                },
                ["10.244.0.0/16", "wg0", "ip route del"],
            ),
        ];
        for (surroundings, words) in cases {
            let text = found(surroundings);
            for word in words {
                assert!(text.contains(word), "{word:?} is missing in {text:?}");
            }
        }
    }

    #[test]
    fn subnet_outside_every_cluster_network_is_refused() {
        let spec = NodeSpec { local_subnets: vec![net("10.245.1.0/24")], ..spec() };
        let found = conflict(&spec, Surroundings::default());
        assert_eq!(found, Some(Conflict::Outside { subnet: net("10.245.1.0/24") }));
    }

    #[test]
    fn mtu_below_what_ipv6_needs_is_refused() {
        let spec = NodeSpec { mtu: 1279, ..spec() };
        let found = conflict(&spec, Surroundings::default());
        assert_eq!(found, Some(Conflict::Mtu { mtu: 1279 }));
    }

    #[test]
    fn overlapping_cluster_networks_are_refused() {
        let spec = NodeSpec {
            cluster_networks: vec![net("10.244.0.0/16"), net("10.244.0.0/17")],
            local_subnets: Vec::new(),
            ..spec()
        };
        assert!(matches!(conflict(&spec, Surroundings::default()), Some(Conflict::Cluster { .. })));
    }
}
