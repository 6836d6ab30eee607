//! What rules look up: the sets and maps of a plan, each once for each family.

use std::iter;
use std::net::IpAddr;
use std::sync::Arc;

use culvert_nft::{Element, Elements, KeyPart, Set, Verdict};
use culvert_policy::plan::{
    Addresses, Direction, Name, NamedPorts, Plan, PortRange, Ranges, Target,
};
use overlay_proto::Family;

use super::inline::{Matched, peer_in, ports_of};
use super::{Before, CLOSED, FAMILIES, half};

pub(super) fn sets(plan: &Plan, before: Option<&Before<'_>>) -> Vec<Set> {
    let mut sets = Vec::new();
    for direction in Direction::ALL {
        sets.extend(FAMILIES.map(|family| targets(plan, direction, family)));
    }
    for family in FAMILIES {
        let isolated = plan.isolated.iter().filter(|address| Family::of(**address) == family);
        let elements = isolated.map(|address| element(&[*address]));
        sets.push(plain(&half("isolated", family), &[address_part(family)], elements));
        let selves = plan.selves.iter().filter(|(source, _)| Family::of(*source) == family);
        let elements = selves.map(|(source, destination)| element(&[*source, *destination]));
        sets.push(plain(&half("self", family), &[address_part(family); 2], elements));
    }
    let had = |name: &Name, is_same: &dyn Fn(&Plan) -> Option<bool>| {
        let before = before.filter(|before| is_same(before.plan) == Some(true))?;
        before.halves(name.as_str())
    };
    for (name, addresses) in &plan.pods {
        sets.extend(pods(name.as_str(), addresses));
    }
    for (name, ranges) in &plan.nets {
        let halves = FAMILIES.into_iter().zip(nets(name.as_str(), ranges));
        let asked = halves.filter(|(family, _)| peer_in(plan, name, *family) == Matched::Set);
        sets.extend(asked.map(|(_, set)| set));
    }
    for (name, ports) in &plan.ports {
        if ports_of(plan, name).is_some() {
            continue;
        }
        let elements = ports.iter().map(|range| {
            let PortRange { protocol, first, last } = range;
            let protocol = [protocol.number()];
            Element::ranges(&[(&protocol, &protocol), (&first.to_be_bytes(), &last.to_be_bytes())])
        });
        let key = [KeyPart::Protocol, KeyPart::Service];
        sets.push(Set { is_interval: true, ..plain(name.as_str(), &key, elements) });
    }
    for (name, ports) in &plan.named_ports {
        let is_same = |before: &Plan| {
            let NamedPorts { v4, v6, .. } = before.named_ports.get(name)?;
            Some(Arc::ptr_eq(v4, &ports.v4) && Arc::ptr_eq(v6, &ports.v6))
        };
        sets.extend(had(name, &is_same).unwrap_or_else(|| named_ports(name.as_str(), ports)));
    }
    sets
}

fn plain(name: &str, key: &[KeyPart], elements: impl Iterator<Item = Element>) -> Set {
    Set {
        name: name.to_owned(),
        key: key.to_vec(),
        is_interval: false,
        can_expire: false,
        decides: false,
        elements: elements.collect(),
    }
}

const fn address_part(family: Family) -> KeyPart {
    match family {
        Family::V4 => KeyPart::Ipv4Address,
        Family::V6 => KeyPart::Ipv6Address,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().into(),
        IpAddr::V6(address) => address.octets().into(),
    }
}

fn element(addresses: &[IpAddr]) -> Element {
    let parts: Vec<_> = addresses.iter().map(|address| octets(*address)).collect();
    Element::of(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

/// The map of one direction.
fn targets(plan: &Plan, direction: Direction, family: Family) -> Set {
    let of_family =
        plan.targets(direction).iter().filter(|(address, _)| Family::of(**address) == family);
    let elements = of_family.map(|(address, target)| {
        let chain = match target {
            Target::Class(class) => class.as_str(),
            Target::Closed => CLOSED,
        };
        element(&[*address]).deciding(Verdict::Goto(chain.to_owned()))
    });
    let name = half(direction.as_str(), family);
    Set { decides: true, ..plain(&name, &[address_part(family)], elements) }
}

/// Shares the addresses with the plan.
fn pods(name: &str, addresses: &Addresses) -> [Set; 2] {
    let Addresses { v4, v6 } = addresses;
    let half = |family, elements| Set {
        elements,
        ..plain(&half(name, family), &[address_part(family)], iter::empty())
    };
    [
        half(Family::V4, Elements::Ipv4(Arc::clone(v4))),
        half(Family::V6, Elements::Ipv6(Arc::clone(v6))),
    ]
}

fn nets(name: &str, ranges: &Ranges) -> [Set; 2] {
    let v4 = ranges
        .v4
        .iter()
        .flat_map(|range| Element::interval(&range.start().octets(), &range.end().octets()));
    let v6 = ranges
        .v6
        .iter()
        .flat_map(|range| Element::interval(&range.start().octets(), &range.end().octets()));
    [
        plain(&half(name, Family::V4), &[KeyPart::Ipv4Address], v4),
        plain(&half(name, Family::V6), &[KeyPart::Ipv6Address], v6),
    ]
    .map(|set| Set { is_interval: true, ..set })
}

fn named_ports(name: &str, ports: &NamedPorts) -> [Set; 2] {
    let protocol = [ports.protocol.number()];
    let key = |part| [part, KeyPart::Protocol, KeyPart::Service];
    let v4 = ports
        .v4
        .iter()
        .map(|(address, port)| Element::of(&[&address.octets(), &protocol, &port.to_be_bytes()]));
    let v6 = ports
        .v6
        .iter()
        .map(|(address, port)| Element::of(&[&address.octets(), &protocol, &port.to_be_bytes()]));
    [
        plain(&half(name, Family::V4), &key(KeyPart::Ipv4Address), v4),
        plain(&half(name, Family::V6), &key(KeyPart::Ipv6Address), v6),
    ]
}
