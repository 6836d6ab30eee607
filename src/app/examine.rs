//! A look at the node from beside its daemon.

use culvert_dataplane::platform::udp::SOCKET_MARK;
use culvert_netlink::{Flow, Neighbour, Rtnetlink, Socket};

use crate::control::node::{NodeSpec, Reconciler, narrow_subnets};
use crate::observe::{PeerStatus, Setup};
use crate::platform::sysctl::Sysctls;

pub(crate) use crate::control::node::{Action, Astray, Examination, PROTOCOL};

/// Looks at the kernel's state of a node that is to be set up like `setup`, and changes nothing.
///
/// # Errors
///
/// The kernel does not answer.
pub(crate) fn examine(setup: &Setup, peers: &[PeerStatus]) -> anyhow::Result<Examination> {
    let sysctls = Sysctls::at(&setup.sysctl_dir);
    Reconciler::open()?.with_sysctls(sysctls).examine(&node_spec(setup, peers))
}

/// The rules of all programs but this one.
///
/// # Errors
///
/// The kernel does not answer, or has no nftables.
pub(crate) fn foreign_rules() -> anyhow::Result<culvert_nft::Rules> {
    Reconciler::foreign_rules()
}

/// What the kernel knows of the neighbours behind a device.
///
/// # Errors
///
/// The kernel does not answer.
pub(crate) fn neighbours(link: u32) -> anyhow::Result<Vec<Neighbour>> {
    let mut socket: Socket<Rtnetlink> = Socket::open()?;
    Ok(socket.neighbours(link)?)
}

/// What the daemon goes by, from what it says of itself.
fn node_spec(setup: &Setup, peers: &[PeerStatus]) -> NodeSpec {
    let flow = |peer: &PeerStatus| Flow {
        source: setup.address,
        udp_port: Some(peer.port),
        mark: SOCKET_MARK,
        ..Flow::to(peer.address)
    };
    NodeSpec {
        tun: setup.tun.clone(),
        bridge: setup.bridge.clone(),
        cluster_networks: setup.cluster_networks.clone(),
        local_subnets: setup.local_subnets.clone(),
        mtu: setup.mtu,
        underlay_ports: setup.underlay_ports.clone(),
        codec_ports: setup.codec_ports.clone(),
        remote_subnets: peers.iter().flat_map(|peer| peer.subnets.iter().copied()).collect(),
        peers: peers.iter().map(flow).collect(),
        masquerade: setup.masquerade,
        sealed_only: setup.sealed_only,
        narrow_subnets: narrow_subnets(
            setup.mtu,
            peers.iter().map(|peer| (&peer.subnets[..], peer.mtu)),
        ),
        predecessor: None,
    }
}
