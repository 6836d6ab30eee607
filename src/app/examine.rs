//! A look at the node from beside its daemon.

use std::{fs, io};

use culvert_dataplane::platform::udp::SOCKET_MARK;
use culvert_netlink::{Flow, Link, Neighbour, Rtnetlink, Socket};

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

/// Whether rules of IP see the frames that `bridge` forwards: where `parameter`, the value of
/// `net.bridge.bridge-nf-call-iptables` or `ip6tables`, says so for all bridges, or its own option
/// for this one. A kernel without br_netfilter has no such parameter.
pub(crate) fn filters_frames(bridge: &Link, parameter: Option<&str>, is_ipv4: bool) -> bool {
    let [skips_ipv4, skips_ipv6] = bridge.skips_rules;
    let skips = if is_ipv4 { skips_ipv4 } else { skips_ipv6 };
    parameter.is_some_and(|value| value.trim() != "0" || !skips)
}

/// The parameter that says for all bridges whether rules of IP see their frames.
pub(crate) const fn frames_parameter(is_ipv4: bool) -> &'static str {
    if is_ipv4 {
        "net/bridge/bridge-nf-call-iptables"
    } else {
        "net/bridge/bridge-nf-call-ip6tables"
    }
}

/// Tables of iptables-legacy, as "iptables filter", and why it is not known which there are, where
/// it is not.
pub(crate) fn legacy_tables() -> (Vec<String>, Vec<String>) {
    let (mut legacy, mut unread) = (Vec::new(), Vec::new());
    for (program, file) in [("iptables", "ip_tables_names"), ("ip6tables", "ip6_tables_names")] {
        let path = format!("/proc/thread-self/net/{file}");
        match fs::read_to_string(&path) {
            Ok(names) => {
                legacy.extend(names.lines().map(|table| format!("{program} {table}")));
            }
            // A kernel without it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => unread.push(format!("{program}: {path}: {error}")),
        }
    }
    (legacy, unread)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_filtered_by_option_or_parameter_and_never_without_br_netfilter() {
        let filtered = |skips_rules, parameter| {
            let bridge = Link { skips_rules, ..Link::default() };
            [true, false].map(|is_ipv4| filters_frames(&bridge, parameter, is_ipv4))
        };
        assert_eq!(filtered([false; 2], None), [false; 2]);
        assert_eq!(filtered([true; 2], Some("1")), [true; 2]);
        assert_eq!(filtered([true; 2], Some("0")), [false; 2]);
        assert_eq!(filtered([false, true], Some("0")), [true, false]);
    }
}
