//! ICMP and ICMPv6 echo, and what came back instead of a reply.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use overlay_proto::Family;
use overlay_proto::checksum::checksum;
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use socket2::{Domain, Protocol, Socket, Type};

use super::super::netns::Netns;
use crate::clock;

/// Bytes of an ICMP or ICMPv6 echo header: type, code, checksum, identifier, sequence number.
const ECHO_LEN: usize = 8;

/// Bytes of an IPv4 header without options.
const IPV4_LEN: usize = 20;

/// Bytes of an IPv6 header.
const IPV6_LEN: usize = 40;

/// Protocol numbers (IANA).
const ICMP: u8 = 0x01;
const ICMPV6: u8 = 0x3a;
const IPV6_FRAGMENT: u8 = 0x2c;

/// An echo request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping {
    /// Length of the whole IP packet, in bytes. 84 is what `ping` sends over IPv4.
    pub packet_len: u16,
    /// How long to wait for an answer.
    pub timeout: Duration,
    /// Whether it may be fragmented, by the sender's kernel or by routers (IPv4).
    pub may_fragment: bool,
}

impl Default for Ping {
    fn default() -> Self {
        Self { packet_len: 84, timeout: Duration::from_secs(2), may_fragment: false }
    }
}

impl Ping {
    /// The same request in a packet of `bytes`, with IP header.
    #[must_use]
    pub const fn packet_len(mut self, bytes: u16) -> Self {
        self.packet_len = bytes;
        self
    }

    /// The same request, which may be fragmented.
    #[must_use]
    pub const fn may_fragment(mut self) -> Self {
        self.may_fragment = true;
        self
    }

    /// The same request with another time to wait.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// What became of an echo request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The reply came.
    Reply {
        /// Between sending and receiving.
        rtt: Duration,
    },
    /// "Fragmentation needed" or "packet too big".
    TooBig {
        /// The MTU that it names, in bytes.
        mtu: u32,
        /// Who said so.
        from: IpAddr,
    },
    /// "Destination unreachable".
    Unreachable {
        /// Its code.
        code: u8,
        /// Who said so.
        from: IpAddr,
    },
    /// "Time exceeded".
    TimeExceeded {
        /// Who said so.
        from: IpAddr,
    },
    /// The sender's own kernel refused, with this error number: `EMSGSIZE` for a packet above the
    /// interface's MTU that must not be fragmented, `ENETUNREACH` where there is no route.
    Refused {
        /// The error number.
        errno: i32,
    },
    /// Nothing, for as long as the request waited.
    Silence,
}

impl Answer {
    /// The round-trip time, if the reply came.
    #[must_use]
    pub const fn rtt(&self) -> Option<Duration> {
        match self {
            Self::Reply { rtt } => Some(*rtt),
            Self::TooBig { .. }
            | Self::Unreachable { .. }
            | Self::TimeExceeded { .. }
            | Self::Refused { .. }
            | Self::Silence => None,
        }
    }

    /// Whether the reply came.
    #[must_use]
    pub const fn is_reply(&self) -> bool {
        self.rtt().is_some()
    }

    /// A word for a table.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Reply { .. } => "ok",
            Self::TooBig { .. } => "too big",
            Self::Unreachable { .. } => "unreach",
            Self::TimeExceeded { .. } => "expired",
            Self::Refused { .. } => "refused",
            Self::Silence => "lost",
        }
    }
}

/// Sends one echo request from the namespace `from` to `to` and says what became of it.
///
/// # Errors
///
/// The namespace cannot be entered or its raw sockets cannot be used. No answer is no error.
pub fn ping(from: &Netns, to: IpAddr, ping: &Ping) -> Result<Answer> {
    let socket = from.run(|| open(to, ping.may_fragment))??;
    exchange(&socket, to, ping).with_context(|| format!("ping {to} from {}", from.name()))
}

