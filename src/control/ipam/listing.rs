//! `culvert ipam list`: which pod has which address.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use comfy_table::{Table, presets};
use culvert_cni::ipam::{Record, Store};
use ipnet::IpNet;
use serde::Serialize;

/// One address and its holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
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
#[serde(transparent)]
pub struct Listing {
    /// Sorted by family and address.
    pub entries: Vec<Entry>,
}

/// Lists what the store under `state_dir` holds; nothing if there is none yet.
///
/// # Errors
///
/// An unusable store.
pub fn list(state_dir: &Path) -> anyhow::Result<Listing> {
    let records = match Store::open(state_dir)? {
        Some(mut store) => store.records()?,
        None => Vec::new(),
    };
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
            since: rfc3339(record.allocated_at),
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

/// `seconds` since 1970 as a date and time in UTC.
fn rfc3339(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = date(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The Gregorian date `days` after 1970-01-01.
///
/// Counted in years that begin in March, so that the leap day is the last of its year, and in eras of
/// 400 years, which are all 146,097 days long.
fn date(days: i64) -> (i64, i64, i64) {
    // 719,468 days lie between 0000-03-01 and 1970-01-01.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months from March on have 31, 30, 31, 30, 31 days, again and again: 153 in five.
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let is_next_year = month >= 10;
    let year = era * 400 + year_of_era + i64::from(is_next_year);
    (year, if is_next_year { month - 9 } else { month + 3 }, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }

    #[test]
    fn no_store_is_an_empty_list() {
        let dir = tempfile::TempDir::new().unwrap();
        assert_eq!(list(dir.path()).unwrap().to_string(), "no address is in use");
    }
}
