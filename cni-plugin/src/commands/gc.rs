//! GC: unplug whatever is not on the runtime's list any more.
//!
//! Works like DEL for each attachment of this network that the store has and the list has not, and
//! like DEL needs neither daemon nor namespace. Goes on after an error and reports them all.

use std::collections::{BTreeSet, HashSet};

use super::del::{nftables, unplug};
use crate::attachment::Attachment;
use crate::config::Config;
use crate::error::{Error, Failure};
use crate::fault::{Fault, Step};
use crate::ipam::Store;
use crate::netlink::Socket;

pub(super) fn gc(config: &Config, fault: Option<&Fault>) -> Result<(), Failure> {
    let mut keep = config.valid_attachments()?;
    for (container, ifname) in &keep {
        // A list with nonsense in it may lack what it should have.
        Attachment::new(&config.name, container, ifname).map_err(|broken| Error::BadConfig {
            key: "cni.dev/valid-attachments".to_owned(),
            value: format!("{container:?} and {ifname:?}"),
            remedy: broken.to_string(),
        })?;
    }
    // No store means that no ADD ever allocated anything.
    let Some(mut store) = Store::open(&config.state_dir)? else {
        return Ok(());
    };
    let valid: HashSet<(String, String)> = keep.iter().cloned().collect();
    let (mut host, mut nftables) = (Socket::open()?, nftables()?);
    let reached = |step| {
        if let Some(fault) = fault {
            fault.strike(step);
        }
    };
    let mut errors = Vec::new();
    for record in store.records()? {
        let held = record.attachment;
        let name = (held.container().to_owned(), held.ifname().to_owned());
        if held.network() == config.name && !valid.contains(&name) {
            // A pod that was imported has another plugin's device. An address is not freed while a
            // device may still carry it.
            for device in BTreeSet::from([held.host_device(), record.host_device]) {
                if let Err(error) = unplug(&mut host, nftables.as_mut(), &device, &reached) {
                    errors.push(error);
                    keep.push(name.clone());
                }
            }
        }
    }
    reached(Step::DevicesRemoved);
    errors.extend(store.release_except(&config.name, &keep).err().map(Error::from));
    reached(Step::AddressesReleased);
    Failure::unless_empty(errors)
}
