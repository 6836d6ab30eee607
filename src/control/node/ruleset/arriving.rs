//! What comes in: by pods, from the underlay, and from outside for somebody else.

use culvert_nft::{Chain, ChainKind, Comparison, Expression, Hook};
use culvert_node::pod_port::DEVICE_GROUP;

use super::family::ClusterFamily;
use super::ports::{CODEC_PORTS, TUNNEL_PORTS, UDP, port_in, udp_port_in};
use super::{ACCEPT, DROP, FILTER, RAW, predecessor};
use crate::control::node::NodeSpec;

/// What comes in, before it is tracked. All but UDP is through after the second rule.
pub(super) fn prerouting(spec: &NodeSpec, families: &[ClusterFamily]) -> Chain {
    let from_pods = Expression::input_name(Comparison::Equal, &spec.bridge);
    let not_from_pods = Expression::input_name(Comparison::NotEqual, &spec.bridge);
    // What arrives from the tunnel to such a port is somebody's payload, not ours.
    let not_inner = Expression::input_name(Comparison::NotEqual, &spec.tun);
    let mut rules = vec![
        // By the bridge a packet has the bridge as its device, so this one passed no rule for pods.
        [&Expression::input_group_is(DEVICE_GROUP)[..], &DROP].concat(),
        [&Expression::upper_protocol(Comparison::NotEqual, UDP)[..], &ACCEPT].concat(),
        [&not_from_pods[..], &not_inner, &port_in(TUNNEL_PORTS), &[Expression::NoTrack], &ACCEPT]
            .concat(),
    ];
    // Among themselves pods use the ports as they like. Accepting ends this chain only.
    rules.extend(families.iter().map(|family| {
        [&from_pods[..], &port_in(CODEC_PORTS), &family.to_cluster(), &ACCEPT].concat()
    }));
    rules.push([&from_pods[..], &port_in(CODEC_PORTS), &DROP].concat());
    Chain {
        name: "prerouting",
        kind: ChainKind::Filter,
        hook: Hook::Prerouting,
        priority: RAW,
        rules,
    }
}

/// What comes in for this node: a tunnel's datagram that is tracked was sent to something else and
/// got here by translation.
pub(super) fn input() -> Chain {
    let rule = [&udp_port_in(TUNNEL_PORTS)[..], &Expression::is_tracked(), &DROP].concat();
    Chain {
        name: "input",
        kind: ChainKind::Filter,
        hook: Hook::Input,
        priority: FILTER,
        rules: vec![rule],
    }
}

/// What comes in by no device of ours and goes on to others. Packets of other nodes' pods come by
/// the tunnel, which knows whose they are; those of this node's by the bridge. So what comes
/// otherwise is from no pod. Who has a route of his own to pods may use it, except where nodes
/// speak sealed alone: there pods hear the outside when they have asked it, or as a service.
pub(super) fn arrivals(spec: &NodeSpec, families: &[ClusterFamily]) -> Chain {
    let by = |device: &str| Expression::input_name(Comparison::Equal, device);
    let devices = [&spec.bridge, &spec.tun].into_iter().chain(predecessor(spec));
    let mut rules: Vec<Vec<Expression>> =
        devices.map(|device| [&by(device)[..], &ACCEPT].concat()).collect();
    // kernel: a packet from outside under an address of this machine is noticed for IPv4 only.
    rules.push([&Expression::is_from_here()[..], &DROP].concat());
    let to_service = [&Expression::is_to_service()[..], &ACCEPT].concat();
    if !spec.masquerade {
        // Another node's pod may ask this node for a service under its own address.
        rules.push(to_service.clone());
    }
    rules.extend(families.iter().map(|family| [&family.of_cluster()[..], &DROP].concat()));
    if spec.sealed_only {
        rules.push(to_service);
        rules.push([&Expression::is_reply()[..], &ACCEPT].concat());
        rules.extend(families.iter().map(|family| [&family.to_cluster()[..], &DROP].concat()));
    }
    Chain {
        name: "arrivals",
        kind: ChainKind::Filter,
        hook: Hook::Forward,
        priority: FILTER,
        rules,
    }
}
