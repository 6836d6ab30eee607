//! The end that asks.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};

use crate::answer::{ANSWER, MOST, QUESTION};
use crate::check::{Check, Found, Outcome};
use crate::clock;

/// Bytes of a small question.
const SMALL: usize = 64;

/// How much longer than a packet the question in pieces is.
const BEYOND: usize = 1000;

/// Questions that one [`ask_all`] has under way.
const AT_ONCE: usize = 8;

/// How long to wait.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the echo of a datagram, and for a connection.
    pub answer: Duration,
    /// For everything over one connection.
    pub stream: Duration,
    /// How often a datagram is sent before it counts as lost.
    pub attempts: u32,
}

impl Patience {
    /// Waits so long for each answer.
    #[must_use]
    pub const fn of(answer: Duration) -> Self {
        Self { answer, stream: answer.saturating_mul(5), attempts: 3 }
    }
}

/// Asks each of `targets`, and has `say` told of each as it is found.
pub fn ask_all(targets: &[SocketAddr], patience: Patience, say: &(impl Fn(Found) + Sync)) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(targets.len()) {
            scope.spawn(|| {
                while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    say(ask(*target, patience));
                }
            });
        }
    });
}

/// Tries everything with the server at `to`.
#[must_use]
pub fn ask(to: SocketAddr, patience: Patience) -> Found {
    let mut found = Found { to, seen: None, checks: Vec::new() };
    found.checks.push(datagram(Check::Udp, to, patience));
    let (outcome, seen) = connection(Check::Tcp, to, SMALL, patience);
    found.seen = seen;
    found.checks.push(outcome);
    if found.checks.iter().all(|outcome| !outcome.ok) {
        return found;
    }
    found.checks.push(datagram(Check::Full, to, patience));
    found.checks.push(datagram(Check::Pieces, to, patience));
    found.checks.push(connection(Check::Stream, to, MOST, patience).0);
    found
}

/// A datagram and its echo.
fn datagram(check: Check, to: SocketAddr, patience: Patience) -> Outcome {
    let socket = match open(to, check) {
        Ok(socket) => socket,
        Err(error) => return Outcome::bad(check, 0, 0, word(&error)),
    };
    let (mut len, mut why) = (0, "lost".to_owned());
    for attempt in 1..=patience.attempts {
        len = match payload_len(&socket, to, check) {
            Ok(len) => len,
            Err(error) => return Outcome::bad(check, 0, attempt, word(&error)),
        };
        let question = pattern(len);
        let start = clock::now();
        // The kernel tells here what it has heard since the last call, too.
        if let Err(error) = socket.send(&question) {
            why = word(&error);
            continue;
        }
        match wait_for_echo(&socket, &question, start + patience.answer) {
            Ok(()) => return Outcome::good(check, len, start.elapsed(), attempt),
            Err(error) => why = word(&error),
        }
    }
    Outcome::bad(check, len, patience.attempts, why)
}

fn open(to: SocketAddr, check: Check) -> io::Result<UdpSocket> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    if check == Check::Full {
        match to {
            SocketAddr::V4(_) => sockopt::set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DO)?,
            SocketAddr::V6(_) => sockopt::set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DO)?,
        }
    }
    socket.connect(to)?;
    Ok(socket)
}

/// How long the question is. What fills a packet is asked anew each time: the kernel learns from
/// "packet too big".
fn payload_len(socket: &UdpSocket, to: SocketAddr, check: Check) -> io::Result<usize> {
    if check == Check::Udp {
        return Ok(SMALL);
    }
    // Of IP and UDP.
    let (mtu, headers) = match to {
        SocketAddr::V4(_) => (sockopt::ip_mtu(socket)?, 20 + 8),
        SocketAddr::V6(_) => (sockopt::ipv6_mtu(socket)?, 40 + 8),
    };
    let full = usize::try_from(mtu).unwrap_or(usize::MAX).saturating_sub(headers);
    // The longest datagram of UDP, where a loopback would take more.
    let longest = 65_507;
    Ok(if check == Check::Pieces { full + BEYOND } else { full }.clamp(SMALL, longest))
}

fn wait_for_echo(socket: &UdpSocket, question: &[u8], deadline: Instant) -> io::Result<()> {
    let mut buffer = vec![0; question.len() + 1];
    loop {
        socket.set_read_timeout(Some(left(deadline)?))?;
        let len = socket.recv(&mut buffer)?;
        let is_echo = buffer.first() == Some(&ANSWER) && buffer.get(1..len) == question.get(1..);
        // An echo of another attempt is one too; what else arrives is nobody's.
        if is_echo {
            return Ok(());
        }
    }
}

/// Bytes over a TCP connection and back, and as whom the server sees us.
fn connection(
    check: Check,
    to: SocketAddr,
    len: usize,
    patience: Patience,
) -> (Outcome, Option<IpAddr>) {
    let start = clock::now();
    match converse(to, len, patience, start + patience.stream) {
        Ok((seen, own)) if seen != own => {
            let why = format!("translated: the server sees {seen}, we are {own}");
            (Outcome::bad(check, len, 1, why), Some(seen))
        }
        Ok((seen, _)) => (Outcome::good(check, len, start.elapsed(), 1), Some(seen)),
        Err(error) => (Outcome::bad(check, len, 1, word(&error)), None),
    }
}

