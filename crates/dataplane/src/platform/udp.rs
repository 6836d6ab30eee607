//! UDP sockets of the underlay: trains out and in, with ECN marks.
//!
//! A *train* is what one call moves: one datagram, or several of equal size (the last may be
//! shorter) toward one peer that the kernel cuts apart (UDP_SEGMENT, Linux 4.18) or has put together
//! (UDP_GRO, Linux 5.0). Sockets are non-blocking; a sending socket may be shared by threads.

mod probe;
mod report;

use std::io::{self, IoSlice};
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::ptr;

use overlay_proto::{CodecKind, Ecn};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, SockFilter, Socket, Type};

pub use self::probe::path_carries;
pub use self::report::{Report, ReportKind};
use crate::platform::{Error, Result};

/// Most trains that one receive call returns. The buffers of a receiver are this many times
/// [`MAX_TRAIN_LEN`]: 2 MiB for each worker.
pub const MAX_RECV_TRAINS: usize = 32;

/// Longest train that the kernel hands over: the largest UDP payload, rounded up.
pub const MAX_TRAIN_LEN: usize = 1 << 16;

/// Longest payload of one sending call: an IPv4 packet less its own and the UDP header.
pub const MAX_SEND_LEN: usize = u16::MAX as usize - 20 - 8;

/// Most datagrams in one sending call: `UDP_MAX_SEGMENTS` before Linux 6.9 (128 since).
pub const MAX_SEND_SEGMENTS: usize = 64;

/// Bytes that one receiving call should return: a part of a second-level cache.
const CACHE_LEN: usize = 256 << 10;

/// Bytes that the kernel may queue for us while we are busy: 50 ms at 10 Gbit/s would be 64 MiB, but a
/// queue that long only delays; this holds 5 ms. Doubled by the kernel for its own bookkeeping.
const RECV_BUFFER_LEN: usize = 8 << 20;

/// Bytes that may wait in a sending socket: 64 of the longest trains.
const SEND_BUFFER_LEN: usize = 4 << 20;

/// Bytes of ICMP errors that may wait at a sending socket; the kernel drops what is more.
const REPORTS_LEN: usize = 32 << 10;

/// `BPF_RET | BPF_K`: the filter ends, and keeps as many bytes as its operand says.
const BPF_RETURN: u16 = 0x06;

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
    /// datagram is longer than the device carries, `EIO` or `EINVAL` when segmentation is not to be
    /// had. Anything else, and `EMSGSIZE` too, may be about a datagram that left before, to whatever
    /// peer: then there is a [`report`](Self::report), and this train was not sent.
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

/// Trains that one call received, in buffers that the next call reuses.
pub struct RecvBatch {
    buffers: Vec<Box<[u8]>>,
    received: Vec<Arrival>,
    /// What is spoken on the port that they came to.
    codec: CodecKind,
    /// How many trains the next call asks for.
    limit: usize,
}

#[derive(Clone, Copy)]
struct Arrival {
    source: SocketAddr,
    ecn: Ecn,
    segment_size: usize,
    len: usize,
    truncated: bool,
}

/// One received train.
#[derive(Debug)]
pub struct Received<'a> {
    /// Who sent it, by the outer header.
    pub source: SocketAddr,
    /// What is spoken on the port that it came to.
    pub codec: CodecKind,
    /// Mark of the outer header.
    pub ecn: Ecn,
    /// Bytes of each datagram but the last; never zero.
    pub segment_size: usize,
    /// Whether the kernel had more than the buffer could hold.
    pub truncated: bool,
    /// The datagrams' bytes, end to end.
    pub bytes: &'a mut [u8],
}

impl RecvBatch {
    /// Makes room for [`MAX_RECV_TRAINS`] trains.
    pub fn new() -> Self {
        Self {
            buffers: (0..MAX_RECV_TRAINS).map(|_| vec![0; MAX_TRAIN_LEN].into()).collect(),
            received: Vec::with_capacity(MAX_RECV_TRAINS),
            codec: CodecKind::default(),
            limit: MAX_RECV_TRAINS,
        }
    }

