//! A place in a document, and what is found there.

use std::cell::RefCell;

use serde_json::Value;

use super::{Finding, Gravity};

/// How much of a value a finding shows.
const SHOWN: usize = 80;

/// The findings of one object, while it is read.
pub(super) struct Findings {
    object: String,
    list: RefCell<Vec<Finding>>,
}

impl Findings {
    pub(super) fn new(object: String) -> Self {
        Self { object, list: RefCell::default() }
    }

    pub(super) fn into_list(self) -> Vec<Finding> {
        self.list.into_inner()
    }
}

/// A value of an object, and the way to it.
#[derive(Clone)]
pub(super) struct At<'a> {
    path: String,
    value: &'a Value,
    findings: &'a Findings,
}

impl<'a> At<'a> {
    /// The object itself.
    pub(super) fn new(value: &'a Value, findings: &'a Findings) -> Self {
        Self { path: String::new(), value, findings }
    }

    pub(super) fn value(&self) -> &'a Value {
        self.value
    }

    /// What stands in the field `name`; none if nothing does.
    pub(super) fn field(&self, name: &str) -> Option<Self> {
        let value = self.value.get(name).filter(|value| !value.is_null())?;
        Some(self.below(name, value))
    }

    fn below(&self, name: &str, value: &'a Value) -> Self {
        let dot = if self.path.is_empty() { "" } else { "." };
        Self { path: format!("{}{dot}{name}", self.path), value, findings: self.findings }
    }

    /// The values of a list; none if it is no list, which is a finding.
    pub(super) fn items(&self) -> Option<Vec<Self>> {
        let Value::Array(items) = self.value else {
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
        let Value::Object(fields) = self.value else {
            self.wrong("not an object", "write fields with their values");
            return false;
        };
        let mut good = true;
        for (name, value) in fields {
            // A field without a value says nothing.
            if !known.contains(&name.as_str()) && !value.is_null() {
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
        let text = self.value.as_str();
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
        self.below(name, &Value::Null).wrong("missing", remedy);
    }

    fn say(&self, gravity: Gravity, problem: &str, remedy: &str) {
        self.findings.list.borrow_mut().push(Finding {
            object: self.findings.object.clone(),
            field: if self.path.is_empty() { "(whole)".to_owned() } else { self.path.clone() },
            value: shown(self.value),
            problem: problem.to_owned(),
            remedy: remedy.to_owned(),
            gravity,
        });
    }
}

fn shown(value: &Value) -> String {
    if value.is_null() {
        return String::new();
    }
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
