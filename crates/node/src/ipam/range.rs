//! What an attachment may get: ranges of addresses, and addresses that it asks for.
//!
//! A range that exists is sound: its bounds are of its subnet, in order, and never the network's
//! own address or IPv4 broadcast.

use std::fmt;
use std::net::IpAddr;

use super::address::{first, last};
use crate::node_file;
use ipnet::IpNet;
use overlay_proto::Mac;

/// Addresses of one subnet that pods may get: all between two bounds but the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    subnet: IpNet,
    /// `None` when the subnet has no address for a pod at all.
    bounds: Option<(IpAddr, IpAddr)>,
    gateway: IpAddr,
}

impl Range {
    /// Every address of `subnet` that a pod may have, with the bridge's address as gateway.
    #[must_use]
    pub fn whole(subnet: IpNet) -> Self {
        let subnet = subnet.trunc();
        let (first, last) = (first(&subnet), last(&subnet));
        Self {
            subnet,
            bounds: first.filter(|first| *first <= last).map(|first| (first, last)),
            gateway: node_file::gateway(&subnet).addr(),
        }
    }

    /// The addresses of `part` that pods of `subnet` may have, from `start` to `end` where those
    /// are given; `None` if there is none.
    ///
    /// What would be network and broadcast address if `part` stood alone is left out unless `start`
    /// or `end` says otherwise, as the reference plugin has it.
    #[must_use]
    pub fn part(
        subnet: IpNet,
        part: IpNet,
        start: Option<IpAddr>,
        end: Option<IpAddr>,
    ) -> Option<Self> {
        let whole = Self::whole(subnet);
        let (lowest, highest) = whole.bounds?;
        let start = start.or_else(|| first(&part))?.max(lowest);
        let end = end.unwrap_or_else(|| last(&part)).min(highest);
        (start <= end).then_some(Self { bounds: Some((start, end)), ..whole })
    }

    /// The range that a pod's address is of, by what its interface says: its whole subnet, or the
    /// address alone if it is no address for pods there.
    #[must_use]
    pub(super) fn around(address: IpNet) -> Self {
        let whole = Self::whole(address);
        if whole.contains(address.addr()) {
            return whole;
        }
        let alone = Self::whole(address.addr().into());
        Self { bounds: Some((address.addr(), address.addr())), ..alone }
    }

    /// The subnet that the addresses are of.
    #[must_use]
    pub fn subnet(&self) -> IpNet {
        self.subnet
    }

    /// The gateway of pods in this range.
    #[must_use]
    pub fn gateway(&self) -> IpAddr {
        self.gateway
    }

    /// Whether a pod may have `address`.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let within = self.bounds.is_some_and(|(first, last)| (first..=last).contains(&address));
        within && address != self.gateway
    }

    /// How many addresses pods may have.
    #[must_use]
    pub fn capacity(&self) -> u128 {
        let number = |address: IpAddr| match address {
            IpAddr::V4(address) => u128::from(u32::from(address)),
            IpAddr::V6(address) => u128::from(address),
        };
        let Some((first, last)) = self.bounds else { return 0 };
        let all = (number(last) - number(first)).saturating_add(1);
        let has_gateway = (first..=last).contains(&self.gateway);
        if has_gateway { all - 1 } else { all }
    }

    pub(super) fn bounds(&self) -> Option<(IpAddr, IpAddr)> {
        self.bounds
    }

    /// The bounds, if they are not all that the subnet has.
    pub(super) fn narrowed(&self) -> Option<(IpAddr, IpAddr)> {
        self.bounds.filter(|_| self.bounds != Self::whole(self.subnet).bounds)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.narrowed() {
            None => self.subnet.fmt(formatter),
            Some((first, last)) => write!(formatter, "{first} to {last} of {}", self.subnet),
        }
    }
}

/// What an attachment is to get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// One address comes out of each set, from the first of its ranges that has room.
    pub sets: Vec<Vec<Range>>,
    /// Addresses that must be the ones; each takes the place of a free one of its set.
    pub addresses: Vec<IpAddr>,
    /// The MAC address that must be the one, if any must.
    pub mac: Option<Mac>,
}

