//! UDP sockets of the underlay: trains out and in, with ECN marks.
//!
//! A *train* is what one call moves: one datagram, or several of equal size (the last may be
//! shorter) toward one peer that the kernel cuts apart (UDP_SEGMENT, Linux 4.18) or has put together
//! (UDP_GRO, Linux 5.0). Sockets are non-blocking; a sending socket may be shared by threads.

mod batch;
mod control;

pub use batch::{MAX_RECV_TRAINS, MAX_TRAIN_LEN, Received, RecvBatch};

use std::io::{self, IoSlice};
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use overlay_proto::Ecn;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use control::Control;

use crate::platform::{Error, Result};

/// Longest payload of one sending call: an IPv4 packet less its own and the UDP header.
pub const MAX_SEND_LEN: usize = u16::MAX as usize - 20 - 8;

/// Most datagrams in one sending call: `UDP_MAX_SEGMENTS` before Linux 6.9 (128 since).
pub const MAX_SEND_SEGMENTS: usize = 64;

/// Bytes that the kernel may queue for us while we are busy: 50 ms at 10 Gbit/s would be 64 MiB, but a
/// queue that long only delays; this holds 5 ms. Doubled by the kernel for its own bookkeeping.
const RECV_BUFFER_LEN: usize = 8 << 20;

/// Bytes that may wait in a sending socket: 64 of the longest trains.
const SEND_BUFFER_LEN: usize = 4 << 20;

/// The mark (`SO_MARK`) of every socket of the data path, by which the node's nftables rules tell the
/// daemon's datagrams from what another process sends to a tunnel's port.
///
/// Setting a mark takes CAP_NET_ADMIN or CAP_NET_RAW; who has one of these can write any frame. Bit 12
/// alone, because rules that choose routes by marks look at others: Kubernetes uses bits 13 to 15,
/// Calico, Weave and Tailscale bits above 15, VPC plugins bit 7, administrators the lowest.
pub const SOCKET_MARK: u32 = 0x1000;

/// One call's worth of datagrams toward one peer.
#[derive(Debug)]
pub struct Transmit<'a> {
    /// Where the datagrams go.
    pub destination: SocketAddr,
    /// Mark of the outer header.
    pub ecn: Ecn,
    /// Bytes of each datagram but the last; `None` if `parts` are one datagram.
    pub segment_size: Option<u16>,
    /// The datagrams' bytes, end to end.
    pub parts: &'a [IoSlice<'a>],
}

/// A socket that only sends; its port is one of those that spread flows over the underlay's paths.
#[derive(Debug)]
pub struct Sender {
    socket: Socket,
}

impl Sender {
    /// Binds a sending socket to `address` and a port of the kernel's choice.
    ///
    /// # Errors
    ///
    /// What the kernel says; `EADDRNOTAVAIL` if the address is not this machine's.
    pub fn bind(address: IpAddr) -> Result<Self> {
        let socket = open(SocketAddr::new(address, 0), |socket| {
            // Nothing is ever read from it: what strangers send there is not to be kept either.
            socket.set_recv_buffer_size(0)?;
            raise(SEND_BUFFER_LEN, |len| {
                set_int(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, len)
            })
            .or_else(|_| socket.set_send_buffer_size(SEND_BUFFER_LEN))
        })?;
        Ok(Self { socket })
    }

    /// The port that it sends from; 0 if the kernel does not say.
    pub fn port(&self) -> u16 {
        let address = self.socket.local_addr().ok().and_then(|address| address.as_socket());
        address.map_or(0, |address| address.port())
    }

