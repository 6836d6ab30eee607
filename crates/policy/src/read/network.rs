//! NetworkPolicy of `networking.k8s.io/v1`.

use std::sync::Arc;

use ipnet::IpNet;
use overlay_proto::Protocol;

use super::document::Document;
use super::field::At;
use super::kinds::{Metadata, metadata};
use super::selector::selector;
use super::syntax::is_port_name;
use crate::object::{
    Block, Namespaces, NetworkPolicy, Peer, PodSelection, PortMatch, Rule, Selector,
};
use crate::plan::{Action, Direction, PortRange};

/// Most pairs of a peer and a named port that the rules of a policy have in one direction.
const MOST_PAIRS: usize = 10_000;

/// The annotation of a policy that is only being tried out.
const AUDIT: &str = "culvert.dev/audit";

pub(super) fn policy(at: &At<'_>) -> Option<NetworkPolicy> {
    let Metadata { namespace, name, .. } = metadata(at, true)?;
    let is_audit = is_audit(at);
    let mut policy = NetworkPolicy {
        namespace: namespace.clone(),
        name,
        subjects: Selector::everything(),
        ingress: Some(Vec::new()),
        egress: None,
        is_audit,
    };
    let Some(spec) = at.field("spec") else { return Some(policy) };
    let good = spec.has_only(&["podSelector", "ingress", "egress", "policyTypes"]);
    if let Some(subjects) = spec.field("podSelector") {
        // Whom it is about cannot be told: every pod of the namespace is closed to what it
        // does not allow.
        policy.subjects = selector(&subjects).unwrap_or_default();
    }
    let rules = |direction: Direction| match spec.field(direction.as_str()) {
        None => Vec::new(),
        Some(list) => {
            let rules = list.items().unwrap_or_default();
            let mut pairs = 0;
            rules
                .iter()
                .map(|at| bounded(at, rule(at, direction, &namespace), &mut pairs))
                .collect()
        }
    };
    let (ingress, egress) = (rules(Direction::Ingress), rules(Direction::Egress));
    let (isolates_ingress, isolates_egress) = types(&spec, !egress.is_empty());
    // Something that is not understood may have narrowed any rule.
    let closed = |rules: Vec<Rule>| if good { rules } else { Vec::new() };
    policy.ingress = (isolates_ingress || !good).then(|| closed(ingress));
    policy.egress = (isolates_egress || !good).then(|| closed(egress));
    Some(policy)
}

fn is_audit(at: &At<'_>) -> bool {
    let annotations = at.field("metadata").and_then(|metadata| metadata.field("annotations"));
    let Some(audit) = annotations.and_then(|annotations| annotations.field(AUDIT)) else {
        return false;
    };
    match audit.value().text() {
        Some("true") => true,
        Some("false") => false,
        Some(_) | None => {
            audit.closes(
                "neither \"true\" nor \"false\"",
                "the policy is enforced; write one of them",
            );
            false
        }
    }
}

/// Which directions the policy isolates in.
fn types(spec: &At<'_>, has_egress: bool) -> (bool, bool) {
    const TYPES: &str = "write [Ingress], [Egress] or both";
    let Some(at) = spec.field("policyTypes") else { return (true, has_egress) };
    let Some(types) = at.items() else { return (true, true) };
    if types.is_empty() {
        return (true, has_egress);
    }
    if types.len() > 2 {
        at.wrong("more than two types", TYPES);
    }
    let (mut ingress, mut egress) = (false, false);
    for word in &types {
        match word.value().text() {
            Some("Ingress") => ingress = true,
            Some("Egress") => egress = true,
            Some(_) | None => {
                word.wrong("not a type", TYPES);
                (ingress, egress) = (true, true);
            }
        }
    }
    (ingress, egress)
}

/// The `rule`, unless it and those before it, with so many `pairs`, come to more than a policy may.
/// Whoever may write one policy could have each node run out of memory.
fn bounded(at: &At<'_>, rule: Rule, pairs: &mut usize) -> Rule {
    let own = self::pairs(&rule);
    if own == 0 || *pairs + own <= MOST_PAIRS {
        *pairs += own;
        return rule;
    }
    at.closes(
        &format!("peers and named ports make more than {MOST_PAIRS} pairs, of all rules together"),
        "name fewer peers or ports in one rule, or write numbers of ports",
    );
    Rule { peers: Vec::new(), ..rule }
}

/// Pairs of a peer and a port that is named, each of which is a rule of the kernel. Several of the
/// one with one of the other are no more than what was written.
fn pairs(rule: &Rule) -> usize {
    let blocks = rule.peers.iter().filter(|peer| matches!(peer, Peer::Block(_))).count();
    let peers = rule.peers.len() - blocks.saturating_sub(1);
    let ports = rule.ports.iter().flatten();
    let named = ports.filter(|port| matches!(port, PortMatch::Named(..))).count();
    if peers > 1 && named > 1 { peers * named } else { 0 }
}

