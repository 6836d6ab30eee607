//! GC: unplug whatever is not on the runtime's list any more.
//!
//! Works like DEL for each attachment of this network that the store or a note on a port has and
//! the list has not, and like DEL needs neither daemon nor namespace. Goes on after an error and
//! reports them all.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::del::{nftables, unplug};
use super::{host_ports, own_table};
use crate::config::Config;
use crate::error::{Error, Failure, shorten};
use crate::fault::{InjectedFault, Step};
use crate::netlink::Socket;
use culvert_node::attachment::Attachment;
use culvert_node::ipam::{Record, Store, Survey as _, Surveyor};
use culvert_node::netns::Netns;

pub(super) fn gc(config: &Config, fault: Option<&InjectedFault>) -> Result<(), Failure> {
    let mut keep = config.valid_attachments()?;
    for (container, ifname) in &keep {
        // A list with nonsense in it may lack what it should have.
        Attachment::new(&config.name, container, ifname).map_err(|broken| Error::BadConfig {
            key: "cni.dev/valid-attachments".to_owned(),
            value: format!("{:?} and {:?}", shorten(container), shorten(ifname)),
            remedy: broken.to_string(),
        })?;
    }
    let valid: HashSet<(String, String)> = keep.iter().cloned().collect();
    let mut store = Store::open(&config.state_dir)?;
    if let Some(store) = &mut store {
        store.follow(&config.run_dir);
    }
    let records = store.as_mut().map_or_else(|| Ok(Vec::new()), Store::records)?;
    let ports = Surveyor::open()?.look()?;
    // A pod that was imported has another plugin's device; one of a lost store has only its port.
    let namespaces = namespaces_of(&config.name, &valid, &records);
    let recorded = records.into_iter().map(|record| (record.attachment, record.host_device));
    let noted = ports.pods.into_iter().filter_map(|pod| Some((pod.attachment?, pod.device)));
    let mut leaving: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for (held, device) in recorded.chain(noted) {
        let name = (held.container().to_owned(), held.ifname().to_owned());
        if held.network() == config.name && !valid.contains(&name) {
            let devices = [held.host_device(), device];
            let known = devices.into_iter().filter(|device| !device.is_empty());
            leaving.entry(name).or_default().extend(known);
        }
    }
    let (mut host, mut nftables) = (Socket::open()?, nftables()?);
    let reached = |step| {
        if let Some(fault) = fault {
            fault.strike(step);
        }
    };
    let mut errors = Vec::new();
    for (name, devices) in leaving {
        for device in devices {
            let unplugged = unplug(&mut host, nftables.as_mut(), &device, &reached);
            let closed = unplugged.and_then(|()| {
                host_ports::close(&config.run_dir, nftables.as_mut(), &device, false)
            });
            if let Err(error) = closed {
                errors.push(error);
                // An address is not freed while a device may still carry it.
                keep.push(name.clone());
            }
        }
    }
    reached(Step::DevicesRemoved);
    let released = store.map(|mut store| store.release_except(&config.name, &keep));
    errors.extend(released.and_then(Result::err).map(Error::from));
    reached(Step::AddressesReleased);
    for netns in namespaces {
        let swept = netns.run(|| -> Result<(), Error> {
            let mut pod = Socket::open()?;
            Ok(own_table::sweep(&mut pod)?)
        });
        errors.extend(swept.err());
    }
    Failure::unless_empty(errors)
}

/// Namespaces that stay though an interface in them goes, by what the store knows.
fn namespaces_of(
    network: &str,
    valid: &HashSet<(String, String)>,
    records: &[Record],
) -> Vec<Netns> {
    let leaves = |record: &&Record| {
        let held = &record.attachment;
        let name = (held.container().to_owned(), held.ifname().to_owned());
        held.network() == network && !valid.contains(&name)
    };
    let leaving = records.iter().filter(leaves).map(|record| &record.netns);
    let there = leaving.filter(|netns| netns.is_there() == Some(true));
    let paths: BTreeSet<_> = there.map(|netns| &netns.path).collect();
    paths.into_iter().filter_map(|path| Netns::open(path).ok()).collect()
}
