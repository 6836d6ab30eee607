//! The subnet table as a file: reading it, and noticing that it changed.
//!
//! The file is looked at a few times a second instead of being watched by inotify: that works alike
//! for editors that rename, for symbolic links that are swapped (as Kubernetes does with mounted
//! ConfigMaps) and for network file systems, and costs one `stat` each time.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_claims::{NodeKeys, TableText};
use culvert_dataplane::engine::{NodeEntry, Place, TableError, TunnelOptions};
use culvert_node::bounded_file;
use overlay_proto::{CodecNameError, MacError};
use serde::Deserialize;
use toml::Spanned;

use super::source::Proposal;
use super::stamp::{Stamp, stamp, stamp_elsewhere};
use crate::config::{Complaint, line_of};

/// How often the file is looked at: a change is to take effect within a second.
const INTERVAL: Duration = Duration::from_millis(200);

/// A table file and the state of it that was read last.
#[derive(Debug)]
pub struct TableFile {
    path: PathBuf,
    seen: Option<Stamp>,
}

/// Why there is nothing to propose.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The file is not there, or not for us: whoever mounts or replaces it may bring it back.
    #[error(transparent)]
    Unreadable(Complaint),
    /// It is no list of nodes.
    #[error(transparent)]
    Malformed(Complaint),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    node: Vec<Spanned<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Spanned<String>,
    address: Spanned<String>,
    subnets: Spanned<Vec<Spanned<String>>>,
    codec: Option<Spanned<String>>,
    port: Option<Spanned<i64>>,
    mac: Option<Spanned<String>>,
    #[serde(default)]
    public_keys: Vec<Spanned<String>>,
    plain: Option<Spanned<bool>>,
}

impl TableFile {
    /// The file at `path`; nothing is read yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), seen: None }
    }

    /// Reads the file. Whether its nodes go together is checked by whoever takes the proposal.
    ///
    /// # Errors
    ///
    /// That it cannot be read, or its first fault: file, line, key, value and remedy.
    pub fn read(&mut self) -> Result<Proposal, ReadError> {
        // Before the content, so that a change in between is noticed as one.
        self.seen = stamp(&self.path);
        let text = bounded_file::read_text(&self.path, bounded_file::LARGE).map_err(|error| {
            let complaint = Complaint::of_file(&self.path, format!("cannot be read: {error}"));
            ReadError::Unreadable(complaint.remedy("create it, or correct table.path"))
        })?;
        parse(&self.path, text).map_err(ReadError::Malformed)
    }

    /// Waits until the file is not the one that was read last.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: the comparison is with what [`read`](Self::read) saw.
    pub async fn changed(&self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let now = stamp_elsewhere(&self.path).await;
            if now != self.seen && (now.is_some() || stamp_again(&self.path).await.is_none()) {
                return;
            }
        }
    }
}

/// Looks once more: a file that is missing may be in the middle of being replaced.
async fn stamp_again(path: &Path) -> Option<Stamp> {
    tokio::time::sleep(INTERVAL).await;
    stamp_elsewhere(path).await
}

/// What `text`, the content of the file at `path`, proposes.
///
/// # Errors
///
/// Its first fault: file, line, key, value and remedy.
pub fn parse(path: &Path, text: String) -> Result<Proposal, Complaint> {
    let entries = entries(path, &text)?;
    Ok(Proposal::of_file(TableText { path: path.to_owned(), text }, entries))
}

/// The `error` that the nodes of `file` have, with its line and key.
pub(super) fn complaint(file: &TableText, error: &TableError) -> Complaint {
    let complaint = Complaint::of_file(&file.path, error.to_string())
        .value(&error.value)
        .remedy(error.remedy());
    // Faults are rare, and the places of ten thousand nodes' values are many.
    let document: Option<Document> = toml::from_str(&file.text).ok();
    let span = document.as_ref().and_then(|document| document.span_of(error.place));
    let complaint = complaint.key(key_of(error.place));
    match span {
        Some(span) => complaint.line(line_of(&file.text, &span)),
        None => complaint,
    }
}

