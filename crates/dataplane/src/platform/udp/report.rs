//! What the network says about datagrams that we sent: the error queue of a socket.
//!
//! The kernel matches an ICMP error to the socket that sent the quoted datagram, by both addresses
//! and both ports, and queues it there (IP_RECVERR). Anybody can write such an error, so that a
//! report is a hint and no more.

use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;

use socket2::{SockAddr, SockAddrStorage, Socket};

use super::control::{CONTROL_LEN, Control, for_each_control};

/// Bytes of the quoted datagram that are kept: the longest header of a codec and that of an inner
/// packet.
const QUOTE_LEN: usize = 96;

/// An ICMP error about a datagram of ours.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Where the datagram was sent to.
    pub destination: SocketAddr,
    /// What is said about it.
    pub kind: ReportKind,
    quote: [u8; QUOTE_LEN],
    quote_len: usize,
}

/// What an ICMP error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportKind {
    /// The datagram is longer than the next link carries: this many bytes, by whoever says so.
    TooBig(u32),
    /// Nobody listens on the port that the datagram was for.
    PortUnreachable,
    /// Anything else: no way there, forbidden.
    Other,
}

impl Report {
    /// Makes a report as the kernel would, for tests.
    pub fn new(destination: SocketAddr, kind: ReportKind, quote: &[u8]) -> Self {
        let mut report = Self { destination, kind, quote: [0; QUOTE_LEN], quote_len: 0 };
        report.quote_len = quote.len().min(QUOTE_LEN);
        report.quote[..report.quote_len].copy_from_slice(&quote[..report.quote_len]);
        report
    }

    /// The begin of the datagram's payload, as far as it was quoted.
    pub fn quote(&self) -> &[u8] {
        &self.quote[..self.quote_len]
    }
}

/// Takes the oldest report of `socket`; `WouldBlock` when there is none.
///
/// The kernel's own remarks about datagrams that never left are passed over.
pub(super) fn take(socket: &Socket) -> io::Result<Report> {
    loop {
        if let Some(report) = take_any(socket)? {
            return Ok(report);
        }
    }
}

fn take_any(socket: &Socket) -> io::Result<Option<Report>> {
    let mut name = SockAddrStorage::zeroed();
    let mut quote = [0; QUOTE_LEN];
    let mut control = Control::new();
    let mut vector = libc::iovec { iov_base: quote.as_mut_ptr().cast(), iov_len: quote.len() };
    // SAFETY: an all-zero msghdr is a valid value of that plain C structure.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = name.size_of();
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.bytes.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_LEN;
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: every pointer in `message` leads to a value of this function that outlives the call,
    // with its length beside it.
    let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let Ok(len) = usize::try_from(len) else { return Err(io::Error::last_os_error()) };
    // SAFETY: the kernel has written an address of this length into the storage.
    let destination = unsafe { SockAddr::new(name, message.msg_namelen) }.as_socket();
    let mut kind = None;
    for_each_control(&message, |level, option, bytes| match (level, option) {
        (libc::SOL_IP, libc::IP_RECVERR) | (libc::SOL_IPV6, libc::IPV6_RECVERR) => {
            kind = read(bytes);
        }
        _ => {}
    });
    let (Some(destination), Some(kind)) = (destination, kind) else { return Ok(None) };
    Ok(Some(Report { destination, kind, quote, quote_len: len.min(QUOTE_LEN) }))
}

/// Reads a `sock_extended_err`; none unless it came by ICMP.
fn read(bytes: &[u8]) -> Option<ReportKind> {
    let (errno, rest) = bytes.split_first_chunk::<4>()?;
    let ([origin, _kind, _code, _padding], rest) = rest.split_first_chunk::<4>()?;
    let (info, _) = rest.split_first_chunk::<4>()?;
    if ![libc::SO_EE_ORIGIN_ICMP, libc::SO_EE_ORIGIN_ICMP6].contains(origin) {
        return None;
    }
    Some(match i32::from_ne_bytes(*errno) {
        libc::EMSGSIZE => ReportKind::TooBig(u32::from_ne_bytes(*info)),
        libc::ECONNREFUSED => ReportKind::PortUnreachable,
        _ => ReportKind::Other,
    })
}

/// Switches reports on.
pub(super) fn enable(socket: &Socket, local: IpAddr) -> io::Result<()> {
    match local {
        IpAddr::V4(_) => super::set_int(socket, libc::SOL_IP, libc::IP_RECVERR, 1),
        IpAddr::V6(_) => super::set_int(socket, libc::SOL_IPV6, libc::IPV6_RECVERR, 1),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, IoSlice};
    use std::net::UdpSocket;
    use std::time::Duration;

    use overlay_proto::Ecn;

    use super::super::{Sender, Transmit, path_carries};
    use super::*;

    const LOCAL: [&str; 2] = ["127.0.0.1", "::1"];

    /// An address at which nobody listens any more.
    fn closed(local: IpAddr) -> SocketAddr {
        UdpSocket::bind(SocketAddr::new(local, 0)).unwrap().local_addr().unwrap()
    }

    fn send(sender: &Sender, destination: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        let parts = [IoSlice::new(bytes)];
        sender.send(&Transmit { destination, ecn: Ecn::NotEct, segment_size: None, parts: &parts })
    }

    fn report(sender: &Sender) -> Report {
        for _ in 0..500 {
            match sender.report() {
                Ok(report) => return report,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("no report");
    }

    #[test]
    fn an_icmp_error_is_reported_with_its_datagram() {
        for local in LOCAL.map(|local| local.parse().unwrap()) {
            let sender = Sender::bind(local).unwrap();
            let destination = closed(local);
            send(&sender, destination, b"nobody hears this").unwrap();
            let report = report(&sender);
            assert_eq!(
                (report.destination, report.kind),
                (destination, ReportKind::PortUnreachable)
            );
            assert_eq!(report.quote(), b"nobody hears this");
            assert_eq!(sender.report().unwrap_err().kind(), ErrorKind::WouldBlock);
            // Once it is taken it is in nobody's way.
            send(&sender, destination, b"again").unwrap();
        }
    }

    #[test]
    fn what_strangers_send_takes_no_room_of_reports() {
        let local = LOCAL[0].parse().unwrap();
        let sender = Sender::bind(local).unwrap();
        let stranger = UdpSocket::bind(SocketAddr::new(local, 0)).unwrap();
        for _ in 0..1000 {
            stranger.send_to(&[0; 1000], SocketAddr::new(local, sender.port())).unwrap();
        }
        let destination = closed(local);
        send(&sender, destination, b"lost").unwrap();
        assert_eq!(report(&sender).destination, destination);
    }

    #[test]
    fn a_path_that_nobody_calls_narrow_carries() {
        let local = LOCAL[0].parse().unwrap();
        // "Port unreachable" is no answer to the question.
        assert_eq!(path_carries(local, closed(local), 1500).unwrap(), None);
        assert!(path_carries(local, closed(local), 20).is_err(), "no room for the question");
        let elsewhere = "192.0.2.1".parse().unwrap();
        assert!(path_carries(elsewhere, closed(local), 1500).is_err(), "not our address");
    }
}
