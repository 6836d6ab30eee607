//! The network configuration that the container runtime hands over on stdin.
//!
//! Owns its limits, its keys and the decision about each key that is not ours: supported, ignored
//! because nothing is lost, or refused because silence would hide a wish. `docs/cni.md` lists them.

use std::io::Read;
use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::attachment::{Options, check_identifier};
use crate::environment::Directories;
use crate::error::Error;
use crate::node_file::{DEFAULT_RUN_DIR, DEFAULT_STATE_DIR};
use crate::version::CniVersion;

/// Longest configuration that is read. With a previous result of hundreds of addresses it is a few
/// tens of KiB, so this only stops a runaway writer.
const LIMIT_BYTES: u64 = 1 << 20;

/// Keys that change nothing here, and why they may be ignored.
///
/// - `capabilities` only tells the runtime what to put into `runtimeConfig`.
/// - `ipMasq` is the daemon's business: it masquerades what leaves the cluster, for all pods alike.
const IGNORED_KEYS: [&str; 2] = ["capabilities", "ipMasq"];

/// Keys of other plugins that describe what this one always does.
const ALWAYS_TRUE_KEYS: [&str; 2] = ["isGateway", "isDefaultGateway"];

/// Members of `args.cni` that ask for what this plugin cannot do.
const REFUSED_CNI_ARGS: [&str; 2] = ["ips", "mac"];

/// A configuration as far as all verbs need it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    pub(crate) version: CniVersion,
    /// Name of the network.
    pub(crate) name: String,
    pub(crate) run_dir: PathBuf,
    pub(crate) state_dir: PathBuf,
    /// How the pod is attached to the bridge.
    pub(crate) options: Options,
    /// Result of the plugin before this one, or for CHECK the final result of ADD.
    pub(crate) prev_result: Option<Value>,
    /// Copied into the result.
    pub(crate) dns: Option<Value>,
    /// Keys that are not ours.
    rest: Map<String, Value>,
}

/// Reads stdin, up to its limit.
pub(crate) fn read(stdin: &mut dyn Read) -> Result<Map<String, Value>, Error> {
    let mut text = Vec::new();
    stdin
        .take(LIMIT_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(|source| Error::ReadConfig { source })?;
    if text.len() as u64 > LIMIT_BYTES {
        return Err(Error::ConfigTooLong { limit_bytes: LIMIT_BYTES });
    }
    serde_json::from_slice(&text).map_err(|source| Error::DecodeConfig { source })
}

/// The version that a configuration asks for.
pub(crate) fn version(document: &Map<String, Value>) -> Result<CniVersion, Error> {
    let unsupported =
        |version: String| Error::UnsupportedVersion { version, supported: CniVersion::list() };
    match document.get("cniVersion") {
        // The specification: no version means the first one.
        None => Err(unsupported("0.1.0 (it is missing)".to_owned())),
        Some(Value::String(text)) => {
            CniVersion::parse(text).ok_or_else(|| unsupported(text.clone()))
        }
        Some(other) => Err(bad("cniVersion", other, "needs to be a string")),
    }
}

impl Config {
    /// Checks what every verb relies on. DEL must not fail over what only ADD refuses, so keys that
    /// are not ours are left to [`Self::refuse_unsupported`].
    pub(crate) fn parse(
        mut document: Map<String, Value>,
        environment: Directories,
    ) -> Result<Self, Error> {
        let version = version(&document)?;
        document.remove("cniVersion");
        document.remove("type");
        let name = match document.remove("name") {
            Some(Value::String(name)) => name,
            Some(other) => return Err(bad("name", &other, "needs to be a string")),
            None => return Err(bad("name", &Value::Null, "name the network")),
        };
        check_identifier(&name).map_err(|broken| {
            let value = Value::String(name.clone());
            bad("name", &value, &broken.to_string())
        })?;
        let options = Options::take(&mut document)?;
        let dns = document.remove("dns").filter(|dns| !dns.is_null());
        if let Some(dns) = dns.as_ref().filter(|dns| !dns.is_object()) {
            return Err(bad("dns", dns, "needs to be an object"));
        }
        let run_dir = take_directory(&mut document, "runDir")?
            .or(environment.run_dir)
            .unwrap_or_else(|| DEFAULT_RUN_DIR.into());
        let state_dir = take_directory(&mut document, "stateDir")?
            .or(environment.state_dir)
            .unwrap_or_else(|| DEFAULT_STATE_DIR.into());
        Ok(Self {
            version,
            name,
            run_dir,
            state_dir,
            options,
            prev_result: document.remove("prevResult").filter(|result| !result.is_null()),
            dns,
            rest: document,
        })
    }

    /// Refuses keys that ask for what this plugin does not do.
    pub(crate) fn refuse_unsupported(&self) -> Result<(), Error> {
        for (key, value) in &self.rest {
            if let Some(remedy) = remedy(key, value) {
                return Err(Error::UnsupportedKey {
                    key: key.clone(),
                    value: value.to_string(),
                    remedy: remedy.to_owned(),
                });
            }
        }
        Ok(())
    }
}

/// What to do about a key that is not ours; `None` when it may be ignored.
fn remedy(key: &str, value: &Value) -> Option<&'static str> {
    // A key with a slash belongs to whoever owns the domain before it (`cni.dev/…`).
    if IGNORED_KEYS.contains(&key) || key.contains('/') {
        return None;
    }
    if ALWAYS_TRUE_KEYS.contains(&key) {
        return (value != &Value::Bool(true))
            .then_some("culvert-cni always makes the bridge the default gateway; remove it");
    }
    match key {
        "args" => {
            let cni = value.get("cni");
            REFUSED_CNI_ARGS
                .iter()
                .any(|arg| cni.is_some_and(|cni| cni.get(arg).is_some()))
                .then_some("culvert-cni chooses addresses itself; remove ips and mac")
        }
        "runtimeConfig" => (!is_empty(value)).then_some(
            "culvert-cni has no capabilities; remove them from config key capabilities, or give \
             them to the plugin that has them",
        ),
        "ipam" => (!is_empty(value)).then_some(
            "culvert-cni takes addresses from the node's subnets in the subnet table; remove it",
        ),
        "plugins" => Some("hand over one plugin's configuration, not the whole list"),
        "mtu" => Some("the daemon chooses the MTU (node file); set it in the daemon's config"),
        "bridge" => Some("the daemon makes the bridge; name it in the daemon's config"),
        _ => Some("the key is unknown; remove it"),
    }
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(Map::is_empty)
}