impl Request {
    /// One free address for each family that `subnets` has, in the order of first appearance.
    #[must_use]
    pub fn one_of_each_family(subnets: &[IpNet]) -> Self {
        let is_v6 = |subnet: &IpNet| matches!(subnet, IpNet::V6(_));
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for subnet in subnets {
            let range = Range::whole(*subnet);
            if is_v6(subnet) == subnets.first().is_some_and(is_v6) {
                first.push(range);
            } else {
                second.push(range);
            }
        }
        let sets = [first, second].into_iter().filter(|family| !family.is_empty()).collect();
        Self { sets, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_is_what_pods_may_have() {
        for (subnet, capacity) in [
            ("10.244.1.0/24", 253),
            ("10.244.1.0/30", 1),
            ("10.244.1.0/32", 0),
            ("fd00:1::/126", 2),
            ("fd00:1::/64", (1 << 64) - 2),
        ] {
            let range = whole(subnet);
            assert_eq!(range.capacity(), capacity, "{subnet}");
        }
    }

    fn whole(subnet: &str) -> Range {
        Range::whole(subnet.parse().unwrap())
    }

    fn ip(address: &str) -> IpAddr {
        address.parse().unwrap()
    }

    #[test]
    fn network_gateway_and_broadcast_are_not_for_pods() {
        let cases = [
            ("10.244.1.0/24", "10.244.1.2", "10.244.1.254", "10.244.1.255"),
            ("10.244.1.4/30", "10.244.1.6", "10.244.1.6", "10.244.1.7"),
            ("255.255.255.248/29", "255.255.255.250", "255.255.255.254", "255.255.255.255"),
        ];
        for (subnet, first, last, broadcast) in cases {
            let range = whole(subnet);
            assert!(range.contains(ip(first)) && range.contains(ip(last)), "{subnet}");
            assert!(!range.contains(range.gateway()) && !range.contains(ip(broadcast)), "{subnet}");
            assert!(!range.contains(range.subnet().network()), "{subnet}");
        }
        assert!(whole("fd00:1::/64").contains(ip("fd00:1::ffff:ffff:ffff:ffff")));
    }

    #[test]
    fn range_around_an_address_has_it_whatever_the_prefix_length() {
        for (address, subnet) in [
            ("10.0.0.9/24", "10.0.0.0/24"),
            ("10.0.0.9/32", "10.0.0.9/32"),
            ("10.0.0.1/24", "10.0.0.1/32"),
            ("fd00::7/64", "fd00::/64"),
            ("fd00::7/128", "fd00::7/128"),
        ] {
            let address: IpNet = address.parse().unwrap();
            let range = Range::around(address);
            assert!(range.contains(address.addr()), "{address}");
            assert_eq!(range.subnet(), subnet.parse().unwrap(), "{address}");
        }
    }

    #[test]
    fn part_has_no_address_that_is_not_for_pods() {
        let subnet: IpNet = "10.0.0.0/24".parse().unwrap();
        let part = |start: &str, end: &str| {
            Range::part(subnet, subnet, Some(ip(start)), Some(ip(end))).map(|part| part.to_string())
        };
        let text = |bounds: &str| Some(format!("{bounds} of 10.0.0.0/24"));
        assert_eq!(part("10.0.0.10", "10.0.0.20"), text("10.0.0.10 to 10.0.0.20"));
        assert_eq!(part("10.0.0.0", "10.0.0.10"), text("10.0.0.1 to 10.0.0.10"));
        assert_eq!(part("10.0.0.10", "10.0.0.255"), text("10.0.0.10 to 10.0.0.254"));
        assert_eq!(part("10.0.0.20", "10.0.0.10"), None);
    }

    #[test]
    fn families_keep_the_order_of_the_subnets() {
        let subnets: Vec<IpNet> = ["fd00::/64", "10.0.0.0/24", "fd01::/64"]
            .iter()
            .map(|net| net.parse().unwrap())
            .collect();
        let request = Request::one_of_each_family(&subnets);
        let shapes: Vec<usize> = request.sets.iter().map(Vec::len).collect();
        assert_eq!(shapes, [2, 1]);
        assert_eq!(Request::one_of_each_family(&[]), Request::default());
    }
}
