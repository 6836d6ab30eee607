//! The underlay sockets: each worker has a receiving one for each port, and all share the sending
//! ones.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use overlay_proto::CodecKind;

use super::capture::LocalEnd;
use super::port::UnderlayPort;
use crate::engine::Tunnel;
use crate::platform::udp::{Gro, Receiver, RecvBatch, Report, Sender, Transmit};
use crate::platform::{Result, tun};

/// Source ports that flows are spread over. A power of two; more than the paths or queues that an
/// underlay usually has, few enough that trains of many flows still fill.
pub const SENDERS: usize = 16;

/// Which source port a flow leaves by. High bits, because the low ones choose among the buckets of
/// hash tables elsewhere.
pub fn bucket(flow_hash: u32) -> usize {
    (flow_hash >> (u32::BITS - SENDERS.ilog2())) as usize
}

/// The sockets of all workers.
#[derive(Clone, Debug)]
pub(super) struct Sockets {
    address: IpAddr,
    ports: Vec<Port>,
    senders: Arc<[Sender]>,
    workers: usize,
    gro: Gro,
}

/// A port, with a receiving socket for each worker.
#[derive(Clone, Debug)]
struct Port {
    tunnel: Tunnel,
    receivers: Vec<Arc<Receiver>>,
}

impl Sockets {
    /// Datagrams that the kernel dropped at these sockets, because no worker fetched them in time;
    /// none where it does not tell.
    pub(super) fn dropped(&self) -> Option<u64> {
        let receivers = self.ports.iter().flat_map(|port| &port.receivers);
        receivers.map(|receiver| receiver.dropped().ok().map(u64::from)).sum()
    }

    /// Binds the sockets of `workers` workers to `address` and the ports of `tunnels`.
    ///
    /// # Errors
    ///
    /// As [`Receiver::bind`] and [`Sender::bind`].
    pub(super) fn bind(
        address: IpAddr,
        tunnels: &[Tunnel],
        workers: usize,
        gro: Gro,
    ) -> Result<Self> {
        let senders: Arc<[Sender]> =
            (0..SENDERS).map(|_| Sender::bind(address)).collect::<Result<Vec<_>>>()?.into();
        let none = Self { address, ports: Vec::new(), senders, workers, gro };
        none.with(tunnels)
    }

    /// The same for another address, other ports, or both. What stays the same keeps its sockets,
    /// and with them what waits there.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind); these sockets are as they were.
    pub(super) fn moved(&self, address: IpAddr, tunnels: &[Tunnel]) -> Result<Self> {
        if address == self.address {
            self.with(tunnels)
        } else {
            Self::bind(address, tunnels, self.workers, self.gro)
        }
    }

    fn with(&self, tunnels: &[Tunnel]) -> Result<Self> {
        let ports = tunnels.iter().map(|tunnel| self.port(*tunnel)).collect::<Result<_>>()?;
        Ok(Self { ports, ..self.clone() })
    }

    fn port(&self, tunnel: Tunnel) -> Result<Port> {
        let known = self.ports.iter().find(|known| known.tunnel.port == tunnel.port);
        let receivers = match known {
            Some(known) => known.receivers.clone(),
            None => (0..self.workers)
                .map(|_| {
                    let address = SocketAddr::new(self.address, tunnel.port);
                    Receiver::bind(address, self.gro).map(Arc::new)
                })
                .collect::<Result<_>>()?,
        };
        Ok(Port { tunnel, receivers })
    }

    /// What each worker gets of them.
    pub(super) fn of_workers(&self) -> impl Iterator<Item = Underlay> {
        (0..self.workers).map(|worker| Underlay {
            receivers: self
                .ports
                .iter()
                .map(|port| (port.tunnel.codec, Arc::clone(&port.receivers[worker])))
                .collect(),
            next: 0,
            senders: Arc::clone(&self.senders),
        })
    }
}

/// One worker's sockets.
#[derive(Debug)]
pub struct Underlay {
    /// INVARIANT: at least one.
    receivers: Box<[(CodecKind, Arc<Receiver>)]>,
    /// Which one is asked first.
    next: usize,
    senders: Arc<[Sender]>,
}

impl Underlay {
    /// The receiving sockets, to be polled.
    pub fn receivers(&self) -> impl Iterator<Item = &Receiver> {
        self.receivers.iter().map(|(_, receiver)| &**receiver)
    }

    /// The node's ends, as captures show them.
    pub(super) fn local_end(&self) -> LocalEnd {
        LocalEnd {
            address: self
                .receivers()
                .find_map(Receiver::address)
                .map_or_else(|| LocalEnd::default().address, |address| address.ip()),
            source_ports: std::array::from_fn(|index| {
                self.senders.get(index).map_or(0, Sender::port)
            }),
        }
    }
}

impl UnderlayPort for Underlay {
    /// Asks the sockets in turn, so that none is kept from its turn by one that is always busy.
    fn recv(&mut self, batch: &mut RecvBatch) -> io::Result<CodecKind> {
        let mut outcome = Err(io::ErrorKind::WouldBlock.into());
        for _ in 0..self.receivers.len() {
            let (codec, receiver) = &self.receivers[self.next];
            self.next = (self.next + 1) % self.receivers.len();
            outcome = receiver.recv(batch).map(|()| *codec);
            if !matches!(&outcome, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                break;
            }
        }
        outcome
    }

    fn send(&mut self, flow_hash: u32, transmit: &Transmit<'_>) -> io::Result<()> {
        self.senders[bucket(flow_hash)].send(transmit)
    }

    fn report(&mut self, flow_hash: u32) -> Option<Report> {
        self.senders[bucket(flow_hash)].report().ok()
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