    /// Says what is spoken on the port that all of the trains came to.
    pub fn set_codec(&mut self, codec: CodecKind) {
        self.codec = codec;
    }

    /// Forgets what was received.
    pub fn clear(&mut self) {
        self.received.clear();
    }

    /// Whether the last call received nothing.
    pub fn is_empty(&self) -> bool {
        self.received.is_empty()
    }

    /// Whether the last call may have left trains behind for want of room.
    pub fn is_full(&self) -> bool {
        self.received.len() >= self.limit
    }

    /// The trains of the last call, in the order of their arrival.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = Received<'_>> {
        let codec = self.codec;
        self.received.iter().zip(&mut self.buffers).map(move |(arrival, buffer)| Received {
            source: arrival.source,
            codec,
            ecn: arrival.ecn,
            segment_size: arrival.segment_size,
            truncated: arrival.truncated,
            bytes: &mut buffer[..arrival.len],
        })
    }

    /// Adds a train by hand, as the in-memory underlay does; false if there is no room for it.
    pub fn push(
        &mut self,
        source: SocketAddr,
        ecn: Ecn,
        segment_size: usize,
        bytes: &[u8],
    ) -> bool {
        let index = self.received.len();
        if index == MAX_RECV_TRAINS {
            return false;
        }
        let len = bytes.len().min(MAX_TRAIN_LEN);
        self.buffers[index][..len].copy_from_slice(&bytes[..len]);
        self.received.push(Arrival {
            source,
            ecn,
            segment_size: segment_size.max(1),
            len,
            truncated: len < bytes.len(),
        });
        true
    }

    /// Long trains are taken a few at a time, so that what was copied out of the kernel is still in
    /// the cache when it is copied back in.
    fn next_limit(&self) -> usize {
        let longest = self.received.iter().map(|arrival| arrival.len).max().unwrap_or_default();
        (CACHE_LEN / longest.max(1)).clamp(2, MAX_RECV_TRAINS)
    }

    fn recv(&mut self, fd: libc::c_int) -> io::Result<()> {
        self.limit = self.next_limit();
        self.received.clear();
        let mut names: [SockAddrStorage; MAX_RECV_TRAINS] =
            std::array::from_fn(|_| SockAddrStorage::zeroed());
        let mut controls = [const { Control::new() }; MAX_RECV_TRAINS];
        // SAFETY: all-zero iovec and mmsghdr values are valid; they are plain C structures.
        let mut vectors: [libc::iovec; MAX_RECV_TRAINS] = unsafe { mem::zeroed() };
        // SAFETY: as above.
        let mut messages: [libc::mmsghdr; MAX_RECV_TRAINS] = unsafe { mem::zeroed() };
        for index in 0..self.limit {
            vectors[index].iov_base = self.buffers[index].as_mut_ptr().cast();
            vectors[index].iov_len = self.buffers[index].len();
            let header = &mut messages[index].msg_hdr;
            header.msg_name = (&raw mut names[index]).cast();
            header.msg_namelen = names[index].size_of();
            header.msg_iov = &raw mut vectors[index];
            header.msg_iovlen = 1;
            header.msg_control = controls[index].bytes.as_mut_ptr().cast();
            header.msg_controllen = CONTROL_LEN;
        }
        let count = u32::try_from(self.limit).unwrap_or(u32::MAX);
        // SAFETY: each header points to a name, a vector and a control buffer of this call, each
        // vector to a buffer of `self`, all with their lengths, and all outlive the call.
        let received = unsafe {
            libc::recvmmsg(fd, messages.as_mut_ptr(), count, libc::MSG_DONTWAIT, ptr::null_mut())
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;

        for (message, name) in messages.iter().zip(names).take(received) {
            let len = message.msg_len as usize;
            // SAFETY: the kernel has written an address of this length into the storage.
            let source = unsafe { SockAddr::new(name, message.msg_hdr.msg_namelen) };
            // A UDP socket of a family delivers addresses of that family only.
            let Some(source) = source.as_socket() else {
                continue;
            };
            let mut arrival = Arrival {
                source,
                ecn: Ecn::NotEct,
                segment_size: len.max(1),
                len,
                truncated: message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            };
            for_each_control(&message.msg_hdr, |level, kind, bytes| match (level, kind, bytes) {
                (libc::SOL_UDP, libc::UDP_GRO, [a, b, c, d, ..]) => {
                    let size = i32::from_ne_bytes([*a, *b, *c, *d]);
                    arrival.segment_size = usize::try_from(size).unwrap_or(len).max(1);
                }
                (libc::SOL_IP, libc::IP_TOS, [class, ..]) => arrival.ecn = Ecn::from_bits(*class),
                (libc::SOL_IPV6, libc::IPV6_TCLASS, [a, b, c, d, ..]) => {
                    let class = i32::from_ne_bytes([*a, *b, *c, *d]);
                    arrival.ecn = Ecn::from_bits(class.to_le_bytes()[0]);
                }
                _ => {}
            });
            self.received.push(arrival);
        }
        Ok(())
    }
}

