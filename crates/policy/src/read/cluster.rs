//! ClusterNetworkPolicy of `policy.networking.k8s.io/v1alpha2`.
//!
//! Its rules may also forbid, so that "allows nothing" has two meanings. A rule that is not
//! understood matches nobody if it accepts, and otherwise denies everything, as the API asks of
//! implementations. Where it cannot be told when, or for which pods, a policy is asked, its rules
//! that accept match nobody, and those that pass traffic on deny it.

use overlay_proto::Protocol;

use super::field::At;
use super::kinds::metadata;
use super::network::{network, number};
use super::selector::selector;
use super::syntax::is_port_name;
use crate::object::{
    Block, ClusterNetworkPolicy, Namespaces, Peer, PodSelection, PortMatch, Rule, Selector, Tier,
};
use crate::plan::{Action, Direction, PortRange};

/// Most rules in one direction, most peers and most protocols of a rule, most networks of a peer.
const MOST: usize = 25;
/// Longest name of a rule, in characters.
const RULE_NAME: usize = 100;
const MOST_PRIORITY: u64 = 1000;

pub(super) fn policy(at: &At<'_>) -> Option<ClusterNetworkPolicy> {
    let name = metadata(at, false)?.name;
    let Some(spec) = at.field("spec") else {
        at.lacks("spec", "write tier, priority, subject and rules");
        return None;
    };
    let good = spec.has_only(&["tier", "priority", "subject", "ingress", "egress"]);
    let (tier, priority, subjects) = (tier(&spec), priority(&spec), subject(&spec));
    let is_placed = good && tier.is_some() && priority.is_some() && subjects.is_some();
    let rules = |direction: Direction| {
        let Some(list) = spec.field(direction.as_str()) else { return Vec::new() };
        let Some(rules) = list.items() else { return vec![deny_all()] };
        bounded(&list, rules.len());
        let rules = rules.iter().map(|at| rule(at, direction));
        rules.map(|rule| if is_placed { rule } else { unplaced(rule) }).collect()
    };
    Some(ClusterNetworkPolicy {
        name,
        tier: tier.unwrap_or(Tier::Admin),
        priority: priority.unwrap_or(0),
        subjects: subjects.unwrap_or(PodSelection::everything()),
        ingress: rules(Direction::Ingress),
        egress: rules(Direction::Egress),
    })
}

fn deny_all() -> Rule {
    Rule { action: Action::Deny, peers: vec![Peer::Anybody], ports: None }
}

fn nobody() -> Rule {
    Rule { action: Action::Accept, peers: Vec::new(), ports: None }
}

/// What is left of a rule of which it cannot be told when, or for whom, it is asked.
fn unplaced(rule: Rule) -> Rule {
    match rule.action {
        Action::Accept => nobody(),
        Action::Deny => rule,
        Action::Pass => Rule { action: Action::Deny, ..rule },
    }
}

/// Says that a list is longer than an API server takes it; all of it counts nevertheless.
fn bounded(list: &At<'_>, len: usize) {
    if len > MOST {
        list.wrong(&format!("more than {MOST}"), "divide it");
    }
}

fn tier(spec: &At<'_>) -> Option<Tier> {
    const TIERS: &str = "write Admin or Baseline";
    let Some(tier) = spec.field("tier") else {
        spec.lacks("tier", TIERS);
        return None;
    };
    match tier.value().text() {
        Some("Admin") => Some(Tier::Admin),
        Some("Baseline") => Some(Tier::Baseline),
        Some(_) | None => {
            tier.wrong("not a tier", TIERS);
            None
        }
    }
}

fn priority(spec: &At<'_>) -> Option<u16> {
    const RANGE: &str = "write 0 (asked first) to 1000";
    let Some(priority) = spec.field("priority") else {
        spec.lacks("priority", RANGE);
        return None;
    };
    let number = priority.value().number().filter(|number| *number <= MOST_PRIORITY);
    if number.is_none() {
        priority.wrong("not a priority", RANGE);
    }
    number.and_then(|number| u16::try_from(number).ok())
}

fn subject(spec: &At<'_>) -> Option<PodSelection> {
    const ONE: &str = "write either namespaces or pods";
    let Some(subject) = spec.field("subject") else {
        spec.lacks("subject", ONE);
        return None;
    };
    let good = subject.has_only(&["namespaces", "pods"]);
    match (subject.field("namespaces"), subject.field("pods")) {
        (Some(namespaces), None) => whole(&namespaces).filter(|_| good),
        (None, Some(pods)) => namespaced(&pods).filter(|_| good),
        (Some(_), Some(_)) => {
            subject.wrong("both namespaces and pods", ONE);
            None
        }
        (None, None) => {
            if good {
                subject.wrong("a subject that says nothing", ONE);
            }
            None
        }
    }
}

/// Every pod of the namespaces that match.
fn whole(at: &At<'_>) -> Option<PodSelection> {
    let namespaces = Namespaces::Matching(selector(at)?);
    Some(PodSelection { namespaces, pods: Selector::everything() })
}

/// Pods that match of namespaces that match.
fn namespaced(at: &At<'_>) -> Option<PodSelection> {
    let good = at.has_only(&["namespaceSelector", "podSelector"]);
    let part = |name| match at.field(name) {
        Some(part) => selector(&part),
        None => Some(Selector::everything()),
    };
    let selection = PodSelection {
        namespaces: Namespaces::Matching(part("namespaceSelector")?),
        pods: part("podSelector")?,
    };
    good.then_some(selection)
}

