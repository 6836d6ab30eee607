//! What leaves: to tunnels' ports, and by other devices than ours, with or without translation.

use culvert_dataplane::platform::udp::SOCKET_MARK;
use culvert_nft::{Chain, ChainKind, Comparison, Expression, Hook, Membership};

use super::family::ClusterFamily;
use super::ports::{CODEC_PORTS, TUNNEL_PORTS, UDP, UDP_DESTINATION, udp_port_in};
use super::{ACCEPT, DROP, RAW, predecessor};
use crate::control::node::NodeSpec;

/// `NF_IP_PRI_NAT_SRC`.
const SOURCE_NAT: i32 = 100;

/// What this node sends, before anybody can change its mark: to a tunnel's port of another node
/// nobody sends but the daemon.
///
/// While a predecessor carries, what it sends has no process: root's and the kernel's passes then.
pub(super) fn output(spec: &NodeSpec, families: &[ClusterFamily]) -> Chain {
    let is_daemon = Expression::mark_is(SOCKET_MARK);
    let mut rules = vec![
        [&Expression::upper_protocol(Comparison::NotEqual, UDP)[..], &ACCEPT].concat(),
        // Of any codec: this node may speak sealed alone, and others not yet.
        [&Expression::field_in(UDP_DESTINATION, Membership::Outside, CODEC_PORTS)[..], &ACCEPT]
            .concat(),
        [&is_daemon[..], &[Expression::NoTrack], &ACCEPT].concat(),
    ];
    // Pods use the ports as they like, so the node's processes may talk to them.
    rules.extend(families.iter().map(|family| [&family.to_cluster()[..], &ACCEPT].concat()));
    if predecessor(spec).is_some() {
        rules.push([&Expression::is_unprivileged()[..], &DROP].concat());
        rules.push([&[Expression::NoTrack][..], &ACCEPT].concat());
    } else {
        rules.push(DROP.to_vec());
    }
    Chain { name: "output", kind: ChainKind::Filter, hook: Hook::Output, priority: RAW, rules }
}

/// Masquerades what pods send to the outside; none where nothing is to be translated.
pub(super) fn postrouting(families: &[ClusterFamily]) -> Option<Chain> {
    // Fully random: two flows that race for one source port lose packets (DNS waits 5 s).
    let masquerade = |family: &ClusterFamily| {
        [&family.pods_to_outside()[..], &[Expression::Masquerade]].concat()
    };
    let rules: Vec<_> =
        families.iter().filter(|family| family.translated).map(masquerade).collect();
    (!rules.is_empty()).then_some(Chain {
        name: "postrouting",
        kind: ChainKind::Nat,
        hook: Hook::Postrouting,
        priority: SOURCE_NAT,
        rules,
    })
}

/// What leaves by another device than ours, under the addresses and ports that it leaves with.
pub(super) fn after_translation(spec: &NodeSpec, families: &[ClusterFamily]) -> Chain {
    let to_ours =
        |device: &str| [&Expression::output_name(Comparison::Equal, device)[..], &ACCEPT].concat();
    let mut rules = vec![to_ours(&spec.bridge), to_ours(&spec.tun)];
    // Pods use the ports as they like, by whatever way their packets take.
    rules.extend(families.iter().map(|family| [&family.to_cluster()[..], &ACCEPT].concat()));
    rules.push(
        // As in `input`: it was sent to another port or address, by a pod or by a process.
        [&udp_port_in(TUNNEL_PORTS)[..], &Expression::is_tracked(), &DROP].concat(),
    );
    let translated: Vec<_> = families.iter().filter(|family| family.translated).collect();
    if !translated.is_empty() {
        // Somebody outside reached the pod under its own address, by a route of the
        // administrator's.
        rules.push([&Expression::is_reply()[..], &ACCEPT].concat());
    }
    // Connection tracking does not translate what it calls invalid, nor what is not tracked.
    rules.extend(translated.iter().map(|family| [&family.pods_to_outside()[..], &DROP].concat()));
    Chain {
        name: "after_translation",
        kind: ChainKind::Filter,
        hook: Hook::Postrouting,
        priority: SOURCE_NAT + 1,
        rules,
    }
}
