//! The underlay sockets: each worker has a receiving one for each port, and all share the sending
//! ones.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::capture::LocalEnd;
use super::port::{Spoken, UnderlayPort};
use crate::engine::Tunnel;
use crate::platform::udp::{Gro, Receiver, RecvBatch, Report, Sender, Transmit};
use crate::platform::{Error, Result, tun};

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
    sealed: Option<SealedPort>,
    senders: Arc<[Sender]>,
    workers: usize,
    gro: Gro,
}

/// The port for what is sealed, and the socket that handshakes leave by.
#[derive(Clone, Debug)]
struct SealedPort {
    port: u16,
    receivers: Vec<Arc<Receiver>>,
    shaker: Arc<Sender>,
}

/// A port, with a receiving socket for each worker.
#[derive(Clone, Debug)]
struct Port {
    tunnel: Tunnel,
    receivers: Vec<Arc<Receiver>>,
}

impl Sockets {
    /// Datagrams that the kernel dropped at these sockets; none where it does not tell.
    pub(super) fn dropped(&self) -> Option<u64> {
        let receivers = self.ports.iter().flat_map(|port| &port.receivers);
        receivers.map(|receiver| receiver.dropped().ok().map(u64::from)).sum()
    }

    /// Binds the sockets of `workers` workers to `address` and the ports of `tunnels`, and to the
    /// one for what is sealed, if there is one.
    ///
    /// # Errors
    ///
    /// As [`Receiver::bind`] and [`Sender::bind`].
    pub(super) fn bind(
        address: IpAddr,
        tunnels: &[Tunnel],
        sealed_port: Option<u16>,
        workers: usize,
        gro: Gro,
    ) -> Result<Self> {
        let senders: Arc<[Sender]> =
            (0..SENDERS).map(|_| Sender::bind(address)).collect::<Result<Vec<_>>>()?.into();
        let sealed = sealed_port.map(|port| SealedPort::bind(address, port, workers, gro));
        let sealed = sealed.transpose()?;
        let none = Self { address, ports: Vec::new(), sealed, senders, workers, gro };
        none.with(tunnels)
    }

    /// The same for another address, other ports, or both. What stays the same keeps its sockets,
    /// and with them what waits there.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind); these sockets are as they were.
    pub(super) fn moved(
        &self,
        address: IpAddr,
        tunnels: &[Tunnel],
        sealed_port: Option<u16>,
    ) -> Result<Self> {
        if address != self.address {
            return Self::bind(address, tunnels, sealed_port, self.workers, self.gro);
        }
        let sealed = match (&self.sealed, sealed_port) {
            (Some(sealed), Some(port)) if sealed.port == port => Some(sealed.clone()),
            (_, Some(port)) => Some(SealedPort::bind(address, port, self.workers, self.gro)?),
            (_, None) => None,
        };
        Self { sealed, ..self.clone() }.with(tunnels)
    }

    fn with(&self, tunnels: &[Tunnel]) -> Result<Self> {
        let ports = tunnels.iter().map(|tunnel| self.port(*tunnel)).collect::<Result<_>>()?;
        Ok(Self { ports, ..self.clone() })
    }

    fn port(&self, tunnel: Tunnel) -> Result<Port> {
        if let Some(sealed) = self.sealed.as_ref().filter(|sealed| sealed.port == tunnel.port) {
            let taken = format!("the subnet table has {tunnel}: choose another [sealed] port");
            return Err(sealed_error(self.address, sealed.port, io::Error::other(taken)));
        }
        let known = self.ports.iter().find(|known| known.tunnel.port == tunnel.port);
        let receivers = match known {
            Some(known) => known.receivers.clone(),
            None => receivers(self.address, tunnel.port, self.workers, self.gro)?,
        };
        Ok(Port { tunnel, receivers })
    }

    /// What trains leave by.
    pub(super) fn senders(&self) -> &Arc<[Sender]> {
        &self.senders
    }

    /// What handshakes leave by, if this node seals.
    pub(super) fn shaker(&self) -> Option<&Arc<Sender>> {
        self.sealed.as_ref().map(|sealed| &sealed.shaker)
    }