/// A rule; one that is not understood matches nobody.
fn rule(at: &At<'_>, direction: Direction, own: &Arc<str>) -> Rule {
    let nobody = Rule { action: Action::Accept, peers: Vec::new(), ports: None };
    let word = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    if !at.has_only(&["ports", word]) {
        return nobody;
    }
    let list = |name| at.field(name).map(|list| list.items());
    let peers = match list(word) {
        None => vec![Peer::Anybody],
        Some(Some(peers)) if peers.is_empty() => vec![Peer::Anybody],
        Some(Some(peers)) => peers.iter().filter_map(|at| peer(at, own)).collect(),
        Some(None) => return nobody,
    };
    let ports = match list("ports") {
        None => None,
        Some(Some(ports)) if ports.is_empty() => None,
        Some(Some(ports)) => Some(ports.iter().filter_map(port).collect()),
        Some(None) => return nobody,
    };
    Rule { action: Action::Accept, peers, ports }
}

fn peer(at: &At<'_>, own: &Arc<str>) -> Option<Peer> {
    const ONE: &str = "write podSelector, namespaceSelector or both, or ipBlock alone";
    let good = at.has_only(&["podSelector", "namespaceSelector", "ipBlock"]);
    let pods = at.field("podSelector");
    let namespaces = at.field("namespaceSelector");
    let block_at = at.field("ipBlock");
    if let Some(block_at) = block_at {
        if pods.is_some() || namespaces.is_some() {
            block_at.wrong("beside a selector", ONE);
            return None;
        }
        return block(&block_at).filter(|_| good).map(Peer::Block);
    }
    if pods.is_none() && namespaces.is_none() {
        // A kind of peer that is not understood was a finding already.
        if good {
            at.wrong("a peer that says nothing", ONE);
        }
        return None;
    }
    let pods = match pods {
        Some(pods) => selector(&pods),
        None => Some(Selector::everything()),
    };
    let namespaces = match namespaces {
        Some(namespaces) => selector(&namespaces).map(Namespaces::Matching),
        None => Some(Namespaces::Named(own.clone())),
    };
    Some(Peer::Pods(PodSelection { namespaces: namespaces?, pods: pods? })).filter(|_| good)
}

fn block(at: &At<'_>) -> Option<Block> {
    let good = at.has_only(&["cidr", "except"]);
    let Some(cidr) = at.field("cidr") else {
        at.lacks("cidr", NETWORK);
        return None;
    };
    let cidr = network(&cidr)?;
    let mut block = Block { cidr, except: [].into() };
    if let Some(except) = at.field("except") {
        for net in except.items()? {
            let parsed = network(&net)?;
            if !cidr.contains(&parsed) || cidr.prefix_len() >= parsed.prefix_len() {
                net.wrong(
                    &format!("not a part of {cidr}"),
                    "write a smaller network that lies within cidr",
                );
                // What lies outside leaves nothing out; what covers all leaves nothing.
                if parsed.contains(&cidr) {
                    return None;
                }
                continue;
            }
            block.except.insert(parsed);
        }
    }
    good.then_some(block)
}

const NETWORK: &str = "write a network and its length, such as 192.168.1.0/24 or fd00::/8";

/// A network; bits beyond its length are not looked at.
pub(super) fn network(at: &At<'_>) -> Option<IpNet> {
    let net = at.text()?.parse().ok().map(|net: IpNet| net.trunc());
    if net.is_none() {
        at.wrong("not a network", NETWORK);
    }
    net
}

fn port(at: &At<'_>) -> Option<PortMatch> {
    const PROTOCOLS: &str = "write TCP, UDP or SCTP";
    let good = at.has_only(&["protocol", "port", "endPort"]);
    let protocol = match at.field("protocol") {
        None => Protocol::Tcp,
        Some(word) => match protocol(word.value()) {
            Some(protocol) => protocol,
            None => {
                word.wrong("not a protocol that has ports", PROTOCOLS);
                return None;
            }
        },
    };
    let end = at.field("endPort");
    let Some(port) = at.field("port") else {
        if let Some(end) = end {
            end.wrong("without port", "write the first port of the range as port");
            return None;
        }
        let every = PortRange { protocol, first: 0, last: u16::MAX };
        return good.then_some(PortMatch::Range(every));
    };
    if let Some(name) = port.value().text() {
        if let Some(end) = end {
            end.wrong("beside the name of a port", "write the first port of the range as a number");
            return None;
        }
        if !is_port_name(name) {
            let remedy = match name.parse::<u16>() {
                Ok(_) => "write the number without quotation marks",
                Err(_) => {
                    "write the name of a container's port: up to 15 small letters, digits and \
                           '-'"
                }
            };
            port.wrong("not the name of a port", remedy);
            return None;
        }
        return good.then(|| PortMatch::Named(name.into(), Some(protocol)));
    }
    let first = number(&port)?;
    let last = match end {
        None => first,
        Some(end) => {
            let last = number(&end)?;
            if last < first {
                end.wrong("less than port", "write the last port of the range");
                return None;
            }
            last
        }
    };
    good.then_some(PortMatch::Range(PortRange { protocol, first, last }))
}

/// The protocol that an object means by this word.
pub(super) fn protocol(word: &Document<'_>) -> Option<Protocol> {
    match word.text()? {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// The number of a port.
pub(super) fn number(at: &At<'_>) -> Option<u16> {
    let number = at.value().number().and_then(|number| u16::try_from(number).ok());
    let number = number.filter(|number| *number > 0);
    if number.is_none() {
        at.wrong("not the number of a port", "write 1 to 65535");
    }
    number
}
