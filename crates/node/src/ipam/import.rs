//! Allocations that come from the directory of the `host-local` plugin.
//!
//! Owns reading that directory, under its own lock, and writing what was found. All of it is
//! written, or nothing; doing it again changes nothing.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::change::Holder;
use super::live::LivePod;
use super::range::Range;
use super::record::{Record, boot_id};
use super::{Error, Store};
use crate::attachment::Attachment;
use crate::bounded_file;

/// Files that `host-local` locks its directory with, and notes the last address in.
const LOCK: &str = "lock";
const LAST_RESERVED: &str = "last_reserved_ip.";

/// The interface of entries that do not name one: what `host-local` wrote before it noted the name.
const DEFAULT_IFNAME: &str = "eth0";

/// What `host-local` has handed out in one network.
#[derive(Debug)]
pub struct HostLocal {
    directory: PathBuf,
    entries: Vec<(IpAddr, Attachment)>,
    last: Vec<IpAddr>,
    /// Held so that `host-local` hands out nothing meanwhile; its own processes wait.
    _lock: Option<File>,
}

impl HostLocal {
    /// Reads `directory` for the network `network`, and keeps it locked.
    ///
    /// # Errors
    ///
    /// A directory or file that cannot be read, or is not what `host-local` writes.
    pub fn read(directory: &Path, network: &str) -> Result<Self, Error> {
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            move |error: io::Error| Error::Import {
                path,
                what: format!(
                    "{error}; name a directory of \
                host-local, as /var/lib/cni/networks/NAME"
                ),
            }
        };
        let lock = match File::open(directory.join(LOCK)) {
            Ok(file) => {
                file.lock().map_err(unreadable(&directory.join(LOCK)))?;
                Some(file)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(unreadable(&directory.join(LOCK))(error)),
        };
        let mut host_local = Self {
            directory: directory.to_owned(),
            entries: Vec::new(),
            last: Vec::new(),
            _lock: lock,
        };
        for entry in fs::read_dir(directory).map_err(unreadable(directory))? {
            let path = entry.map_err(unreadable(directory))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name == LOCK {
                continue;
            }
            let text =
                bounded_file::read_text(&path, bounded_file::SMALL).map_err(unreadable(&path))?;
            if name.starts_with(LAST_RESERVED) {
                host_local.last.extend(text.trim().parse::<IpAddr>().ok());
            } else if let Ok(address) = name.parse() {
                let attachment =
                    parse_entry(network, &text).map_err(|what| Error::Import { path, what })?;
                host_local.entries.push((address, attachment));
            } else {
                let what = "its name is no address; host-local did not write it. Remove it, or name \
                     another directory";
                return Err(Error::Import { path, what: what.to_owned() });
            }
        }
        host_local.entries.sort_by_key(|(address, _)| *address);
        host_local.last.sort_unstable();
        Ok(host_local)
    }

    /// Removes what says that addresses are handed out, so that `host-local` would hand them out.
    ///
    /// # Errors
    ///
    /// A file that cannot be removed.
    pub fn remove_entries(&self) -> Result<(), Error> {
        for (address, _) in &self.entries {
            let path = self.directory.join(address.to_string());
            fs::remove_file(&path).map_err(|error| Error::Import {
                path,
                what: format!("imported, but not removed: {error}; remove it by hand"),
            })?;
        }
        Ok(())
    }
}

fn parse_entry(network: &str, text: &str) -> Result<Attachment, String> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let container =
        lines.next().ok_or("it names no container; remove it if no pod has the address")?;
    let ifname = lines.next().unwrap_or(DEFAULT_IFNAME);
    Attachment::new(network, container, ifname).map_err(|error| {
        format!("it names interface {ifname:?} of container {container:?}: {error}")
    })
}

/// What an import came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Import {
    /// Addresses that the store holds now and did not before.
    pub added: Vec<Record>,
    /// How many it held already, for the same attachments.
    pub known: usize,
    /// Those of `added` for which no living pod was found.
    pub without_pod: Vec<IpAddr>,
}

impl Store {
    /// Takes over what `host_local` has handed out in `ranges`, with what `pods` says about each.
    ///
    /// # Errors
    ///
    /// An address in none of the ranges, or held by another attachment; then nothing is taken over.
    pub fn import(
        &mut self,
        host_local: &HostLocal,
        ranges: &[Range],
        pods: &[LivePod],
    ) -> Result<Import, Error> {
        let import = self.change("import into", |change| {
            let mut import = Import::default();
            for (address, attachment) in &host_local.entries {
                if change.holder(*address)?.as_ref() == Some(attachment) {
                    import.known += 1;
                    continue;
                }
                let Some(range) = ranges.iter().find(|range| range.contains(*address)) else {
                    return Err(Error::Import {
                        path: host_local.directory.join(address.to_string()),
                        what: outside(ranges),
                    });
                };
                let pod = pods.iter().find(|pod| has(pod, *address));
                let mut holder = Holder {
                    boot: boot_id(),
                    netns: pod.map(|pod| pod.netns.clone()).unwrap_or_default(),
                    ..Holder::of(attachment)
                };
                match pod {
                    Some(pod) => holder.host_device.clone_from(&pod.host_device),
                    None => import.without_pod.push(*address),
                }
                change.record(range, *address, &holder)?;
                import.added.extend(added(change, attachment, *address)?);
            }
            for last in &host_local.last {
                if let Some(range) = ranges.iter().find(|range| range.contains(*last)) {
                    change.continue_after(range, *last)?;
                }
            }
            Ok(import)
        })?;
        self.flush()?;
        Ok(import)
    }
}

fn added(
    change: &super::Change<'_>,
    attachment: &Attachment,
    address: IpAddr,
) -> Result<Option<Record>, Error> {
    let records = change.records_of(attachment)?;
    Ok(records.into_iter().find(|record| record.allocation.address == address))
}

fn has(pod: &LivePod, address: IpAddr) -> bool {
    pod.addresses.iter().any(|net| net.addr() == address)
}

fn outside(ranges: &[Range]) -> String {
    let list: Vec<String> = ranges.iter().map(ToString::to_string).collect();
    let list = if list.is_empty() { "none".to_owned() } else { list.join(", ") };
    format!(
        "the address is in no subnet of this node ({list}): add its subnet to this node's entry in \
         the subnet table, name it with --subnet, or remove the file if no pod has the address"
    )
}
