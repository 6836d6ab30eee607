//! UDP sockets of the underlay: trains out and in, with ECN marks.
//!
//! A *train* is what one call moves: one datagram, or several of equal size (the last may be
//! shorter) toward one peer that the kernel cuts apart (UDP_SEGMENT, Linux 4.18) or has put
//! together (UDP_GRO, Linux 5.0). Sockets are non-blocking; a sending socket may be shared by
//! threads.

mod batch;
mod control;
mod probe;
mod report;

pub use self::probe::path_carries;
pub use self::report::{Report, ReportKind};
pub use batch::{MAX_RECV_TRAINS, MAX_TRAIN_LEN, Received, RecvBatch};

use std::io::{self, IoSlice};
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use overlay_proto::Ecn;
use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};

use control::Control;

use crate::platform::{Error, Result};

/// Longest payload of one sending call: an IPv4 packet less its own and the UDP header.
pub const MAX_SEND_LEN: usize = u16::MAX as usize - 20 - 8;

/// Most datagrams in one sending call: `UDP_MAX_SEGMENTS` before Linux 6.9 (128 since).
pub const MAX_SEND_SEGMENTS: usize = 64;

/// Bytes that the kernel may queue for us while we are busy: 50 ms at 10 Gbit/s would be 64 MiB,
/// but a queue that long only delays; this holds 5 ms. Doubled by the kernel for its own
/// bookkeeping.
const RECV_BUFFER_LEN: usize = 8 << 20;

/// Bytes that may wait in a sending socket: 64 of the longest trains.
const SEND_BUFFER_LEN: usize = 4 << 20;

/// Bytes of ICMP errors that may wait at a sending socket; the kernel drops what is more.
const REPORTS_LEN: usize = 32 << 10;

/// `BPF_RET | BPF_K`: the filter ends, and keeps as many bytes as its operand says.
const BPF_RETURN: u16 = 0x06;

