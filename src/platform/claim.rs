//! The claim to be the one daemon of a network namespace.
//!
//! Owns an nftables table with an owner: the kernel keeps tables apart by network namespace, lets
//! nobody without CAP_NET_ADMIN make one, refuses a name that is taken, lets nobody but the owner's
//! socket remove it, and removes it when that socket is closed, however its process ends. So it
//! works across containers that share the network namespace and nothing else, and no other user of
//! the machine can take or hold the name. Nothing is ever put into the table but a comment that
//! says whose it is.
//!
//! A kernel without such tables (before Linux 5.12, or without nftables) gets an abstract unix
//! socket, which any user of the machine could take first.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use culvert_dataplane::platform::{Error, Result};
use culvert_nft::{Batch, Socket, TableFamily};

/// What the table is called.
pub(crate) const TABLE: &str = "culvert-claim";

/// The abstract socket's name.
const SOCKET: &str = "culvert";

/// The claim, until this is dropped.
pub struct Claim {
    _holder: Holder,
}

#[expect(dead_code, reason = "held for what the kernel does when it is closed")]
enum Holder {
    Table(Socket),
    Unix(UnixDatagram),
}

impl Claim {
    /// Takes it; `holder` says to others who has it.
    ///
    /// # Errors
    ///
    /// `AddrInUse` if another process of this network namespace holds it; what the kernel says if
    /// it cannot be asked.
    pub fn take(holder: &str) -> Result<Self> {
        match take_table(holder) {
            Ok(socket) => Ok(Self { _holder: Holder::Table(socket) }),
            // kernel: of a table that has another owner, "not permitted" comes before "exists".
            Err(error) if error.is_exists() || !Self::may_be_free() => {
                tracing::debug!(%error, "the claim is held");
                Err(Error::new("claim", TABLE, io::ErrorKind::AddrInUse))
            }
            Err(error) if error.is_unsupported() => {
                tracing::debug!(%error, "claiming by a socket, for want of nftables");
                let socket =
                    take_socket(SOCKET).map_err(|error| Error::new("claim", SOCKET, error))?;
                Ok(Self { _holder: Holder::Unix(socket) })
            }
            Err(error) => Err(Error::new("claim", TABLE, io::Error::other(error))),
        }
    }

    /// Whether nobody has it, as far as a look that costs nobody anything can tell. Taking what
    /// is held has the kernel wait for a grace period, with the lock that every change of
    /// nftables needs.
    pub fn may_be_free() -> bool {
        let held = Socket::open().and_then(|mut socket| socket.has_table(TableFamily::Inet, TABLE));
        !held.is_ok_and(|held| held)
    }

    /// What the holder says of itself, where there is one and its kernel keeps that.
    pub fn holder() -> Option<String> {
        Socket::open().ok()?.table_comment(TableFamily::Inet, TABLE).ok()?
    }
}

fn take_table(holder: &str) -> culvert_nft::Result<Socket> {
    let mut batch = Batch::new(TableFamily::Inet);
    batch.claim(TABLE, holder);
    let mut socket = Socket::open()?;
    socket.commit(&batch)?;
    Ok(socket)
}

fn take_socket(name: &str) -> io::Result<UnixDatagram> {
    UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name)?)
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
