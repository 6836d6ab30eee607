//! How runtimes spell what is in `runtimeConfig`.
//!
//! The CNI conventions have `hostPort`. Runtimes are written in Go, whose encoder writes the names
//! of fields (`HostPort`, as containerd does) where nobody gave others, and whose decoder, in the
//! reference plugins, does not mind the case. So what is meant is found without it.

use serde_json::{Map, Value};

/// The object, with each member at any depth that is one of `known` but for its case called so.
pub(super) fn known_as(object: &Map<String, Value>, known: &[&str]) -> Map<String, Value> {
    let name = |key: &str| {
        let meant = known.iter().find(|name| name.eq_ignore_ascii_case(key));
        // Where both are there, the conventions' own one counts.
        let meant = meant.filter(|name| **name == key || !object.contains_key(**name));
        meant.map_or(key, |name| *name).to_owned()
    };
    object.iter().map(|(key, value)| (name(key), value_as(value, known))).collect()
}

fn value_as(value: &Value, known: &[&str]) -> Value {
    match value {
        Value::Object(object) => Value::Object(known_as(object, known)),
        Value::Array(list) => list.iter().map(|value| value_as(value, known)).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn members_are_found_in_any_case_and_others_stay() {
        let Value::Object(given) = json!({"PortMappings": [{"HostPort": 1, "Other": {"HOSTIP": ""}}], "hostIP": 2, "HostIP": 3})
        else {
            unreachable!("it is an object")
        };
        let found = known_as(&given, &["portMappings", "hostPort", "hostIP"]);
        let expected = json!({"portMappings": [{"hostPort": 1, "Other": {"hostIP": ""}}],
                              "hostIP": 2, "HostIP": 3});
        assert_eq!(Value::Object(found), expected);
    }
}
