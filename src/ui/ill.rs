//! What is not well, in sentences, the worst first.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::history::History;
use super::vantage::Seen;
use crate::observe::{PeerStatus, Status};

/// Sentences that are shown.
const MOST: usize = 100;

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Bad,
    Warn,
    Note,
}

impl Level {
    const fn word(self) -> &'static str {
        match self {
            Self::Bad => "bad",
            Self::Warn => "warn",
            Self::Note => "note",
        }
    }
}

/// Sentences with their level, by their place.
pub(super) fn of(seen: &[Seen], history: &History) -> BTreeMap<String, Value> {
    let mut all = BTreeSet::new();
    let mut say = |level: Level, text: String| {
        all.insert((level, text));
    };
    for one in seen {
        match &one.found {
            None => {}
            Some(Err(error)) => {
                say(Level::Bad, format!("{}: {error}", one.name));
            }
            Some(Ok(status)) => {
                of_node(status, &mut say);
                of_drops(&status.node, history.rates(&one.name), &mut say);
            }
        }
    }
    of_silence(seen, &mut say);
    of_tables(seen, &mut say);
    let more = all.len().saturating_sub(MOST);
    let mut listed: Vec<Value> = all
        .into_iter()
        .take(MOST)
        .map(|(level, text)| json!({ "level": level.word(), "text": text }))
        .collect();
    if more > 0 {
        listed.push(json!({ "level": "note", "text": format!("{more} more") }));
    }
    listed.into_iter().enumerate().map(|(place, it)| (format!("{place:03}"), it)).collect()
}

fn statuses(seen: &[Seen]) -> impl Iterator<Item = &Status> {
    seen.iter().filter_map(|seen| seen.found.as_ref()?.as_ref().ok())
}

fn of_node(status: &Status, say: &mut impl FnMut(Level, String)) {
    let node = &status.node;
    for missing in &status.missing {
        say(Level::Bad, format!("{node} is not ready: {missing}"));
    }
    for remark in status.table.remarks() {
        say(Level::Warn, format!("{node}: table: {remark}"));
    }
    let sealed = status.sealed.error.iter().chain(&status.sealed.failing);
    sealed.for_each(|why| say(Level::Warn, format!("{node}: keys: {why}")));
    let policy = &status.policy;
    let faults = policy.error.iter().chain(&policy.source_error).chain(&policy.refused);
    faults.for_each(|why| say(Level::Warn, format!("{node}: policies: {why}")));
    for stranded in &status.stranded {
        say(Level::Warn, format!("{node}: {stranded}"));
    }
    for hint in &status.hints {
        say(Level::Note, format!("{node}: {hint}"));
    }
    for use_of in status.addresses.iter().filter(|it| it.free < 1.0) {
        say(Level::Warn, format!("{node}: all addresses of {} are in use", use_of.subnet));
    }
    for peer in &status.peers {
        of_paths(node, peer, say);
    }
}

fn of_paths(node: &str, peer: &PeerStatus, say: &mut impl FnMut(Level, String)) {
    let name = &peer.name;
    if let Some(error) = &peer.session_error {
        say(Level::Warn, format!("{node} has no session with {name}: {error}"));
    }
    if peer.path.is_lost() {
        return;
    }
    for lost in &peer.path.lost {
        let (path, port) = (lost.path, lost.port);
        let from = format!("path {path} of 16 from {node} to {name} (source port {port})");
        say(Level::Warn, format!("{from} loses everything; flows leave by others"));
    }
    if peer.path.mtu_from == "probed" || peer.path.mtu_from == "icmp" {
        let mtu = peer.mtu;
        let how = &peer.path.mtu_from;
        say(Level::Note, format!("{node} to {name}: packets of at most {mtu} bytes ({how})"));
    }
}

fn of_drops<'a>(
    node: &str,
    rates: impl Iterator<Item = (&'a str, f64)>,
    say: &mut impl FnMut(Level, String),
) {
    for (reason, rate) in rates.filter(|(_, rate)| *rate >= 0.5) {
        say(Level::Warn, format!("{node} drops {rate:.0} packets a second: {reason}"));
    }
}

