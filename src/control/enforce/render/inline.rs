//! What a rule says itself, without a set.
//!
//! kernel: a set is found by its name, in a list of all sets of the table (`nft_set_lookup`), for
//! each rule that asks it and for each message about it. Three thousand rules with two sets each
//! took twelve seconds, nearly all of it there. Most networks and ports of policies are one, and
//! many are of one family.

use std::collections::BTreeSet;
use std::net::IpAddr;

use culvert_nft::{Comparison, Expression, Field, Register};
use culvert_policy::plan::{Destination, Name, Peers, Plan, PortRange, Rule};
use ipnet::IpNet;
use overlay_proto::Family;
use overlay_proto::Protocol;

/// What there is of a set of networks in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Matched {
    Nothing,
    One(Net),
    Set,
}

/// One network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Net(IpNet);

impl Net {
    /// Whether the address in `field` is in it.
    pub(super) fn is(self, field: Field) -> Vec<Expression> {
        let octets = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let Self(net) = self;
        if net.prefix_len() == 0 {
            return Vec::new();
        }
        let mut steps = vec![Expression::Payload(field, Register::One)];
        if net.prefix_len() < net.max_prefix_len() {
            steps.push(Expression::Mask(octets(net.netmask())));
        }
        steps.push(Expression::Compare(Comparison::Equal, octets(net.network())));
        steps
    }
}

/// What the set `name` of networks has of `family`.
pub(super) fn peer_in(plan: &Plan, name: &Name, family: Family) -> Matched {
    let Some(ranges) = plan.nets.get(name) else { return Matched::Nothing };
    let ends: Vec<(IpAddr, IpAddr)> = match family {
        Family::V4 => {
            let ranges = ranges.v4.iter().take(2);
            ranges.map(|range| ((*range.start()).into(), (*range.end()).into())).collect()
        }
        Family::V6 => {
            let ranges = ranges.v6.iter().take(2);
            ranges.map(|range| ((*range.start()).into(), (*range.end()).into())).collect()
        }
    };
    match ends.as_slice() {
        [] => Matched::Nothing,
        [(first, last)] => {
            network(*first, *last).map_or(Matched::Set, |net| Matched::One(Net(net)))
        }
        [..] => Matched::Set,
    }
}

/// The network that begins and ends with these addresses; none, if none does.
fn network(first: IpAddr, last: IpAddr) -> Option<IpNet> {
    let differing = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            (u32::from(first) ^ u32::from(last)).leading_zeros()
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            (u128::from(first) ^ u128::from(last)).leading_zeros()
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    };
    let net = IpNet::new(first, u8::try_from(differing).ok()?).ok()?;
    (net.network() == first && net.broadcast() == last).then_some(net)
}

/// The one port that the set `name` has; none, if it has several.
pub(super) fn ports_of(plan: &Plan, name: &Name) -> Option<(Protocol, u16)> {
    match &**plan.ports.get(name)? {
        [PortRange { protocol, first, last }] if first == last => Some((*protocol, *first)),
        _ => None,
    }
}

/// The sets whose content is another than before, of those that rules may say themselves.
#[derive(Debug, Default)]
pub(super) struct Changed<'a>(BTreeSet<&'a Name>);

/// What differs between two plans.
pub(super) fn changed<'a>(before: &Plan, plan: &'a Plan) -> Changed<'a> {
    let nets = plan.nets.iter().filter(|(name, ranges)| before.nets.get(*name) != Some(*ranges));
    let ports = plan.ports.iter().filter(|(name, ports)| before.ports.get(*name) != Some(*ports));
    Changed(nets.map(|(name, _)| name).chain(ports.map(|(name, _)| name)).collect())
}

impl Changed<'_> {
    /// Whether one of `rules` is about any of them.
    pub(super) fn is_in(&self, rules: &[Rule]) -> bool {
        let is_about = |rule: &Rule| {
            matches!(&rule.peers, Peers::Net(name) if self.0.contains(name))
                || matches!(&rule.to, Destination::Ports(name) if self.0.contains(name))
        };
        !self.0.is_empty() && rules.iter().any(is_about)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn network_is_what_begins_and_ends_at_its_ends() {
        let is = |first, last, net: Option<&str>| {
            assert_eq!(network(ip(first), ip(last)), net.map(|net| net.parse().unwrap()));
        };
        is("10.1.0.0", "10.1.255.255", Some("10.1.0.0/16"));
        is("10.1.0.0", "10.1.0.0", Some("10.1.0.0/32"));
        is("0.0.0.0", "255.255.255.255", Some("0.0.0.0/0"));
        is("10.1.0.1", "10.1.0.2", None);
        is("10.1.0.0", "10.1.0.2", None);
        is("fd00::", "fd00::ffff", Some("fd00::/112"));
        is("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Some("::/0"));
    }

    #[test]
    fn network_is_compared_as_far_as_it_goes() {
        let field = Field { base: culvert_nft::Base::Network, offset: 12, len: 4 };
        let steps = |net: &str| Net(net.parse().unwrap()).is(field);
        assert_eq!(steps("0.0.0.0/0"), []);
        let payload = Expression::Payload(field, Register::One);
        let is = |bytes: [u8; 4]| Expression::Compare(Comparison::Equal, bytes.to_vec());
        assert_eq!(steps("10.1.2.3/32"), [payload.clone(), is([10, 1, 2, 3])]);
        let mask = Expression::Mask(vec![255, 254, 0, 0]);
        assert_eq!(steps("10.2.0.0/15"), [payload, mask, is([10, 2, 0, 0])]);
    }
}
