//! The last good table on disk, for a start while the source is away.
//!
//! Owns one file under the state directory. It is replaced in one step, and a file that cannot be
//! understood counts as none: it is a copy, and the source has the original.

use std::io::{self, Write as _};
use std::path::Path;

use anyhow::Context as _;
use culvert_claims::Published;
use culvert_node::{bounded_file, whole_file};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Candidate, Parameters, Proposal};

/// Name of the file under the state directory.
const FILE_NAME: &str = "table.json";

/// The last good table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The node that it was the table of.
    node: String,
    /// Kind of source that it came from.
    source: String,
    #[serde(rename = "shared")]
    parameters: Parameters,
    nodes: Vec<SavedNode>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SavedNode {
    name: String,
    since: u64,
    subnets: Vec<IpNet>,
    #[serde(flatten)]
    published: Published,
}

impl Saved {
    /// What `proposal` has, as the table of `node` with `parameters`.
    pub fn of(node: &str, source: &str, parameters: Parameters, proposal: &Proposal) -> Self {
        let nodes = proposal.nodes().map(|candidate| SavedNode {
            name: candidate.entry.name.clone(),
            since: candidate.since,
            subnets: candidate.entry.subnets.clone(),
            published: Published::of(&candidate.entry),
        });
        Self {
            node: node.to_owned(),
            source: source.to_owned(),
            nodes: nodes.collect(),
            parameters,
        }
    }

    /// Writes the file under `state_dir`, replacing an older one in one step.
    ///
    /// # Errors
    ///
    /// Whatever creating, writing or renaming the file says.
    pub fn write(&self, state_dir: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_vec(self).context("describing the table")?;
        write(state_dir, FILE_NAME, &text).context("keeping the last good table")
    }

    /// Reads the table of `node` from `source` under `state_dir`; none if there is none.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or understood.
    pub fn read(state_dir: &Path, node: &str, source: &str) -> anyhow::Result<Option<Self>> {
        let path = state_dir.join(FILE_NAME);
        let text = match bounded_file::read(&path, bounded_file::LARGE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("reading {}", path.display()))?,
        };
        let saved: Self = serde_json::from_slice(&text)
            .with_context(|| format!("understanding {}", path.display()))?;
        Ok((saved.node == node && saved.source == source).then_some(saved))
    }

    /// The table as a source would tell it.
    pub fn proposal(self) -> Proposal {
        let nodes = self.nodes.into_iter().filter_map(|node| {
            let entry = node.published.literally(&node.name, node.subnets).ok()?;
            Some(Candidate { since: node.since, entry: entry.into() })
        });
        Proposal::of_nodes(nodes).with_parameters(self.parameters)
    }
}

/// Writes `text` to `name` under `directory` in one step.
pub(in crate::control) fn write(directory: &Path, name: &str, text: &[u8]) -> io::Result<()> {
    whole_file::write(&directory.join(name), |file| file.write_all(text))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use culvert_dataplane::engine::{NodeEntry, TunnelOptions};
    use overlay_proto::{CodecKind, Vni};

    use super::*;
    use crate::control::source::Update;

    fn saved() -> (Saved, Proposal) {
        let entry = NodeEntry {
            name: "node1".into(),
            address: "192.168.1.11".parse().unwrap(),
            subnets: vec!["10.244.1.0/24".parse().unwrap()],
            tunnel_options: TunnelOptions {
                codec: Some(CodecKind::IpUdp),
                port: Some(8286),
                ..TunnelOptions::default()
            },
        };
        let mut proposal = Proposal::default();
        proposal.take(Update::Put(Candidate { since: 7, entry: entry.into() }));
        let cidrs = vec!["10.244.0.0/16".parse().unwrap()];
        let parameters = Parameters { cidrs, vni: Vni::new(1).unwrap(), port: 4790 };
        let saved = Saved::of("node1", "etcd", parameters.clone(), &proposal);
        (saved, proposal.with_parameters(parameters))
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let (saved, proposal) = saved();
        assert_eq!(Saved::read(directory.path(), "node1", "etcd").unwrap(), None);
        saved.write(directory.path()).unwrap();
        let found = Saved::read(directory.path(), "node1", "etcd").unwrap().unwrap();
        assert_eq!(found, saved);
        assert_eq!(found.proposal(), proposal);
    }

    #[test]
    fn the_table_of_another_node_or_source_does_not_count() {
        let directory = tempfile::tempdir().unwrap();
        saved().0.write(directory.path()).unwrap();
        assert_eq!(Saved::read(directory.path(), "node2", "etcd").unwrap(), None);
        assert_eq!(Saved::read(directory.path(), "node1", "file").unwrap(), None);
    }

    #[test]
    fn half_a_file_is_an_error_and_no_table() {
        let directory = tempfile::tempdir().unwrap();
        saved().0.write(directory.path()).unwrap();
        let path = directory.path().join(FILE_NAME);
        let text = fs::read(&path).unwrap();
        fs::write(&path, &text[..text.len() / 2]).unwrap();
        let error = Saved::read(directory.path(), "node1", "etcd").unwrap_err();
        assert!(format!("{error:#}").contains("table.json"), "{error:#}");
    }
}
