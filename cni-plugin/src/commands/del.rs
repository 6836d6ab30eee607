//! DEL: unplug a pod. Everything that is gone already is fine, in any combination.
//!
//! Needs neither the daemon, nor the node file, nor the namespace, nor a previous result: the host
//! device's name follows from the attachment or is in the store, and removing one end of a pair
//! removes the other. The address is freed last, and not at all while a device may still carry it.

use std::collections::BTreeSet;

use super::Call;
use crate::error::{Error, Failure};
use crate::fault::Step;
use crate::ipam::Store;
use crate::netlink::Socket;

pub(super) fn del(call: &Call) -> Result<(), Failure> {
    // No store means that no ADD ever allocated anything, and DEL is not the one to make it.
    let (mut store, mut errors) = match Store::open(&call.config.state_dir) {
        Ok(store) => (store, Vec::new()),
        Err(error) => (None, vec![Error::from(error)]),
    };
    let removed = remove_devices(call, store.as_mut());
    call.reached(Step::DevicesRemoved);
    match removed {
        Err(error) => errors.insert(0, error),
        Ok(()) => {
            let released = store.map_or(Ok(0), |mut store| store.release(&call.attachment));
            errors.extend(released.err().map(Error::from));
        }
    }
    call.reached(Step::AddressesReleased);
    Failure::unless_empty(errors)
}

/// Removes our device and those that the store knows: a pod that was imported has another plugin's.
fn remove_devices(call: &Call, store: Option<&mut Store>) -> Result<(), Error> {
    let mut devices = BTreeSet::from([call.attachment.host_device()]);
    if let Some(store) = store {
        // A store that cannot be read says so when the addresses are released.
        let records = store.records_of(&call.attachment).unwrap_or_default();
        devices.extend(records.into_iter().map(|record| record.host_device));
    }
    let mut host = Socket::open()?;
    for device in devices {
        host.delete_link(&device)?;
    }
    Ok(())
}
