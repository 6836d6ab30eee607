//! DEL: unplug a pod. Everything that is gone already is fine, in any combination.
//!
//! Needs neither the daemon, nor the node file, nor the namespace, nor a previous result: the host
//! device's name follows from the attachment, and removing one end of a pair removes the other. The
//! address is freed last, and not at all while a device may still carry it.

use super::Call;
use crate::error::{Error, Failure};
use crate::ipam::Store;
use crate::netlink::Socket;
use crate::source_check::{self, PodPort};

pub(super) fn del(call: &Call) -> Result<(), Failure> {
    let removed = remove_devices(call);
    let is_removed = removed.is_ok();
    let mut errors: Vec<_> = removed.err().into_iter().collect();
    if is_removed {
        errors.extend(release_addresses(call).err());
    }
    Failure::unless_empty(errors)
}

fn remove_devices(call: &Call) -> Result<(), Error> {
    unplug(&mut Socket::open()?, &call.attachment.host_device())
}

fn release_addresses(call: &Call) -> Result<(), Error> {
    // No store means that no ADD ever allocated anything, and DEL is not the one to make it.
    if let Some(mut store) = Store::open(&call.config.state_dir)? {
        store.release(&call.attachment)?;
    }
    Ok(())
}

/// Removes a pod's devices and then what the kernel knows for checking them: never the other way
/// round, so that no pod is unchecked for a moment.
pub(super) fn unplug(host: &mut Socket, device: &str) -> Result<(), Error> {
    let found = host.link_by_name(device)?;
    host.delete_link(device)?;
    match found.map(|link| PodPort::from_note(device, &link.alias)) {
        Some(Some(port)) => source_check::leave(&port)?,
        // Without the note nothing tells what there is, if anything.
        None | Some(None) => source_check::leave_unknown(device)?,
    }
    Ok(())
}
