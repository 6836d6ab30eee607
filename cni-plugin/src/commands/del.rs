//! DEL: unplug a pod. Everything that is gone already is fine, in any combination.
//!
//! Needs neither the daemon, nor the node file, nor the namespace, nor a previous result: the host
//! device's name follows from the attachment, and removing one end of a pair removes the other. The
//! address is freed last, and not at all while a device may still carry it.

use culvert_nft::Socket as Nftables;

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
    unplug(&mut Socket::open()?, nftables()?.as_mut(), &call.attachment.host_device())
}

/// The kernel's nftables; none, where it has none.
fn nftables() -> Result<Option<Nftables>, Error> {
    match Nftables::open() {
        Ok(nftables) => Ok(Some(nftables)),
        Err(error) if error.is_unsupported() => Ok(None),
        Err(error) => Err(error.into()),
    }
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
pub(super) fn unplug(
    host: &mut Socket,
    nftables: Option<&mut Nftables>,
    device: &str,
) -> Result<(), Error> {
    let found = host.link_by_name(device)?;
    host.delete_link(device)?;
    let Some(nftables) = nftables else {
        return Ok(());
    };
    match found.and_then(|link| PodPort::from_note(device, &link.alias)) {
        Some(port) => source_check::leave(nftables, &port)?,
        // Without the note nothing tells what there is, if anything.
        None => source_check::leave_unknown(nftables, device)?,
    }
    Ok(())
}
