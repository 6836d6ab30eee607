//! What changes the store by hand: `culvert ipam free`, `import` and `rebuild`.

use std::convert::Infallible;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, bail};
use culvert_cni::ipam::{
    HostLocal, Import, Pulse, Pulses, Range, Record, Store, live_pods, set_aside,
};
use ipnet::IpNet;
use serde::Serialize;

use super::listing::Entry;
use super::{open, subnets};

/// What to free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// One address.
    Address(IpAddr),
    /// All addresses of a container, or of one of its interfaces.
    Container {
        /// The container's id.
        id: String,
        /// The interface, unless all are meant.
        ifname: Option<String>,
    },
}

impl FromStr for Target {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match (text.parse(), text.split_once('/')) {
            (Ok(address), _) => Self::Address(address),
            (Err(_), None) => Self::Container { id: text.to_owned(), ifname: None },
            (Err(_), Some((id, ifname))) => {
                Self::Container { id: id.to_owned(), ifname: Some(ifname.to_owned()) }
            }
        })
    }
}

impl Target {
    fn matches(&self, record: &Record) -> bool {
        match self {
            Self::Address(address) => record.allocation.address == *address,
            Self::Container { id, ifname } => {
                let attachment = &record.attachment;
                attachment.container() == id
                    && ifname.as_ref().is_none_or(|ifname| attachment.ifname() == ifname)
            }
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Container { id, ifname: None } => write!(f, "container {id}"),
            Self::Container { id, ifname: Some(ifname) } => {
                write!(f, "interface {ifname} of container {id}")
            }
        }
    }
}

/// What was freed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Freed {
    /// By address.
    pub entries: Vec<Entry>,
}

/// Frees `target` in the store under `state_dir`. Never touches a device.
///
/// # Errors
///
/// Nobody holds it; or its pod lives, and `force` is not set.
pub fn free(state_dir: &Path, target: &Target, force: bool) -> anyhow::Result<Freed> {
    let mut store = open(state_dir)?;
    let mut pulses = Pulses::open()?;
    let mut records = store.records()?;
    records.retain(|record| target.matches(record));
    if records.is_empty() {
        bail!("{target} holds no address: `culvert ipam list` shows what is held");
    }
    for record in &records {
        if !force && pulses.of(record)? == Pulse::Alive {
            bail!(
                "{} is held by {}, which lives (namespace {}, device {}): delete the pod instead, or \
                 free the address with --force and have another pod get it",
                record.allocation.address,
                record.attachment,
                record.netns.path.display(),
                record.host_device
            );
        }
    }
    let freed = store.release_unchanged(&records)?;
    Ok(Freed { entries: freed.iter().map(Entry::of).collect() })
}

impl fmt::Display for Freed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.entries.iter().map(|entry| {
            format!("freed {} of {}/{}", entry.address, entry.container, entry.ifname)
        });
        f.write_str(&lines.collect::<Vec<_>>().join("\n"))
    }
}

/// What an import did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// What the store holds now and did not before.
    pub added: Vec<Entry>,
    /// How many addresses it held already, for the same pods.
    pub known: usize,
    /// Those of `added` for which no pod was found.
    pub without_pod: Vec<IpAddr>,
    /// Whether the files were removed.
    pub removed_files: bool,
}

/// Takes over what `host-local` handed out in `directory`, into the store under `state_dir`.
///
/// The network's name is the directory's unless `network` says otherwise. `remove` removes the files
/// once the store has them.
///
/// # Errors
///
/// A directory that is not `host-local`'s, an address in none of this node's subnets or held by
/// another pod, or an unusable store. Nothing is taken over then.
pub fn import(
    directory: &Path,
    network: Option<&str>,
    (state_dir, run_dir): (&Path, &Path),
    named: &[IpNet],
    remove: bool,
) -> anyhow::Result<Imported> {
    let own_name = directory.canonicalize().ok();
    let own_name = own_name.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy());
    let network = network.or(own_name.as_deref()).unwrap_or_default();
    let ranges = ranges(&subnets(named, run_dir)?);
    let host_local = HostLocal::read(directory, network)?;
    let pods = live_pods()?;
    let import = Store::open_or_create(state_dir)?.import(&host_local, &ranges, &pods)?;
    if remove {
        host_local.remove_entries()?;
    }
    Ok(Imported {
        added: entries(&import),
        known: import.known,
        without_pod: import.without_pod,
        removed_files: remove,
    })
}

impl fmt::Display for Imported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for address in &self.without_pod {
            writeln!(
                f,
                "{address}: no running pod has it; kept all the same (`culvert ipam free {address}` \
                 if it is a leak)"
            )?;
        }
        write!(f, "imported {} addresses; {} were known already", self.added.len(), self.known)
    }
}

/// What a rebuild did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rebuilt {
    /// What the new store holds.
    pub added: Vec<Entry>,
    /// Where the old store is now, if there was one.
    pub old: Option<PathBuf>,
}

/// Sets the store under `state_dir` aside, as a copy beside it, and makes a new one from the pods that
/// run.
///
/// # Errors
///
/// A store that is sound, unless `force` is set; or a kernel that does not answer. A store that
/// cannot be moved stays as it is.
pub fn rebuild(
    state_dir: &Path,
    run_dir: &Path,
    named: &[IpNet],
    force: bool,
) -> anyhow::Result<Rebuilt> {
    if !force && is_sound(state_dir)? {
        bail!(
            "the store under {} is sound: nothing needs to be rebuilt (--force does it all the same)",
            state_dir.display()
        );
    }
    let subnets = subnets(named, run_dir)?;
    // Before anything is moved: without the pods there would be nothing to make a store from.
    let pods = live_pods()?;
    let old = set_aside(state_dir)?;
    let mut store = Store::open_or_create(state_dir)?;
    let import = store.rebuild(&ranges(&subnets), &pods).context("writing the pods down anew")?;
    Ok(Rebuilt { added: entries(&import), old })
}

/// Whether there is a store and nothing is wrong with it.
fn is_sound(state_dir: &Path) -> anyhow::Result<bool> {
    let faults = match Store::open(state_dir) {
        Ok(None) => return Ok(false),
        Ok(Some(mut store)) => store.records().and_then(|_| store.faults()),
        Err(error) => Err(error),
    };
    match faults {
        Ok(faults) => Ok(faults.is_empty()),
        Err(error) if error.is_damage() => Ok(false),
        // A full disk, say, is not mended by a new file.
        Err(error) => Err(error.into()),
    }
}

impl fmt::Display for Rebuilt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(old) = &self.old {
            writeln!(f, "the old store is now {}", old.display())?;
        }
        write!(f, "the new store holds {} addresses of running pods", self.added.len())
    }
}

fn ranges(subnets: &[IpNet]) -> Vec<Range> {
    subnets.iter().map(|subnet| Range::whole(*subnet)).collect()
}

fn entries(import: &Import) -> Vec<Entry> {
    import.added.iter().map(Entry::of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_is_an_address_or_a_container_or_its_interface() {
        let parse = |text: &str| text.parse::<Target>().unwrap();
        assert_eq!(parse("fd00::1"), Target::Address("fd00::1".parse().unwrap()));
        assert_eq!(parse("abc"), Target::Container { id: "abc".to_owned(), ifname: None });
        let ifname = Some("net1".to_owned());
        assert_eq!(parse("abc/net1"), Target::Container { id: "abc".to_owned(), ifname });
    }
}
