//! The subnet table as a file: reading it, and noticing that it changed.
//!
//! The file is looked at a few times a second instead of being watched by inotify: that works alike
//! for editors that rename, for symbolic links that are swapped (as Kubernetes does with mounted
//! ConfigMaps) and for network file systems, and costs one `stat` each time.

mod patch;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_cni::bounded_file;
use overlay_proto::{CodecNameError, MacError};
use serde::Deserialize;
use toml::Spanned;

use crate::config::{Complaint, line_of};
use crate::engine::{Membership, NodeEntry, Overlay, Place, Speech};
use patch::Known;

/// How often the file is looked at: a change is to take effect within a second.
const INTERVAL: Duration = Duration::from_millis(200);

/// A table file and the state of it that was read last.
#[derive(Debug)]
pub struct TableFile {
    path: PathBuf,
    seen: Option<Stamp>,
    /// What was taken last.
    known: Option<Known>,
    /// How many requests to read again were followed.
    pub(super) reloads: u64,
}

/// Why a file is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not there, or not for us: whoever mounts or replaces it may bring it back.
    Unreadable(Complaint),
    /// What it says is wrong.
    Wrong(Complaint),
}

impl From<Fault> for Complaint {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unreadable(complaint) | Fault::Wrong(complaint) => complaint,
        }
    }
}

/// What changes when a file's content does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
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
}

impl TableFile {
    /// Names the file; nothing is read yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), seen: None, known: None, reloads: 0 }
    }

    /// Reads the file and checks it whole.
    ///
    /// # Errors
    ///
    /// That it cannot be read, or the first fault: file, line, key, value and remedy.
    pub fn read(&mut self, overlay: &Overlay, local: &str) -> Result<Membership, Fault> {
        // Before the content, so that a change in between is noticed as one.
        self.seen = stamp(&self.path);
        let text = bounded_file::read_text(&self.path, bounded_file::LARGE).map_err(|error| {
            Fault::Unreadable(
                Complaint::of_file(&self.path, format!("cannot be read: {error}"))
                    .remedy("create it, or correct table.path"),
            )
        })?;
        if let Some(known) = &self.known
            && let Some(changed) = known.changed_to(&text)
            && let Ok(members) = Membership::check(overlay.clone(), local, changed.nodes.clone())
        {
            self.known = Some(changed);
            return Ok(members);
        }
        // What is wrong is said of the whole file.
        let members = parse(&self.path, &text, overlay, local).map_err(Fault::Wrong)?;
        self.known = Known::new(text, members.entries());
        Ok(members)
    }

    /// Waits until the file is not the one that was read last.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: the comparison is with what [`read`](Self::read) saw.
    pub async fn changed(&self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let now = stamp(&self.path);
            if now != self.seen && (now.is_some() || stamp_again(&self.path).await.is_none()) {
                return;
            }
        }
    }
}

/// Looks once more: a file that is missing may be in the middle of being replaced.
async fn stamp_again(path: &Path) -> Option<Stamp> {
    tokio::time::sleep(INTERVAL).await;
    stamp(path)
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some(Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        len: metadata.len(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

/// Checks `text`, which errors attribute to `path`.
///
/// # Errors
///
/// The first fault: file, line, key, value and remedy.
pub fn parse(
    path: &Path,
    text: &str,
    overlay: &Overlay,
    local: &str,
) -> Result<Membership, Complaint> {
    let (document, nodes) = entries(path, text)?;
    Membership::check(overlay.clone(), local, nodes).map_err(|error| {
        let entry = |index: usize| document.node[index].get_ref();
        let (key, span) = match error.place {
            Place::Table => ("node.name", None),
            Place::Name(node) => ("node.name", Some(entry(node).name.span())),
            Place::Address(node) => ("node.address", Some(entry(node).address.span())),
            Place::Subnets(node) => ("node.subnets", Some(entry(node).subnets.span())),
            Place::Subnet(node, place) => {
                ("node.subnets", Some(entry(node).subnets.get_ref()[place].span()))
            }
            Place::Codec(node) => ("node.codec", entry(node).codec.as_ref().map(Spanned::span)),
            Place::Port(node) => ("node.port", entry(node).port.as_ref().map(Spanned::span)),
            Place::Mac(node) => ("node.mac", entry(node).mac.as_ref().map(Spanned::span)),
        };
        let complaint = Complaint::of_file(path, error.to_string())
            .key(key)
            .value(&error.value)
            .remedy(error.remedy());
        match span {
            Some(span) => complaint.line(line_of(text, &span)),
            None => complaint,
        }
    })
}

/// The nodes of `text`, each by itself.
fn entries(path: &Path, text: &str) -> Result<(Document, Vec<NodeEntry>), Complaint> {
    let document: Document =
        toml::from_str(text).map_err(|error| Complaint::of_toml(path, text, &error))?;
    let nodes = document
        .node
        .iter()
        .map(|entry| {
            let Entry { name, address, subnets, codec, port, mac } = entry.get_ref();
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
                speech: Speech {
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
                },
            })
        })
        .collect::<Result<Vec<_>, Complaint>>()?;
    Ok((document, nodes))
}

#[cfg(test)]
mod tests;
