//! A place in a document, and what is found there.

use std::cell::RefCell;

use serde_json::Value;

use super::document::Document;
use super::{Finding, Gravity, named};
use crate::object::Kind;

/// How much of a value a finding shows.
const SHOWN: usize = 80;

/// The findings of one object, while it is read.
pub(super) struct Findings<'a> {
    kind: Kind,
    object: &'a Document<'a>,
    list: RefCell<Vec<Finding>>,
}

impl<'a> Findings<'a> {
    pub(super) fn new(kind: Kind, object: &'a Document<'a>) -> Self {
        Self { kind, object, list: RefCell::default() }
    }

    pub(super) fn into_list(self) -> Vec<Finding> {
        self.list.into_inner()
    }
}

/// A value of an object, and the way to it.
#[derive(Clone)]
pub(super) struct At<'a> {
    path: String,
    value: &'a Document<'a>,
    findings: &'a Findings<'a>,
}

impl<'a> At<'a> {
    /// The object itself.
    pub(super) fn new(findings: &'a Findings<'a>) -> Self {
        Self { path: String::new(), value: findings.object, findings }
    }

    pub(super) fn value(&self) -> &'a Document<'a> {
        self.value
    }

    /// What stands in the field `name`; none if nothing does.
    pub(super) fn field(&self, name: &str) -> Option<Self> {
        let value = self.value.get(name).filter(|value| !value.is_null())?;
        Some(self.below(name, value))
    }

    fn below(&self, name: &str, value: &'a Document<'a>) -> Self {
        let mut path = String::with_capacity(self.path.len() + 1 + name.len());
        path.push_str(&self.path);
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(name);
        Self { path, value, findings: self.findings }
    }

    /// The values of a list; none if it is no list, which is a finding.
    pub(super) fn items(&self) -> Option<Vec<Self>> {
        let Document::List(items) = self.value else {
            self.wrong("not a list", "write its values with a dash before each");
            return None;
        };
        let items = items.iter().enumerate().map(|(at, value)| Self {
            path: format!("{}[{at}]", self.path),
            value,
            findings: self.findings,
        });
        Some(items.collect())
    }

    /// Whether it is an object with none but these fields; others are findings.
    pub(super) fn has_only(&self, known: &[&str]) -> bool {
        let Document::Object(fields) = self.value else {
            self.wrong("not an object", "write fields with their values");
            return false;
        };
        let mut good = true;
        for (name, value) in fields {
            // A field without a value says nothing.
            if !known.contains(&name.as_ref()) && !value.is_null() {
                let field = self.below(name, value);
                let remedy = format!("the fields known here are {}", known.join(", "));
                field.say(Gravity::Closes, "not understood, and so allows nothing", &remedy);
                good = false;
            }
        }
        good
    }

    /// The text here; none if it is none, which is a finding.
    pub(super) fn text(&self) -> Option<&'a str> {
        let text = self.value.text();
        if text.is_none() {
            self.wrong("not a text", "write it in quotation marks");
        }
        text
    }

    /// Says that an API server would refuse what is here.
    pub(super) fn wrong(&self, problem: &str, remedy: &str) {
        self.say(Gravity::Wrong, problem, remedy);
    }

    /// Says that this program does not understand what is here.
    pub(super) fn closes(&self, problem: &str, remedy: &str) {
        self.say(Gravity::Closes, problem, remedy);
    }

    /// Says that the field `name` is missing here.
    pub(super) fn lacks(&self, name: &str, remedy: &str) {
        self.below(name, &Document::Null).wrong("missing", remedy);
    }

    fn say(&self, gravity: Gravity, problem: &str, remedy: &str) {
        self.findings.list.borrow_mut().push(Finding {
            object: named(self.findings.kind, self.findings.object),
            field: if self.path.is_empty() { "(whole)".to_owned() } else { self.path.clone() },
            value: shown(self.value),
            problem: problem.to_owned(),
            remedy: remedy.to_owned(),
            gravity,
        });
    }
}

fn shown(value: &Document<'_>) -> String {
    if value.is_null() {
        return String::new();
    }
    let text = Value::from(value).to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
