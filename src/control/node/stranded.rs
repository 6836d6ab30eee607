//! Pods that have an address of a subnet which this node no longer has.

use std::fmt;
use std::net::IpAddr;

use culvert_node::pod_port::PodPort;
use ipnet::IpNet;

/// An address that other nodes do not send to this node, and that has no gateway here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranded {
    /// The pod's address.
    pub address: IpAddr,
    /// The node's end of the pod's cable.
    pub device: String,
}

impl fmt::Display for Stranded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, device } = self;
        write!(
            f,
            "{address} (device {device}) is in none of this node's subnets, so its pod has no network: \
             delete the pod, or give the node the old subnet back"
        )
    }
}

/// The addresses of `pods` that are in none of `subnets`.
pub(super) fn stranded(subnets: &[IpNet], pods: &[PodPort]) -> Vec<Stranded> {
    let is_ours = |address: &IpAddr| subnets.iter().any(|subnet| subnet.contains(address));
    let addresses =
        pods.iter().flat_map(|pod| pod.addresses.iter().map(move |of| (of.addr(), pod)));
    addresses
        .filter(|(address, _)| !is_ours(address))
        .map(|(address, pod)| Stranded { address, device: pod.device.clone() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::net;
    use super::*;

    #[test]
    fn a_pod_of_a_subnet_that_went_is_named() {
        let note = "culvert pod 0a:58:0a:f4:01:02 checked 10.244.1.2";
        let pods: Vec<PodPort> = PodPort::from_note("culv0", note).into_iter().collect();
        assert_eq!(stranded(&[net("10.244.1.0/24"), net("fd00:10:244:1::/64")], &pods), []);
        let found = stranded(&[net("10.244.9.0/24")], &pods);
        assert!(found[0].to_string().starts_with("10.244.1.2 (device culv0) is in none"));
        assert_eq!(found.len(), 1);
    }
}