/// Opens a socket. The sender's kernel ignores what it has learnt of the path, so that a packet or
/// a fragment of up to the interface's MTU goes out and meets whatever is there.
fn open(to: IpAddr, may_fragment: bool) -> Result<UdpSocket> {
    let socket = match Family::of(to) {
        Family::V4 => Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)),
        Family::V6 => Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)),
    }
    .context("open a raw socket")?;
    let (v4, v6) = if may_fragment {
        (Ipv4PathMtuDiscovery::OMIT, Ipv6PathMtuDiscovery::OMIT)
    } else {
        (Ipv4PathMtuDiscovery::PROBE, Ipv6PathMtuDiscovery::PROBE)
    };
    match Family::of(to) {
        Family::V4 => sockopt::set_ip_mtu_discover(&socket, v4),
        Family::V6 => sockopt::set_ipv6_mtu_discover(&socket, v6),
    }
    .context("set path MTU discovery")?;
    // The standard library's name for a datagram socket; what it calls is the same.
    Ok(socket.into())
}

fn exchange(socket: &UdpSocket, to: IpAddr, ping: &Ping) -> Result<Answer> {
    /// Tells the requests of this process apart; the process id tells processes apart.
    static REQUESTS: AtomicU16 = AtomicU16::new(0);
    let [.., high, low] = std::process::id().to_be_bytes();
    let id = u16::from_be_bytes([high, low]).wrapping_add(REQUESTS.fetch_add(1, Ordering::Relaxed));
    let request = echo_request(Family::of(to), id, ping.packet_len);

    let start = clock::now();
    if let Err(error) = socket.send_to(&request, SocketAddr::new(to, 0)) {
        return match error.raw_os_error() {
            Some(errno) => Ok(Answer::Refused { errno }),
            None => Err(error).context("send"),
        };
    }
    let mut buffer = [0; 1 << 16];
    loop {
        let left = ping.timeout.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Ok(Answer::Silence);
        }
        socket.set_read_timeout(Some(left)).context("set a timeout")?;
        let (len, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if would_wait(&error) => continue,
            Err(error) => return Err(error).context("receive"),
        };
        let received = buffer.get(..len).unwrap_or_default();
        let heard = match Family::of(to) {
            Family::V4 => hear_v4(received, from.ip(), id),
            Family::V6 => hear_v6(received, from.ip(), id),
        };
        match heard {
            Some(Heard::Reply) if from.ip() == to => {
                return Ok(Answer::Reply { rtt: start.elapsed() });
            }
            Some(Heard::Error(answer)) => return Ok(answer),
            // Somebody else's: a raw socket sees all that its namespace receives.
            Some(Heard::Reply) | None => {}
        }
    }
}

fn would_wait(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

/// An echo request that makes an IP packet of `packet_len`. The kernel adds the IP header, and for
/// ICMPv6 the checksum.
fn echo_request(family: Family, id: u16, packet_len: u16) -> Vec<u8> {
    let (kind, header_len) = match family {
        Family::V4 => (8, IPV4_LEN),
        Family::V6 => (128, IPV6_LEN),
    };
    let len = usize::from(packet_len).saturating_sub(header_len).max(ECHO_LEN);
    let mut request = vec![kind, 0, 0, 0];
    request.extend(id.to_be_bytes());
    request.extend(1_u16.to_be_bytes());
    request.extend((request.len()..len).map(|position| position.to_le_bytes()[0]));
    if family == Family::V4 {
        let sum = checksum(&request);
        request.splice(2..4, sum.to_be_bytes());
    }
    request
}

/// A received message that concerns the request.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Reply,
    Error(Answer),
}

/// What `packet`, an IPv4 packet with ICMP, says of request `id`.
fn hear_v4(packet: &[u8], from: IpAddr, id: u16) -> Option<Heard> {
    let message = after_v4_header(packet)?;
    let &[kind, code, ..] = message else {
        return None;
    };
    if kind == 0 {
        return (word(message, 4)? == id).then_some(Heard::Reply);
    }
    // Errors quote the packet that they are about, from its IP header on (RFC 792).
    let quoted = message.get(ECHO_LEN..)?;
    let ours = *quoted.get(9)? == ICMP && word(after_v4_header(quoted)?, 4)? == id;
    let answer = match (kind, code) {
        (3, 4) => Answer::TooBig { mtu: u32::from(word(message, 6)?), from },
        (3, code) => Answer::Unreachable { code, from },
        (11, _) => Answer::TimeExceeded { from },
        _ => return None,
    };
    ours.then_some(Heard::Error(answer))
}