/// A sentence for each that does not answer, and not for each whom it does not answer.
fn of_silence(seen: &[Seen], say: &mut impl FnMut(Level, String)) {
    let mut silent: BTreeMap<&str, (bool, Vec<&str>)> = BTreeMap::new();
    for status in statuses(seen) {
        for peer in status.peers.iter().filter(|peer| peer.path.is_lost()) {
            let (is_refused, whom) = silent.entry(&peer.name).or_default();
            *is_refused |= peer.path.state == "refused";
            whom.push(&status.node);
        }
    }
    for (name, (is_refused, whom)) in silent {
        let why = if is_refused { ": nobody listens there" } else { "" };
        let more = whom.len().saturating_sub(5);
        let mut named = whom.into_iter().take(5).collect::<Vec<_>>().join(", ");
        if more > 0 {
            named.push_str(&format!(" and {more} more"));
        }
        say(Level::Bad, format!("{name} does not answer {named}{why}"));
    }
}

/// Whoever has another table than most.
fn of_tables(seen: &[Seen], say: &mut impl FnMut(Level, String)) {
    let mut by_hash: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for status in statuses(seen) {
        by_hash.entry(&status.table.hash).or_default().insert(&status.node);
    }
    let asked: BTreeSet<&str> = statuses(seen).map(|status| status.node.as_str()).collect();
    for peer in statuses(seen).flat_map(|status| &status.peers) {
        if let Some(told) = peer.path.told.as_ref().filter(|_| !asked.contains(&*peer.name)) {
            by_hash.entry(&told.table).or_default().insert(&peer.name);
        }
    }
    by_hash.remove("");
    let usual = by_hash.iter().max_by_key(|(_, nodes)| nodes.len()).map(|(hash, _)| *hash);
    for (hash, nodes) in by_hash.iter().filter(|(hash, _)| Some(**hash) != usual) {
        let usual = usual.unwrap_or_default();
        for node in nodes {
            say(Level::Warn, format!("{node} has another table ({hash}) than most ({usual})"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{LostPath, PathStatus};

    fn texts(seen: &[Seen]) -> Vec<String> {
        let all = of(seen, &History::default());
        all.values().map(|it| it["text"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn one_sentence_for_each_thing_the_worst_first() {
        let peer = |name: &str, state: &str| {
            let text = r#"{"name": "", "address": "192.168.1.12", "subnets": [], "codec": "vxlan-gpe",
                "port": 4790, "mtu": 1364, "egress": {"packets": 0, "bytes": 0},
                "ingress": {"packets": 0, "bytes": 0}, "last_heard_seconds": null}"#;
            let mut peer: PeerStatus = serde_json::from_str(text).unwrap();
            peer.name = name.to_owned();
            peer.path.state = state.to_owned();
            peer
        };
        let mut narrow = peer("node3", "answers");
        narrow.path.lost = vec![LostPath { path: 8, port: 36_837 }];
        narrow.path.mtu_from = "probed".to_owned();
        let told = crate::observe::Told { table: "77aa01".to_owned(), ..Default::default() };
        narrow.path = PathStatus { told: Some(told), ..narrow.path };
        let status = |node: &str, peers: Vec<PeerStatus>| {
            let mut status = Status { node: node.to_owned(), peers, ..Status::default() };
            status.table.hash = "9f31c2".to_owned();
            status.table.current = true;
            Seen { name: node.to_owned(), found: Some(Ok(status)) }
        };
        let away = Seen { name: "node5".to_owned(), found: Some(Err("no socket".to_owned())) };
        let seen = [
            status("node1", vec![peer("node2", "silent"), narrow]),
            status("node4", vec![peer("node2", "refused")]),
            away,
            Seen { name: "node6".to_owned(), found: None },
        ];
        assert_eq!(
            texts(&seen),
            [
                "node2 does not answer node1, node4: nobody listens there",
                "node5: no socket",
                "node3 has another table (77aa01) than most (9f31c2)",
                "path 8 of 16 from node1 to node3 (source port 36837) loses everything; flows leave \
                 by others",
                "node1 to node3: packets of at most 1364 bytes (probed)",
            ]
        );
    }
}
