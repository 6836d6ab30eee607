//! Everything that the page shows, as values by their names, and what differs between two moments.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::history::History;
use super::ill;
use super::vantage::Seen;
use crate::observe::{PeerStatus, Status};

/// Parts of the page; a value in a part has a name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Model(BTreeMap<&'static str, BTreeMap<String, Value>>);

impl Model {
    pub(super) fn of(place: &str, seen: &[Seen], history: &History) -> Self {
        let (mut nodes, mut cells) = (BTreeMap::new(), BTreeMap::new());
        let statuses: Vec<(&Seen, &Status)> =
            seen.iter().filter_map(|it| Some((it, it.found.as_ref()?.as_ref().ok()?))).collect();
        for (_, status) in &statuses {
            for peer in &status.peers {
                cells.insert(format!("{}\t{}", status.node, peer.name), cell(peer));
                nodes.entry(peer.name.clone()).or_insert_with(|| by_hearsay(peer));
                // What does not arrive here is known here, and at the sender only if it is asked.
                if !peer.path.lost_of_peer.is_empty() {
                    let key = format!("{}\t{}", peer.name, status.node);
                    cells.entry(key).or_insert_with(|| {
                        json!({ "state": "answers", "lost": peer.path.lost_of_peer, "hearsay": true })
                    });
                }
            }
        }
        for (seen, status) in &statuses {
            nodes.insert(status.node.clone(), node(status, history.rates(&seen.name)));
        }
        for seen in seen.iter().filter(|seen| matches!(seen.found, Some(Err(_)))) {
            // It is known by its name in the table, where others know it.
            let known = nodes.entry(seen.name.clone()).or_insert_with(|| json!({}));
            known["state"] = "no daemon".into();
        }
        let about = json!({ "place": place, "asked": statuses.len(), "daemons": seen.len() });
        let bars = history.bars().iter().map(|(at, counts)| (at.to_string(), json!(counts)));
        Self(BTreeMap::from([
            ("about", BTreeMap::from([("about".to_owned(), about)])),
            ("nodes", nodes),
            ("cells", cells),
            ("ill", ill::of(seen, history)),
            ("drops", bars.collect()),
        ]))
    }

    /// What makes this of `before`: values that are new or others, and names that are gone.
    pub(super) fn since(&self, before: &Self) -> Option<Value> {
        let (mut set, mut gone) = (Map::new(), Map::new());
        let none = BTreeMap::new();
        for (part, values) in &self.0 {
            let old = before.0.get(part).unwrap_or(&none);
            let new = values.iter().filter(|(name, value)| old.get(*name) != Some(value));
            let new: Map<String, Value> =
                new.map(|(name, it)| (name.clone(), it.clone())).collect();
            if !new.is_empty() {
                set.insert((*part).to_owned(), Value::Object(new));
            }
            let left: Vec<&String> =
                old.keys().filter(|name| !values.contains_key(*name)).collect();
            if !left.is_empty() {
                gone.insert((*part).to_owned(), json!(left));
            }
        }
        (!set.is_empty() || !gone.is_empty()).then(|| json!({ "set": set, "gone": gone }))
    }
}

/// A daemon that was asked.
fn node<'a>(status: &Status, rates: impl Iterator<Item = (&'a str, f64)>) -> Value {
    let lost = status.peers.iter().filter(|peer| peer.path.is_lost()).count();
    let sealed = status.peers.iter().filter(|peer| peer.sealed.is_some()).count();
    let policy = &status.policy;
    let policies = (policy.mode == "on").then_some(policy.policies);
    json!({
        "state": if status.ready { "ready" } else { "not ready" },
        "address": status.underlay.address,
        "subnets": status.subnets,
        "version": status.version,
        "table": status.table.hash,
        "mtu": status.mtu,
        "peers": status.peers.len(),
        "lost": lost,
        "drops": rates.fold(0.0, |sum, (_, rate)| sum + rate).round(),
        "sealing": status.sealed.mode,
        "sealed": sealed,
        "policies": policies,
        "isolated": policy.isolated,
        "started": status.process.started.round(),
    })
}