fn rule(at: &At<'_>, direction: Direction) -> Rule {
    const ACTIONS: &str = "write Accept, Deny or Pass";
    let word = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let Some(action) = at.field("action") else {
        at.lacks("action", ACTIONS);
        return deny_all();
    };
    let action = match action.value().text() {
        Some("Accept") => Action::Accept,
        Some("Deny") => Action::Deny,
        Some("Pass") => Action::Pass,
        Some(_) | None => {
            action.wrong("not an action", ACTIONS);
            return deny_all();
        }
    };
    let parts = if at.has_only(&["name", "action", "protocols", word]) {
        name(at);
        peers(at, word, direction).zip(protocols(at))
    } else {
        None
    };
    match (parts, action) {
        (Some((peers, ports)), _) => Rule { action, peers, ports },
        (None, Action::Accept) => nobody(),
        (None, Action::Deny | Action::Pass) => deny_all(),
    }
}

fn name(at: &At<'_>) {
    let Some(name) = at.field("name") else { return };
    if name.text().is_some_and(|text| text.chars().count() > RULE_NAME) {
        name.wrong("longer than 100 characters", "write a shorter name");
    }
}

fn peers(at: &At<'_>, word: &str, direction: Direction) -> Option<Vec<Peer>> {
    const SOME: &str = "write at least one peer";
    let Some(list) = at.field(word) else {
        at.lacks(word, SOME);
        return None;
    };
    let items = list.items()?;
    if items.is_empty() {
        list.wrong("no peer", SOME);
        return None;
    }
    bounded(&list, items.len());
    let mut peers = Vec::new();
    let mut good = true;
    for at in &items {
        match peer(at, direction) {
            Some(some) => peers.extend(some),
            None => good = false,
        }
    }
    good.then_some(peers)
}

fn peer(at: &At<'_>, direction: Direction) -> Option<Vec<Peer>> {
    let kinds: &[&str] = match direction {
        Direction::Ingress => &["namespaces", "pods"],
        Direction::Egress => &["namespaces", "pods", "nodes", "networks"],
    };
    let one = format!("write one of {}", kinds.join(", "));
    if let Some(domains) = at.field("domainNames").filter(|_| direction == Direction::Egress) {
        domains.closes("names of domains are not supported, and so match nothing", &one);
        return None;
    }
    if !at.has_only(kinds) {
        return None;
    }
    let mut said = kinds.iter().filter_map(|kind| Some((*kind, at.field(kind)?)));
    let (Some((kind, value)), None) = (said.next(), said.next()) else {
        at.wrong("a peer says one thing", &one);
        return None;
    };
    match kind {
        "namespaces" => Some(vec![Peer::Pods(whole(&value)?)]),
        "pods" => Some(vec![Peer::Pods(namespaced(&value)?)]),
        "nodes" => Some(vec![Peer::Nodes(selector(&value)?)]),
        _ => {
            let networks = value.items()?;
            if networks.is_empty() {
                value.wrong("no network", "write at least one");
                return None;
            }
            bounded(&value, networks.len());
            let block =
                |at: &At<'_>| Some(Peer::Block(Block { cidr: network(at)?, except: [].into() }));
            networks.iter().map(block).collect()
        }
    }
}

/// The ports that `protocols` name; `Some(None)` if it is left out.
#[expect(clippy::option_option, reason = "what is not understood differs from what is left out")]
fn protocols(at: &At<'_>) -> Option<Option<Vec<PortMatch>>> {
    let Some(list) = at.field("protocols") else { return Some(None) };
    let items = list.items()?;
    if items.is_empty() {
        list.wrong("no protocol", "write at least one, or leave out protocols");
        return None;
    }
    bounded(&list, items.len());
    let ports: Option<Vec<PortMatch>> = items.iter().map(protocol).collect();
    ports.map(Some)
}

fn protocol(at: &At<'_>) -> Option<PortMatch> {
    const ONE: &str = "write one of tcp, udp, sctp, destinationNamedPort";
    if !at.has_only(&["tcp", "udp", "sctp", "destinationNamedPort"]) {
        return None;
    }
    let kinds = Protocol::ALL.map(|protocol| (Some(protocol), protocol.as_str()));
    let kinds = kinds.into_iter().chain([(None, "destinationNamedPort")]);
    let mut said = kinds.filter_map(|(protocol, name)| Some((protocol, at.field(name)?)));
    let (Some((protocol, value)), None) = (said.next(), said.next()) else {
        at.wrong("says none or several", ONE);
        return None;
    };
    let Some(protocol) = protocol else {
        let name = value.text()?;
        if !is_port_name(name) {
            value.wrong("not the name of a port", "write the name of a container's port");
            return None;
        }
        return Some(PortMatch::Named(name.into(), None));
    };
    if !value.has_only(&["destinationPort"]) {
        return None;
    }
    let every = PortRange { protocol, first: 0, last: u16::MAX };
    let Some(port) = value.field("destinationPort") else {
        return Some(PortMatch::Range(every));
    };
    if !port.has_only(&["number", "range"]) {
        return None;
    }
    match (port.field("number"), port.field("range")) {
        (Some(one), None) => {
            let first = number(&one)?;
            Some(PortMatch::Range(PortRange { protocol, first, last: first }))
        }
        (None, Some(range)) => {
            if !range.has_only(&["start", "end"]) {
                return None;
            }
            let (Some(start), Some(end)) = (range.field("start"), range.field("end")) else {
                range.wrong("not a range", "write start and end");
                return None;
            };
            let (first, last) = (number(&start)?, number(&end)?);
            if first >= last {
                end.wrong("not greater than start", "write the last port of the range");
                return None;
            }
            Some(PortMatch::Range(PortRange { protocol, first, last }))
        }
        (Some(_), Some(_)) | (None, None) => {
            port.wrong("says none or both", "write either number or range");
            None
        }
    }
}
