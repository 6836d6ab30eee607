//! Whether somebody keeps this machine's clock right.

use std::io;
use std::mem;

/// Whether the kernel's clock is disciplined, as NTP's programs tell the kernel.
///
/// # Errors
///
/// The kernel refuses, as some sandboxes have it.
pub(crate) fn is_synchronised() -> io::Result<bool> {
    // SAFETY: all-zero bytes are a `timex` that asks for nothing to be changed (`modes` is 0).
    let mut timex: libc::timex = unsafe { mem::zeroed() };
    // SAFETY: the pointer is to a whole `timex` that lives through the call.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(state != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0)
}
