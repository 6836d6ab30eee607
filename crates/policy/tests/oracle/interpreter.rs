//! A kernel that has a plan for its rules: maps, chains and sets are walked as it walks them.

use std::net::IpAddr;

use culvert_policy::Plan;
use culvert_policy::judge::{Packet, Traffic};
use culvert_policy::plan::{Action, Destination, Direction, End, Name, Peers, Rule, Target};

/// Whether `packet` passes the rules of a node that has `plan`, and these addresses of its own.
pub(crate) fn passes(plan: &Plan, own: &[IpAddr], packet: Packet) -> bool {
    // What is for the node itself never comes to this hook.
    if own.contains(&packet.destination) {
        return true;
    }
    // fib saddr type local accept
    if own.contains(&packet.source) {
        return true;
    }
    // ip saddr . ip daddr @self accept
    if plan.selves.contains(&(packet.source, packet.destination)) {
        return true;
    }
    decide(plan, packet, Direction::Egress) && decide(plan, packet, Direction::Ingress)
}

fn decide(plan: &Plan, packet: Packet, direction: Direction) -> bool {
    let address = match direction {
        Direction::Egress => packet.source,
        Direction::Ingress => packet.destination,
    };
    let class = match plan.targets(direction).get(&address) {
        None => return true,
        Some(Target::Closed) => return false,
        Some(Target::Class(name)) => &plan.classes[name],
    };
    assert_eq!(class.direction, direction);
    for step in class.steps.iter() {
        let chain = &plan.chains[step];
        assert_eq!(chain.direction, direction);
        let matching = chain.rules.iter().find(|rule| matches(plan, rule, direction, packet));
        match matching.map(|rule| rule.action) {
            Some(Action::Accept) => return true,
            Some(Action::Deny) => return false,
            Some(Action::Pass) | None => {}
        }
    }
    match class.end {
        End::Deny => false,
        End::Audit | End::Accept => true,
    }
}

fn matches(plan: &Plan, rule: &Rule, direction: Direction, packet: Packet) -> bool {
    let peer = match direction {
        Direction::Egress => packet.destination,
        Direction::Ingress => packet.source,
    };
    let is_peer = match &rule.peers {
        Peers::Any => true,
        Peers::Pods(name) => match peer {
            IpAddr::V4(peer) => plan.pods[name].v4.binary_search(&peer).is_ok(),
            IpAddr::V6(peer) => plan.pods[name].v6.binary_search(&peer).is_ok(),
        },
        Peers::Net(name) => match peer {
            IpAddr::V4(peer) => plan.nets[name].v4.iter().any(|range| range.contains(&peer)),
            IpAddr::V6(peer) => plan.nets[name].v6.iter().any(|range| range.contains(&peer)),
        },
    };
    is_peer && is_destination(plan, &rule.to, packet)
}

fn is_destination(plan: &Plan, to: &Destination, packet: Packet) -> bool {
    match (to, packet.traffic) {
        (Destination::Any, _) => true,
        (Destination::Ports(_) | Destination::Named(_), Traffic::Other) => false,
        (Destination::Ports(name), Traffic::Port(protocol, port)) => {
            let ranges = plan.ports[name].iter();
            let mut ranges = ranges.filter(|range| range.protocol == protocol);
            ranges.any(|range| (range.first..=range.last).contains(&port))
        }
        (Destination::Named(name), Traffic::Port(protocol, port)) => {
            let set = &plan.named_ports[name];
            set.protocol == protocol
                && match packet.destination {
                    IpAddr::V4(address) => set.v4.contains(&(address, port)),
                    IpAddr::V6(address) => set.v6.contains(&(address, port)),
                }
        }
    }
}

/// What a kernel asks of a table before it takes it.
pub(crate) fn check(plan: &Plan) {
    let kinds = [
        plan.pods.keys().collect::<Vec<_>>(),
        plan.nets.keys().collect(),
        plan.ports.keys().collect(),
        plan.named_ports.keys().collect(),
        plan.chains.keys().collect(),
        plan.classes.keys().collect(),
    ];
    let names: Vec<&Name> = kinds.into_iter().flatten().collect();
    for name in &names {
        let text = name.as_str();
        assert!(text.len() <= Name::MAX_LEN, "{text}");
        assert!(text.starts_with(|c: char| c.is_ascii_lowercase()), "{text}");
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte);
        assert!(text.bytes().all(good), "{text}");
    }
    let mut unique = names.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), names.len(), "{names:?}");
    for ranges in plan.nets.values() {
        assert!(ranges.v4.is_sorted_by(|one, other| one.end() < other.start()));
        assert!(ranges.v6.is_sorted_by(|one, other| one.end() < other.start()));
    }
    for ports in plan.ports.values() {
        assert!(!ports.is_empty());
        assert!(ports.is_sorted_by(|one, other| {
            one.protocol < other.protocol
                || one.protocol == other.protocol && one.last < other.first
        }));
    }
    for pods in plan.pods.values() {
        assert!(pods.v4.is_sorted_by(|one, other| one < other));
        assert!(pods.v6.is_sorted_by(|one, other| one < other));
    }
    for chain in plan.chains.values() {
        for rule in chain.rules.iter() {
            assert!(rule.comment.len() <= Rule::MAX_COMMENT);
            assert!(!rule.comment.contains(['"', '\n']), "{}", rule.comment);
            match &rule.peers {
                Peers::Any => {}
                Peers::Pods(name) => assert!(plan.pods.contains_key(name)),
                Peers::Net(name) => assert!(plan.nets.contains_key(name)),
            }
            match &rule.to {
                Destination::Any => {}
                Destination::Ports(name) => assert!(plan.ports.contains_key(name)),
                Destination::Named(name) => assert!(plan.named_ports.contains_key(name)),
            }
        }
    }
    // What may be dropped is of pods that are known to be isolated, and of no others.
    for (address, target) in plan.egress.iter().chain(&plan.ingress) {
        assert!(plan.isolated.contains(address) || !may_drop(plan, target), "{address}");
    }
    for address in &plan.isolated {
        let mut targets = plan.egress.get(address).into_iter().chain(plan.ingress.get(address));
        assert!(targets.any(|target| may_drop(plan, target)), "{address}");
    }
}

fn may_drop(plan: &Plan, target: &Target) -> bool {
    let Target::Class(name) = target else { return true };
    let class = &plan.classes[name];
    let mut rules = class.steps.iter().flat_map(|step| plan.chains[step].rules.iter());
    class.end == End::Deny || rules.any(|rule| rule.action == Action::Deny)
}
