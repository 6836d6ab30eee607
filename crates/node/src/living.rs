//! Which addresses of the node's subnets have a pod: only to these is anything sent to the bridge.
//!
//! kernel: whoever sends to an address that nobody has makes the node ask for it, and remember for
//! a while that it asked. A scan of a subnet of IPv6 fills the table of neighbours, which all
//! devices of the machine share, and the node cannot find its own router any more. So the node
//! rejects such packets before it asks.
//!
//! Owns the nftables table that does so. The daemon makes it and keeps it; the plugin enters the
//! addresses of a pod before its port goes up, where there is such a table, and takes them out.

use std::net::IpAddr;

use culvert_nft::{
    Base, Batch, Chain, ChainKind, Comparison, Element, Expression, Field, Hook, KeyPart,
    Membership, Set, Socket, Table, TableFamily, Verdict, kernel,
};
use ipnet::IpNet;
use overlay_proto::{Family, Mac};

use crate::pod_port::PodPort;

/// Family of the table.
pub const FAMILY: TableFamily = TableFamily::Inet;

/// Name of the table.
pub const TABLE: &str = "culvert-pods";

/// `NF_IP_PRI_FILTER`.
const FILTER: i32 = 0;

/// The sets: addresses that have a pod, pods' hardware addresses, and subnets of this node.
const IPV4: &str = "ipv4";
const IPV6: &str = "ipv6";
const MACS: &str = "macs";
const SUBNETS_V4: &str = "subnets_v4";
const SUBNETS_V6: &str = "subnets_v6";

const IPV4_DESTINATION: Field = Field { base: Base::Network, offset: 16, len: 4 };
const IPV6_DESTINATION: Field = Field { base: Base::Network, offset: 24, len: 16 };
const IPV6_DESTINATION_PREFIX: Field = Field { base: Base::Network, offset: 24, len: 8 };
const FRAME_DESTINATION: Field = Field { base: Base::Link, offset: 0, len: 6 };

/// fe80::/64, to which every device with IPv6 has a route.
const LINK_LOCAL: [u8; 8] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0];

/// What stands behind the bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Its name.
    pub name: String,
    /// Its MAC address, to which pods send what the node is to forward.
    pub mac: Mac,
    /// The pod subnets of the node.
    pub subnets: Vec<IpNet>,
    /// Whether somebody may have an address that we know nothing of: a port that is not a pod's, or
    /// a pod that may send from any address.
    pub has_strangers: bool,
}

/// The whole table for these pods behind `bridge`.
#[must_use]
pub fn table(ports: &[PodPort], bridge: &Bridge) -> Table {
    let mut subnets = bridge.subnets.iter().map(IpNet::trunc).collect();
    // An interval set refuses elements that overlap.
    subnets = IpNet::aggregate(&subnets);
    let mut living: Vec<_> = ports.iter().flat_map(elements).collect();
    // Not a pod's, and nobody is asked for it.
    living.extend(subnets.iter().filter_map(|subnet| match subnet {
        IpNet::V4(subnet) => Some((IPV4, Element::of(&[&subnet.broadcast().octets()]))),
        IpNet::V6(_) => None,
    }));
    let set = |name: &str, key, is_interval, elements: Vec<Element>| Set {
        name: name.to_owned(),
        key: vec![key],
        is_interval,
        can_expire: !is_interval,
        decides: false,
        elements: elements.into_iter().collect(),
    };
    let of = |name| {
        let found = living.iter().filter(|(set, _element)| *set == name);
        found.map(|(_set, element)| element.clone()).collect()
    };
    let intervals = |family| {
        let subnets = subnets.iter().filter(|subnet| Family::of(subnet.addr()) == family);
        subnets.flat_map(interval).collect()
    };
    let chain =
        |name, hook, rules| Chain { name, kind: ChainKind::Filter, hook, priority: FILTER, rules };
    let mut forward = rules(bridge);
    forward.insert(1, link_local_through_the_node(bridge));
    Table {
        family: FAMILY,
        name: TABLE,
        sets: vec![
            set(IPV4, KeyPart::Ipv4Address, false, of(IPV4)),
            set(IPV6, KeyPart::Ipv6Address, false, of(IPV6)),
            set(MACS, KeyPart::EtherAddress, false, of(MACS)),
            set(SUBNETS_V4, KeyPart::Ipv4Address, true, intervals(Family::V4)),
            set(SUBNETS_V6, KeyPart::Ipv6Address, true, intervals(Family::V6)),
        ],
        chains: vec![
            chain("forward", Hook::Forward, forward),
            chain("output", Hook::Output, rules(bridge)),
        ],
        led_to: Vec::new(),
    }
}

/// Lets through what does not go to the bridge, then what goes to a pod.
fn rules(bridge: &Bridge) -> Vec<Vec<Expression>> {
    let accept = Expression::Verdict(Verdict::Accept);
    let not_to_bridge = Expression::output_name(Comparison::NotEqual, &bridge.name);
    let mut rules = vec![[&not_to_bridge[..], std::slice::from_ref(&accept)].concat()];
    if bridge.has_strangers {
        return rules;
    }
    let to = |is_family: &[Expression], field, set| {
        [is_family, &Expression::field_in(field, Membership::Inside, set)].concat()
    };
    let families = [
        (Expression::is_ipv4(), IPV4_DESTINATION, IPV4, SUBNETS_V4),
        (Expression::is_ipv6(), IPV6_DESTINATION, IPV6, SUBNETS_V6),
    ];
    rules.extend(families.clone().map(|(is_family, field, living, _subnets)| {
        let mut rule = to(&is_family, field, living);
        rule.push(accept.clone());
        rule
    }));
    rules.extend(families.map(|(is_family, field, _living, subnets)| {
        let mut rule = to(&is_family, field, subnets);
        rule.extend([Expression::Counter, Expression::RejectHost]);
        rule
    }));
    rules
}

