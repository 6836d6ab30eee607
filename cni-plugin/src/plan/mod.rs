//! What a pod is to get on this node: the settings, held against the node file.
//!
//! Owns the decisions that need both: whether the node is what the configuration expects, which
//! addresses come into question, which routes follow. Never changes anything.

use std::net::IpAddr;

use culvert_node::pod_mac;
use ipnet::IpNet;
use overlay_proto::Family;
use serde_json::Value;

use crate::config::{RequestedAddress, RequestedRange, RouteSpec, Settings, bad, unsupported};
use crate::error::Error;
use crate::netlink::SCOPE_LINK;
use culvert_node::ipam::{Allocation, Range, Request};
use culvert_node::node_file::{self, NodeFile};

/// Smallest MTU of a device with IPv4 (RFC 791) and with IPv6 (RFC 8200), in bytes.
const MIN_MTU_V4: u64 = 68;
pub(crate) const MIN_MTU_V6: u64 = 1280;

/// What a pod is to get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// MTU of both ends of the veth pair, in bytes.
    pub(crate) mtu: u16,
    /// The addresses.
    pub(crate) request: Request,
}

impl Plan {
    /// Holds `settings` against `node`.
    pub(crate) fn new(settings: &Settings, node: &NodeFile) -> Result<Self, Error> {
        if let Some(bridge) = settings.bridge.as_ref().filter(|bridge| **bridge != node.bridge) {
            let remedy = format!(
                "the daemon makes the bridge, and this node's is {}; remove the key, or set \
                 bridge.name in the daemon's configuration",
                node.bridge
            );
            return Err(unsupported("bridge", &Value::String(bridge.clone()), &remedy));
        }
        if let (Some(wanted), Some(found)) = (settings.masquerade, node.masquerade)
            && wanted != found
        {
            let remedy = format!(
                "the daemon masquerades for all pods alike, and egress.masquerade is {found} in its \
                 configuration; change one of them, or remove the key"
            );
            return Err(unsupported("ipMasq", &Value::Bool(wanted), &remedy));
        }
        let sets = sets(&settings.ranges, &node.subnets)?;
        let has_v6 = sets.iter().flatten().any(|range| range.subnet().addr().is_ipv6());
        for requested in &settings.addresses {
            check_requested(requested, &node.subnets)?;
        }
        check_mac(settings, &node.subnets)?;
        Ok(Self {
            mtu: mtu(settings.mtu, node.mtu, has_v6)?,
            request: Request {
                sets,
                addresses: settings.addresses.iter().map(|requested| requested.address).collect(),
                mac: settings.mac,
            },
        })
    }

    /// A subnet of each address that the pod is to get.
    pub(crate) fn coming(&self) -> Vec<IpNet> {
        self.request.sets.iter().filter_map(|set| set.first()).map(Range::subnet).collect()
    }
}

/// The routes of a pod with `allocations`: those asked for, and those that always are.
///
/// A route that was asked for takes the place of one to the same destination that would always be
/// there, so that it can be given another MTU or table.
pub(crate) fn routes(
    settings: &Settings,
    cluster_networks: &[IpNet],
    allocations: &[(IpNet, IpAddr)],
) -> Result<Vec<RouteSpec>, Error> {
    let gateway_of = |family: Family| {
        let mut gateways = allocations.iter().map(|(_, gateway)| *gateway);
        gateways.find(|gateway| Family::of(*gateway) == family)
    };
    let mut routes = Vec::new();
    for asked in &settings.routes {
        let family = Family::of(asked.dst.addr());
        let Some(own) = gateway_of(family) else {
            let remedy = format!("the pod gets no {family} address; remove the route");
            return Err(bad(&asked.key, &Value::String(asked.dst.to_string()), &remedy));
        };
        // A route that ends on the link itself has no gateway.
        let on_link = asked.scope.is_some_and(|scope| scope >= SCOPE_LINK);
        let gateway = if on_link { asked.gateway } else { asked.gateway.or(Some(own)) };
        routes.push(RouteSpec { gateway, ..asked.clone() });
    }
    for family in Family::BOTH {
        let Some(gateway) = gateway_of(family) else {
            continue;
        };
        let everywhere = IpNet::new_assert(gateway, 0).trunc();
        let everything = [everywhere];
        let destinations =
            if settings.default_gateway { &everything[..] } else { cluster_networks };
        for dst in destinations.iter().filter(|dst| Family::of(dst.addr()) == family) {
            let is_asked_for = settings.routes.iter().any(|route| route.dst == *dst);
            // The kernel makes the route to the pod's own subnet, with its address.
            let is_own = allocations.iter().any(|(address, _)| address.trunc() == dst.trunc());
            if !is_asked_for && !is_own {
                routes.push(RouteSpec::new(dst.trunc(), gateway));
            }
        }
    }
    Ok(routes)
}

