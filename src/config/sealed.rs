//! `[sealed]`: the mode, the port, and where keys are.

use std::path::{Path, PathBuf};

use culvert_seal::keys::NodeKey;
use culvert_seal::noise::PostQuantum;
use culvert_seal::{Suite, Suites};
use serde::Deserialize;
use toml::Spanned;

use super::file::{Reader, quoted};
use super::{Complaint, Overrides, Sealed, SealedMode, Underlay};

/// NAT traversal of IPsec (RFC 3948), by which decoders know what it is.
const DEFAULT_PORT: u16 = 4500;

/// Most pre-shared keys: each costs whoever answers a handshake another attempt.
const MAX_PSKS: usize = 4;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SealedTable {
    mode: Option<Spanned<String>>,
    port: Option<Spanned<i64>>,
    key_file: Option<Spanned<PathBuf>>,
    #[serde(default)]
    psk_files: Vec<Spanned<PathBuf>>,
    post_quantum: Option<Spanned<String>>,
    ciphers: Option<Spanned<Vec<Spanned<String>>>>,
    key_log: Option<Spanned<PathBuf>>,
}

/// What the table says; no port of `underlay` is another's.
pub(super) fn read(
    reader: &Reader<'_>,
    table: &SealedTable,
    state_dir: &Path,
    underlay: &Underlay,
    overrides: &Overrides,
) -> Result<Sealed, Complaint> {
    let mode = mode(reader, table.mode.as_ref(), overrides.sealed_mode.as_deref())?;
    let key_file = path(reader, "sealed.key_file", table.key_file.as_ref())?;
    Ok(Sealed {
        mode,
        port: port(reader, mode, table.port.as_ref(), underlay)?,
        key_file: key_file.unwrap_or_else(|| NodeKey::path(state_dir)),
        psk_files: psk_files(reader, &table.psk_files)?,
        post_quantum: post_quantum(reader, table.post_quantum.as_ref())?,
        ciphers: ciphers(reader, table.ciphers.as_ref())?,
        key_log: path(reader, "sealed.key_log", table.key_log.as_ref())?,
    })
}

fn mode(
    reader: &Reader<'_>,
    value: Option<&Spanned<String>>,
    instead: Option<&str>,
) -> Result<SealedMode, Complaint> {
    const PROBLEM: &str = "not a mode";
    const MODES: &str =
        "write \"off\", \"prefer\" (between nodes that have keys in the table) or \"require\"";
    let find = |word: &str| SealedMode::ALL.into_iter().find(|mode| mode.as_str() == word);
    match (instead, value) {
        (Some(word), _) => find(word).ok_or_else(|| {
            Complaint::of_file(reader.path, PROBLEM)
                .key("--sealed-mode")
                .value(format!("\"{word}\""))
                .remedy(MODES)
        }),
        (None, Some(value)) => find(value.get_ref()).ok_or_else(|| {
            reader.fault("sealed.mode", value, quoted(value), PROBLEM).remedy(MODES)
        }),
        (None, None) => Ok(SealedMode::default()),
    }
}

fn port(
    reader: &Reader<'_>,
    mode: SealedMode,
    value: Option<&Spanned<i64>>,
    underlay: &Underlay,
) -> Result<u16, Complaint> {
    const KEY: &str = "sealed.port";
    let port = match value {
        None => DEFAULT_PORT,
        Some(value) => {
            let port = u16::try_from(*value.get_ref()).ok().filter(|port| *port > 0);
            port.ok_or_else(|| {
                reader.fault(KEY, value, value.get_ref(), "not a port").remedy("1 to 65535")
            })?
        }
    };
    let Underlay { port: gpe, vxlan_port, ip_udp_port, .. } = underlay;
    let others = [
        ("underlay.port", gpe),
        ("underlay.vxlan_port", vxlan_port),
        ("underlay.ip_udp_port", ip_udp_port),
    ];
    let other = others.into_iter().find(|(_, other)| **other == port);
    match other.filter(|_| mode != SealedMode::Off) {
        None => Ok(port),
        Some((other, _)) => {
            let problem = format!("also the value of {other}");
            let complaint = match value {
                Some(place) => reader.fault(KEY, place, port, &problem),
                None => Complaint::of_file(reader.path, problem).key(KEY).value(port),
            };
            Err(complaint.remedy("give what is sealed a port of its own"))
        }
    }
}

fn psk_files(reader: &Reader<'_>, values: &[Spanned<PathBuf>]) -> Result<Vec<PathBuf>, Complaint> {
    const KEY: &str = "sealed.psk_files";
    if let Some(value) = values.get(MAX_PSKS) {
        let problem = format!("one file more than the {MAX_PSKS} that a node tries");
        return Err(reader
            .fault(KEY, value, shown(value.get_ref()), &problem)
            .remedy("leave out those that no node uses any more"));
    }
    for (index, value) in values.iter().enumerate() {
        if values[..index].iter().any(|other| other.get_ref() == value.get_ref()) {
            return Err(reader
                .fault(KEY, value, shown(value.get_ref()), "named twice")
                .remedy("name each file once, the one to use first"));
        }
    }
    let paths = values.iter().map(|value| path(reader, KEY, Some(value)));
    Ok(paths.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

fn post_quantum(
    reader: &Reader<'_>,
    value: Option<&Spanned<String>>,
) -> Result<PostQuantum, Complaint> {
    match value.map(|value| (value, value.get_ref().as_str())) {
        None | Some((_, "require")) => Ok(PostQuantum::Require),
        Some((_, "off")) => Ok(PostQuantum::Off),
        Some((value, _)) => Err(reader
            .fault("sealed.post_quantum", value, quoted(value), "neither \"require\" nor \"off\"")
            .remedy("leave it out, unless every node of the cluster has \"off\"")),
    }
}

fn ciphers(
    reader: &Reader<'_>,
    values: Option<&Spanned<Vec<Spanned<String>>>>,
) -> Result<Option<Suites>, Complaint> {
    const KEY: &str = "sealed.ciphers";
    let known = Suite::ALL.map(|suite| format!("\"{suite}\"")).join(", ");
    let Some(values) = values else { return Ok(None) };
    if values.get_ref().is_empty() {
        return Err(reader.fault(KEY, values, "[]", "nothing could be sealed").remedy(
            "leave it out for what this machine is good at, or set sealed.mode = \"off\"",
        ));
    }
    let suite = |value: &Spanned<String>| {
        let found = Suite::ALL.into_iter().find(|suite| suite.as_str() == value.get_ref());
        found.ok_or_else(|| {
            reader
                .fault(KEY, value, quoted(value), "not a cipher")
                .remedy(format!("those known are {known}"))
        })
    };
    let suites = values.get_ref().iter().map(suite).collect::<Result<Vec<_>, _>>()?;
    Ok(Some(Suites::new(suites)))
}

/// A path of the machine, whatever the directory that the daemon runs in.
fn path(
    reader: &Reader<'_>,
    key: &str,
    value: Option<&Spanned<PathBuf>>,
) -> Result<Option<PathBuf>, Complaint> {
    let Some(value) = value else { return Ok(None) };
    if !value.get_ref().is_absolute() {
        return Err(reader
            .fault(key, value, shown(value.get_ref()), "not the whole path of a file")
            .remedy("begin it with a slash"));
    }
    Ok(Some(value.get_ref().clone()))
}

fn shown(path: &Path) -> String {
    format!("\"{}\"", path.display())
}
