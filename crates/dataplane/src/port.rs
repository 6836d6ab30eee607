//! The two edges of the data path, real or in memory.

use std::io::{self, IoSlice};

use overlay_proto::CodecKind;

use crate::platform::udp::{RecvBatch, Report, Transmit};

/// The pods' side: packets behind a virtio-net header.
pub trait TunPort {
    /// Reads one packet; `WouldBlock` when there is none.
    ///
    /// # Errors
    ///
    /// As [`TunQueue::recv`](crate::platform::tun::TunQueue::recv).
    fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes one packet.
    ///
    /// # Errors
    ///
    /// As [`TunQueue::send`](crate::platform::tun::TunQueue::send).
    fn send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()>;
}

/// What is spoken on a port of the node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// A codec.
    Plain(CodecKind),
    /// ESP, and handshakes.
    Sealed,
}

/// The wire's side: trains of datagrams.
pub trait UnderlayPort {
    /// Replaces `batch` by what has arrived on one port, and says what is spoken there;
    /// `WouldBlock` when nothing has.
    ///
    /// # Errors
    ///
    /// As [`Receiver::recv`](crate::platform::udp::Receiver::recv).
    fn recv(&mut self, batch: &mut RecvBatch) -> io::Result<Spoken>;

    /// Sends one train of the flow with this hash: one flow always leaves by one source port.
    ///
    /// # Errors
    ///
    /// As [`Sender::send`](crate::platform::udp::Sender::send).
    fn send(&mut self, flow_hash: u32, transmit: &Transmit<'_>) -> io::Result<()>;

    /// Takes the oldest ICMP error about a datagram of the flow with this hash, or of another that
    /// leaves by the same source port.
    fn report(&mut self, _flow_hash: u32) -> Option<Report> {
        None
    }
}
