//! `culvert ipam list`: which pod has which address.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use comfy_table::{Table, presets};
use culvert_node::ipam::Record;
use ipnet::IpNet;
use jiff::Timestamp;
use serde::Serialize;

use super::open;

/// One address and its holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Entry {
    /// The address.
    pub address: IpAddr,
    /// The subnet it is of.
    pub subnet: IpNet,
    /// The network's name.
    pub network: String,
    /// The container's id.
    pub container: String,
    /// The interface in the container.
    pub ifname: String,
    /// The path of the container's network namespace, unless it is not known.
    pub netns: Option<PathBuf>,
    /// The device on the node.
    pub host_device: String,
    /// When the address was handed out, as RFC 3339 has it, in UTC.
    pub since: String,
}

/// Everything in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Listing {
    /// Sorted by family and address.
    pub entries: Vec<Entry>,
}

/// Lists what the store under `state_dir` holds.
///
/// # Errors
///
/// No store, or one that cannot be used.
pub(crate) fn list(state_dir: &Path) -> anyhow::Result<Listing> {
    let records = open(state_dir)?.records()?;
    Ok(Listing { entries: records.iter().map(Entry::of).collect() })
}

impl Entry {
    pub(super) fn of(record: &Record) -> Self {
        let attachment = &record.attachment;
        let path = &record.netns.path;
        Self {
            address: record.allocation.address,
            subnet: record.allocation.subnet,
            network: attachment.network().to_owned(),
            container: attachment.container().to_owned(),
            ifname: attachment.ifname().to_owned(),
            netns: (!path.as_os_str().is_empty()).then(|| path.clone()),
            host_device: record.host_device.clone(),
            // The kernel's clock has no second that this cannot show.
            since: Timestamp::from_second(record.allocated_at).unwrap_or_default().to_string(),
        }
    }
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.entries.is_empty() {
            return f.write_str("no address is in use");
        }
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(["address", "container", "interface", "namespace", "since", "network"]);
        for entry in &self.entries {
            let netns = entry
                .netns
                .as_ref()
                .map_or_else(|| "unknown".into(), |path| path.to_string_lossy());
            table.add_row([
                &entry.address.to_string(),
                &entry.container,
                &entry.ifname,
                &*netns,
                &entry.since,
                &entry.network,
            ]);
        }
        f.write_str(&table.trim_fmt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_store_is_an_error_that_names_the_directory_and_the_flag() {
        let dir = tempfile::TempDir::new().unwrap();
        let error = list(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&dir.path().display().to_string()), "{error}");
        assert!(error.contains("--state-dir"), "{error}");
    }
}
