//! As much of JSON Schema (draft 2020-12) as the files in docs/schemas use. A keyword that it does
//! not know is a fault of the schema, so that nothing is believed that is not looked at.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// Reads the schema `name`.
pub(crate) fn schema(name: &str) -> Value {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schemas");
    let path = directory.join(format!("{name}.json"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

/// Demands that a document is as the schema `name` says.
#[track_caller]
pub(crate) fn assert_valid(name: &str, document: &str) {
    let value: Value = serde_json::from_str(document).unwrap();
    let faults = faults(&schema(name), &value, "");
    assert!(faults.is_empty(), "docs/schemas/{name}.json: {faults:#?} in {value:#}");
}

/// What of `value` is not as `schema` says.
pub(crate) fn faults(schema: &Value, value: &Value, place: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (keyword, rule) in schema.as_object().expect("a schema is an object") {
        match keyword.as_str() {
            "$schema" | "title" | "description" => {}
            "type" => {
                let one = std::slice::from_ref(rule);
                let types = rule.as_array().map_or(one, Vec::as_slice);
                if !types.iter().any(|kind| is_of(value, kind.as_str().expect("a type"))) {
                    faults.push(format!("{place}: {value} is not of type {rule}"));
                }
            }
            "const" if value != rule => faults.push(format!("{place}: {value} is not {rule}")),
            "const" => {}
            "enum" => {
                if !rule.as_array().expect("a list").contains(value) {
                    faults.push(format!("{place}: {value} is none of {rule}"));
                }
            }
            "minimum" => {
                if value.as_f64().is_some_and(|number| number < rule.as_f64().expect("a number")) {
                    faults.push(format!("{place}: {value} is less than {rule}"));
                }
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    faults.extend(self::faults(rule, item, &format!("{place}[{index}]")));
                }
            }
            "properties" => {
                for (name, rule) in rule.as_object().expect("properties are an object") {
                    if let Some(property) = value.get(name) {
                        faults.extend(self::faults(rule, property, &format!("{place}.{name}")));
                    }
                }
            }
            "required" => {
                for name in rule.as_array().expect("a list") {
                    let name = name.as_str().expect("a name");
                    if value.is_object() && value.get(name).is_none() {
                        faults.push(format!("{place}.{name} is missing"));
                    }
                }
            }
            "additionalProperties" => {
                let known = |name: &String| {
                    schema.get("properties").is_some_and(|known| known.get(name).is_some())
                };
                let all = value.as_object().into_iter().flatten();
                for (name, property) in all.filter(|(name, _)| !known(name)) {
                    if *rule == Value::Bool(false) {
                        faults.push(format!("{place}.{name} is not in the schema"));
                    } else {
                        faults.extend(self::faults(rule, property, &format!("{place}.{name}")));
                    }
                }
            }
            other => faults.push(format!("{place}: the keyword {other} is not known here")),
        }
    }
    faults
}

fn is_of(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}