/// Drops what a pod has the node forward to a link-local address, which no router may (RFC 4291
/// §2.5.6); Linux does. Where the bridge's frames pass the hook as well, theirs are for a pod's MAC
/// address; a frame to the node may be for that of the bridge, or of the port that it came by.
fn link_local_through_the_node(bridge: &Bridge) -> Vec<Expression> {
    let mut rule = Expression::is_ipv6().to_vec();
    rule.extend(Expression::field_is(IPV6_DESTINATION_PREFIX, &LINK_LOCAL));
    if bridge.has_strangers {
        // They may have any other.
        rule.extend(Expression::field_is(FRAME_DESTINATION, &bridge.mac.octets()));
    } else {
        rule.extend(Expression::field_in(FRAME_DESTINATION, Membership::Outside, MACS));
    }
    rule.extend([Expression::Counter, Expression::Verdict(Verdict::Drop)]);
    rule
}

fn interval(subnet: &IpNet) -> Vec<Element> {
    match subnet {
        IpNet::V4(net) => Element::interval(&net.network().octets(), &net.broadcast().octets()),
        IpNet::V6(net) => Element::interval(&net.network().octets(), &net.broadcast().octets()),
    }
}

/// What the sets have about this pod.
fn elements(port: &PodPort) -> Vec<(&'static str, Element)> {
    let addresses = port.addresses.iter().map(|address| match address.addr() {
        IpAddr::V4(address) => (IPV4, Element::of(&[&address.octets()])),
        IpAddr::V6(address) => (IPV6, Element::of(&[&address.octets()])),
    });
    addresses.chain([(MACS, Element::of(&[&port.mac.octets()]))]).collect()
}

/// Lets the node send to the pod behind `port`.
///
/// # Errors
///
/// When the kernel refuses. Without the table everything is let through, so that is none.
pub fn enter(socket: &mut Socket, port: &PodPort) -> culvert_nft::Result<()> {
    let entering = |is_entered: fn(&str) -> bool| {
        let mut batch = Batch::new(FAMILY);
        for (set, element) in elements(port).into_iter().filter(|(set, _)| is_entered(set)) {
            batch.add_elements(TABLE, set, &[element]);
        }
        batch
    };
    match socket.commit(&entering(|_all| true)) {
        // The table of an older daemon knows no hardware addresses, until that one is replaced.
        Err(error) if error.is_not_found() => commit(socket, &entering(|set| set != MACS)),
        Err(error) if error.is_unsupported() => Ok(()),
        outcome => outcome,
    }
}

/// Forgets the addresses of the pod behind `port`, whose device is gone.
///
/// # Errors
///
/// When the kernel refuses.
pub fn leave(socket: &mut Socket, port: &PodPort) -> culvert_nft::Result<()> {
    let can_expire = kernel::expires_elements();
    let mut batch = Batch::new(FAMILY);
    for (set, element) in elements(port) {
        if can_expire {
            batch.expire_elements(TABLE, set, &[element]);
        } else {
            batch.remove_elements(TABLE, set, &[element]);
        }
    }
    commit(socket, &batch)
}

fn commit(socket: &mut Socket, batch: &Batch) -> culvert_nft::Result<()> {
    if batch.is_empty() {
        return Ok(());
    }
    match socket.commit(batch) {
        // There is no table, or the daemon has been faster.
        Err(error) if error.is_not_found() || error.is_unsupported() => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod_port::example;

    fn bridge(has_strangers: bool) -> Bridge {
        let subnets = ["10.244.1.0/24", "fd00:1::/64"].map(|net| net.parse().unwrap());
        let mac = Mac::new([0x02, 0xcf, 10, 244, 1, 0]);
        Bridge { name: "v-net-0".to_owned(), mac, subnets: subnets.into(), has_strangers }
    }

    #[test]
    fn pods_and_the_broadcast_address_are_reached() {
        let table = table(&[example()], &bridge(false));
        let keys = |name| {
            let set = table.sets.iter().find(|set| set.name == name).unwrap();
            set.elements.iter().map(|element| element.key.clone()).collect::<Vec<_>>()
        };
        assert_eq!(keys(IPV4), [[10, 244, 1, 2], [10, 244, 1, 255]]);
        let address: std::net::Ipv6Addr = "fd00:1::2".parse().unwrap();
        assert_eq!(keys(IPV6), [address.octets()]);
        assert_eq!(keys(MACS), [example().mac.octets()]);
        assert_eq!(keys(SUBNETS_V4), [[10, 244, 1, 0], [10, 244, 2, 0]]);
    }

    #[test]
    fn nothing_is_rejected_where_strangers_may_live() {
        let rejects = |has_strangers| {
            let table = table(&[example()], &bridge(has_strangers));
            let mut rules = table.chains.iter().flat_map(|chain| &chain.rules);
            rules.any(|rule| rule.contains(&Expression::RejectHost))
        };
        assert!(rejects(false));
        assert!(!rejects(true));
    }
}
