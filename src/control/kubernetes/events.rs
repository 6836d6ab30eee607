//! Events of this node's Node: what people see with `kubectl describe node`.
//!
//! A task beside the one that follows nodes, so that neither waits for the other. At most one event
//! a minute of each kind, whatever happens; what happens meanwhile is told by the next. While the
//! API server is away, or refuses, the note is tried again with the next minute.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use culvert_dataplane::platform::clock;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::client::{Api, CallError, FORBIDDEN};
use crate::control::source::{Notes, Reason, SourceRequests};

/// How long there is no other event of a kind.
const SPAN: Duration = Duration::from_secs(60);

/// Bytes of a message at most; the API takes 1,024.
const LONGEST: usize = 1000;

/// Tells notes for ever, or until there can be none any more.
pub(super) async fn tell(
    kubeconfig: Option<PathBuf>,
    node: String,
    mut requests: watch::Receiver<SourceRequests>,
) {
    let mut pace = Pace::default();
    let mut is_forbidden = false;
    loop {
        let notes = requests.borrow_and_update().notes.clone();
        let (due, next) = pace.due(&notes, clock::now());
        for reason in due {
            let Some((number, text)) = notes.get(&reason) else { continue };
            let posted = post(kubeconfig.as_ref(), &node, reason, text).await;
            pace.told(reason, posted.is_ok().then_some(*number), clock::now());
            match posted {
                Ok(()) => {}
                Err(error) if error.code() == Some(FORBIDDEN) => {
                    if !std::mem::replace(&mut is_forbidden, true) {
                        tracing::warn!(%error, "events cannot be written; see deploy/kubernetes");
                    }
                }
                Err(error) => tracing::debug!(%error, "writing an event failed"),
            }
        }
        tokio::select! {
            changed = requests.changed() => if changed.is_err() { return },
            () = super::sleep_until(next) => {}
        }
    }
}

async fn post(
    kubeconfig: Option<&PathBuf>,
    node: &str,
    reason: Reason,
    text: &str,
) -> Result<(), CallError> {
    let api = Api::connect(kubeconfig.map(PathBuf::as_path)).await?;
    api.create_event(&event(node, reason, text, clock::unix_nanos())).await
}

/// The event, as the kubelet writes those of its Node: in the namespace `default`, and with the
/// node's name for its uid.
fn event(node: &str, reason: Reason, text: &str, unix_nanos: u64) -> Value {
    let seconds = i64::try_from(unix_nanos / 1_000_000_000).unwrap_or_default();
    let now = Timestamp::from_second(seconds).unwrap_or_default().to_string();
    let kind = if reason.is_warning() { "Warning" } else { "Normal" };
    let mut end = LONGEST.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": { "name": format!("{node}.{unix_nanos:x}"), "namespace": NAMESPACE },
        "involvedObject": { "apiVersion": "v1", "kind": "Node", "name": node, "uid": node },
        "reason": reason.word(),
        "message": text.get(..end).unwrap_or_default(),
        "type": kind,
        "source": { "component": "culvert", "host": node },
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    })
}

/// Where events of what has no namespace are.
pub(super) const NAMESPACE: &str = "default";

/// What was told when.
#[derive(Debug, Default)]
struct Pace(BTreeMap<Reason, (u64, Instant)>);

impl Pace {
    /// What is to be told now, and when to look again although nothing comes.
    fn due(&self, notes: &Notes, now: Instant) -> (Vec<Reason>, Option<Instant>) {
        let (mut due, mut next) = (Vec::new(), None::<Instant>);
        for (reason, (number, _)) in notes {
            match self.0.get(reason) {
                Some((told, _)) if told == number => {}
                Some((_, at)) if now < *at + SPAN => {
                    next = Some(next.map_or(*at + SPAN, |next| next.min(*at + SPAN)));
                }
                _ => due.push(*reason),
            }
        }
        (due, next)
    }

    /// Takes note that it was tried, and which number was told, if one was.
    fn told(&mut self, reason: Reason, number: Option<u64>, now: Instant) {
        let before = self.0.get(&reason).map(|(told, _)| *told).unwrap_or_default();
        self.0.insert(reason, (number.unwrap_or(before), now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes(of: &[(Reason, u64)]) -> Notes {
        of.iter().map(|(reason, number)| (*reason, (*number, String::new()))).collect()
    }

    #[test]
    fn one_a_minute_of_each_kind_and_the_newest() {
        let start = clock::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut pace = Pace::default();
        let first = notes(&[(Reason::PeerUnreachable, 1)]);
        assert_eq!(pace.due(&first, start), (vec![Reason::PeerUnreachable], None));
        pace.told(Reason::PeerUnreachable, Some(1), start);
        assert_eq!(pace.due(&first, after(120)), (vec![], None), "nothing is told twice");
        let both = notes(&[(Reason::PeerUnreachable, 5), (Reason::PathMtu, 1)]);
        assert_eq!(pace.due(&both, after(10)), (vec![Reason::PathMtu], Some(after(60))));
        pace.told(Reason::PathMtu, None, after(10));
        let (due, next) = pace.due(&both, after(60));
        assert_eq!(due, [Reason::PeerUnreachable]);
        assert_eq!(next, Some(after(70)), "what could not be told is tried again");
    }

    #[test]
    fn an_event_is_as_the_api_knows_it() {
        let long = "ä".repeat(2000);
        let written = event("node1", Reason::PathMtu, &long, 1_700_000_000_123_456_789);
        let known: k8s_openapi::api::core::v1::Event =
            serde_json::from_value(written.clone()).unwrap();
        assert_eq!(serde_json::to_value(&known).unwrap(), written, "every key is known");
        assert_eq!(known.message.unwrap().len(), LONGEST);
        assert_eq!(known.involved_object.name.as_deref(), Some("node1"));
        assert_eq!(known.type_.as_deref(), Some("Normal"));
        assert_eq!(written["firstTimestamp"], "2023-11-14T22:13:20Z");
    }
}
