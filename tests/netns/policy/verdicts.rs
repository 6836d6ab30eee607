//! Every connection that a lab can try at once: who begins it, by which address, and as what the
//! rules see its first packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread;

use culvert_lab::{Lab, Netns};
use culvert_policy::judge::{Packet, Traffic};
use overlay_proto::{Family, Protocol};

use super::random::PORTS;
use super::talk::can_connect;
use crate::harness::{FAMILIES, run};

/// Where ports of a node begin that lead to its pods: 30080 to port 80 of the first.
const NODE_PORTS: u16 = 30_000;

/// How often something that is allowed is tried, on a machine that is busy.
const TRIES: usize = 4;

/// Connections that are tried at once.
const AT_ONCE: usize = 40;

/// One connection.
pub(super) struct Attempt {
    pub(super) what: String,
    from: Netns,
    to: IpAddr,
    port: u16,
    /// Its first packet in postrouting.
    pub(super) packet: Packet,
}

/// The address of a service that leads to the pod with this number.
fn service(family: Family, number: usize) -> IpAddr {
    let number = u16::try_from(number + 1).unwrap();
    match family {
        Family::V4 => Ipv4Addr::from([10, 96, 0, number.to_be_bytes()[1]]).into(),
        Family::V6 => Ipv6Addr::from([0xfd00, 0x96, 0, 0, 0, 0, 0, number]).into(),
    }
}

/// The port of the node that leads to `port` of its pod with this number.
fn node_port(number: usize, port: u16) -> u16 {
    NODE_PORTS + 100 * u16::try_from(number).unwrap() + port
}

/// Makes a service for each pod on both nodes, and a port of its own node.
pub(super) fn make_services(lab: &Lab) {
    for node in lab.nodes() {
        let mut rules = [String::new(), String::new()];
        for (number, pod) in lab.pods().iter().enumerate() {
            for (rules, (word, family)) in
                rules.iter_mut().zip([("ip", Family::V4), ("ip6", Family::V6)])
            {
                let (service, pod) = (service(family, number), pod.address(family));
                rules.push_str(&format!("{word} daddr {service} dnat to {pod};\n"));
            }
            if lab.node(pod.node()).name() == node.name() {
                for port in PORTS {
                    rules[0].push_str(&format!(
                        "ip daddr {} tcp dport {} dnat to {}:{port};\n",
                        node.address(),
                        node_port(number, port),
                        pod.ipv4(),
                    ));
                }
            }
        }
        for (family, rules) in ["ip", "ip6"].into_iter().zip(rules) {
            let table = format!(
                "table {family} services {{ chain pods {{ type nat hook prerouting priority dstnat;\n\
                 {rules} }}\n}}"
            );
            run(node.netns(), "nft", &[&table]);
        }
    }
}

/// Every connection.
pub(super) fn attempts(lab: &Lab) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    let mut attempt = |from: &Netns, source: IpAddr, to: IpAddr, at: u16, pod: IpAddr, port| {
        let traffic = Traffic::Port(Protocol::Tcp, port);
        attempts.push(Attempt {
            what: format!("{} to {to} port {at}", from.name()),
            from: from.clone(),
            to,
            port: at,
            packet: Packet { source, destination: pod, traffic },
        });
    };
    for (number, to) in lab.pods().iter().enumerate() {
        for port in PORTS {
            for family in FAMILIES {
                let pod = to.address(family);
                for from in lab.pods() {
                    let source = from.address(family);
                    attempt(from.netns(), source, pod, port, pod, port);
                    // A pod that calls itself by a service needs its own source translated.
                    if source != pod {
                        let service = service(family, number);
                        attempt(from.netns(), source, service, port, pod, port);
                    }
                }
                for node in lab.nodes() {
                    let own = node.subnets().iter().map(ipnet::IpNet::network);
                    let source = own.into_iter().find(|own| Family::of(*own) == family).unwrap();
                    attempt(node.netns(), source, pod, port, pod, port);
                }
            }
            let (node, outside) = (lab.node(to.node()), lab.switch());
            let gateway = Ipv4Addr::new(192, 168, 1, 1).into();
            attempt(outside, gateway, node.address(), node_port(number, port), to.ipv4(), port);
        }
    }
    attempts
}

/// Tries all of them, and returns those that do not fare as expected.
pub(super) fn wrong<'a>(attempts: &'a [Attempt], expected: &[bool]) -> Vec<&'a Attempt> {
    let all: Vec<(&Attempt, bool)> = attempts.iter().zip(expected.iter().copied()).collect();
    let mut wrong = Vec::new();
    for some in all.chunks(AT_ONCE) {
        let fare = |(attempt, is_allowed): &(&Attempt, bool)| {
            let connects = || can_connect(&attempt.from, attempt.to, attempt.port);
            match is_allowed {
                true => (0..TRIES).any(|_try| connects()),
                false => !connects(),
            }
        };
        let good: Vec<bool> = thread::scope(|scope| {
            let threads: Vec<_> = some.iter().map(|it| scope.spawn(move || fare(it))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        wrong.extend(some.iter().zip(good).filter(|(_, good)| !good).map(|((it, _), _)| *it));
    }
    wrong
}
