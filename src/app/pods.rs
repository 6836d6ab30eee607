//! This node's pods, asked of the kernel when somebody wants to know.

use culvert_netlink::{Rtnetlink, Socket};
use culvert_node::pod_port::PodPort;

use crate::observe::PodStatus;

/// What the notes on the ports say, which waits for the kernel.
///
/// # Errors
///
/// The kernel refuses, or does not answer.
pub(super) fn pods() -> anyhow::Result<Vec<PodStatus>> {
    let mut socket: Socket<Rtnetlink> = Socket::open()?;
    let links = socket.links_despite_changes()?;
    let noted = links.iter().filter_map(|link| PodPort::from_note(&link.name, &link.alias));
    let mut pods: Vec<PodStatus> = noted.map(pod_status).collect();
    pods.sort_by(|one, other| one.addresses.cmp(&other.addresses));
    Ok(pods)
}

fn pod_status(port: PodPort) -> PodStatus {
    let owner = port.owner();
    PodStatus {
        network: owner.network().to_owned(),
        container: owner.container().to_owned(),
        interface: owner.ifname().to_owned(),
        addresses: port.addresses.iter().map(ipnet::IpNet::addr).collect(),
        device: port.device,
    }
}
