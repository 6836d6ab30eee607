//! The addresses of a pod.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses of one pod: of each family one, as in Kubernetes, and whatever more it was given,
/// such as those of a second interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodAddresses {
    /// The first of IPv4.
    pub v4: Option<Ipv4Addr>,
    /// The first of IPv6.
    pub v6: Option<Ipv6Addr>,
    /// All others, in the order in which they came. Most pods have none, and a cluster has many
    /// pods.
    more: Option<Box<[IpAddr]>>,
}

impl PodAddresses {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> {
        let first = self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6));
        first.chain(self.more.iter().flatten().copied())
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }
}

impl FromIterator<IpAddr> for PodAddresses {
    fn from_iter<T: IntoIterator<Item = IpAddr>>(addresses: T) -> Self {
        let (mut pod, mut more) = (Self::default(), Vec::new());
        for address in addresses {
            match address {
                IpAddr::V4(address) if pod.v4.is_none() => pod.v4 = Some(address),
                IpAddr::V6(address) if pod.v6.is_none() => pod.v6 = Some(address),
                _ if pod.iter().any(|known| known == address) || more.contains(&address) => {}
                IpAddr::V4(_) | IpAddr::V6(_) => more.push(address),
            }
        }
        pod.more = (!more.is_empty()).then(|| more.into());
        pod
    }
}
