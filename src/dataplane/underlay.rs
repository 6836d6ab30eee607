//! The underlay sockets: one receiving socket a worker, and sending sockets that all workers share.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::capture::Place;
use super::port::UnderlayPort;
use crate::platform::udp::{Gro, Receiver, RecvBatch, Sender, Transmit};
use crate::platform::{Result, tun};

/// Source ports that flows are spread over. A power of two; more than the paths or queues that an
/// underlay usually has, few enough that trains of many flows still fill.
pub const SENDERS: usize = 16;

/// Which source port a flow leaves by. High bits, because the low ones choose among the buckets of
/// hash tables elsewhere.
pub fn bucket(flow_hash: u32) -> usize {
    (flow_hash >> (u32::BITS - SENDERS.ilog2())) as usize
}

/// One worker's sockets.
#[derive(Debug)]
pub struct Underlay {
    receiver: Receiver,
    senders: Arc<[Sender]>,
}

impl Underlay {
    /// Binds the sockets of `workers` workers.
    ///
    /// # Errors
    ///
    /// As [`Receiver::bind`] and [`Sender::bind`].
    pub fn bind(address: IpAddr, port: u16, workers: usize, gro: Gro) -> Result<Vec<Self>> {
        let senders: Arc<[Sender]> =
            (0..SENDERS).map(|_| Sender::bind(address)).collect::<Result<Vec<_>>>()?.into();
        (0..workers)
            .map(|_| {
                let receiver = Receiver::bind(SocketAddr::new(address, port), gro)?;
                Ok(Self { receiver, senders: Arc::clone(&senders) })
            })
            .collect()
    }

    /// The node's ends, as captures show them.
    pub(super) fn place(&self) -> Place {
        Place {
            tunnel: self.receiver.address().unwrap_or_else(|| Place::default().tunnel),
            source_ports: std::array::from_fn(|index| {
                self.senders.get(index).map_or(0, Sender::port)
            }),
        }
    }

    /// The receiving socket, to be polled.
    pub fn receiver(&self) -> &Receiver {
        &self.receiver
    }
}

impl UnderlayPort for Underlay {
    fn recv(&mut self, batch: &mut RecvBatch) -> io::Result<()> {
        self.receiver.recv(batch)
    }

    fn send(&mut self, flow_hash: u32, transmit: &Transmit<'_>) -> io::Result<()> {
        self.senders[bucket(flow_hash)].send(transmit)
    }
}

impl super::port::TunPort for Arc<tun::TunQueue> {
    fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        tun::TunQueue::recv(self, buffer)
    }

    fn send(&mut self, parts: &[io::IoSlice<'_>]) -> io::Result<()> {
        tun::TunQueue::send(self, parts)
    }
}
