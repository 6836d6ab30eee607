//! Allocations that go back to the directory of the `host-local` plugin.
//!
//! The opposite of an import: afterwards `host-local` holds what the store held, and of what it
//! held itself only what is in use.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::Path;

use super::record::Record;
use crate::whole_file;

/// What `host-local` locks its directory with.
const LOCK: &str = "lock";

/// Has `host-local` hold in `directory` what `records` say, under its own lock. What else it holds
/// goes if `is_free` says so: the store may have been handed over before, and `host-local` have
/// given addresses since.
///
/// # Errors
///
/// What the file system says; what was written by then stays, and does no harm twice.
pub fn to_host_local(
    directory: &Path,
    records: &[Record],
    is_free: impl Fn(IpAddr) -> bool,
) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let lock =
        File::options().create(true).truncate(false).write(true).open(directory.join(LOCK))?;
    lock.lock()?;
    let held: BTreeSet<IpAddr> = records.iter().map(|record| record.allocation.address).collect();
    for record in records {
        let attachment = &record.attachment;
        // As it writes them, whatever machine it was built for.
        let text = format!("{}\r\n{}", attachment.container(), attachment.ifname());
        let path = directory.join(record.allocation.address.to_string());
        whole_file::write(&path, |file| file.write_all(text.as_bytes()))?;
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let address = name.to_str().and_then(|name| name.parse::<IpAddr>().ok());
        if address.is_some_and(|address| !held.contains(&address) && is_free(address)) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