fn mtu(wanted: Option<u64>, of_node: u16, has_v6: bool) -> Result<u16, Error> {
    // A device that carries both needs what the more demanding one does.
    let family = if has_v6 { Family::V6 } else { Family::V4 };
    let min = match family {
        Family::V4 => MIN_MTU_V4,
        Family::V6 => MIN_MTU_V6,
    };
    if u64::from(of_node) < min {
        return Err(Error::NodeMtu { mtu: of_node, min });
    }
    let Some(wanted) = wanted else {
        return Ok(of_node);
    };
    match u16::try_from(wanted) {
        Ok(mtu) if mtu <= of_node && wanted >= min => Ok(mtu),
        _ => {
            let remedy = format!(
                "it needs to be from {min}, the least that {family} needs, to {of_node}, which is what \
                 the daemon found to fit the underlay; remove the key to have that"
            );
            Err(bad("mtu", &Value::from(wanted), &remedy))
        }
    }
}

/// The sets of ranges that were asked for, or one for each family that the node has.
fn sets(asked: &[Vec<RequestedRange>], subnets: &[IpNet]) -> Result<Vec<Vec<Range>>, Error> {
    if asked.is_empty() {
        return Ok(Request::one_of_each_family(subnets).sets);
    }
    let place = |requested: &RequestedRange| {
        let value = Value::String(requested.subnet.to_string());
        let Some(subnet) = subnets.iter().find(|subnet| subnet.contains(&requested.subnet)) else {
            let list: Vec<_> = subnets.iter().map(IpNet::to_string).collect();
            let remedy = format!(
                "it is in none of this node's subnets, {}, so no other node would find its pods; \
                 change one of them (the subnet table has the node's)",
                list.join(", ")
            );
            return Err(bad(&format!("{}.subnet", requested.key), &value, &remedy));
        };
        let gateway = node_file::gateway(subnet).addr();
        if let Some(wanted) = requested.gateway.filter(|wanted| *wanted != gateway) {
            let remedy = format!("the bridge's address is {gateway}; remove the key");
            let value = Value::String(wanted.to_string());
            return Err(unsupported(&format!("{}.gateway", requested.key), &value, &remedy));
        }
        Range::part(*subnet, requested.subnet, requested.first, requested.last).ok_or_else(|| {
            bad(&format!("{}.subnet", requested.key), &value, "it has no pod address")
        })
    };
    asked.iter().map(|set| set.iter().map(place).collect()).collect()
}

fn check_requested(requested: &RequestedAddress, subnets: &[IpNet]) -> Result<(), Error> {
    let value = Value::String(requested.address.to_string());
    let Some(subnet) = subnets.iter().find(|subnet| subnet.contains(&requested.address)) else {
        let list: Vec<_> = subnets.iter().map(IpNet::to_string).collect();
        let remedy = format!("it needs to be in one of this node's subnets: {}", list.join(", "));
        return Err(bad(&requested.key, &value, &remedy));
    };
    let is_for_pods = Range::whole(*subnet).contains(requested.address);
    if !is_for_pods {
        let remedy = format!(
            "{subnet} keeps it for itself: the first address is the network's, the second the \
             bridge's, and IPv4's last is for broadcast"
        );
        return Err(bad(&requested.key, &value, &remedy));
    }
    Ok(())
}

/// Refuses the MAC address of a pod that has another address of this node, or will have: it would
/// take that pod's frames.
fn check_mac(settings: &Settings, subnets: &[IpNet]) -> Result<(), Error> {
    let Some(mac) = settings.mac else { return Ok(()) };
    let Some(address) = pod_mac::ipv4_of(mac).map(IpAddr::from) else { return Ok(()) };
    let is_of_node = subnets.iter().any(|subnet| subnet.contains(&address));
    let is_own = settings.addresses.iter().any(|requested| requested.address == address);
    if is_of_node && !is_own {
        return Err(Error::MacReserved { mac: mac.to_string(), address });
    }
    Ok(())
}

/// Allocations as routes need them: address with prefix length, and gateway.
pub(crate) fn pairs(allocations: &[Allocation]) -> Vec<(IpNet, IpAddr)> {
    allocations
        .iter()
        .map(|allocation| (allocation.interface_address(), allocation.gateway()))
        .collect()
}

#[cfg(test)]
mod tests;
