//! The MTU of the underlay toward each peer, as the routing table tells it.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use anyhow::Context as _;
use culvert_netlink::{Flow, Link, Path, RouteAnswer};

use super::Reconciler;

/// MTUs toward peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathMtu {
    /// The smallest, in bytes.
    pub smallest: u16,
    /// A peer that has the smallest.
    pub peer: IpAddr,
    /// Every peer that has a route, in the order asked for.
    pub per_peer: Vec<(IpAddr, u16)>,
}

impl Reconciler {
    /// Asks how the kernel would route each of `flows`, the datagrams to the peers, and says the
    /// MTU toward each; none when no route leads to any of them.
    ///
    /// A route's own MTU counts before its device's. This machine's own addresses are left out, and
    /// with them loopback's 65,536 bytes, which say nothing about the underlay.
    ///
    /// # Errors
    ///
    /// When the kernel cannot be asked.
    pub fn path_mtu(&mut self, flows: &[Flow]) -> anyhow::Result<Option<PathMtu>> {
        let links = self.netlink.socket.links().context("reading device MTUs")?;
        let links: Vec<Link> = links.into_iter().filter(|link| !link.loopback).collect();
        let devices: HashMap<u32, u32> = links.iter().map(|link| (link.index, link.mtu)).collect();
        let answers = self.netlink.socket.look_up_routes(flows.iter().copied())?;
        let mut paths: Vec<(IpAddr, Option<Path>)> = flows
            .iter()
            .zip(answers)
            .map(|(flow, answer)| (flow.destination, path(answer)))
            .collect();
        // kernel: from an address that this machine does not have (yet) there is no route at all.
        if paths.iter().all(|(_peer, path)| path.is_none()) {
            let without = flows.iter().map(|flow| Flow { source: None, ..*flow });
            let answers = self.netlink.socket.look_up_routes(without)?;
            for ((_peer, found), answer) in paths.iter_mut().zip(answers) {
                *found = path(answer);
            }
        }
        // Our sockets go by the device alone. A router may have advertised less for IPv6.
        let used: HashSet<u32> = paths
            .iter()
            .filter(|(peer, _)| peer.is_ipv6())
            .flat_map(|(_, path)| path.iter().flat_map(|path| &path.links))
            .copied()
            .collect();
        let devices6 = self.ipv6_mtus(links.iter().filter(|link| used.contains(&link.index)))?;
        let per_peer: Vec<(IpAddr, u16)> = paths
            .into_iter()
            .filter_map(|(peer, path)| {
                let devices = if peer.is_ipv6() { &devices6 } else { &devices };
                Some((peer, mtu(&path?, devices)?))
            })
            .collect();
        Ok(per_peer
            .iter()
            .min_by_key(|(_peer, mtu)| *mtu)
            .copied()
            .map(|(peer, smallest)| PathMtu { smallest, peer, per_peer }))
    }
}

impl Reconciler {
    /// What IPv6 packets may have on each device.
    fn ipv6_mtus<'a>(
        &self,
        links: impl Iterator<Item = &'a Link>,
    ) -> anyhow::Result<HashMap<u32, u32>> {
        let mtu = |link: &Link| {
            let value = self.sysctls.read(&format!("net/ipv6/conf/{}/mtu", link.name))?;
            let mtu = value.and_then(|value| value.parse().ok()).unwrap_or(link.mtu);
            Ok((link.index, mtu.min(link.mtu)))
        };
        links.map(mtu).collect()
    }
}

fn path(answer: RouteAnswer) -> Option<Path> {
    match answer {
        RouteAnswer::Out(path) => Some(path),
        RouteAnswer::Local | RouteAnswer::Refused(_) => None,
    }
}

/// The MTU of a path; `devices` has those of every device but loopback.
fn mtu(path: &Path, devices: &HashMap<u32, u32>) -> Option<u16> {
    // Of several next hops any may be taken, so the smallest counts.
    let device = path.links.iter().filter_map(|link| devices.get(link)).min()?;
    // A route may promise more than its device carries; the kernel then goes by the device.
    let mtu = path.route.mtu.map_or(*device, |route| route.min(*device));
    Some(u16::try_from(mtu).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::route;
    use super::*;
    use culvert_netlink::Route;

    const DEVICES: [(u32, u32); 3] = [(2, 1500), (3, 9000), (4, 70_000)];

    fn of(mtu_of_route: Option<u32>, links: &[u32]) -> Option<u16> {
        let route = Route { mtu: mtu_of_route, ..route() };
        let path = Path { route, links: links.to_vec() };
        mtu(&path, &HashMap::from(DEVICES))
    }

    #[test]
    fn routes_own_mtu_counts_before_the_devices() {
        assert_eq!(of(Some(1400), &[2]), Some(1400));
        assert_eq!(of(None, &[2]), Some(1500));
        assert_eq!(of(Some(9000), &[2]), Some(1500));
    }

    #[test]
    fn smallest_of_several_next_hops_counts() {
        assert_eq!(of(None, &[3, 2]), Some(1500));
    }

    #[test]
    fn loopback_is_left_out_and_absurd_values_are_told() {
        assert_eq!(of(None, &[1]), None);
        assert_eq!(of(Some(100), &[2]), Some(100));
        assert_eq!(of(None, &[4]), Some(u16::MAX));
    }
}