/// A node of which only what it tells a peer is known.
fn by_hearsay(peer: &PeerStatus) -> Value {
    let told = peer.path.told.as_ref();
    let state = match told {
        _ if peer.path.is_lost() => "silent",
        Some(told) if told.ready => "ready",
        Some(_) => "not ready",
        None if peer.path.state == "answers" => "answers",
        None => "unknown",
    };
    // Of what is well nobody asks; what changes all the time would be sent all the time.
    let ago = told.filter(|told| !told.ready).map(|told| told.seconds_ago.round());
    json!({
        "state": state,
        "ago": ago,
        "address": peer.address,
        "subnets": peer.subnets,
        "version": told.map(|told| &told.version),
        "table": told.map(|told| &told.table),
        "mtu": told.map(|told| told.mtu),
        "lost": told.map(|told| told.peers_lost),
        "drops": told.map(|told| told.drops_per_second),
        "hearsay": true,
    })
}

/// The way from a daemon that was asked to a peer.
fn cell(peer: &PeerStatus) -> Value {
    let path = &peer.path;
    json!({
        "state": path.state,
        "lost": path.lost.iter().map(|lost| lost.path).collect::<Vec<_>>(),
        "rtt": path.rtt_seconds.map(two_digits),
        "mtu": peer.mtu,
        "mtu_from": path.mtu_from,
        "codec": peer.codec.to_string(),
        "sealed": peer.sealed,
    })
}

/// In microseconds, as exactly as a page shows it: so that it changes seldom.
fn two_digits(seconds: f64) -> f64 {
    let microseconds = seconds * 1e6;
    let digit = 10_f64.powf(microseconds.max(1.0).log10().floor() - 1.0);
    (microseconds / digit).round() * digit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(values: &[(&'static str, &str, i32)]) -> Model {
        let mut model = Model::default();
        for (part, name, value) in values {
            model.0.entry(part).or_default().insert((*name).to_owned(), json!(value));
        }
        model
    }

    #[test]
    fn a_difference_has_what_is_new_and_what_is_gone_and_nothing_else() {
        let before = model(&[("nodes", "node1", 1), ("nodes", "node2", 2), ("cells", "a", 7)]);
        let after = model(&[("nodes", "node1", 1), ("nodes", "node3", 3), ("cells", "a", 8)]);
        let found = after.since(&before).unwrap();
        assert_eq!(
            found,
            json!({
                "set": { "nodes": { "node3": 3 }, "cells": { "a": 8 } },
                "gone": { "nodes": ["node2"] },
            })
        );
        assert_eq!(after.since(&after), None);
        let all = after.since(&Model::default()).unwrap();
        assert_eq!(all["set"]["nodes"], json!({ "node1": 1, "node3": 3 }));
    }

    #[test]
    fn what_a_node_seals_and_enforces_is_shown() {
        let mut status = Status { node: "node1".to_owned(), ..Status::default() };
        status.sealed.mode = "require".to_owned();
        (status.policy.policies, status.policy.isolated) = (7, 2);
        let shown = |status: &Status| {
            let found = Some(Ok(status.clone()));
            let seen = [Seen { name: "node1".to_owned(), found }];
            let model = Model::of("lab", &seen, &History::default());
            model.0["nodes"]["node1"].clone()
        };
        assert_eq!(shown(&status)["policies"], Value::Null, "they are not enforced");
        status.policy.mode = "on".to_owned();
        let node = shown(&status);
        assert_eq!((&node["policies"], &node["isolated"]), (&json!(7), &json!(2)));
        assert_eq!((&node["sealing"], &node["sealed"]), (&json!("require"), &json!(0)));
        assert_eq!(node["drops"].to_string(), "0.0");
    }

    #[test]
    fn times_are_rounded_to_what_is_shown() {
        assert_eq!(two_digits(0.000_123_4), 120.0);
        assert_eq!(two_digits(0.012_345), 12_000.0);
        assert_eq!(two_digits(0.0), 0.0);
    }
}
