//! Objects out of YAML and JSON.
//!
//! What an author wrote and this program does not understand is never taken for something wider: it
//! becomes a part that allows nothing, and a [`Finding`] says so. So an object that an API server
//! of a newer version accepted closes where this program is too old for it.

mod cluster;
mod document;
mod field;
mod finding;
mod kinds;
mod network;
mod page;
mod part;
mod selector;
mod syntax;

use std::fmt;

use serde_json::Value;

use crate::object::{Kind, Object};
use document::Document;
use field::{At, Findings};

pub use finding::{Finding, Gravity};
pub use page::{Page, page};
pub use part::{Part, Whole};

/// Documents, nodes and events of YAML in one text at most: ten thousand pods, as a cluster writes
/// them, have some hundred nodes each.
const MOST_DOCUMENTS: usize = 100_000;
const MOST_NODES: usize = 5_000_000;

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// The objects, in the order in which they stand.
    pub objects: Vec<Object>,
    /// What is wrong with them, or not understood.
    pub findings: Vec<Finding>,
}

/// A text that has no objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    line: Option<u64>,
    problem: String,
}

impl Unreadable {
    /// The line at fault, counted from 1.
    #[must_use]
    pub const fn line(&self) -> Option<u64> {
        self.line
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)
    }
}

impl std::error::Error for Unreadable {}

/// Reads every object of a text in YAML, which JSON is as well. Objects of other kinds are passed
/// over, lists are taken apart.
///
/// # Errors
///
/// It is no YAML.
pub fn text(text: &str) -> Result<Read, Unreadable> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        // A pod called "n" is not called "false".
        strict_booleans: true,
        budget: serde_saphyr::budget! {
            max_documents: MOST_DOCUMENTS,
            max_nodes: MOST_NODES,
            max_events: 4 * MOST_NODES,
        },
    };
    let documents: Vec<Value> =
        serde_saphyr::from_multiple_with_options(text, options).map_err(|error| Unreadable {
            line: error.location().map(|location| location.line()),
            problem: one_line(&error.to_string()),
        })?;
    let mut read = Read::default();
    for document in &documents {
        read.add(&document.into());
    }
    Ok(read)
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(": ")
}

/// Reads one object, or a list of objects; nothing if it is of another kind.
#[must_use]
pub fn value(value: &Value) -> Read {
    let mut read = Read::default();
    read.add(&value.into());
    read
}

/// Reads one object of a kind that its surroundings tell, as the items of an API server's list.
#[must_use]
pub fn item(kind: Kind, value: &Value) -> Read {
    Read::of(kind, &value.into())
}

/// Reads one object of a kind of which a part was kept.
#[must_use]
pub fn part(kind: Kind, part: &Part) -> Read {
    Read::of(kind, &part.0)
}

impl Read {
    fn add(&mut self, value: &Document<'_>) {
        let kind = value["kind"].text().unwrap_or_default();
        let version = value["apiVersion"].text().unwrap_or_default();
        if let Some(of) = kind.strip_suffix("List") {
            for item in value["items"].items() {
                // Items of a list of one kind need not say theirs.
                match Kind::of(of).filter(|_| item["kind"].text().is_none()) {
                    Some(kind) => self.add_kind(kind, item),
                    None => self.add(item),
                }
            }
            return;
        }
        let Some(known) = Kind::of(kind) else { return };
        let expected = known.api_version();
        // Other programs have kinds of the same name, which are not ours to read.
        let (group, _) = expected.rsplit_once('/').unwrap_or(("", expected));
        let (other, _) = version.rsplit_once('/').unwrap_or(("", version));
        if other != group && !version.is_empty() {
            return;
        }
        if version != expected {
            self.findings.push(Finding {
                object: named(known, value),
                field: "apiVersion".to_owned(),
                value: version.to_owned(),
                problem: "not the version that is understood".to_owned(),
                remedy: format!("write {expected}"),
                gravity: if version.is_empty() { Gravity::Wrong } else { Gravity::Closes },
            });
        }
        self.add_kind(known, value);
    }

    fn add_kind(&mut self, kind: Kind, value: &Document<'_>) {
        let Self { objects, findings } = Self::of(kind, value);
        self.objects.extend(objects);
        self.findings.extend(findings);
    }

    /// One object of this kind.
    fn of(kind: Kind, value: &Document<'_>) -> Self {
        let findings = Findings::new(kind, value);
        let at = At::new(&findings);
        let object = match kind {
            Kind::Namespace => kinds::namespace(&at).map(Object::Namespace),
            Kind::Pod => kinds::pod(&at).map(Object::Pod),
            Kind::Node => kinds::node(&at).map(Object::Node),
            Kind::NetworkPolicy => network::policy(&at).map(Object::NetworkPolicy),
            Kind::ClusterNetworkPolicy => cluster::policy(&at).map(Object::ClusterNetworkPolicy),
        };
        Self { objects: object.into_iter().collect(), findings: findings.into_list() }
    }
}

/// The kind of an object, and what it is called, as far as it says.
fn named(kind: Kind, value: &Document<'_>) -> String {
    let (word, metadata) = (kind.as_str(), &value["metadata"]);
    let name = metadata["name"].text().unwrap_or("without a name");
    match kind {
        Kind::Namespace | Kind::Node | Kind::ClusterNetworkPolicy => format!("{word} {name}"),
        Kind::Pod | Kind::NetworkPolicy => {
            let namespace = metadata["namespace"].text().unwrap_or(DEFAULT_NAMESPACE);
            format!("{word} {namespace}/{name}")
        }
    }
}

/// The namespace of an object that names none.
const DEFAULT_NAMESPACE: &str = "default";

#[cfg(test)]
mod tests;
