//! Packets made by hand: what pods send, and what somebody on the underlay may send.
//!
//! The overlay header is written as bytes, from `docs/wire-format.md` and not with the daemon's
//! codec, so that a mistake there cannot hide here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use culvert_dataplane::platform::udp::SOCKET_MARK;
use culvert_lab::{Netns, UNDERLAY_PORT, probe};
use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, UdpHeader};
use socket2::SockRef;

/// Port of the UDP packets made here, where nobody listens.
pub(crate) const PORT: u16 = 9;

/// The VNI of every lab.
pub(crate) const VNI: u32 = 1;

/// Marks of explicit congestion notification (RFC 3168 §5).
pub(crate) const NOT_ECT: u8 = 0b00;
pub(crate) const ECT_1: u8 = 0b01;
pub(crate) const ECT_0: u8 = 0b10;
pub(crate) const CE: u8 = 0b11;

/// A UDP packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Udp<'a> {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) source_port: u16,
    pub(crate) port: u16,
    pub(crate) hop_limit: u8,
    pub(crate) ecn: u8,
    pub(crate) payload: &'a [u8],
}

impl<'a> Udp<'a> {
    /// A packet from `source` to `destination`, to [`PORT`].
    pub(crate) fn new(source: IpAddr, destination: IpAddr, payload: &'a [u8]) -> Self {
        let (source_port, port) = (PORT, PORT);
        Self { source, destination, source_port, port, hop_limit: 64, ecn: NOT_ECT, payload }
    }

    /// The same packet with another congestion mark.
    pub(crate) fn ecn(mut self, ecn: u8) -> Self {
        self.ecn = ecn;
        self
    }

    /// The same packet with another hop limit.
    pub(crate) fn hop_limit(mut self, hop_limit: u8) -> Self {
        self.hop_limit = hop_limit;
        self
    }

    /// The same packet to another port.
    pub(crate) fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// The same packet from another port.
    pub(crate) fn source_port(mut self, port: u16) -> Self {
        self.source_port = port;
        self
    }

    /// The packet, from its IP header on.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => self.v4(source, destination),
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.v6(source, destination, IpNumber::UDP, &[])
            }
            (source, destination) => panic!("{source} and {destination} are of two families"),
        }
    }

    /// The IPv6 packet with `extensions` between its header and UDP; `first` is the kind of the
    /// first extension header. The last one must say that UDP follows.
    pub(crate) fn with_extensions(&self, first: IpNumber, extensions: &[u8]) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.v6(source, destination, first, extensions)
            }
            (source, _) => panic!("{source} is no IPv6 address"),
        }
    }

    fn v4(&self, source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
        let length = u16::try_from(UdpHeader::LEN + self.payload.len()).unwrap();
        let mut header = Ipv4Header::new(
            length,
            self.hop_limit,
            IpNumber::UDP,
            source.octets(),
            destination.octets(),
        )
        .unwrap();
        header.ecn = self.ecn.try_into().unwrap();
        header.header_checksum = header.calc_header_checksum();
        let (from, to) = (self.source_port, self.port);
        let udp = UdpHeader::with_ipv4_checksum(from, to, &header, self.payload).unwrap();
        let mut bytes = Vec::new();
        header.write(&mut bytes).unwrap();
        udp.write(&mut bytes).unwrap();
        bytes.extend(self.payload);
        bytes
    }

    fn v6(
        &self,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        next_header: IpNumber,
        extensions: &[u8],
    ) -> Vec<u8> {
        let length = extensions.len() + UdpHeader::LEN + self.payload.len();
        let header = Ipv6Header {
            traffic_class: self.ecn,
            flow_label: Ipv6FlowLabel::ZERO,
            payload_length: length.try_into().unwrap(),
            next_header,
            hop_limit: self.hop_limit,
            source: source.octets(),
            destination: destination.octets(),
        };
        let (from, to) = (self.source_port, self.port);
        let udp = UdpHeader::with_ipv6_checksum(from, to, &header, self.payload).unwrap();
        let mut bytes = Vec::new();
        header.write(&mut bytes).unwrap();
        bytes.extend(extensions);
        udp.write(&mut bytes).unwrap();
        bytes.extend(self.payload);
        bytes
    }
}

/// The overlay header of a packet of the family of `inner`, in network `vni`, and `inner` after it.
pub(crate) fn in_overlay(vni: u32, inner: &[u8]) -> Vec<u8> {
    let next_protocol = match inner.first().map(|first| first >> 4) {
        Some(6) => 0x02,
        _ => 0x01,
    };
    let [_, a, b, c] = vni.to_be_bytes();
    let mut datagram = vec![0x0c, 0, 0, next_protocol, a, b, c, 0];
    datagram.extend(inner);
    datagram
}

/// Sends `datagram` to the daemon at `to`, from the namespace `from`, whose kernel chooses the
/// outer source.
#[track_caller]
pub(crate) fn send_to_daemon(from: &Netns, to: IpAddr, datagram: &[u8]) {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = from.run(|| UdpSocket::bind(SocketAddr::new(any, 0))).unwrap().unwrap();
    mark_as_daemon(&socket);
    socket.send_to(datagram, SocketAddr::new(to, UNDERLAY_PORT)).unwrap();
}

/// Gives `socket` the mark without which nothing leaves a node for a tunnel's port.
pub(crate) fn mark_as_daemon(socket: &UdpSocket) {
    SockRef::from(socket).set_mark(SOCKET_MARK).unwrap();
}

/// Sends `datagram` to the daemon at `to` in an outer packet with the mark `ecn`.
#[track_caller]
pub(crate) fn send_marked(from: &Netns, source: IpAddr, to: IpAddr, ecn: u8, datagram: &[u8]) {
    let outer = Udp::new(source, to, datagram).port(UNDERLAY_PORT).ecn(ecn);
    probe::send_packet_with_mark(from, &outer.bytes(), SOCKET_MARK).unwrap();
}

/// The congestion mark of an IP packet.
pub(crate) fn ecn_of(packet: &[u8]) -> u8 {
    match packet[0] >> 4 {
        4 => packet[1] & 0b11,
        _ => (packet[1] >> 4) & 0b11,
    }
}

/// Whether `packet` holds `part` somewhere.
pub(crate) fn contains(packet: &[u8], part: &[u8]) -> bool {
    packet.windows(part.len()).any(|window| window == part)
}