impl Default for RecvBatch {
    fn default() -> Self {
        Self::new()
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
    let configure = || {
        match address {
            // kernel: with PROBE, datagrams carry DF, are never fragmented, and one that is longer
            // than the device carries is refused with EMSGSIZE. What the kernel has been told of the
            // path by ICMP, which anybody can send, does not count.
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
    let meaning = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program has the port (`ss -lunp` names it): stop that one, or choose another \
             port"
        }
        io::ErrorKind::AddrNotAvailable => {
            "no interface of this machine has the address: add it, or correct the subnet table; or, \
             where peers know this node by an address that a router translates, set underlay.address \
             to the machine's own"
        }
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{error}; {meaning}"))
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

/// Room for two control messages of an int each, more than any call here sends or receives.
const CONTROL_LEN: usize = 64;

/// Control messages under construction, aligned as `cmsghdr` wants it.
#[repr(C, align(8))]
struct Control {
    bytes: [u8; CONTROL_LEN],
    len: usize,
}

impl Control {
    const fn new() -> Self {
        Self { bytes: [0; CONTROL_LEN], len: 0 }
    }

    fn push(&mut self, level: libc::c_int, kind: libc::c_int, value: &[u8]) {
        let header = libc::cmsghdr {
            cmsg_len: size_of::<libc::cmsghdr>() + value.len(),
            cmsg_level: level,
            cmsg_type: kind,
        };
        let space = header.cmsg_len.next_multiple_of(align_of::<libc::cmsghdr>());
        debug_assert!(self.len + space <= CONTROL_LEN, "the control buffer holds every message");
        // SAFETY: the buffer is aligned for cmsghdr, `len` stays a multiple of that alignment, and
        // CONTROL_LEN leaves room for the header.
        unsafe { self.bytes.as_mut_ptr().add(self.len).cast::<libc::cmsghdr>().write(header) };
        let start = self.len + size_of::<libc::cmsghdr>();
        self.bytes[start..start + value.len()].copy_from_slice(value);
        self.len += space;
    }
}

fn for_each_control(
    message: &libc::msghdr,
    mut visit: impl FnMut(libc::c_int, libc::c_int, &[u8]),
) {
    // SAFETY: `message` comes from recvmmsg with its control buffer still alive, so that the macros
    // walk messages that the kernel wrote, each as long as its header says.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while let Some(current) = header.as_ref() {
            let len = current.cmsg_len.saturating_sub(size_of::<libc::cmsghdr>());
            let value = std::slice::from_raw_parts(libc::CMSG_DATA(header), len);
            visit(current.cmsg_level, current.cmsg_type, value);
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
}
