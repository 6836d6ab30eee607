//! A TCP transfer: whether it arrives, how fast, and whom the server saw.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use socket2::{Domain, SockRef, Socket, Type};

use super::super::netns::Netns;
use crate::clock;

/// Bytes per write and read: large enough that system calls do not bound the rate.
const CHUNK: usize = 256 * 1024;

/// A transfer to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// How much the client sends.
    pub bytes: u64,
    /// How long it may all take.
    pub timeout: Duration,
}

impl Transfer {
    /// A transfer of `bytes`, which may take ten seconds.
    #[must_use]
    pub const fn of(bytes: u64) -> Self {
        Self { bytes, timeout: Duration::from_secs(10) }
    }

    /// The same transfer with another time limit.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// What came of a transfer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TransferReport {
    /// How much the server received.
    pub bytes: u64,
    /// From the first byte to the last, at the server.
    pub elapsed: Duration,
    /// The client's address as the server saw it.
    pub seen: SocketAddr,
    /// The client's address as the client saw it: the same, unless somebody translated.
    pub client: SocketAddr,
}

impl TransferReport {
    /// The rate, in bits per second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a rate has three digits that matter")]
    pub fn bits_per_second(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Sends bytes from the namespace `from` to a server at `address`, which it starts in `to`.
///
/// # Errors
///
/// No connection, no progress, too slow, or bytes that arrived changed.
pub fn transfer(
    from: &Netns,
    to: &Netns,
    address: IpAddr,
    transfer: &Transfer,
) -> Result<TransferReport> {
    let deadline = clock::now() + transfer.timeout;
    let listener = to.run(|| TcpListener::bind(SocketAddr::new(address, 0)))?;
    let listener = listener.with_context(|| format!("listen on {address} in {}", to.name()))?;
    let server = listener.local_addr().context("ask for the server's port")?;
    let client = from
        .run(|| connect(server, transfer.timeout))?
        .with_context(|| format!("connect from {} to {server}", from.name()))?;
    // The client is connected, so the listener has it as soon as the last of three packets arrives,
    // which a network that is being broken may not let through.
    SockRef::from(&listener).set_read_timeout(Some(time_left(deadline)?))?;
    let (accepted, seen) = listener.accept().context("accept the client")?;
    let client_address = client.local_addr().context("ask for the client's address")?;

    let (sent, received) = thread::scope(|scope| {
        let sending = scope.spawn(|| send(&client, transfer.bytes, deadline));
        let received = receive(&accepted, deadline);
        if received.is_err() {
            // Nobody reads any more: let the sender know before its own deadline.
            let _ = accepted.shutdown(Shutdown::Both);
        }
        (sending.join().unwrap_or_else(|_| Err(anyhow!("the sending thread ended"))), received)
    });
    let (bytes, elapsed) = received.with_context(|| format!("receive in {}", to.name()))?;
    sent.with_context(|| format!("send from {}", from.name()))?;
    ensure!(bytes == transfer.bytes, "{bytes} of {} bytes arrived", transfer.bytes);
    Ok(TransferReport { bytes, elapsed, seen, client: client_address })
}

fn connect(server: SocketAddr, timeout: Duration) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
    socket.connect_timeout(&server.into(), timeout)?;
    Ok(socket.into())
}

fn send(mut stream: &TcpStream, bytes: u64, deadline: Instant) -> Result<()> {
    let chunk = pattern();
    let mut left = bytes;
    while left > 0 {
        stream.set_write_timeout(Some(time_left(deadline)?))?;
        let len = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
        stream.write_all(chunk.get(..len).unwrap_or(&chunk))?;
        left -= len as u64;
    }
    stream.shutdown(Shutdown::Write).context("end the transfer")
}

fn receive(mut stream: &TcpStream, deadline: Instant) -> Result<(u64, Duration)> {
    let expected = pattern();
    let mut buffer = vec![0; CHUNK];
    let mut total: u64 = 0;
    let mut first: Option<Instant> = None;
    loop {
        stream.set_read_timeout(Some(time_left(deadline)?))?;
        // The pattern repeats at every chunk: read up to its end, and compare with its place.
        let offset = usize::try_from(total % CHUNK as u64).unwrap_or(0);
        let room = buffer.get_mut(offset..).unwrap_or_default();
        let len = match stream.read(room) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            len => len.with_context(|| format!("after {total} bytes"))?,
        };
        let start = *first.get_or_insert_with(clock::now);
        if len == 0 {
            return Ok((total, start.elapsed()));
        }
        if buffer.get(offset..offset + len) != expected.get(offset..offset + len) {
            bail!("bytes changed on the way, within {len} after the first {total}");
        }
        total += len as u64;
    }
}

/// A chunk of bytes without a period, so that a lost, repeated or swapped segment shows.
fn pattern() -> Vec<u8> {
    (0..CHUNK).map(|position| position.wrapping_mul(0x9e37_79b1).to_le_bytes()[3]).collect()
}

fn time_left(deadline: Instant) -> Result<Duration> {
    let left = deadline.saturating_duration_since(clock::now());
    if left.is_zero() {
        bail!("it takes too long");
    }
    Ok(left)
}
