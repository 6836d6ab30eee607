//! DEL: unplug a pod. Everything that is gone already is fine, in any combination.
//!
//! Needs neither the daemon, nor the node file, nor the namespace, nor a previous result, nor a
//! store that can be written: the host device's name follows from the attachment or is in the
//! store, and removing one end of a pair removes the other. The address is freed last, and not at
//! all while a device may still carry it. If it cannot be freed, because the disk is full, say, the
//! pod may go all the same: the daemon's sweep frees what no device carries.

use std::collections::BTreeSet;

use culvert_nft::Socket as Nftables;

use super::{Call, own_table};
use crate::error::{Error, Failure};
use crate::fault::Step;
use crate::netlink::{self, Socket};
use culvert_node::ipam::{Record, Store};
use culvert_node::living;
use culvert_node::netns::Netns;
use culvert_node::pod_port::PodPort;
use culvert_node::source_check;

pub(super) fn del(call: &Call<'_>) -> Result<(), Failure> {
    // DEL is not the one to make a store.
    let mut store = Store::open(&call.config.state_dir).unwrap_or_else(|error| {
        call.warn_of_held_addresses(&error.into());
        None
    });
    if let Some(store) = &mut store {
        store.follow(&call.config.run_dir);
    }
    let records = store.as_mut().map(|store| store.records_of(&call.attachment));
    // A store that cannot be read says so when the addresses are released.
    let records = records.and_then(Result::ok).unwrap_or_default();
    remove_devices(call, &records)?;
    call.reached(Step::DevicesRemoved);
    // Before somebody else can get them.
    let held: Vec<_> = records.iter().map(|record| record.allocation.address).collect();
    call.tell_of_leaving(&held);
    if let Some(Err(error)) = store.map(|mut store| store.release(&call.attachment)) {
        call.warn_of_held_addresses(&error.into());
    }
    call.reached(Step::AddressesReleased);
    sweep_rules(call);
    Ok(())
}

/// Removes what of an interface's own routing table outlives its device, if the pod does.
///
/// Last, because the thread stays in the pod's namespace.
fn sweep_rules(call: &Call<'_>) {
    let Some(netns) = call.netns.as_ref().and_then(|path| Netns::open(path).ok()) else {
        return;
    };
    let swept = || -> Result<(), Error> {
        netns.enter()?;
        Ok(own_table::sweep(&mut Socket::open()?)?)
    };
    if let Err(error) = swept() {
        call.warnings.add(format_args!(
            "{}. {} is unplugged; rules that nothing uses any more may be left in its namespace",
            error.with_causes(),
            call.attachment
        ));
    }
}

impl Call<'_> {
    fn warn_of_held_addresses(&self, error: &Error) {
        self.warnings.add(format_args!(
            "{}. {} is unplugged; its addresses stay held until the daemon's sweep can free them",
            error.with_causes(),
            self.attachment
        ));
    }
}

/// Removes our device and those of `records`: a pod that was imported has another plugin's.
fn remove_devices(call: &Call<'_>, records: &[Record]) -> Result<(), Error> {
    let mut devices = BTreeSet::from([call.attachment.host_device()]);
    let known = records.iter().map(|record| &record.host_device);
    devices.extend(known.filter(|device| !device.is_empty()).cloned());
    let (mut host, mut nftables) = (Socket::open()?, nftables()?);
    for device in devices {
        unplug(&mut host, nftables.as_mut(), &device, &|step| call.reached(step))?;
        call.close_host_ports(nftables.as_mut(), &device)?;
    }
    Ok(())
}

/// The kernel's nftables; none, where it has none.
pub(super) fn nftables() -> Result<Option<Nftables>, Error> {
    match Nftables::open() {
        Ok(nftables) => Ok(Some(nftables)),
        Err(error) if error.is_unsupported() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Removes a pod's devices and then what the kernel knows for checking them: never the other way
/// round, so that no pod is unchecked for a moment.
pub(super) fn unplug(
    host: &mut Socket,
    nftables: Option<&mut Nftables>,
    device: &str,
    reached: &dyn Fn(Step),
) -> Result<(), Error> {
    let found = host.link(device)?;
    if found.is_some() {
        netlink::delete_link(host, device, reached)?;
    }
    let Some(nftables) = nftables else {
        return Ok(());
    };
    match found.and_then(|link| PodPort::from_note(device, &link.alias)) {
        Some(port) => {
            source_check::leave(nftables, &port)?;
            living::leave(nftables, &port)?;
        }
        // Without the note nothing tells what there is, if anything.
        None => source_check::leave_unknown(nftables, device)?,
    }
    Ok(())
}
