//! What changes the store by hand: `culvert ipam free`, `import` and `rebuild`.

use std::convert::Infallible;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, bail, ensure};
use culvert_node::ipam::{
    self, HostLocal, Import, Ports, Pulse, Range, Record, Store, Survey, Surveyor, live_pods,
};
use culvert_node::words::counted;
use ipnet::IpNet;
use serde::Serialize;

use super::listing::Entry;
use super::{elsewhere, open, subnets};

/// What to free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
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
pub(crate) struct Freed {
    /// By address.
    pub entries: Vec<Entry>,
}

/// Frees `target` in the store under `state_dir`. Never touches a device.
///
/// # Errors
///
/// Nobody holds it; or its pod lives, and `force` is not set.
pub(crate) fn free(state_dir: &Path, target: &Target, force: bool) -> anyhow::Result<Freed> {
    let mut store = open(state_dir)?;
    let ports = Surveyor::open()?.look()?;
    let mut records = store.records()?;
    records.retain(|record| target.matches(record));
    if records.is_empty() {
        bail!("{target} holds no address: `culvert ipam list` shows what is held");
    }
    for record in records.iter().filter(|_| !force) {
        let address = record.allocation.address;
        match Pulse::of(record, &ports) {
            Pulse::Gone | Pulse::Unknown => {}
            Pulse::Alive => bail!(
                "{address} is held by {}, which lives (device {}): delete the pod instead, or free the \
                 address with --force; the daemon takes it up again while the device is there",
                record.attachment,
                record.host_device
            ),
            Pulse::Elsewhere => bail!(
                "{address} is held by {}, and whether that lives cannot be seen: {}. Or free the \
                 address with --force",
                record.attachment,
                elsewhere(record)
            ),
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
pub(crate) struct Imported {
    /// What the store holds now and did not before.
    pub added: Vec<Entry>,
    /// How many addresses it held already, for the same pods.
    pub known: usize,
    /// Those of `added` for which no pod was seen.
    pub without_pod: Vec<IpAddr>,
    /// Devices that lead to namespaces that could not be seen.
    pub unseen: Vec<String>,
    /// Whether the files were removed.
    pub removed_files: bool,
}

/// Takes over what `host-local` handed out in `directory`, into the store under `state_dir`.
///
/// The network's name is the directory's unless `network` says otherwise. `remove` removes the
/// files once the store has them.
///
/// # Errors
///
/// A directory that is not `host-local`'s, an address in none of this node's subnets or held by
/// another pod, or an unusable store. Nothing is taken over then.
pub(crate) fn import(
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
    let mut store = Store::open_or_create(state_dir, &mut Surveyor::open()?)?;
    let import = store.import(&host_local, &ranges, &pods.pods)?;
    if remove {
        host_local.remove_entries()?;
    }
    Ok(Imported {
        added: entries(&import),
        known: import.known,
        without_pod: import.without_pod,
        unseen: pods.unseen,
        removed_files: remove,
    })
}

impl fmt::Display for Imported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for address in &self.without_pod {
            writeln!(
                f,
                "{address}: no pod that can be seen from here has it; kept all the same (`culvert \
                 ipam free {address}` if it is a leak)"
            )?;
        }
        if !self.without_pod.is_empty() && !self.unseen.is_empty() {
            writeln!(
                f,
                "the pods behind {} cannot be seen from here: their DEL frees the address, and leaves \
                 the device until its namespace goes. Run the import on the node itself, where \
                 /run/netns is",
                self.unseen.join(", ")
            )?;
        }
        {
            let added = counted(self.added.len(), "address");
            write!(f, "imported {added}; known already: {}", self.known)
        }
    }
}

/// What a rebuild did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Rebuilt {
    /// What the store holds now and did not before; all of it, if it was made anew.
    pub added: Vec<Entry>,
    /// Where the old store is now, if there was one and it was not kept.
    pub old: Option<PathBuf>,
}

