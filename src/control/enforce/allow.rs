//! What a plan says of one connection: the rules of the table, asked outside the kernel.
//!
//! For connections that are there already, which the kernel does not ask about again. Goes through
//! a plan as [`culvert_policy::plan`] says that a packet does.

use std::net::IpAddr;

use culvert_nft::Flow;
use culvert_policy::plan::{
    Action, Destination, Direction, End, NamedPorts, Peers, Plan, PortRange, Ranges, Rule, Target,
};

/// A connection as the rules see its first packet: after services have become pods, and before
/// anything has become the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Connection {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    pub(super) port: Option<u16>,
}

impl From<&Flow> for Connection {
    fn from(flow: &Flow) -> Self {
        Self {
            source: flow.source,
            destination: flow.answers_from,
            protocol: flow.protocol,
            port: flow.answers_from_port,
        }
    }
}

/// Whether `plan` lets somebody open `connection` whose ends are not the node itself.
pub(super) fn allows(plan: &Plan, connection: &Connection) -> bool {
    plan.selves.contains(&(connection.source, connection.destination))
        || Direction::ALL.iter().all(|direction| allows_in(plan, *direction, connection))
}

fn allows_in(plan: &Plan, direction: Direction, connection: &Connection) -> bool {
    let (own, peer) = match direction {
        Direction::Ingress => (connection.destination, connection.source),
        Direction::Egress => (connection.source, connection.destination),
    };
    let class = match plan.targets(direction).get(&own) {
        None => return true,
        Some(Target::Closed) => return false,
        Some(Target::Class(name)) => plan.classes.get(name),
    };
    let Some(class) = class else { return false };
    for step in class.steps.iter() {
        let rules = plan.chains.get(step).map_or(&[][..], |chain| &chain.rules);
        let first = rules.iter().find(|rule| matches(plan, rule, peer, connection));
        match first.map(|rule| rule.action) {
            Some(Action::Accept) => return true,
            Some(Action::Deny) => return false,
            Some(Action::Pass) | None => {}
        }
    }
    class.end != End::Deny
}

fn matches(plan: &Plan, rule: &Rule, peer: IpAddr, connection: &Connection) -> bool {
    let is_peer = match &rule.peers {
        Peers::Any => true,
        Peers::Pods(name) => plan.pods.get(name).is_some_and(|pods| match peer {
            IpAddr::V4(peer) => pods.v4.binary_search(&peer).is_ok(),
            IpAddr::V6(peer) => pods.v6.binary_search(&peer).is_ok(),
        }),
        Peers::Net(name) => plan.nets.get(name).is_some_and(|nets| has(nets, peer)),
    };
    is_peer
        && match &rule.to {
            Destination::Any => true,
            Destination::Ports(name) => plan.ports.get(name).is_some_and(|ports| {
                ports.iter().any(|range: &PortRange| {
                    range.protocol.number() == connection.protocol
                        && connection
                            .port
                            .is_some_and(|port| (range.first..=range.last).contains(&port))
                })
            }),
            Destination::Named(name) => {
                plan.named_ports.get(name).is_some_and(|ports| is_named(ports, connection))
            }
        }
}

fn has(ranges: &Ranges, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let behind = ranges.v4.partition_point(|range| *range.start() <= address);
            behind.checked_sub(1).is_some_and(|place| ranges.v4[place].contains(&address))
        }
        IpAddr::V6(address) => {
            let behind = ranges.v6.partition_point(|range| *range.start() <= address);
            behind.checked_sub(1).is_some_and(|place| ranges.v6[place].contains(&address))
        }
    }
}

fn is_named(ports: &NamedPorts, connection: &Connection) -> bool {
    let Some(port) = connection.port else { return false };
    connection.protocol == ports.protocol.number()
        && match connection.destination {
            IpAddr::V4(address) => ports.v4.binary_search(&(address, port)).is_ok(),
            IpAddr::V6(address) => ports.v6.binary_search(&(address, port)).is_ok(),
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::enforce::fixture::plan;

    fn connection(source: &str, destination: &str, port: u16) -> Connection {
        let ip = |text: &str| text.parse().unwrap();
        let (source, destination) = (ip(source), ip(destination));
        Connection { source, destination, protocol: 6, port: Some(port) }
    }

    #[test]
    fn connections_are_judged_as_their_first_packets_are() {
        let plan = plan();
        for (source, destination, port, expected) in [
            ("10.244.1.3", "10.244.1.2", 80, true),
            ("10.244.1.3", "10.244.1.2", 81, false),
            ("10.244.1.4", "10.244.1.2", 80, false),
            ("192.0.2.127", "10.244.1.2", 81, true),
            ("192.0.2.128", "10.244.1.2", 81, false),
            ("10.244.1.2", "10.244.1.2", 81, true),
            ("10.244.1.2", "10.244.1.3", 81, true),
            ("fd00:10:244:1::3", "fd00:10:244:1::2", 80, false),
            ("10.244.9.9", "10.244.8.8", 80, true),
        ] {
            let connection = connection(source, destination, port);
            assert_eq!(allows(&plan, &connection), expected, "{connection:?}");
        }
    }

    #[test]
    fn protocol_without_ports_matches_no_port() {
        let ping =
            Connection { protocol: 1, port: None, ..connection("10.244.1.3", "10.244.1.2", 0) };
        assert!(!allows(&plan(), &ping));
        let from_block = Connection { source: [192, 0, 2, 1].into(), ..ping };
        assert!(allows(&plan(), &from_block), "a rule without ports is for all protocols");
    }

    #[test]
    fn closed_pod_has_no_connection_but_with_itself() {
        let mut plan = plan();
        let own: IpAddr = [10, 244, 1, 2].into();
        plan.ingress.insert(own, Target::Closed);
        assert!(!allows(&plan, &connection("10.244.1.3", "10.244.1.2", 80)));
        assert!(allows(&plan, &connection("10.244.1.2", "10.244.1.2", 80)));
    }
}
