//! An API server in memory: Nodes with versions, lists, watches that may be left behind, patches.

use std::collections::BTreeMap;

use culvert_claims::kubernetes::Patch;
use serde_json::{Value, json};

/// A change, as a watch tells it.
#[derive(Clone)]
pub(crate) struct Change {
    pub(crate) version: u64,
    /// The node as it is now, or as it was when it was deleted.
    pub(crate) node: Value,
    pub(crate) deleted: bool,
}

pub(crate) struct Api {
    pub(crate) version: u64,
    pub(crate) nodes: BTreeMap<String, Value>,
    /// Changes up to this version are forgotten.
    forgotten: u64,
    history: Vec<Change>,
    pub(crate) patches: u64,
}

/// What came of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patched {
    Done,
    Conflict,
    NotFound,
}

impl Api {
    pub(crate) fn new() -> Self {
        Self { version: 1, nodes: BTreeMap::new(), forgotten: 0, history: Vec::new(), patches: 0 }
    }

    /// Writes a node, whatever was there.
    pub(crate) fn put(&mut self, mut node: Value) {
        let name = node["metadata"]["name"].as_str().unwrap().to_owned();
        node["metadata"]["resourceVersion"] = json!("");
        let mut before = self.nodes.get(&name).cloned().unwrap_or_default();
        if before.is_object() {
            before["metadata"]["resourceVersion"] = json!("");
        }
        // What changes nothing has no new version.
        if before == node {
            return;
        }
        self.version += 1;
        node["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.history.push(Change { version: self.version, node: node.clone(), deleted: false });
        self.nodes.insert(name, node);
    }

    pub(crate) fn delete(&mut self, name: &str) {
        let Some(mut node) = self.nodes.remove(name) else { return };
        self.version += 1;
        node["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.history.push(Change { version: self.version, node, deleted: true });
    }

    pub(crate) fn patch(&mut self, name: &str, patch: &Patch) -> Patched {
        self.patches += 1;
        let Some(mut node) = self.nodes.get(name).cloned() else { return Patched::NotFound };
        match patch {
            Patch::Object(patch) => {
                let from = &patch["metadata"]["resourceVersion"];
                if !from.is_null() && *from != node["metadata"]["resourceVersion"] {
                    return Patched::Conflict;
                }
                merge(&mut node, patch);
            }
            Patch::Status(patch) => {
                let known = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
                let new = patch["status"]["conditions"].as_array().unwrap();
                let kept = known
                    .into_iter()
                    .filter(|old| !new.iter().any(|new| new["type"] == old["type"]));
                let all: Vec<Value> = kept.chain(new.iter().cloned()).collect();
                node["status"]["conditions"] = all.into();
            }
        }
        self.put(node);
        Patched::Done
    }

    /// Changes after `version`; none if they are forgotten.
    pub(crate) fn since(&self, version: u64) -> Option<&[Change]> {
        if version < self.forgotten {
            return None;
        }
        let start = self.history.partition_point(|change| change.version <= version);
        Some(&self.history[start..])
    }

    pub(crate) fn forget(&mut self) {
        self.forgotten = self.version;
        self.history.clear();
    }
}

/// A JSON merge patch (RFC 7396).
fn merge(value: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *value = patch.clone();
        return;
    };
    if !value.is_object() {
        *value = json!({});
    }
    for (key, patch) in patch {
        if patch.is_null() {
            value.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut value[key.as_str()], patch);
        }
    }
}
