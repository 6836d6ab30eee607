//! Label selectors.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::field::At;
use super::syntax::{is_label_key, is_label_value};
use crate::object::{Requirement, Selector};

const KEY: &str = "write a label's key, such as app or example.com/app";
const VALUE: &str =
    "write up to 63 letters, digits, '-', '_' or '.', with a letter or digit at each end";

/// The selector at `at`; none if a part of it is not understood.
pub(super) fn selector(at: &At<'_>) -> Option<Selector> {
    let mut good = at.has_only(&["matchLabels", "matchExpressions"]);
    let mut requirements = Vec::new();
    if let Some(labels) = at.field("matchLabels") {
        good &= match_labels(&labels, &mut requirements);
    }
    if let Some(expressions) = at.field("matchExpressions") {
        for expression in expressions.items()? {
            match requirement(&expression) {
                Some(requirement) => requirements.push(requirement),
                None => good = false,
            }
        }
    }
    good.then(|| requirements.into_iter().collect())
}

fn match_labels(at: &At<'_>, requirements: &mut Vec<Requirement>) -> bool {
    let Some(labels) = at.value().fields() else {
        at.wrong("not an object", "write keys with their values");
        return false;
    };
    let mut good = true;
    for (key, value) in labels {
        let Some(value) = value.text() else {
            at.wrong("not all values are texts", "write values in quotation marks");
            good = false;
            continue;
        };
        check_key(at, key);
        check_value(at, value);
        requirements.push(Requirement::In(key.as_ref().into(), [value.into()].into()));
    }
    good
}

fn requirement(at: &At<'_>) -> Option<Requirement> {
    let good = at.has_only(&["key", "operator", "values"]);
    let Some(key) = at.field("key") else {
        at.lacks("key", KEY);
        return None;
    };
    let text = key.text()?;
    check_key(&key, text);
    let text: Arc<str> = text.into();
    let values = match at.field("values") {
        Some(values) => values.items()?,
        None => Vec::new(),
    };
    let mut set = BTreeSet::new();
    for value in &values {
        let text = value.text()?;
        check_value(value, text);
        set.insert(Arc::from(text));
    }
    let Some(operator) = at.field("operator") else {
        at.lacks("operator", OPERATORS);
        return None;
    };
    let name = operator.text()?;
    let takes_values = matches!(name, "In" | "NotIn");
    let requirement = match name {
        "In" => Requirement::In(text, set),
        "NotIn" => Requirement::NotIn(text, set),
        "Exists" => Requirement::Exists(text),
        "DoesNotExist" => Requirement::DoesNotExist(text),
        _ => {
            operator.wrong("not an operator", OPERATORS);
            return None;
        }
    };
    if takes_values && values.is_empty() {
        at.lacks("values", "write at least one value for this operator");
        return None;
    }
    if !takes_values && !values.is_empty() {
        at.wrong("this operator takes no values", "leave out values");
        return None;
    }
    good.then_some(requirement)
}

const OPERATORS: &str = "write In, NotIn, Exists or DoesNotExist";

/// A key that no object can have is matched as it stands, and so by no object.
fn check_key(at: &At<'_>, key: &str) {
    if !is_label_key(key) {
        at.wrong(&format!("{key:?} cannot be the key of a label"), KEY);
    }
}

fn check_value(at: &At<'_>, value: &str) {
    if !is_label_value(value) {
        at.wrong(&format!("{value:?} cannot be the value of a label"), VALUE);
    }
}