fn take_directory(
    document: &mut Map<String, Value>,
    key: &'static str,
) -> Result<Option<PathBuf>, Error> {
    match document.remove(key) {
        None => Ok(None),
        Some(Value::String(path)) if path.starts_with('/') => Ok(Some(path.into())),
        Some(other) => Err(bad(key, &other, "needs an absolute path")),
    }
}

fn bad(key: &str, value: &Value, remedy: &str) -> Error {
    Error::BadConfig {
        key: key.to_owned(),
        value: if value.is_null() { "missing".to_owned() } else { value.to_string() },
        remedy: remedy.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(document: Value) -> Result<Config, Error> {
        let text = document.to_string();
        Config::parse(read(&mut text.as_bytes())?, Directories::default())
    }

    /// A minimal configuration with `key` set to `value`.
    fn with(key: &str, value: Value) -> Value {
        let mut document = json!({"cniVersion": "1.0.0", "name": "pods", "type": "culvert-cni"});
        document[key] = value;
        document
    }

    #[test]
    fn defaults_are_those_of_a_node_alone_on_its_machine() {
        let config = parse(with("type", json!("culvert-cni"))).unwrap();
        assert_eq!(config.run_dir, PathBuf::from("/run/culvert"));
        assert_eq!(config.state_dir, PathBuf::from("/var/lib/culvert"));
        assert_eq!(config.options, Options::default());
        assert_eq!(config.version, CniVersion::V1_0_0);
    }

    #[test]
    fn config_key_beats_environment_beats_default() {
        let environment =
            Directories { run_dir: Some("/env/run".into()), state_dir: Some("/env/state".into()) };
        let Value::Object(document) = with("runDir", json!("/key/run")) else {
            unreachable!("`with` builds an object")
        };
        let config = Config::parse(document, environment).unwrap();
        assert_eq!(config.run_dir, PathBuf::from("/key/run"));
        assert_eq!(config.state_dir, PathBuf::from("/env/state"));
    }

    #[test]
    fn each_mistake_has_its_code_and_names_key_and_value() {
        let cases = [
            (json!({"name": "pods"}), 1, "cniVersion"),
            (with("cniVersion", json!("2.0.0")), 1, "2.0.0"),
            (with("cniVersion", json!(1)), 7, "cniVersion is 1"),
            (json!({"cniVersion": "1.0.0"}), 7, "name is missing"),
            (with("name", json!("../x")), 7, "../x"),
            (with("name", json!(7)), 7, "name is 7"),
            (with("runDir", json!("run")), 7, "runDir is \"run\""),
            (with("stateDir", json!(1)), 7, "stateDir is 1"),
            (with("hairpinMode", json!("yes")), 7, "hairpinMode is \"yes\""),
            (with("dns", json!("10.96.0.10")), 7, "dns is \"10.96.0.10\""),
            (json!([]), 6, "JSON object"),
        ];
        for (document, code, part) in cases {
            let error = parse(document.clone()).unwrap_err();
            assert_eq!(error.code(), code, "{document}");
            assert!(error.to_string().contains(part), "{error} lacks {part}");
        }
    }

    #[test]
    fn endless_input_is_cut_off() {
        let error = read(&mut std::io::repeat(b' ')).unwrap_err();
        assert!(matches!(error, Error::ConfigTooLong { .. }));
    }

    #[test]
    fn harmless_keys_are_ignored() {
        let cases = [
            ("capabilities", json!({"portMappings": true})),
            ("ipMasq", json!(true)),
            ("isGateway", json!(true)),
            ("cni.dev/valid-attachments", json!([])),
            ("example.com/note", json!("x")),
            ("args", json!({"cni": {"labels": []}, "labels": {}})),
            ("runtimeConfig", json!({})),
            ("ipam", json!({})),
        ];
        for (key, value) in cases {
            let config = parse(with(key, value)).unwrap();
            assert!(config.refuse_unsupported().is_ok(), "{key}");
        }
    }

    #[test]
    fn keys_that_ask_for_something_else_are_refused_by_add_only() {
        let cases = [
            ("runtimeConfig", json!({"ips": ["10.0.0.9/24"]})),
            ("ipam", json!({"type": "host-local"})),
            ("args", json!({"cni": {"mac": "00:00:00:00:00:01"}})),
            ("isGateway", json!(false)),
            ("bridge", json!("cni0")),
            ("mtu", json!(9000)),
            ("plugins", json!([])),
            ("runDirectory", json!("/run")),
        ];
        for (key, value) in cases {
            let config = parse(with(key, value.clone())).unwrap();
            let error = config.refuse_unsupported().unwrap_err();
            assert_eq!(error.code(), 2);
            let (text, value) = (error.to_string(), value.to_string());
            assert!(text.contains(key) && text.contains(&value), "{text}");
        }
    }
}