/// The key whose value is at fault.
fn key_of(place: Place) -> &'static str {
    match place {
        Place::Networks => "network.cidrs",
        Place::Table | Place::Name(_) => "node.name",
        Place::Address(_) => "node.address",
        Place::Subnets(_) | Place::Subnet(..) => "node.subnets",
        Place::Codec(_) => "node.codec",
        Place::Port(_) => "node.port",
        Place::Mac(_) => "node.mac",
        Place::Key(..) => "node.public_keys",
        Place::Plain(_) => "node.plain",
    }
}

impl Document {
    /// Where the value at `place` stands.
    fn span_of(&self, place: Place) -> Option<Range<usize>> {
        let entry = |index: usize| self.node.get(index).map(Spanned::get_ref);
        match place {
            Place::Networks | Place::Table => None,
            Place::Name(node) => Some(entry(node)?.name.span()),
            Place::Address(node) => Some(entry(node)?.address.span()),
            Place::Subnets(node) => Some(entry(node)?.subnets.span()),
            Place::Subnet(node, place) => Some(entry(node)?.subnets.get_ref().get(place)?.span()),
            Place::Codec(node) => entry(node)?.codec.as_ref().map(Spanned::span),
            Place::Port(node) => entry(node)?.port.as_ref().map(Spanned::span),
            Place::Mac(node) => entry(node)?.mac.as_ref().map(Spanned::span),
            Place::Key(node, place) => Some(entry(node)?.public_keys.get(place)?.span()),
            Place::Plain(node) => entry(node)?.plain.as_ref().map(Spanned::span),
        }
    }
}

/// The nodes of `text`, each by itself.
fn entries(path: &Path, text: &str) -> Result<Vec<NodeEntry>, Complaint> {
    let document: Document =
        toml::from_str(text).map_err(|error| Complaint::of_toml(path, text, &error))?;
    document
        .node
        .iter()
        .map(|entry| {
            let Entry { name, address, subnets, codec, port, mac, public_keys, plain } =
                entry.get_ref();
            let fault = |value: &Spanned<String>, key, problem: &str| {
                Complaint::of_file(path, problem)
                    .line(line_of(text, &value.span()))
                    .key(key)
                    .value(format!("\"{}\"", value.get_ref()))
            };
            Ok(NodeEntry {
                name: name.get_ref().clone(),
                address: address.get_ref().parse().map_err(|_| {
                    fault(address, "node.address", "not an IP address")
                        .remedy("write the address by which peers reach the node, without a length")
                })?,
                subnets: subnets
                    .get_ref()
                    .iter()
                    .map(|subnet| {
                        subnet.get_ref().parse().map_err(|_| {
                            fault(subnet, "node.subnets", "not a prefix")
                                .remedy("write an address and a length, such as \"10.244.1.0/24\"")
                        })
                    })
                    .collect::<Result<_, _>>()?,
                tunnel_options: TunnelOptions {
                    codec: match codec {
                        None => None,
                        Some(codec) => {
                            Some(codec.get_ref().parse().map_err(|error: CodecNameError| {
                                fault(codec, "node.codec", &error.to_string())
                                    .remedy("leave it out for a node that runs Culvert")
                            })?)
                        }
                    },
                    port: match port {
                        None => None,
                        Some(port) => Some(u16::try_from(*port.get_ref()).map_err(|_| {
                            Complaint::of_file(path, "not a port")
                                .line(line_of(text, &port.span()))
                                .key("node.port")
                                .value(port.get_ref())
                                .remedy("write 1 to 65535, or leave it out")
                        })?),
                    },
                    mac: match mac {
                        None => None,
                        Some(mac) => Some(mac.get_ref().parse().map_err(|error: MacError| {
                            fault(mac, "node.mac", &error.to_string())
                                .remedy("write it such as \"02:ce:c0:a8:01:0b\"")
                        })?),
                    },
                    keys: NodeKeys::parse(public_keys.iter().map(|key| key.get_ref().as_str()))
                        .map_err(|wrong| {
                            let key = &public_keys[wrong.place];
                            fault(key, "node.public_keys", &wrong.to_string())
                                .remedy(wrong.remedy())
                        })?,
                    plain: plain.as_ref().is_some_and(|plain| *plain.get_ref()),
                },
            })
        })
        .collect()
}

#[cfg(test)]
mod tests;
