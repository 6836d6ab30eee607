//! Packets that pass firewalls, and what is said where they do not.

use std::collections::BTreeSet;

use culvert_nft::{Fate, Obstacle, Packet, Stage};

use crate::doctor::facts::Firewall;
use crate::doctor::finding::Finding;

/// Peers of which each is asked about alone.
pub(super) const ASKED: usize = 1024;

/// Names that are listed.
const NAMED: usize = 3;

/// A packet, and where on its way chains may see it.
pub(super) struct Case {
    pub(super) stages: Vec<Stage>,
    pub(super) packet: Packet,
    /// The peer that it comes from or goes to; none if it stands for all.
    pub(super) peer: Option<String>,
}

/// Somebody who drops some of the packets.
struct Stop {
    by: Obstacle,
    peers: BTreeSet<String>,
    /// Whether packets that stand for all are among them.
    is_all: bool,
}

/// What firewalls do with packets, which `what` has in words, where that is not good; `remedy` says
/// how to have them pass whoever drops them.
pub(super) fn through(
    firewall: &Firewall,
    cases: &[Case],
    what: &str,
    remedy: impl Fn(&Obstacle) -> String,
) -> Vec<Finding> {
    let mut stops: Vec<Stop> = Vec::new();
    let mut doubts: Vec<Obstacle> = Vec::new();
    for case in cases {
        for stage in &case.stages {
            match firewall.rules.fate(stage, &case.packet) {
                Fate::Passes => {}
                Fate::MayStop(by) if doubts.contains(&by) => {}
                Fate::MayStop(by) => doubts.push(by),
                Fate::Stops(by) => {
                    let known = stops.iter().position(|stop| stop.by == by);
                    let place = known.unwrap_or_else(|| {
                        stops.push(Stop { by, peers: BTreeSet::new(), is_all: false });
                        stops.len() - 1
                    });
                    stops[place].is_all |= case.peer.is_none();
                    stops[place].peers.extend(case.peer.clone());
                }
            }
        }
    }
    let asked: BTreeSet<&String> = cases.iter().filter_map(|case| case.peer.as_ref()).collect();
    // Who drops some for certain is named once.
    doubts.retain(|doubt| !stops.iter().any(|stop| is_same_place(&stop.by, doubt)));
    let mut findings: Vec<Finding> = Vec::new();
    for stop in &stops {
        let with = if stop.is_all || stop.peers.len() == asked.len() {
            String::new()
        } else {
            format!(" (with {})", listed(&stop.peers))
        };
        let by = &stop.by;
        findings.push(Finding::fail(format!("{by} drops {what}{with}"), remedy(by)));
    }
    findings.extend(doubts.iter().map(|by| {
        Finding::warn(
            format!("{by} may drop {what}: not all of it could be followed"),
            format!("look at it: nft -a list chain {} {} {}", by.family, by.table, by.chain),
        )
    }));
    let legacy = firewall.legacy.iter().filter(|table| table.ends_with(" filter"));
    findings.extend(legacy.map(|table| {
        let program = table.split(' ').next().unwrap_or_default();
        Finding::warn(
            format!("iptables-legacy has a table ({table}), which was not followed"),
            format!("look at it: {program}-legacy -S"),
        )
    }));
    findings.extend(firewall.unread.iter().map(|why| {
        let found = format!("whether iptables-legacy has rules is not known ({why})");
        Finding::warn(found, "look at it: iptables-legacy -S; ip6tables-legacy -S")
    }));
    super::some(findings)
}

fn is_same_place(one: &Obstacle, other: &Obstacle) -> bool {
    use culvert_nft::What;
    let handle = |of: &Obstacle| match of.what {
        What::Policy => None,
        What::Rule(handle) | What::Unfollowed(handle, _) => Some(handle),
    };
    let chain = |of: &Obstacle| (of.family, of.table.clone(), of.chain.clone());
    chain(one) == chain(other) && handle(one) == handle(other)
}

fn listed(names: &BTreeSet<String>) -> String {
    let shown: Vec<&str> = names.iter().take(NAMED).map(String::as_str).collect();
    match names.len().saturating_sub(NAMED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
