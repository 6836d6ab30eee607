//! `[table]`, `[etcd]` and `[kubernetes]`: which source the subnet table has, and how it is
//! reached.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::file::{Reader, quoted};
use super::{Complaint, Etcd, Kubernetes, Overrides, TableSource};

/// What keys begin with unless told otherwise.
const DEFAULT_PREFIX: &str = "/culvert";

/// A day: a machine that is repaired in that time comes back to its own subnet for certain.
const DEFAULT_LEASE_SECONDS: i64 = 86_400;

/// Shortest and longest lease. Below, one lost answer would cost a claim; above, etcd refuses.
const LEASE_SECONDS: std::ops::RangeInclusive<i64> = 5..=9_000_000_000;

const DEFAULT_TAINT: &str = "culvert.dev/not-ready";

/// What to write as `table.source`.
const SOURCES: &str = "the sources are: \"file\", \"etcd\", \"kubernetes\"";

/// Whether etcd and Kubernetes can be followed.
const HAS_DATABASES: bool = cfg!(feature = "databases");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SourceTable {
    source: Spanned<String>,
    path: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EtcdTable {
    #[serde(default)]
    endpoints: Vec<Spanned<String>>,
    prefix: Option<Spanned<String>>,
    lease_seconds: Option<Spanned<i64>>,
    ca_file: Option<PathBuf>,
    cert_file: Option<Spanned<PathBuf>>,
    key_file: Option<Spanned<PathBuf>>,
    user: Option<Spanned<String>>,
    password_file: Option<Spanned<PathBuf>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KubernetesTable {
    kubeconfig: Option<PathBuf>,
    startup_taint: Option<String>,
    migrate_from: Option<Spanned<String>>,
}

/// The source that the tables and the command line choose.
pub(super) fn read(
    reader: &Reader<'_>,
    table: Spanned<SourceTable>,
    etcd: EtcdTable,
    kubernetes: KubernetesTable,
    overrides: &Overrides,
) -> Result<TableSource, Complaint> {
    let SourceTable { source, path } = table.get_ref();
    let chosen = overrides.table_source.as_ref().unwrap_or_else(|| source.get_ref());
    match (chosen.as_str(), path) {
        ("file", Some(path)) => Ok(TableSource::File { path: path.clone() }),
        ("file", None) => Err(reader
            .fault("table.path", &table, "", "the source \"file\" needs it")
            .remedy("name the file with the [[node]] entries")),
        ("etcd" | "kubernetes", _) if !HAS_DATABASES => Err(reader
            .fault(
                "table.source",
                source,
                format!("\"{chosen}\""),
                "this program was built without it",
            )
            .remedy("`make release` builds the whole program")),
        ("etcd", _) => read_etcd(reader, &table, etcd, overrides).map(TableSource::Etcd),
        ("kubernetes", _) => Ok(TableSource::Kubernetes(Kubernetes {
            kubeconfig: overrides.kubeconfig.clone().or(kubernetes.kubeconfig),
            startup_taint: kubernetes.startup_taint.unwrap_or_else(|| DEFAULT_TAINT.to_owned()),
            from_flannel: match &kubernetes.migrate_from {
                None => false,
                Some(from) if from.get_ref() == "flannel" => true,
                Some(from) => {
                    let problem = "no network that nodes can come from one by one";
                    return Err(reader
                        .fault("kubernetes.migrate_from", from, quoted(from), problem)
                        .remedy("write \"flannel\", or leave it out"));
                }
            },
        })),
        (other, _) if overrides.table_source.is_some() => {
            Err(Complaint::of_file(reader.path, "not a table source")
                .key("--table-source")
                .value(format!("\"{other}\""))
                .remedy(SOURCES))
        }
        _ => Err(reader
            .fault("table.source", source, quoted(source), "not a table source")
            .remedy(SOURCES)),
    }
}

fn read_etcd(
    reader: &Reader<'_>,
    table: &Spanned<SourceTable>,
    etcd: EtcdTable,
    overrides: &Overrides,
) -> Result<Etcd, Complaint> {
    const ENDPOINTS: &str = "write URLs, such as [\"http://192.168.1.10:2379\"]";
    let is_url = |text: &str| {
        let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
        host.is_some_and(|host| !host.is_empty() && !host.contains(char::is_whitespace))
    };
    let endpoints: Vec<String> = if overrides.etcd_endpoints.is_empty() {
        if let Some(bad) = etcd.endpoints.iter().find(|url| !is_url(url.get_ref())) {
            return Err(reader
                .fault("etcd.endpoints", bad, quoted(bad), "not the URL of an etcd member")
                .remedy(ENDPOINTS));
        }
        etcd.endpoints.into_iter().map(Spanned::into_inner).collect()
    } else {
        overrides.etcd_endpoints.clone()
    };
    if let Some(bad) = endpoints.iter().find(|url| !is_url(url)) {
        return Err(Complaint::of_file(reader.path, "not the URL of an etcd member")
            .key("--etcd-endpoints")
            .value(format!("\"{bad}\""))
            .remedy(ENDPOINTS));
    }
    if endpoints.is_empty() {
        return Err(reader
            .fault("etcd.endpoints", table, "", "the source \"etcd\" needs it")
            .remedy(ENDPOINTS));
    }
    let prefix = match &etcd.prefix {
        None => DEFAULT_PREFIX.to_owned(),
        Some(prefix) if prefix.get_ref().trim_end_matches('/').is_empty() => {
            return Err(reader
                .fault("etcd.prefix", prefix, quoted(prefix), "would be every key of the database")
                .remedy(format!(
                    "write a prefix that is Culvert's own, such as \"{DEFAULT_PREFIX}\""
                )));
        }
        Some(prefix) => prefix.get_ref().trim_end_matches('/').to_owned(),
    };
    let seconds = match &etcd.lease_seconds {
        None => DEFAULT_LEASE_SECONDS,
        Some(seconds) if LEASE_SECONDS.contains(seconds.get_ref()) => *seconds.get_ref(),
        Some(seconds) => {
            return Err(reader
                .fault(
                    "etcd.lease_seconds",
                    seconds,
                    seconds.get_ref(),
                    "not the length of a lease",
                )
                .remedy(format!(
                    "{} to {} seconds; a day is usual",
                    LEASE_SECONDS.start(),
                    LEASE_SECONDS.end()
                )));
        }
    };
    Ok(Etcd {
        endpoints,
        prefix,
        lease: Duration::from_secs(seconds.unsigned_abs()),
        ca_file: etcd.ca_file,
        identity: both(
            reader,
            ("etcd.cert_file", etcd.cert_file),
            ("etcd.key_file", etcd.key_file),
        )?,
        login: both(reader, ("etcd.user", etcd.user), ("etcd.password_file", etcd.password_file))?,
    })
}

/// Two keys of which neither makes sense alone.
fn both<A, B>(
    reader: &Reader<'_>,
    (first_key, first): (&str, Option<Spanned<A>>),
    (second_key, second): (&str, Option<Spanned<B>>),
) -> Result<Option<(A, B)>, Complaint> {
    match (first, second) {
        (None, None) => Ok(None),
        (Some(first), Some(second)) => Ok(Some((first.into_inner(), second.into_inner()))),
        (Some(first), None) => Err(reader
            .fault(second_key, &first, "", &format!("{first_key} needs it"))
            .remedy("write both or neither")),
        (None, Some(second)) => Err(reader
            .fault(first_key, &second, "", &format!("{second_key} needs it"))
            .remedy("write both or neither")),
    }
}
