//! Whether a path carries less than its route says: asked with a datagram that nobody can foresee.
//!
//! An ICMP error proves nothing by itself: any pod or host can write one. An error that quotes a
//! datagram which left a moment ago, from a port that nobody knew and with bytes that nobody could
//! guess, comes from a machine on the path, which could as well have dropped the datagram.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::time::Duration;

use overlay_proto::Ecn;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use super::report::{Report, ReportKind};
use super::{Sender, Transmit};
use crate::platform::clock;

/// How often a datagram is sent before the path counts as carrying it: some may get lost, and a
/// router need not answer each.
const ATTEMPTS: usize = 4;

/// How long an answer is waited for before the next datagram leaves.
const PATIENCE: Duration = Duration::from_millis(400);

/// Where a codec has its header: no codec has zeros there, so that receivers drop the datagram.
const NO_HEADER_LEN: usize = 8;

/// Bytes that nobody can guess. They follow the header's place, and a router has to quote them.
const NONCE_LEN: usize = 16;

/// Bytes of IP and UDP headers.
const IPV4_HEADERS: usize = 20 + 8;
const IPV6_HEADERS: usize = 40 + 8;

/// One datagram under way.
struct Probe {
    sender: Sender,
    begin: [u8; NO_HEADER_LEN + NONCE_LEN],
}

impl Probe {
    fn send(local: IpAddr, peer: SocketAddr, datagram: &mut [u8]) -> io::Result<Self> {
        let mut begin = [0; NO_HEADER_LEN + NONCE_LEN];
        getrandom(&mut begin[NO_HEADER_LEN..], GetRandomFlags::empty())?;
        let place = datagram.first_chunk_mut().ok_or(io::ErrorKind::InvalidInput)?;
        *place = begin;
        // Another port for each.
        let sender = Sender::bind(local).map_err(|error| error.cause)?;
        sender.send(&Transmit {
            destination: peer,
            ecn: Ecn::NotEct,
            segment_size: None,
            parts: &[IoSlice::new(datagram)],
        })?;
        Ok(Self { sender, begin })
    }

    /// What a machine on the path says that it carries, if one has answered.
    fn answer(&self, peer: SocketAddr, packet_len: u16) -> Option<u16> {
        std::iter::from_fn(|| self.sender.report().ok()).find_map(|report| {
            let Report { destination, kind: ReportKind::TooBig(mtu), .. } = report else {
                return None;
            };
            let ours = destination == peer && report.quote().starts_with(&self.begin);
            let mtu = u16::try_from(mtu).ok()?;
            (ours && mtu < packet_len).then_some(mtu)
        })
    }
}

/// Asks whether a packet of `packet_len` bytes, IP header included, gets from `local` to `peer`.
/// Returns what the path carries if a machine on it says that this is less, and nothing if none
/// does. Blocks for some 1.6 seconds at most.
///
/// # Errors
///
/// `local` is not this machine's, or the packet is longer than the device carries.
pub fn path_carries(local: IpAddr, peer: SocketAddr, packet_len: u16) -> io::Result<Option<u16>> {
    let headers = if peer.is_ipv4() { IPV4_HEADERS } else { IPV6_HEADERS };
    let mut datagram = vec![0; usize::from(packet_len).saturating_sub(headers)];
    let mut probes: Vec<Probe> = Vec::with_capacity(ATTEMPTS);
    for _ in 0..ATTEMPTS {
        probes.push(Probe::send(local, peer, &mut datagram)?);
        let sent = clock::now();
        while let Some(left) = PATIENCE.checked_sub(sent.elapsed()) {
            wait(&probes, left)?;
            if let Some(mtu) = probes.iter().find_map(|probe| probe.answer(peer, packet_len)) {
                return Ok(Some(mtu));
            }
        }
    }
    Ok(None)
}

/// Waits until there is something in an error queue.
fn wait(probes: &[Probe], at_most: Duration) -> io::Result<()> {
    // An error is always waited for.
    let mut fds: Vec<PollFd<'_>> = probes
        .iter()
        .map(|probe| PollFd::from_borrowed_fd(probe.sender.as_fd(), PollFlags::empty()))
        .collect();
    let limit = Timespec::try_from(at_most).map_err(|_| io::ErrorKind::InvalidInput)?;
    match poll(&mut fds, Some(&limit)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
