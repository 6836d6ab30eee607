//! DEL: unplug a pod. Everything that is gone already is fine, in any combination.
//!
//! Needs neither the daemon, nor the node file, nor the namespace, nor a previous result: the host
//! device's name follows from the attachment, and removing one end of a pair removes the other. The
//! address is freed last, and not at all while a device may still carry it.

use super::Call;
use crate::error::{Error, Failure};
use crate::fault::Step;
use crate::ipam::Store;
use crate::netlink::Socket;

pub(super) fn del(call: &Call) -> Result<(), Failure> {
    let removed = remove_devices(call);
    let is_removed = removed.is_ok();
    call.reached(Step::DevicesRemoved);
    let mut errors: Vec<_> = removed.err().into_iter().collect();
    if is_removed {
        errors.extend(release_addresses(call).err());
    }
    call.reached(Step::AddressesReleased);
    Failure::unless_empty(errors)
}

fn remove_devices(call: &Call) -> Result<(), Error> {
    Socket::open()?.delete_link(&call.attachment.host_device())?;
    Ok(())
}

fn release_addresses(call: &Call) -> Result<(), Error> {
    // No store means that no ADD ever allocated anything, and DEL is not the one to make it.
    if let Some(mut store) = Store::open(&call.config.state_dir)? {
        store.release(&call.attachment)?;
    }
    Ok(())
}