/// What `message`, an ICMPv6 message, says of request `id`.
fn hear_v6(message: &[u8], from: IpAddr, id: u16) -> Option<Heard> {
    let &[kind, code, ..] = message else {
        return None;
    };
    if kind == 129 {
        return (word(message, 4)? == id).then_some(Heard::Reply);
    }
    let quoted = message.get(ECHO_LEN..)?;
    let mut next = *quoted.get(6)?;
    let mut inner = quoted.get(IPV6_LEN..)?;
    if next == IPV6_FRAGMENT {
        next = *inner.first()?;
        inner = inner.get(8..)?;
    }
    let ours = next == ICMPV6 && word(inner, 4)? == id;
    let answer = match kind {
        1 => Answer::Unreachable { code, from },
        2 => Answer::TooBig {
            mtu: u32::from(word(message, 4)?) << 16 | u32::from(word(message, 6)?),
            from,
        },
        3 => Answer::TimeExceeded { from },
        _ => return None,
    };
    ours.then_some(Heard::Error(answer))
}

fn after_v4_header(packet: &[u8]) -> Option<&[u8]> {
    let len = usize::from(*packet.first()? & 0x0f) * 4;
    packet.get(len..)
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(pair.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const ROUTER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 244, 1, 1));

    #[test]
    fn a_request_fills_its_packet_and_sums_to_zero() {
        let request = echo_request(Family::V4, 0x1234, 85);
        assert_eq!(request.len(), 65);
        assert_eq!(request[..2], [8, 0]);
        assert_eq!(request[4..8], [0x12, 0x34, 0, 1]);
        assert_eq!(checksum(&request), 0);
        assert_eq!(echo_request(Family::V6, 1, 1280).len(), 1240);
        assert_eq!(echo_request(Family::V6, 1, 0).len(), ECHO_LEN);
    }

    #[test]
    fn a_reply_counts_for_its_own_request_only() {
        let reply = v4(&[0, 0, 0, 0, 0x12, 0x34, 0, 1]);
        assert_eq!(hear_v4(&reply, ROUTER, 0x1234), Some(Heard::Reply));
        assert_eq!(hear_v4(&reply, ROUTER, 0x1235), None);
    }

    #[test]
    fn fragmentation_needed_names_its_mtu() {
        let mut message = vec![3, 4, 0, 0, 0, 0, 0x05, 0x98];
        message.extend(v4(&echo_request(Family::V4, 7, 84)));
        let answer = Answer::TooBig { mtu: 1432, from: ROUTER };
        assert_eq!(hear_v4(&v4(&message), ROUTER, 7), Some(Heard::Error(answer)));
        assert_eq!(hear_v4(&v4(&message), ROUTER, 8), None);
    }

    #[test]
    fn packet_too_big_names_its_mtu() {
        let mut message = vec![2, 0, 0, 0, 0, 0, 0x05, 0x98];
        message.extend([0x60, 0, 0, 0, 0, 0, ICMPV6, 64]);
        message.extend([0; 32]);
        message.extend(echo_request(Family::V6, 7, 84));
        let answer = Answer::TooBig { mtu: 1432, from: ROUTER };
        assert_eq!(hear_v6(&message, ROUTER, 7), Some(Heard::Error(answer)));
        assert_eq!(hear_v6(&message, ROUTER, 8), None);
    }

    #[test]
    fn what_is_cut_short_is_nobodys() {
        let mut message = vec![3, 4, 0, 0, 0, 0, 0x05, 0x98];
        message.extend(v4(&echo_request(Family::V4, 7, 84)));
        let packet = v4(&message);
        for len in 0..IPV4_LEN + ECHO_LEN + IPV4_LEN + 6 {
            assert_eq!(hear_v4(&packet[..len], ROUTER, 7), None, "{len}");
            let _ = hear_v6(&packet[..len], ROUTER, 7);
        }
    }

    fn v4(payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, ICMP];
        packet.resize(IPV4_LEN, 0);
        packet.extend(payload);
        packet
    }
}