fn converse(
    to: SocketAddr,
    len: usize,
    patience: Patience,
    deadline: Instant,
) -> io::Result<(IpAddr, IpAddr)> {
    let mut stream = TcpStream::connect_timeout(&to, patience.answer)?;
    stream.set_nodelay(true)?;
    let own = stream.local_addr()?.ip().to_canonical();
    let bytes = pattern(len);
    let mut request = u32::try_from(len).map_err(io::Error::other)?.to_be_bytes().to_vec();
    request.extend(&bytes);
    let mut unsent = request.as_slice();
    while !unsent.is_empty() {
        stream.set_write_timeout(Some(left(deadline)?))?;
        let written = stream.write(unsent)?;
        unsent = unsent.get(written..).unwrap_or_default();
    }
    let mut read = |buffer: &mut [u8]| -> io::Result<()> {
        let mut filled = 0;
        while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
            stream.set_read_timeout(Some(left(deadline)?))?;
            match stream.read(room)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => filled += read,
            }
        }
        Ok(())
    };
    let mut seen_len = [0];
    read(&mut seen_len)?;
    let mut seen = vec![0; seen_len[0].into()];
    read(&mut seen)?;
    let seen = String::from_utf8_lossy(&seen).parse().map_err(io::Error::other)?;
    let mut echo = vec![0; len];
    read(&mut echo)?;
    if echo != bytes {
        return Err(io::Error::other("bytes changed on the way"));
    }
    Ok((seen, own))
}

/// Bytes without a short period, so that a lost, repeated or swapped part shows; they begin as a
/// question does.
fn pattern(len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        (0..len).map(|at| at.wrapping_mul(0x9e37_79b1).to_le_bytes()[3]).collect();
    if let Some(first) = bytes.first_mut() {
        *first = QUESTION;
    }
    bytes
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(clock::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// What happened, in the words of [`Outcome::why`].
fn word(error: &io::Error) -> String {
    /// A read that has a limit ends as one that would have to wait.
    const WORDS: [(io::ErrorKind, &str); 5] = [
        (io::ErrorKind::WouldBlock, "lost"),
        (io::ErrorKind::TimedOut, "lost"),
        (io::ErrorKind::ConnectionRefused, "refused"),
        (io::ErrorKind::HostUnreachable, "unreachable"),
        (io::ErrorKind::NetworkUnreachable, "unreachable"),
    ];
    let word = WORDS.iter().find(|(kind, _)| *kind == error.kind());
    word.map_or_else(|| error.to_string(), |(_, word)| (*word).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Server;

    const SOON: Patience =
        Patience { answer: Duration::from_secs(2), stream: Duration::from_secs(5), attempts: 3 };

    #[test]
    fn a_server_answers_every_check_in_both_families() {
        let server = Server::start(0).unwrap();
        for loopback in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let found = ask((loopback, server.port()).into(), SOON);
            assert!(found.is_good(), "{found:?}");
            assert_eq!(found.seen, Some(loopback));
            let len = |check: Check| found.checks[check as usize].bytes;
            assert_eq!((len(Check::Udp), len(Check::Stream)), (64, 256 << 10));
            assert!(len(Check::Pieces) >= len(Check::Full), "{found:?}");
        }
    }

    #[test]
    fn nobody_listening_is_told_from_silence() {
        // A port that was just given back is nobody's.
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let found = ask((Ipv4Addr::LOCALHOST, port).into(), SOON);
        assert_eq!(found.word(), Some("refused"), "{found:?}");
        assert_eq!(found.checks.len(), 2, "the others say nothing new");

        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let patience = Patience { answer: Duration::from_millis(20), ..SOON };
        let outcome = datagram(Check::Udp, silent.local_addr().unwrap(), patience);
        assert_eq!((outcome.why.as_deref(), outcome.attempts), (Some("lost"), 3));
    }

    #[test]
    fn answers_are_not_answered() {
        let server = Server::start(0).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect((Ipv4Addr::LOCALHOST, server.port())).unwrap();
        let mut bytes = pattern(SMALL);
        bytes[0] = ANSWER;
        socket.send(&bytes).unwrap();
        socket.send(b"").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert_eq!(word(&socket.recv(&mut [0; 100]).unwrap_err()), "lost");
        assert!(datagram(Check::Udp, socket.peer_addr().unwrap(), SOON).ok, "it serves on");
    }

    #[test]
    fn whoever_holds_connections_or_asks_for_too_much_keeps_nobody_out_for_long() {
        let server = Server::start(0).unwrap();
        let to: SocketAddr = (Ipv4Addr::LOCALHOST, server.port()).into();
        let mut greedy = TcpStream::connect(to).unwrap();
        greedy.write_all(&u32::MAX.to_be_bytes()).unwrap();
        let mut end = Vec::new();
        let _ = greedy.read_to_end(&mut end);
        assert!(end.is_empty(), "a length beyond the bound is no question");
        let held: Vec<_> = (0..40).map(|_| TcpStream::connect(to).unwrap()).collect();
        let patience = Patience { stream: Duration::from_secs(2), ..SOON };
        let busy = connection(Check::Tcp, to, SMALL, patience).0;
        assert!(!busy.ok, "all places are taken: {busy:?}");
        drop(held);
        let deadline = clock::now() + Duration::from_secs(10);
        while !connection(Check::Tcp, to, SMALL, patience).0.ok {
            assert!(clock::now() < deadline, "their places come back");
        }
    }
}