    /// What each worker gets of them.
    pub(super) fn of_workers(&self) -> impl Iterator<Item = Underlay> {
        (0..self.workers).map(|worker| Underlay {
            receivers: self
                .ports
                .iter()
                .map(|port| (Spoken::Plain(port.tunnel.codec), &port.receivers))
                .chain(self.sealed.iter().map(|sealed| (Spoken::Sealed, &sealed.receivers)))
                .map(|(spoken, receivers)| (spoken, Arc::clone(&receivers[worker])))
                .collect(),
            next: 0,
            senders: Arc::clone(&self.senders),
        })
    }
}

impl SealedPort {
    fn bind(address: IpAddr, port: u16, workers: usize, gro: Gro) -> Result<Self> {
        let receivers = receivers(address, port, workers, gro);
        let receivers = receivers.map_err(|error| sealed_error(address, port, error.cause))?;
        Ok(Self { port, receivers, shaker: Arc::new(Sender::bind_fragmenting(address)?) })
    }
}

/// A receiving socket for each worker.
fn receivers(address: IpAddr, port: u16, workers: usize, gro: Gro) -> Result<Vec<Arc<Receiver>>> {
    let bind = |_| Receiver::bind(SocketAddr::new(address, port), gro).map(Arc::new);
    (0..workers).map(bind).collect()
}

/// The port that cannot be had, and the key that says which it is.
fn sealed_error(address: IpAddr, port: u16, cause: io::Error) -> Error {
    let target = format!("{} ([sealed] port)", SocketAddr::new(address, port));
    Error::new("bind UDP", target, cause)
}

/// One worker's sockets.
#[derive(Debug)]
pub struct Underlay {
    /// INVARIANT: at least one.
    receivers: Box<[(Spoken, Arc<Receiver>)]>,
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
    fn recv(&mut self, batch: &mut RecvBatch) -> io::Result<Spoken> {
        let mut outcome = Err(io::ErrorKind::WouldBlock.into());
        for _ in 0..self.receivers.len() {
            let (spoken, receiver) = &self.receivers[self.next];
            self.next = (self.next + 1) % self.receivers.len();
            outcome = receiver.recv(batch).map(|()| *spoken);
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

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use overlay_proto::CodecKind;

    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn bind(tunnels: &[Tunnel], sealed_port: u16) -> Result<Sockets> {
        Sockets::bind(LOCAL, tunnels, Some(sealed_port), 2, Gro::Off)
    }

    #[test]
    fn a_sealed_port_that_cannot_be_had_is_named_with_its_key() {
        let other = UdpSocket::bind((LOCAL, 0)).unwrap();
        let port = other.local_addr().unwrap().port();
        let error = bind(&[], port).unwrap_err().to_string();
        assert!(error.starts_with(&format!("bind UDP 127.0.0.1:{port} ([sealed] port): ")));
        assert!(error.contains("ss -lunp"), "{error}");
        drop(other);
        let tunnel = Tunnel { codec: CodecKind::VxlanGpe, port };
        let error = bind(&[tunnel], port).unwrap_err().to_string();
        assert!(error.contains("choose another [sealed] port"), "{error}");
        assert!(error.contains("vxlan-gpe"), "{error}");
    }

    #[test]
    fn each_worker_hears_what_is_sealed_beside_what_is_plain() {
        let free = || {
            let socket = UdpSocket::bind((LOCAL, 0)).unwrap();
            socket.local_addr().unwrap().port()
        };
        let (plain, sealed) = (free(), free());
        let tunnel = Tunnel { codec: CodecKind::VxlanGpe, port: plain };
        let sockets = bind(&[tunnel], sealed).unwrap();
        let moved = sockets.moved(LOCAL, &[], Some(sealed)).unwrap();
        for (before, after) in sockets.of_workers().zip(moved.of_workers()) {
            let ports = |underlay: &Underlay| -> Vec<u16> {
                underlay.receivers().filter_map(|it| Some(it.address()?.port())).collect()
            };
            assert_eq!((ports(&before), ports(&after)), (vec![plain, sealed], vec![sealed]));
        }
        assert!(sockets.shaker().is_some());
    }
}
