//! The edges of a simulated node: the in-memory ones, with a kernel that refuses now and then and a
//! record of every attempt.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::net::IpAddr;

use culvert_dataplane::engine::DropReason;
use culvert_dataplane::platform::udp::{RecvBatch, Transmit};
use culvert_dataplane::{MemoryTrain, MemoryTun, MemoryUnderlay, Spoken, TunPort, UnderlayPort};

use crate::packet::kernel_split;

// The kernel's numbers (asm-generic/errno.h), so that nothing is classified by the code under test.
pub(crate) const EIO: i32 = 5;
pub(crate) const EAGAIN: i32 = 11;
pub(crate) const EINVAL: i32 = 22;
pub(crate) const EMSGSIZE: i32 = 90;
pub(crate) const ENETUNREACH: i32 = 101;
pub(crate) const ENOBUFS: i32 = 105;

/// The pods' side.
#[derive(Debug, Default)]
pub(crate) struct Tun {
    memory: MemoryTun,
    /// Answers to the next writes, where not "done".
    pub(crate) refusals: VecDeque<Option<i32>>,
    attempts: Vec<(Vec<u8>, Option<i32>)>,
}

/// What became of what a worker wrote, packet by packet and in order.
pub(crate) type Fates = Vec<(Vec<u8>, Option<DropReason>)>;

impl Tun {
    pub(crate) fn put(&mut self, read: &[u8]) {
        self.memory.incoming.push_back(read.to_vec().into());
    }

    /// What was written since the last time.
    pub(crate) fn take(&mut self) -> Fates {
        let mut fates = Vec::new();
        for (written, errno) in self.attempts.drain(..) {
            let packets = kernel_split(&written);
            let reason = match errno {
                // The kernel does not take super-packets: they come again one by one.
                Some(EINVAL) if packets.len() > 1 => continue,
                Some(EAGAIN | ENOBUFS) => Some(DropReason::TunFull),
                Some(_) => Some(DropReason::TunRefused),
                None => None,
            };
            fates.extend(packets.into_iter().map(|packet| (packet, reason)));
        }
        fates
    }
}

impl TunPort for Tun {
    fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.memory.recv(buffer)
    }

    fn send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let errno = self.refusals.pop_front().flatten();
        self.memory.send(parts)?;
        let bytes = self.memory.written.pop().unwrap().to_vec();
        self.attempts.push((bytes, errno));
        errno.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }
}

/// The wire's side.
#[derive(Debug, Default)]
pub(crate) struct Underlay {
    memory: MemoryUnderlay,
    /// What the kernel knows of the paths: longest datagram with its headers.
    pub(crate) path_mtu: BTreeMap<IpAddr, u16>,
    /// Outer IP and UDP header.
    pub(crate) headers: usize,
    /// Answers to the next sends, where not "done".
    pub(crate) refusals: VecDeque<Option<i32>>,
    attempts: Vec<(MemoryTrain, Option<i32>)>,
}

/// One datagram that a worker wanted to send.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) to: IpAddr,
    pub(crate) port: u16,
    pub(crate) bucket: usize,
    pub(crate) ecn: u8,
    pub(crate) bytes: Vec<u8>,
    /// The call that it left by: trains stay together on the wire.
    pub(crate) train: usize,
    pub(crate) refused: Option<DropReason>,
}

impl Underlay {
    pub(crate) fn new(headers: usize, path_mtu: BTreeMap<IpAddr, u16>) -> Self {
        Self { headers, path_mtu, ..Self::default() }
    }

    pub(crate) fn put(&mut self, train: MemoryTrain) {
        self.memory.incoming.push_back(train);
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.memory.incoming.is_empty()
    }

    /// What was sent since the last time, datagram by datagram and in order.
    pub(crate) fn take(&mut self) -> Vec<Sent> {
        let mut sent = Vec::new();
        let attempts = std::mem::take(&mut self.attempts);
        let mut repeated = 0;
        for (index, (train, errno)) in attempts.iter().enumerate() {
            // What was refused for what may be another datagram's error is tried again.
            let next = attempts.get(index + 1).map(|(next, _)| (next.peer, &next.bytes));
            if errno.is_some() && next == Some((train.peer, &train.bytes)) {
                repeated += 1;
                assert!(repeated < 6, "a train is offered again and again");
                continue;
            }
            repeated = 0;
            let alone = train.segment_size.is_none();
            let refused = match errno {
                // A train that does not go as one comes again datagram by datagram.
                Some(EINVAL | EIO | EMSGSIZE) if !alone => continue,
                Some(EAGAIN | ENOBUFS) => Some(DropReason::UnderlayFull),
                Some(EMSGSIZE) => Some(DropReason::TooBig),
                Some(_) => Some(DropReason::UnderlayRefused),
                None => None,
            };
            let size = train.segment_size.map_or(train.bytes.len(), usize::from);
            for datagram in train.bytes.chunks(size) {
                sent.push(Sent {
                    to: train.peer.ip(),
                    port: train.peer.port(),
                    bucket: train.bucket,
                    ecn: train.ecn.bits(),
                    bytes: datagram.to_vec(),
                    train: index,
                    refused,
                });
            }
        }
        sent
    }
}

impl UnderlayPort for Underlay {
    fn recv(&mut self, batch: &mut RecvBatch) -> io::Result<Spoken> {
        self.memory.recv(batch)
    }

    fn send(&mut self, flow_hash: u32, transmit: &Transmit<'_>) -> io::Result<()> {
        let total: usize = transmit.parts.iter().map(|part| part.len()).sum();
        let longest = transmit.segment_size.map_or(total, usize::from) + self.headers;
        let path = self.path_mtu.get(&transmit.destination.ip()).copied().unwrap_or(u16::MAX);
        let too_long = (longest > usize::from(path)).then_some(EMSGSIZE);
        let errno = self.refusals.pop_front().flatten().or(too_long);
        self.memory.send(flow_hash, transmit)?;
        let train = self.memory.sent.pop().unwrap();
        self.attempts.push((train, errno));
        errno.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }
}
