//! The address families of the cluster: what each has of networks, and how its packets are told.

use culvert_nft::{
    Base, Comparison, Element, Expression, Field, KeyPart, Membership, Register, Set,
};
use ipnet::IpNet;
use overlay_proto::Family;

use crate::control::node::NodeSpec;

/// One address family that the cluster has a network of.
pub(super) struct ClusterFamily {
    pub(super) family: Family,
    /// Whether what local pods send to the outside is masqueraded.
    pub(super) translated: bool,
    local: Vec<IpNet>,
    cluster: Vec<IpNet>,
}

impl ClusterFamily {
    fn local_set(&self) -> String {
        format!("local_{}", self.suffix())
    }

    pub(super) fn cluster_set(&self) -> String {
        format!("cluster_{}", self.suffix())
    }

    const fn suffix(&self) -> &'static str {
        match self.family {
            Family::V4 => "v4",
            Family::V6 => "v6",
        }
    }

    /// Matches packets of the family (`NFPROTO_IPV4`, `NFPROTO_IPV6`).
    fn is_family(&self) -> [Expression; 2] {
        Self::is_ip(self.family)
    }

    pub(super) fn is_ip(family: Family) -> [Expression; 2] {
        match family {
            Family::V4 => Expression::is_ipv4(),
            Family::V6 => Expression::is_ipv6(),
        }
    }

    /// Matches what bears an address of the cluster as its source.
    pub(super) fn of_cluster(&self) -> Vec<Expression> {
        let source = Expression::field_in(self.source(), Membership::Inside, &self.cluster_set());
        [self.is_family(), source].concat()
    }

    /// Matches what goes to the cluster.
    pub(super) fn to_cluster(&self) -> Vec<Expression> {
        let destination =
            Expression::field_in(self.destination(), Membership::Inside, &self.cluster_set());
        [self.is_family(), destination].concat()
    }

    /// Matches what bears the address of a pod of this node and goes to one host outside the
    /// cluster.
    pub(super) fn pods_to_outside(&self) -> Vec<Expression> {
        let from_here = Expression::field_in(self.source(), Membership::Inside, &self.local_set());
        let to_outside =
            Expression::field_in(self.destination(), Membership::Outside, &self.cluster_set());
        let [multicast, mask] = self.multicast();
        let to_one = [
            Expression::Payload(self.destination(), Register::One),
            Expression::Mask(mask),
            Expression::Compare(Comparison::NotEqual, multicast),
        ];
        [&self.is_family()[..], &from_here, &to_outside, &to_one].concat()
    }

    pub(super) const fn source(&self) -> Field {
        let (offset, len) = match self.family {
            Family::V4 => (12, 4),
            Family::V6 => (8, 16),
        };
        Field { base: Base::Network, offset, len }
    }

    pub(super) const fn destination(&self) -> Field {
        let (offset, len) = match self.family {
            Family::V4 => (16, 4),
            Family::V6 => (24, 16),
        };
        Field { base: Base::Network, offset, len }
    }

    /// Destinations that have no single answering host, as prefix and mask: 224.0.0.0/4, ff00::/8.
    fn multicast(&self) -> [Vec<u8>; 2] {
        let (len, prefix, mask) = match self.family {
            Family::V4 => (4, 0xe0, 0xf0),
            Family::V6 => (16, 0xff, 0xff),
        };
        [prefix, mask].map(|first| {
            let mut bytes = vec![0; len];
            bytes[0] = first;
            bytes
        })
    }

    /// The sets of its networks.
    pub(super) fn sets(&self) -> impl Iterator<Item = Set> {
        let local = self.translated.then(|| self.set(&self.local_set(), &self.local));
        local.into_iter().chain([self.set(&self.cluster_set(), &self.cluster)])
    }

    fn set(&self, name: &str, networks: &[IpNet]) -> Set {
        let address = match self.family {
            Family::V4 => KeyPart::Ipv4Address,
            Family::V6 => KeyPart::Ipv6Address,
        };
        Set {
            name: name.to_owned(),
            key: vec![address],
            is_interval: true,
            can_expire: false,
            decides: false,
            elements: networks
                .iter()
                .flat_map(|network| match network {
                    IpNet::V4(net) => {
                        Element::interval(&net.network().octets(), &net.broadcast().octets())
                    }
                    IpNet::V6(net) => {
                        Element::interval(&net.network().octets(), &net.broadcast().octets())
                    }
                })
                .collect(),
        }
    }
}

/// The families of the cluster, IPv4 first.
pub(super) fn families(spec: &NodeSpec) -> Vec<ClusterFamily> {
    Family::BOTH
        .into_iter()
        .map(|family| {
            let of = |networks: &[IpNet]| {
                let networks: Vec<IpNet> = networks
                    .iter()
                    .filter(|network| Family::of(network.addr()) == family)
                    .map(IpNet::trunc)
                    .collect();
                // An interval set refuses elements that overlap.
                IpNet::aggregate(&networks)
            };
            let local = of(&spec.local_subnets);
            ClusterFamily {
                family,
                translated: spec.masquerade && !local.is_empty(),
                local,
                cluster: of(&spec.cluster_networks),
            }
        })
        .filter(|family| !family.cluster.is_empty())
        .collect()
}
