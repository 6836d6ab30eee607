//! How a pod is attached to the bridge: the keys that the reference `bridge` plugin has for it.

use serde_json::{Map, Value};

use crate::error::Error;

/// What a configuration says about the port of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Key `hairpinMode`: the bridge may send a frame back to the pod that it came from.
    pub(crate) hairpin: bool,
    /// Key `macspoofchk`: the pod sends from its own MAC and IP addresses only.
    pub(crate) source_check: bool,
    /// Key `portIsolation`: the bridge carries nothing between this pod and others that have it.
    pub(crate) isolated: bool,
    /// Key `enabledad`: IPv6 addresses are used only after nobody answered for them.
    pub(crate) duplicate_detection: bool,
}

impl Default for Options {
    /// A pod may reach itself through a service and may not pass for another; its addresses come
    /// from a store that hands each out once.
    fn default() -> Self {
        Self { hairpin: true, source_check: true, isolated: false, duplicate_detection: false }
    }
}

impl Options {
    /// Takes the keys out of a configuration.
    ///
    /// # Errors
    ///
    /// A key that is neither true nor false.
    pub(crate) fn take(document: &mut Map<String, Value>) -> Result<Self, Error> {
        let mut options = Self::default();
        for (key, option) in [
            ("hairpinMode", &mut options.hairpin),
            ("macspoofchk", &mut options.source_check),
            ("portIsolation", &mut options.isolated),
            ("enabledad", &mut options.duplicate_detection),
        ] {
            match document.remove(key) {
                None => {}
                Some(Value::Bool(value)) => *option = value,
                Some(other) => {
                    return Err(Error::BadConfig {
                        key: key.to_owned(),
                        value: other.to_string(),
                        remedy: "needs to be true or false".to_owned(),
                    });
                }
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn take(document: Value) -> Result<Options, Error> {
        let Value::Object(mut document) = document else { unreachable!("an object") };
        Options::take(&mut document)
    }

    #[test]
    fn a_pod_is_checked_unless_told_otherwise() {
        assert_eq!(take(json!({})).unwrap(), Options::default());
        let document = json!({"hairpinMode": false, "macspoofchk": false, "portIsolation": true,
            "enabledad": true});
        let options = take(document).unwrap();
        assert_eq!(
            options,
            Options {
                hairpin: false,
                source_check: false,
                isolated: true,
                duplicate_detection: true
            }
        );
    }

    #[test]
    fn anything_but_true_and_false_is_refused() {
        for key in ["hairpinMode", "macspoofchk", "portIsolation", "enabledad"] {
            let error = take(json!({key: "yes"})).unwrap_err();
            assert_eq!(error.code(), 7);
            assert!(error.to_string().contains(&format!("{key} is \"yes\"")), "{error}");
        }
    }
}