    /// Sends one train.
    ///
    /// # Errors
    ///
    /// What the kernel says: `WouldBlock` or `ENOBUFS` when a queue is full, `EMSGSIZE` when a
    /// datagram does not fit the path, `EIO` or `EINVAL` when segmentation is not to be had.
    pub fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let address = SockAddr::from(transmit.destination);
        let mut control = Control::new();
        match transmit.destination {
            SocketAddr::V4(_) => {
                control.push(
                    libc::SOL_IP,
                    libc::IP_TOS,
                    &i32::from(transmit.ecn.bits()).to_ne_bytes(),
                );
            }
            SocketAddr::V6(_) => {
                let class = i32::from(transmit.ecn.bits()).to_ne_bytes();
                control.push(libc::SOL_IPV6, libc::IPV6_TCLASS, &class);
            }
        }
        if let Some(size) = transmit.segment_size {
            control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &size.to_ne_bytes());
        }
        // SAFETY: an all-zero msghdr is a valid value of that plain C structure.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_name = address.as_ptr().cast_mut().cast();
        message.msg_namelen = address.len();
        // IoSlice has the layout of iovec (its documentation promises it), and sendmsg only reads it.
        message.msg_iov = transmit.parts.as_ptr().cast_mut().cast();
        message.msg_iovlen = transmit.parts.len();
        message.msg_control = control.bytes.as_mut_ptr().cast();
        message.msg_controllen = control.len;
        // SAFETY: every pointer in `message` leads to a value that lives until the call returns, with
        // the lengths beside them; sendmsg keeps none of them.
        let sent = unsafe { libc::sendmsg(self.socket.as_raw_fd(), &raw const message, 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Whether the kernel may put datagrams of one flow together before we see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gro {
    /// It may, where it can.
    On,
    /// Each datagram comes by itself.
    Off,
}

/// The socket that peers send to. Each worker has one; the kernel spreads senders' ports over them.
#[derive(Debug)]
pub struct Receiver {
    socket: Socket,
}

impl Receiver {
    /// Binds a receiving socket to `address`, which several workers of this process may share.
    ///
    /// # Errors
    ///
    /// What the kernel says; `EADDRNOTAVAIL` if the address is not this machine's, `EADDRINUSE` if
    /// another program has the port.
    pub fn bind(address: SocketAddr, gro: Gro) -> Result<Self> {
        let socket = open(address, |socket| {
            socket.set_reuse_port(true)?;
            raise(RECV_BUFFER_LEN, |len| {
                set_int(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, len)
            })
            .or_else(|_| socket.set_recv_buffer_size(RECV_BUFFER_LEN))?;
            match address {
                SocketAddr::V4(_) => set_int(socket, libc::SOL_IP, libc::IP_RECVTOS, 1)?,
                SocketAddr::V6(_) => set_int(socket, libc::SOL_IPV6, libc::IPV6_RECVTCLASS, 1)?,
            }
            if gro == Gro::On && set_int(socket, libc::SOL_UDP, libc::UDP_GRO, 1).is_err() {
                tracing::info!("this kernel hands over datagrams one by one (no UDP_GRO)");
            }
            Ok(())
        })?;
        Ok(Self { socket })
    }

    /// Where peers reach it, if the kernel says.
    pub fn address(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()?.as_socket()
    }

    /// Replaces `batch` by the trains that have arrived; `WouldBlock` when there are none.
    ///
    /// # Errors
    ///
    /// What the kernel says, pending errors of the socket among it.
    pub fn recv(&self, batch: &mut RecvBatch) -> io::Result<()> {
        batch.recv(self.socket.as_raw_fd())
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn open(
    address: SocketAddr,
    set_options: impl FnOnce(&Socket) -> io::Result<()>,
) -> Result<Socket> {
    let fail = |op| move |source| Error::new(op, address.to_string(), source);
    let socket =
        Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))
            .map_err(fail("open a UDP socket for"))?;
    mark(&socket).map_err(fail("mark the UDP socket for"))?;
    let configure = || {
        match address {
            // kernel: with DO, datagrams carry DF, are never fragmented, and one that is longer than
            // what the path is known to carry is refused with EMSGSIZE.
            SocketAddr::V4(_) => {
                set_int(&socket, libc::SOL_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)?;
            }
            SocketAddr::V6(_) => {
                socket.set_only_v6(true)?;
                set_int(&socket, libc::SOL_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)?;
            }
        }
        set_options(&socket)
    };
    configure().map_err(fail("set the options of the UDP socket for"))?;
    socket.bind(&address.into()).map_err(fail("bind UDP"))?;
    Ok(socket)
}

/// Marks what the socket sends as the daemon's.
fn mark(socket: &Socket) -> io::Result<()> {
    match socket.set_mark(SOCKET_MARK) {
        // Whoever lacks the capability could not make the rules either that ask for the mark.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            tracing::debug!(%error, "UDP sockets are not marked");
            Ok(())
        }
        outcome => outcome,
    }
}

fn raise(len: usize, set: impl FnOnce(libc::c_int) -> io::Result<()>) -> io::Result<()> {
    set(libc::c_int::try_from(len).unwrap_or(libc::c_int::MAX))
}

fn set_int(
    socket: &Socket,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(0);
    // SAFETY: the option takes one int, which `value` is, and it outlives the call.
    match unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), len)
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The MTU of the path from `local` to `peer` as far as the kernel has found out, in bytes.
///
/// # Errors
///
/// There is no route, or the address is not this machine's.
pub fn path_mtu(local: IpAddr, peer: IpAddr) -> Result<u16> {
    let fail = |source| Error::new("ask for the MTU of the path to", peer.to_string(), source);
    // Any port does: nothing is sent.
    let destination = SocketAddr::new(peer, 9);
    let socket = open(SocketAddr::new(local, 0), |_| Ok(()))?;
    socket.connect(&destination.into()).map_err(fail)?;
    let (level, option) = match peer {
        IpAddr::V4(_) => (libc::SOL_IP, libc::IP_MTU),
        IpAddr::V6(_) => (libc::SOL_IPV6, libc::IPV6_MTU),
    };
    let mut value: libc::c_int = 0;
    let mut len = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(0);
    // SAFETY: the option writes one int, which `value` is, with its length beside it.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut len)
    };
    if result != 0 {
        return Err(fail(io::Error::last_os_error()));
    }
    Ok(u16::try_from(value).unwrap_or(u16::MAX))
}
