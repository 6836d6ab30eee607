//! What an error of a socket or a queue means: the one place that decides.

use std::io;

/// Meaning of an error from either edge of the data path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Nothing to read.
    Empty,
    /// A queue of the kernel's is full, or it is short of memory: drop and go on.
    Full,
    /// The packet is longer than the path carries.
    TooBig,
    /// The kernel does not do what an offload asked for: do it ourselves from now on.
    Unsupported,
    /// The device is gone; a new one must be opened.
    Gone,
    /// This packet was refused, another may pass: no route, filtered, device down.
    Refused,
}

/// Classifies `error`.
pub(super) fn classify(error: &io::Error) -> Class {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => Class::Empty,
        Some(libc::ENOBUFS | libc::ENOMEM) => Class::Full,
        Some(libc::EMSGSIZE) => Class::TooBig,
        Some(libc::EINVAL | libc::EOPNOTSUPP) => Class::Unsupported,
        Some(libc::EBADFD | libc::EBADF | libc::ENODEV) => Class::Gone,
        Some(_) => Class::Refused,
        None if error.kind() == io::ErrorKind::WouldBlock => Class::Empty,
        None => Class::Refused,
    }
}
