//! Whether ClusterNetworkPolicies that an API server does not know any more have ended.
//!
//! A server that is being upgraded, or one of several that has not heard of the kind yet, says of
//! it what one says from which the kind was removed: 404. What was closed must not open for that,
//! so it is believed once nothing else was said for a while. Pure: time is an argument.

use std::collections::BTreeMap;
use std::mem;
use std::time::{Duration, Instant};

use culvert_policy::object::{Change, Key, Kind, Object};
use culvert_policy::read::Read;

use super::Told;

/// How long there must have been no other answer: longer than servers take to be upgraded one after
/// the other.
const BELIEVED_AFTER: Duration = Duration::from_secs(300);

/// How long until the server is asked again: while it is doubted, and when it is believed.
pub(super) const DOUBTED: Duration = Duration::from_secs(10);
const BELIEVED: Duration = Duration::from_secs(60);

/// What is known of a kind without which a cluster may be.
#[derive(Debug)]
pub(super) struct Missing {
    /// Its objects, as they were told last.
    held: BTreeMap<Key, Object>,
    /// Since when there was no other answer.
    since: Option<Instant>,
    /// Whether the last word on the kind is an error, which only a list takes back.
    is_lost: bool,
}

impl Missing {
    const KIND: Kind = Kind::ClusterNetworkPolicy;

    /// Begins with the objects that an earlier daemon was told of.
    pub(super) fn new(known: Vec<Object>) -> Self {
        let held = known.into_iter().map(|object| (object.key(), object)).collect();
        Self { held, since: None, is_lost: false }
    }

    /// Takes note of what the server has told of the kind.
    pub(super) fn note(&mut self, told: &Told) {
        self.since = None;
        match told {
            Told::Listed(_, Read { objects, .. }) => *self = Self::new(objects.clone()),
            Told::Changed(changes, _) => {
                for change in changes {
                    match change {
                        Change::Put(object) => _ = self.held.insert(object.key(), object.clone()),
                        Change::Delete(key) => _ = self.held.remove(key),
                    }
                }
            }
            Told::Lost(..) => self.is_lost = true,
        }
    }

    /// What a 404 at `now` tells, and how long until the server is asked again. Of this session
    /// `is_listed` says whether it has told a list.
    pub(super) fn answer(&mut self, now: Instant, is_listed: bool) -> (Vec<Told>, Duration) {
        if self.held.is_empty() {
            let is_news = !is_listed || mem::take(&mut self.is_lost);
            let none = is_news.then(|| Told::Listed(Self::KIND, Read::default()));
            return (none.into_iter().collect(), BELIEVED);
        }
        let since = *self.since.get_or_insert(now);
        if now.duration_since(since) >= BELIEVED_AFTER {
            tracing::warn!(
                policies = self.held.len(),
                "ClusterNetworkPolicies have ended: for {BELIEVED_AFTER:?} the API server has not \
                 known the kind"
            );
            *self = Self::new(Vec::new());
            return (vec![Told::Listed(Self::KIND, Read::default())], BELIEVED);
        }
        let objects = self.held.values().cloned().collect();
        let held = Told::Listed(Self::KIND, Read { objects, findings: Vec::new() });
        let why = format!(
            "the API server does not know the kind ClusterNetworkPolicy, of which {} are in force; \
             they stay until it has said so for {BELIEVED_AFTER:?}, or delete them first",
            self.held.len()
        );
        let held = (!is_listed).then_some(held);
        (held.into_iter().chain([Told::Lost(Self::KIND, why)]).collect(), DOUBTED)
    }
}

#[cfg(test)]
mod tests {
    use culvert_dataplane::platform::clock;
    use culvert_policy::read;
    use serde_json::json;

    use super::*;

    fn policy(name: &str) -> Read {
        let spec = json!({
            "tier": "Admin", "priority": 1, "subject": {"namespaces": {}},
            "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}],
        });
        let read = read::item(Missing::KIND, &json!({"metadata": {"name": name}, "spec": spec}));
        assert_eq!(read.objects.len(), 1, "{:?}", read.findings);
        read
    }

    fn listed(told: &[Told]) -> Option<usize> {
        told.iter().find_map(|told| match told {
            Told::Listed(_, read) => Some(read.objects.len()),
            Told::Changed(..) | Told::Lost(..) => None,
        })
    }

    fn is_lost(told: &[Told]) -> bool {
        told.iter().any(|told| matches!(told, Told::Lost(..)))
    }

    #[test]
    fn cluster_that_never_had_the_kind_has_none_at_once() {
        let mut missing = Missing::new(Vec::new());
        let now = clock::now();
        let (told, wait) = missing.answer(now, false);
        assert_eq!((listed(&told), is_lost(&told), wait), (Some(0), false, BELIEVED));
        assert!(missing.answer(now + BELIEVED, true).0.is_empty());
    }

    #[test]
    fn server_that_was_away_is_said_to_be_back_where_the_kind_is_missing() {
        let mut missing = Missing::new(Vec::new());
        let now = clock::now();
        missing.answer(now, false);
        missing.note(&Told::Lost(Missing::KIND, "connecting: refused".to_owned()));
        let (told, _) = missing.answer(now + BELIEVED, true);
        assert_eq!((listed(&told), is_lost(&told)), (Some(0), false));
        assert!(missing.answer(now + 2 * BELIEVED, true).0.is_empty());
    }

    #[test]
    fn policies_stay_until_the_kind_has_been_missing_for_long() {
        let mut missing = Missing::new(Vec::new());
        missing.note(&Told::Listed(Missing::KIND, policy("deny")));
        let start = clock::now();
        for seconds in [0, 10, 299] {
            let (told, wait) = missing.answer(start + Duration::from_secs(seconds), true);
            assert_eq!((listed(&told), is_lost(&told), wait), (None, true, DOUBTED), "{seconds}");
        }
        let (told, wait) = missing.answer(start + BELIEVED_AFTER, true);
        assert_eq!((listed(&told), is_lost(&told), wait), (Some(0), false, BELIEVED));
    }

    #[test]
    fn any_other_answer_begins_the_wait_anew() {
        let start = clock::now();
        let later = start + BELIEVED_AFTER;
        let lost = Told::Lost(Missing::KIND, "connecting: refused".to_owned());
        for other in [Told::Listed(Missing::KIND, policy("deny")), lost] {
            let mut missing = Missing::new(policy("deny").objects);
            missing.answer(start, true);
            missing.note(&other);
            assert!(is_lost(&missing.answer(later, true).0), "{other:?}");
        }
    }

    #[test]
    fn policies_of_an_earlier_daemon_are_told_as_they_were() {
        let mut missing = Missing::new(policy("deny").objects);
        let (told, _) = missing.answer(clock::now(), false);
        assert_eq!((listed(&told), is_lost(&told)), (Some(1), true));
    }

    #[test]
    fn policies_that_were_deleted_with_the_kind_are_not_waited_for() {
        let mut missing = Missing::new(policy("deny").objects);
        let Read { objects, .. } = policy("other");
        let changes = objects.iter().cloned().map(Change::Put).collect();
        missing.note(&Told::Changed(changes, Vec::new()));
        let keys = missing.held.keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys.len(), 2);
        let changes = keys.into_iter().map(Change::Delete).collect();
        missing.note(&Told::Changed(changes, Vec::new()));
        assert!(missing.answer(clock::now(), true).0.is_empty());
    }
}
