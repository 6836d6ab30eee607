//! A name that one daemon of a network namespace holds at a time.
//!
//! Owns an nftables table with an owner: the kernel keeps tables apart by network namespace, lets
//! nobody without CAP_NET_ADMIN make one, refuses a name that is taken, lets nobody but the owner's
//! socket remove it, and removes it when that socket is closed, however its process ends. So it
//! works across containers that share the network namespace and nothing else, and no other user of
//! the machine can take or hold the name. Nothing is ever put into the table.
//!
//! A kernel without such tables (before Linux 5.12, or without nftables) gets an abstract unix
//! socket, which any user of the machine could take first.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use culvert_dataplane::platform::{Error, Result};
use culvert_nft::{Batch, Socket, TableFamily};

/// What tables of this kind are called, before the name that is claimed.
pub(crate) const TABLE_PREFIX: &str = "culvert-claim-";

/// A name that is held until this is dropped.
pub struct Claim {
    _holder: Holder,
}

#[expect(dead_code, reason = "held for what the kernel does when it is closed")]
enum Holder {
    Table(Socket),
    Unix(UnixDatagram),
}

impl Claim {
    /// Takes `name`.
    ///
    /// # Errors
    ///
    /// `AddrInUse` if another process of this network namespace holds it; what the kernel says if
    /// it cannot be asked.
    pub fn take(name: &str) -> Result<Self> {
        match take_table(name) {
            Ok(socket) => Ok(Self { _holder: Holder::Table(socket) }),
            // kernel: of a table that has another owner, "not permitted" comes before "exists".
            Err(error) if error.is_exists() || !Self::may_be_free(name) => {
                tracing::debug!(%error, "the name is held");
                Err(Error::new("claim", name, io::ErrorKind::AddrInUse))
            }
            Err(error) if error.is_unsupported() => {
                tracing::debug!(%error, "claiming by a socket, for want of nftables");
                let socket = take_socket(name).map_err(|error| Error::new("claim", name, error))?;
                Ok(Self { _holder: Holder::Unix(socket) })
            }
            Err(error) => Err(Error::new("claim", name, io::Error::other(error))),
        }
    }

    /// Whether nobody holds `name`, as far as a look that costs nobody anything can tell. Taking a
    /// name that is held has the kernel wait for a grace period, with the lock that every change of
    /// nftables needs.
    pub fn may_be_free(name: &str) -> bool {
        let held = Socket::open()
            .and_then(|mut socket| socket.has_table(TableFamily::Inet, &table_name(name)));
        !held.is_ok_and(|held| held)
    }
}

fn table_name(name: &str) -> String {
    format!("{TABLE_PREFIX}{name}")
}

fn take_table(name: &str) -> culvert_nft::Result<Socket> {
    let mut batch = Batch::new(TableFamily::Inet);
    batch.claim(&table_name(name));
    let mut socket = Socket::open()?;
    socket.commit(&batch)?;
    Ok(socket)
}

fn take_socket(name: &str) -> io::Result<UnixDatagram> {
    UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(format!("culvert/{name}"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_held_until_its_holder_is_gone() {
        let name = format!("test-{}", std::process::id());
        let first = take_socket(&name).unwrap();
        assert_eq!(take_socket(&name).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        take_socket(&name).unwrap();
    }
}