/// The mark (`SO_MARK`) of every socket of the data path, by which the node's nftables rules tell
/// the daemon's datagrams from what another process sends to a tunnel's port.
///
/// Setting a mark takes CAP_NET_ADMIN or CAP_NET_RAW; who has one of these can write any frame. Bit
/// 12 alone, because rules that choose routes by marks look at others: Kubernetes uses bits 13 to
/// 15, Calico, Weave and Tailscale bits above 15, VPC plugins bit 7, administrators the lowest.
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
            // Nothing is ever read from it, and what strangers send there must not take the room of
            // ICMP errors: the filter, which those do not pass, keeps no byte of anything.
            socket.attach_filter(&[SockFilter::new(BPF_RETURN, 0, 0, 0)])?;
            socket.set_recv_buffer_size(REPORTS_LEN)?;
            report::enable(socket, address)?;
            raise(SEND_BUFFER_LEN, |len| {
                set_int(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, len)
            })
            .or_else(|_| socket.set_send_buffer_size(SEND_BUFFER_LEN))
        })?;
        Ok(Self { socket })
    }

    /// The same, but datagrams that are longer than the path carries leave in fragments, and no
    /// ICMP error is reported: for what is rare, and cannot be made shorter.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind).
    pub fn bind_fragmenting(address: IpAddr) -> Result<Self> {
        let socket = open(SocketAddr::new(address, 0), |socket| {
            socket.attach_filter(&[SockFilter::new(BPF_RETURN, 0, 0, 0)])?;
            match address {
                IpAddr::V4(_) => {
                    let fragment = libc::IP_PMTUDISC_DONT;
                    set_int(socket, libc::SOL_IP, libc::IP_MTU_DISCOVER, fragment)
                }
                IpAddr::V6(_) => {
                    let fragment = libc::IPV6_PMTUDISC_DONT;
                    set_int(socket, libc::SOL_IPV6, libc::IPV6_MTU_DISCOVER, fragment)
                }
            }
        })?;
        Ok(Self { socket })
    }

    /// The port that it sends from; 0 if the kernel does not say.
    pub fn port(&self) -> u16 {
        let address = self.socket.local_addr().ok().and_then(|address| address.as_socket());
        address.map_or(0, |address| address.port())
    }

    /// The address that it is bound to; nothing if the kernel does not say.
    pub fn address(&self) -> Option<IpAddr> {
        let address = self.socket.local_addr().ok().and_then(|address| address.as_socket());
        address.map(|address| address.ip())
    }

    /// Sends one train.
    ///
    /// # Errors
    ///
    /// What the kernel says: `WouldBlock` or `ENOBUFS` when a queue is full, `EMSGSIZE` when a
    /// datagram is longer than the device carries, `EIO` or `EINVAL` when segmentation is not to be
    /// had. Anything else, and `EMSGSIZE` too, may be about a datagram that left before, to
    /// whatever peer: then there is a [`report`](Self::report), and this train was not sent.
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
        // IoSlice has the layout of iovec (its documentation promises it), and sendmsg only reads
        // it.
        message.msg_iov = transmit.parts.as_ptr().cast_mut().cast();
        message.msg_iovlen = transmit.parts.len();
        message.msg_control = control.bytes.as_mut_ptr().cast();
        message.msg_controllen = control.len;
        // SAFETY: every pointer in `message` leads to a value that lives until the call returns,
        // with the lengths beside them; sendmsg keeps none of them.
        let sent = unsafe { libc::sendmsg(self.socket.as_raw_fd(), &raw const message, 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Takes the oldest ICMP error about a datagram that left by this socket.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is none.
    pub fn report(&self) -> io::Result<Report> {
        report::take(&self.socket)
    }
}

impl AsFd for Sender {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
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

    /// Datagrams that the kernel dropped since the socket was bound, because they were not fetched
    /// in time or were damaged: it wraps around.
    ///
    /// # Errors
    ///
    /// Kernels before 4.12 do not tell.
    pub fn dropped(&self) -> io::Result<u32> {
        // Places in what the kernel tells of the memory of a socket (`SK_MEMINFO_*`).
        const DROPS: usize = 8;
        const VARS: usize = 9;
        let mut memory = [0_u32; VARS];
        let mut len = libc::socklen_t::try_from(size_of_val(&memory)).unwrap_or(0);
        // SAFETY: the kernel writes at most `len` bytes, which `memory` has, and outlive the call.
        let outcome = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                memory.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        if outcome == 0 { Ok(memory[DROPS]) } else { Err(io::Error::last_os_error()) }
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
    let fail = |op| move |source| Error::new(op, place(address), source);
    let socket =
        Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))
            .map_err(fail("open a UDP socket for"))?;
    mark(&socket).map_err(fail("mark the UDP socket for"))?;
    let configure = || {
        match address {
            // kernel: with PROBE, datagrams carry DF, are never fragmented, and one that is longer
            // than the device carries is refused with EMSGSIZE. What the kernel has been told of
            // the path by ICMP, which anybody can send, does not count.
            SocketAddr::V4(_) => {
                let probe = libc::IP_PMTUDISC_PROBE;
                set_int(&socket, libc::SOL_IP, libc::IP_MTU_DISCOVER, probe)?;
            }
            SocketAddr::V6(_) => {
                socket.set_only_v6(true)?;
                let probe = libc::IPV6_PMTUDISC_PROBE;
                set_int(&socket, libc::SOL_IPV6, libc::IPV6_MTU_DISCOVER, probe)?;
            }
        }
        set_options(&socket)
    };
    configure().map_err(fail("set the options of the UDP socket for"))?;
    socket
        .bind(&address.into())
        .map_err(|error| Error::new("bind UDP", place(address), explained(error)))?;
    Ok(socket)
}

/// An address as operators know it: without the port that stands for "any".
fn place(address: SocketAddr) -> String {
    if address.port() == 0 { address.ip().to_string() } else { address.to_string() }
}

/// Adds to the kernel's words what they mean here, and the remedy.
fn explained(error: io::Error) -> io::Error {
    let kind = error.kind();
    let meaning = if kind == io::ErrorKind::AddrInUse {
        "another program has the port (`ss -lunp` names it): stop that one, or choose another port"
    } else if kind == io::ErrorKind::AddrNotAvailable {
        "no interface of this machine has the address: add it, or correct the subnet table; or, \
         where peers know this node by an address that a router translates, set underlay.address to \
         the machine's own"
    } else {
        return error;
    };
    io::Error::new(kind, format!("{error}; {meaning}"))
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
