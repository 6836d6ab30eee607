//! `[policy]`: whether network policies are enforced, and where they are.

use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::file::{Reader, quoted};
use super::{Complaint, Policy, PolicyMode, TableSource, UnknownPods};

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyTable {
    mode: Option<Spanned<String>>,
    directory: Option<Spanned<PathBuf>>,
    unknown_pods: Option<Spanned<String>>,
}

/// What the table says, for a node whose subnet table comes from `source`.
pub(super) fn read(
    reader: &Reader<'_>,
    table: &PolicyTable,
    source: &TableSource,
) -> Result<Policy, Complaint> {
    let has_api = matches!(source, TableSource::Kubernetes(_));
    let directory = directory(reader, table.directory.as_ref(), has_api)?;
    let mode = match &table.mode {
        None if has_api || directory.is_some() => PolicyMode::On,
        None => PolicyMode::Off,
        Some(value) => {
            let find = |mode: &PolicyMode| mode.as_str() == value.get_ref();
            let mode = PolicyMode::ALL.into_iter().find(find).ok_or_else(|| {
                reader
                    .fault("policy.mode", value, quoted(value), "not a mode")
                    .remedy("write \"on\" or \"off\"")
            })?;
            if mode == PolicyMode::On && !has_api && directory.is_none() {
                return Err(reader
                    .fault("policy.mode", value, quoted(value), "there are no policies to enforce")
                    .remedy("name the directory with their files as policy.directory"));
            }
            mode
        }
    };
    let unknown_pods = match &table.unknown_pods {
        None => UnknownPods::default(),
        Some(value) => {
            let find = |unknown: &UnknownPods| unknown.as_str() == value.get_ref();
            UnknownPods::ALL.into_iter().find(find).ok_or_else(|| {
                reader
                    .fault("policy.unknown_pods", value, quoted(value), "not what can be done")
                    .remedy("write \"refuse\", \"closed\" or \"open\"")
            })?
        }
    };
    Ok(Policy { mode, directory, unknown_pods })
}

fn directory(
    reader: &Reader<'_>,
    value: Option<&Spanned<PathBuf>>,
    has_api: bool,
) -> Result<Option<PathBuf>, Complaint> {
    let Some(value) = value else { return Ok(None) };
    let path = value.get_ref();
    let fault = |problem| {
        reader.fault("policy.directory", value, format!("\"{}\"", path.display()), problem)
    };
    if has_api {
        return Err(fault("with table.source = \"kubernetes\" policies come from the API server")
            .remedy("leave it out, and create the policies in the cluster"));
    }
    if !path.is_absolute() {
        return Err(fault("not the whole path of a directory").remedy("begin it with a slash"));
    }
    Ok(Some(path.clone()))
}
