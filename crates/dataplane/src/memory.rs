//! In-memory twins of the two edges, for tests, replay and benchmarks.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use overlay_proto::{CodecKind, Ecn};

use super::port::{Spoken, TunPort, UnderlayPort};
use super::underlay::bucket;
use crate::platform::udp::{RecvBatch, Report, Transmit};

/// A TUN queue made of two lists.
#[derive(Debug, Default)]
pub struct MemoryTun {
    /// What the worker will read: packets behind their virtio-net headers.
    pub incoming: VecDeque<Bytes>,
    /// What the worker has written, in the same form.
    pub written: Vec<Bytes>,
    /// Errors to answer the next writes with, as the kernel would.
    pub write_errors: VecDeque<i32>,
}

impl TunPort for MemoryTun {
    fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let packet = self.incoming.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        let len = packet.len().min(buffer.len());
        buffer[..len].copy_from_slice(&packet[..len]);
        Ok(len)
    }

    fn send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        if let Some(errno) = self.write_errors.pop_front() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        self.written.push(gather(parts));
        Ok(())
    }
}

/// One train that crossed the in-memory underlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryTrain {
    /// The other end: the destination of what was sent, the source of what is to arrive.
    pub peer: SocketAddr,
    /// Which sending socket it left by.
    pub bucket: usize,
    /// The outer mark.
    pub ecn: Ecn,
    /// Bytes of each datagram but the last, if there are several.
    pub segment_size: Option<u16>,
    /// The datagrams, end to end.
    pub bytes: Bytes,
}

/// An underlay made of two lists.
#[derive(Debug, Default)]
pub struct MemoryUnderlay {
    /// What the worker will receive.
    pub incoming: VecDeque<MemoryTrain>,
    /// What is spoken on the port that it arrives at.
    pub codec: CodecKind,
    /// What the worker will receive on the port for what is sealed, after all that.
    pub sealed: VecDeque<MemoryTrain>,
    /// What the worker has sent.
    pub sent: Vec<MemoryTrain>,
    /// Errors to answer the next sends with, as the kernel would.
    pub send_errors: VecDeque<i32>,
    /// ICMP errors about what was sent before.
    pub reports: VecDeque<Report>,
    /// Whether trains of several datagrams are refused, as where nobody cuts them apart.
    pub refuses_trains: bool,
}

impl UnderlayPort for MemoryUnderlay {
    fn recv(&mut self, batch: &mut RecvBatch) -> io::Result<Spoken> {
        batch.clear();
        let (trains, spoken) = if self.incoming.is_empty() {
            (&mut self.sealed, Spoken::Sealed)
        } else {
            (&mut self.incoming, Spoken::Plain(self.codec))
        };
        while let Some(train) = trains.front() {
            let size = train.segment_size.map_or(train.bytes.len(), usize::from);
            if !batch.push(train.peer, train.ecn, size, &train.bytes) {
                break;
            }
            trains.pop_front();
        }
        if batch.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(spoken) }
    }

    fn send(&mut self, flow_hash: u32, transmit: &Transmit<'_>) -> io::Result<()> {
        let whole = self.refuses_trains && transmit.segment_size.is_some();
        if let Some(errno) = whole.then_some(libc::EIO).or_else(|| self.send_errors.pop_front()) {
            return Err(io::Error::from_raw_os_error(errno));
        }
        self.sent.push(MemoryTrain {
            peer: transmit.destination,
            bucket: bucket(flow_hash),
            ecn: transmit.ecn,
            segment_size: transmit.segment_size,
            bytes: gather(transmit.parts),
        });
        Ok(())
    }

    fn report(&mut self, _flow_hash: u32) -> Option<Report> {
        self.reports.pop_front()
    }
}

fn gather(parts: &[IoSlice<'_>]) -> Bytes {
    let mut bytes = BytesMut::new();
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes.freeze()
}
