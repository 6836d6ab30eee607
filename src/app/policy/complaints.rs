//! What is said of objects that are not understood: each thing once, and of nobody so much that it
//! hides what there is to say of others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use culvert_policy::read::Finding;
use tokio::time::Instant;

/// Lines about objects of one namespace in [`WINDOW`].
const LINES: usize = 20;
const WINDOW: Duration = Duration::from_secs(60);

/// Namespaces that are remembered, and lines of each. What is forgotten may be said again.
const NAMESPACES: usize = 200;
const REMEMBERED: usize = 100;

/// What was said, by kind and namespace of the objects: whoever may write in one namespace has a
/// share of the log.
#[derive(Debug, Default)]
pub(super) struct Complaints(BTreeMap<String, Said>);

#[derive(Debug)]
struct Said {
    since: Instant,
    /// Lines since then.
    lines: usize,
    texts: BTreeSet<String>,
}

impl Complaints {
    /// Says at `now` what was not said before.
    pub(super) fn say(&mut self, findings: &[Finding], now: Instant) {
        for line in findings.iter().filter_map(|finding| self.line(finding, now)) {
            tracing::warn!(
                finding = line,
                "an object is not understood, and that part allows nothing"
            );
        }
    }

    /// The line for `finding`, if there is to be one.
    fn line(&mut self, finding: &Finding, now: Instant) -> Option<String> {
        let (place, _name) = finding.object.rsplit_once('/').unwrap_or((&finding.object, ""));
        if self.0.len() >= NAMESPACES && !self.0.contains_key(place) {
            let oldest = self.0.iter().min_by_key(|(_, said)| said.since);
            let oldest = oldest.map(|(place, _)| place.clone());
            oldest.map(|place| self.0.remove(&place));
        }
        let said = self.0.entry(place.to_owned());
        let said =
            said.or_insert_with(|| Said { since: now, lines: 0, texts: BTreeSet::default() });
        if now.saturating_duration_since(said.since) >= WINDOW {
            (said.since, said.lines) = (now, 0);
        }
        let text = finding.to_string();
        if said.lines > LINES || said.texts.contains(&text) {
            return None;
        }
        said.lines += 1;
        if said.lines > LINES {
            return Some(format!(
                "{place}: more than {LINES} within a minute; `culvert policy check`"
            ));
        }
        if said.texts.len() >= REMEMBERED {
            said.texts.clear();
        }
        said.texts.insert(text.clone());
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use culvert_policy::read::Gravity;

    use super::*;

    fn finding(object: &str, value: usize) -> Finding {
        Finding {
            object: object.to_owned(),
            field: "spec".to_owned(),
            value: value.to_string(),
            problem: "not a number".to_owned(),
            remedy: "write one".to_owned(),
            gravity: Gravity::Closes,
        }
    }

    #[test]
    fn nobody_silences_what_there_is_to_say_of_others() {
        let (mut complaints, now) = (Complaints::default(), Instant::now());
        let mut line = |object: &str, value, after| {
            complaints.line(&finding(object, value), now + Duration::from_secs(after))
        };
        let own = "NetworkPolicy shop/web";
        assert_eq!(
            line(own, 0, 0).as_deref(),
            Some("NetworkPolicy shop/web: spec = 0: not a number; write one")
        );
        assert_eq!(line(own, 0, 0), None, "it was said");
        let said = (1..5000).filter(|value| line(own, *value, 1).is_some()).count();
        assert_eq!(said, LINES, "and that there is more");
        assert!(line("NetworkPolicy bank/web", 0, 1).is_some());
        // A minute later it goes on.
        assert!(line("NetworkPolicy shop/db", 7000, 61).is_some());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut complaints, mut now) = (Complaints::default(), Instant::now());
        for namespace in 0..2 * NAMESPACES {
            now += Duration::from_secs(1);
            let object = format!("NetworkPolicy n{namespace}/web");
            assert!(complaints.line(&finding(&object, 0), now).is_some());
        }
        assert_eq!(complaints.0.len(), NAMESPACES);
        for value in 1..10 * REMEMBERED {
            now += WINDOW;
            assert!(complaints.line(&finding("NetworkPolicy n399/web", value), now).is_some());
        }
        assert!(complaints.0.values().all(|said| said.texts.len() <= REMEMBERED));
    }
}
