//! Label selectors, and selections of pods.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::object::{Namespaces, PodSelection, Requirement, Selector};

/// The label by which a namespace is known by its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub(super) fn selector(selector: &Selector) -> Value {
    let requirements: Vec<Value> = selector.requirements().map(requirement).collect();
    if requirements.is_empty() { json!({}) } else { json!({ "matchExpressions": requirements }) }
}

fn requirement(requirement: &Requirement) -> Value {
    let with = |key: &str, operator: &str, values: Option<&BTreeSet<Arc<str>>>| {
        let mut written = json!({ "key": key, "operator": operator });
        if let Some(values) = values {
            written["values"] = values.iter().map(|value| Value::from(&**value)).collect();
        }
        written
    };
    match requirement {
        Requirement::In(key, values) => with(key, "In", Some(values)),
        Requirement::NotIn(key, values) => with(key, "NotIn", Some(values)),
        Requirement::Exists(key) => with(key, "Exists", None),
        Requirement::DoesNotExist(key) => with(key, "DoesNotExist", None),
        // No reader makes one of a document: a key that is there and is not there is as good.
        Requirement::Never => with("", "In", Some(&BTreeSet::from([Arc::from("/")]))),
    }
}

/// A selection with both of its halves, under these names.
pub(super) fn both(selection: &PodSelection) -> Value {
    let namespaces = match &selection.namespaces {
        Namespaces::Matching(namespaces) => selector(namespaces),
        Namespaces::Named(name) => json!({ "matchLabels": { NAME_LABEL: &**name } }),
    };
    json!({ "namespaceSelector": namespaces, "podSelector": selector(&selection.pods) })
}
