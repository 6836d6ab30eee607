//! The network configuration that the container runtime hands over on stdin.
//!
//! Owns its limits, and what every verb relies on: version, name, directories, previous result.
//! Everything else is in [`Settings`], which ADD and CHECK read: DEL must not fail over what only
//! ADD refuses. `docs/cni.md` lists the keys.

use std::io::Read;
use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::environment::Directories;
use crate::error::{Error, shorten};
use crate::version::CniVersion;
use culvert_node::attachment::check_identifier;
use culvert_node::node_file::{DEFAULT_RUN_DIR, DEFAULT_STATE_DIR};

mod dns;
mod ipam;
mod keys;
mod ports;
mod route;
mod settings;
mod spelling;

pub(crate) use self::dns::check_members as check_dns;
pub(crate) use self::ipam::{RequestedAddress, RequestedRange};
pub(crate) use self::route::RouteSpec;
pub(crate) use self::settings::Settings;

/// Longest configuration that is read. GC brings the attachments of a node twice, about 200 bytes
/// each: this is some 20,000 of them, and still stops a runaway writer.
const LIMIT_BYTES: u64 = 4 << 20;

/// The keys under which GC says what is still there: that of the specification, and that of the
/// library that runtimes use.
const VALID_ATTACHMENTS_KEYS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// A configuration as far as all verbs need it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    pub(crate) version: CniVersion,
    /// Name of the network.
    pub(crate) name: String,
    pub(crate) run_dir: PathBuf,
    pub(crate) state_dir: PathBuf,
    /// Result of the plugin before this one, or for CHECK the final result of ADD.
    pub(crate) prev_result: Option<Value>,
    /// The other keys.
    pub(crate) rest: Map<String, Value>,
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
    // The parser refuses what is nested deeper than its own stack allows.
    serde_json::from_slice(&text).map_err(|source| Error::DecodeConfig { source })
}

/// The version that a configuration asks for.
pub(crate) fn version(document: &Map<String, Value>) -> Result<CniVersion, Error> {
    match document.get("cniVersion") {
        None | Some(Value::Null) => Ok(CniVersion::OLDEST),
        Some(Value::String(text)) => CniVersion::parse(text).ok_or_else(|| {
            Error::UnsupportedVersion { version: shorten(text), supported: CniVersion::list() }
        }),
        Some(other) => Err(bad("cniVersion", other, "needs to be a string")),
    }
}

impl Config {
    /// Checks what every verb relies on.
    pub(crate) fn parse(
        mut document: Map<String, Value>,
        environment: Directories,
    ) -> Result<Self, Error> {
        let version = version(&document)?;
        // Runtimes written in Go write an absent object as null.
        document.retain(|_, value| !value.is_null());
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
        let run_dir = take_directory(&mut document, "runDir")?
            .or(environment.run_dir)
            .unwrap_or_else(|| DEFAULT_RUN_DIR.into());
        let state_dir = take_directory(&mut document, "stateDir")?
            .or(environment.state_dir)
            .unwrap_or_else(|| DEFAULT_STATE_DIR.into());
        let prev_result = document.remove("prevResult");
        Ok(Self { version, name, run_dir, state_dir, prev_result, rest: document })
    }

    /// Whether the runtime asks for ports of the node. DEL looks no closer.
    pub(crate) fn names_ports(&self) -> bool {
        let asked = self.rest.get("runtimeConfig").and_then(|it| it.get(ports::KEY));
        asked.and_then(Value::as_array).is_some_and(|list| !list.is_empty())
    }

    /// Container id and interface of each attachment that GC has to leave alone.
    ///
    /// A list that is missing is an error: to take it for an empty one would unplug every pod.
    pub(crate) fn valid_attachments(&self) -> Result<Vec<(String, String)>, Error> {
        let [key, other_key] = VALID_ATTACHMENTS_KEYS;
        let Some(list) = self.rest.get(key).or_else(|| self.rest.get(other_key)) else {
            return Err(bad(key, &Value::Null, "GC needs the list of attachments to leave alone"));
        };
        let remedy = "needs a list of objects with containerID and ifname";
        let entries = list.as_array().ok_or_else(|| bad(key, list, remedy))?;
        entries
            .iter()
            .map(|entry| {
                let text = |name: &str| entry.get(name).and_then(Value::as_str);
                match (text("containerID"), text("ifname")) {
                    (Some(container), Some(ifname)) => {
                        Ok((container.to_owned(), ifname.to_owned()))
                    }
                    _ => Err(bad(key, entry, remedy)),
                }
            })
            .collect()
    }
}

fn take_directory(
    document: &mut Map<String, Value>,
    key: &'static str,
) -> Result<Option<PathBuf>, Error> {
    match document.remove(key) {
        None => Ok(None),
        Some(Value::String(path)) if path.starts_with('/') && !path.contains('\0') => {
            Ok(Some(path.into()))
        }
        Some(other) => Err(bad(key, &other, "needs an absolute path")),
    }
}

/// The error for a key that is missing (null) or wrong.
pub(crate) fn bad(key: &str, value: &Value, remedy: &str) -> Error {
    let value = if value.is_null() { "missing".to_owned() } else { shorten(&value.to_string()) };
    Error::BadConfig { key: shorten(key), value, remedy: remedy.to_owned() }
}

/// The error for a key that asks for what this plugin does not do.
pub(crate) fn unsupported(key: &str, value: &Value, remedy: &str) -> Error {
    Error::UnsupportedKey {
        key: shorten(key),
        value: shorten(&value.to_string()),
        remedy: remedy.to_owned(),
    }
}

#[cfg(test)]
mod tests;
