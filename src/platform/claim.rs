//! A name that one process of a network namespace holds at a time.
//!
//! Owns an abstract unix socket: the kernel keeps these apart by network namespace, refuses a name
//! that is taken, and frees it when its holder ends, however it ends. Nothing is ever read from it.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use super::{Error, Result};

/// A name that is held until this is dropped.
#[derive(Debug)]
pub struct Claim {
    _socket: UnixDatagram,
}

impl Claim {
    /// Takes `name`.
    ///
    /// # Errors
    ///
    /// `AddrInUse` if another process of this network namespace holds it.
    pub fn take(name: &str) -> Result<Self> {
        SocketAddr::from_abstract_name(name)
            .and_then(|address| UnixDatagram::bind_addr(&address))
            .map(|socket| Self { _socket: socket })
            .map_err(|source| Error::new("claim", name, source))
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_name_is_held_until_its_holder_is_gone() {
        let name = format!("culvert-test-{}", std::process::id());
        let first = Claim::take(&name).unwrap();
        let refused = Claim::take(&name).unwrap_err();
        assert_eq!(refused.cause.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        Claim::take(&name).unwrap();
    }
}
