//! A part of a subnet that an address may come from.

use std::net::IpAddr;

use ipnet::IpNet;

use super::address;

/// A subnet of the node, or a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The node's subnet.
    pub subnet: IpNet,
    /// First and last address; `None` for all of the subnet.
    pub bounds: Option<(IpAddr, IpAddr)>,
}

impl Range {
    /// All of `subnet`.
    #[must_use]
    pub const fn whole(subnet: IpNet) -> Self {
        Self { subnet, bounds: None }
    }

    /// The subnets of each family, in the order of first appearance.
    #[must_use]
    pub fn by_family(subnets: &[IpNet]) -> Vec<Vec<Self>> {
        let is_v6 = |subnet: &IpNet| matches!(subnet, IpNet::V6(_));
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for subnet in subnets {
            let is_of_first = is_v6(subnet) == subnets.first().is_some_and(is_v6);
            let family = if is_of_first { &mut first } else { &mut second };
            family.push(Self::whole(*subnet));
        }
        [first, second].into_iter().filter(|family| !family.is_empty()).collect()
    }

    /// First and last address of a part of a node's subnet: all but those that would be network and
    /// broadcast address if it stood alone, as the reference plugin has it.
    #[must_use]
    pub fn pods_of(part: IpNet) -> Option<(IpAddr, IpAddr)> {
        let (first, last) = (address::successor(part.network())?, address::last(&part));
        (first <= last).then_some((first, last))
    }

    /// Whether a pod can have `address` from this range.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let in_bounds = self.bounds.is_none_or(|(first, last)| first <= address && address <= last);
        let for_pods = address::first(&self.subnet)
            .is_some_and(|first| first <= address && address <= address::last(&self.subnet));
        in_bounds && for_pods && self.subnet.contains(&address)
    }
}
