//! What becomes of each key: read, allowed because it says what is so anyway, or refused.
//!
//! A key that is refused would otherwise be a wish that nobody hears. The list in `docs/cni.md` is
//! checked against this one.

use serde_json::{Map, Value, json};

use super::{bad, unsupported};
use crate::error::Error;

/// Keys that [`Settings`](super::Settings) reads.
pub(super) const READ: [&str; 12] = [
    "bridge",
    "isDefaultGateway",
    "ipMasq",
    "mtu",
    "hairpinMode",
    "portIsolation",
    "macspoofchk",
    "enabledad",
    "ipam",
    "args",
    "runtimeConfig",
    "dns",
];

/// Keys that change nothing: they tell the runtime what to put into `runtimeConfig`, or ask for the
/// bridge to have the gateway's address whatever it had, which is the daemon's work at all times.
pub(super) const IGNORED: [&str; 2] = ["capabilities", "forceAddress"];

/// A key that may only say what is so anyway.
pub(super) struct Fixed {
    pub(super) key: &'static str,
    pub(super) allowed: fn() -> Value,
    pub(super) remedy: &'static str,
}

/// Keys of the reference plugin that may only say what is so anyway.
pub(super) const FIXED: [Fixed; 7] = [
    Fixed {
        key: "isGateway",
        allowed: || json!(true),
        remedy: "the bridge is always the gateway of its pods, or they would reach no other node; \
                 remove it",
    },
    Fixed {
        key: "ipMasqBackend",
        allowed: || json!("nftables"),
        remedy: "the daemon masquerades in an nftables table of its own; remove it",
    },
    Fixed {
        key: "promiscMode",
        allowed: || json!(false),
        remedy: "pods that reach themselves need hairpinMode, which excludes it; remove it",
    },
    Fixed {
        key: "vlan",
        allowed: || json!(0),
        remedy: "the overlay carries IP packets, which have no VLAN; remove it, or use a network of \
                 the bridge plugin beside this one",
    },
    Fixed {
        key: "vlanTrunk",
        allowed: || json!([]),
        remedy: "the overlay carries IP packets, which have no VLAN; remove it, or use a network of \
                 the bridge plugin beside this one",
    },
    Fixed {
        key: "preserveDefaultVlan",
        allowed: || json!(true),
        remedy: "the bridge has no VLANs to take a port out of; remove it",
    },
    Fixed {
        key: "disableContainerInterface",
        allowed: || json!(false),
        remedy: "a pod without its interface has no network; remove it",
    },
];

/// What to do about keys that a person may well write and that have no place here.
const KNOWN_ELSEWHERE: [(&str, &str); 3] = [
    ("plugins", "hand over one plugin's configuration, not the whole list"),
    ("subnet", "it belongs into ipam"),
    ("routes", "it belongs into ipam"),
];

/// Refuses keys that ask for what this plugin does not do.
pub(super) fn refuse_others(rest: &Map<String, Value>) -> Result<(), Error> {
    for (key, value) in rest {
        // A key with a slash belongs to whoever owns the domain before it (`cni.dev/…`).
        let name = key.as_str();
        if READ.contains(&name) || IGNORED.contains(&name) || name.contains('/') {
            continue;
        }
        if let Some(fixed) = FIXED.iter().find(|fixed| fixed.key == name) {
            let allowed = (fixed.allowed)();
            if kind(value) != kind(&allowed) {
                return Err(bad(name, value, &format!("needs to be {}", kind(&allowed))));
            }
            if *value != allowed && !is_unset(value) {
                return Err(unsupported(name, value, fixed.remedy));
            }
            continue;
        }
        let known = KNOWN_ELSEWHERE.iter().find(|(known, _)| *known == name);
        let remedy = known.map_or("the key is unknown; remove it", |(_, remedy)| remedy);
        return Err(unsupported(name, value, remedy));
    }
    Ok(())
}

/// Refuses members of `object` that are not among `known`.
pub(super) fn refuse_members(
    path: &str,
    object: &Map<String, Value>,
    known: &[&str],
    remedy: &str,
) -> Result<(), Error> {
    match object.iter().find(|(key, _)| !known.contains(&key.as_str())) {
        Some((key, value)) => Err(unsupported(&format!("{path}.{key}"), value, remedy)),
        None => Ok(()),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Whether a value is what some encoders write for a key that was never set.
fn is_unset(value: &Value) -> bool {
    value.as_str().is_some_and(str::is_empty)
}

/// A member that is a boolean, if it is there.
pub(super) fn boolean(object: &Map<String, Value>, key: &str) -> Result<Option<bool>, Error> {
    match object.get(key) {
        None => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(other) => Err(bad(key, other, "needs to be true or false")),
    }
}

/// A member that is a string and not empty, if it is there.
pub(super) fn text<'a>(
    path: &str,
    object: &'a Map<String, Value>,
    key: &str,
) -> Result<Option<&'a str>, Error> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(value)) => Ok(Some(value.as_str()).filter(|text| !text.is_empty())),
        Some(other) => Err(bad(&format!("{path}{key}"), other, "needs to be a string")),
    }
}

/// A member that is an object, if it is there.
pub(super) fn object<'a>(
    path: &str,
    object: &'a Map<String, Value>,
    key: &str,
) -> Result<Option<&'a Map<String, Value>>, Error> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(value)) => Ok(Some(value)),
        Some(other) => Err(bad(&format!("{path}{key}"), other, "needs to be an object")),
    }
}

/// The elements of a member that is a list, each with its path; none if it is not there.
pub(super) fn list<'a>(
    path: &str,
    object: &'a Map<String, Value>,
    key: &str,
) -> Result<Vec<(String, &'a Value)>, Error> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(values)) => Ok(values
            .iter()
            .enumerate()
            .map(|(place, value)| (format!("{path}{key}[{place}]"), value))
            .collect()),
        Some(other) => Err(bad(&format!("{path}{key}"), other, "needs to be a list")),
    }
}