/// Makes the store under `state_dir` agree with the notes on pods' ports: writes down what a sound
/// one lacks; sets a damaged one aside, as a copy beside it, and makes a new one.
///
/// # Errors
///
/// A store that is sound and lacks nothing, or no note at all, unless `force` is set; or a kernel
/// that does not answer. A store that cannot be moved stays as it is.
pub(crate) fn rebuild(
    state_dir: &Path,
    run_dir: &Path,
    named: &[IpNet],
    force: bool,
) -> anyhow::Result<Rebuilt> {
    // The notes say nearly everything, so a node file that is missing is no hindrance.
    let subnets = subnets(named, run_dir).unwrap_or_default();
    let mut survey = InSubnets { surveyor: Surveyor::open()?, subnets };
    if !force {
        let sound = sound_store(state_dir)?;
        let records = sound.as_ref().map(|(_, records)| records.as_slice()).unwrap_or_default();
        let ports = survey.look()?;
        let hidden = records.iter().find(|record| Pulse::of(record, &ports) == Pulse::Elsewhere);
        if let Some(record) = hidden {
            bail!("nothing was rebuilt, because {}. Or repeat with --force", elsewhere(record));
        }
        ensure!(
            sound.is_some() || !ports.pods.is_empty(),
            "no device of this network namespace bears the note of a pod, so the new store would be \
             empty: run this in the node's own network namespace, or repeat with --force if the node \
             has no pods"
        );
        if let Some((mut store, before)) = sound {
            let added = store.adopt(&mut survey)?;
            ensure!(
                added > 0,
                "the store under {} is sound and has every pod that runs: nothing needs to be rebuilt \
                 (--force does it all the same)",
                state_dir.display()
            );
            let mut records = store.records()?;
            records.retain(|record| !before.contains(record));
            return Ok(Rebuilt { added: records.iter().map(Entry::of).collect(), old: None });
        }
    }
    let store = Store::rebuild(state_dir, &mut survey).context("writing the pods down anew")?;
    let (old, records) = store
        .restored()
        .map(|restored| (restored.old.clone(), restored.records.as_slice()))
        .unwrap_or_default();
    Ok(Rebuilt { added: records.iter().map(Entry::of).collect(), old })
}

/// Finds the subnets of addresses whose note had no room for the prefix length.
struct InSubnets {
    surveyor: Surveyor,
    subnets: Vec<IpNet>,
}

impl Survey for InSubnets {
    fn look(&mut self) -> Result<Ports, ipam::Error> {
        let mut ports = self.surveyor.look()?;
        let addresses = ports.pods.iter_mut().flat_map(|pod| &mut pod.addresses);
        for net in addresses.filter(|net| net.prefix_len() == net.max_prefix_len()) {
            if let Some(subnet) = self.subnets.iter().find(|subnet| subnet.contains(&net.addr())) {
                *net = IpNet::new_assert(net.addr(), subnet.prefix_len());
            }
        }
        Ok(ports)
    }

    fn place(&self) -> (u64, String) {
        self.surveyor.place()
    }
}

/// The store and what it holds, if there is one and nothing is wrong with it.
fn sound_store(state_dir: &Path) -> anyhow::Result<Option<(Store, Vec<Record>)>> {
    let look = || -> Result<_, ipam::Error> {
        let Some(mut store) = Store::open(state_dir)? else { return Ok(None) };
        let records = store.records()?;
        Ok(store.faults()?.is_empty().then_some((store, records)))
    };
    match look() {
        Ok(store) => Ok(store),
        Err(error) if error.is_damage() => Ok(None),
        // A full disk, say, is not mended by a new file.
        Err(error) => Err(error.into()),
    }
}

impl fmt::Display for Rebuilt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(old) = &self.old {
            writeln!(f, "the old store is now {}", old.display())?;
        }
        let count = self.added.len();
        match &self.old {
            Some(_) => {
                write!(f, "the new store holds {} of running pods", counted(count, "address"))
            }
            None => write!(f, "written down: {} of running pods", counted(count, "address")),
        }
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
