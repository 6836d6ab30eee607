//! Receiving: many trains in one call, into buffers that are used again.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::RawFd;
use std::{io, mem, ptr};

use overlay_proto::Ecn;
use socket2::{SockAddr, SockAddrStorage};

use super::control::{CONTROL_LEN, Control, for_each_control};

/// Most trains that one receive call returns. The buffers of a receiver are this many times
/// [`MAX_TRAIN_LEN`]: 2 MiB for each worker.
pub const MAX_RECV_TRAINS: usize = 32;

/// Longest train that the kernel hands over: the largest UDP payload, rounded up.
pub const MAX_TRAIN_LEN: usize = 1 << 16;

/// Bytes that one receiving call should return: a part of a second-level cache.
const CACHE_LEN: usize = 256 << 10;

/// Trains that one call received, in buffers that the next call reuses.
pub struct RecvBatch {
    buffers: Vec<Box<[u8]>>,
    received: Vec<Arrival>,
    slots: Box<Slots>,
    /// How many trains the next call asks for.
    limit: usize,
}

/// What a receiving call shows the kernel and gets back, one of each for each buffer. Kept from
/// call to call, because clearing it (9 KiB) would cost as much as receiving a packet; a call sets
/// what the kernel looks at, and looks at what the kernel has set.
struct Slots {
    names: [SockAddrStorage; MAX_RECV_TRAINS],
    controls: [Control; MAX_RECV_TRAINS],
    vectors: [libc::iovec; MAX_RECV_TRAINS],
    messages: [libc::mmsghdr; MAX_RECV_TRAINS],
}

// SAFETY: the pointers in `vectors` and `messages` lead to what belongs to the same batch. Each
// call sets those that it uses anew, so that none is followed after the batch has moved.
unsafe impl Send for Slots {}

impl Slots {
    fn new() -> Self {
        Self {
            names: std::array::from_fn(|_| SockAddrStorage::zeroed()),
            controls: [const { Control::new() }; MAX_RECV_TRAINS],
            // SAFETY: all-zero iovec values are valid; they are plain C structures.
            vectors: unsafe { mem::zeroed() },
            // SAFETY: the same of mmsghdr.
            messages: unsafe { mem::zeroed() },
        }
    }
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
            slots: Box::new(Slots::new()),
            limit: MAX_RECV_TRAINS,
        }
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
        self.received.iter().zip(&mut self.buffers).map(|(arrival, buffer)| Received {
            source: arrival.source,
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

    pub(super) fn recv(&mut self, fd: RawFd) -> io::Result<()> {
        self.limit = self.next_limit();
        self.received.clear();
        let Slots { names, controls, vectors, messages } = &mut *self.slots;
        for (index, buffer) in self.buffers[..self.limit].iter_mut().enumerate() {
            vectors[index].iov_base = buffer.as_mut_ptr().cast();
            vectors[index].iov_len = buffer.len();
            let header = &mut messages[index].msg_hdr;
            header.msg_name = (&raw mut names[index]).cast();
            header.msg_namelen = names[index].size_of();
            header.msg_iov = &raw mut vectors[index];
            header.msg_iovlen = 1;
            header.msg_control = controls[index].bytes.as_mut_ptr().cast();
            header.msg_controllen = CONTROL_LEN;
        }
        let count = u32::try_from(self.limit).unwrap_or(u32::MAX);
        // SAFETY: each of the first `count` headers points to a name, a vector and a control buffer
        // of `slots`, each vector to a buffer of `self`, all with their lengths, and all outlive
        // the call.
        let received = unsafe {
            libc::recvmmsg(fd, messages.as_mut_ptr(), count, libc::MSG_DONTWAIT, ptr::null_mut())
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;

        for (message, name) in messages.iter().zip(names).take(received) {
            let len = message.msg_len as usize;
            let name = mem::replace(name, SockAddrStorage::zeroed());
            // SAFETY: the kernel has written an address of this length into the storage.
            let source = unsafe { SockAddr::new(name, message.msg_hdr.msg_namelen) };
            // A UDP socket of a family delivers addresses of that family only. If it ever did not,
            // the train would be a stranger's.
            const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
            let source = source.as_socket().unwrap_or(NOBODY);
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
