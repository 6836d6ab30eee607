//! The end that answers: a TCP and a UDP socket with one port.
//!
//! Runs on threads of its own, one for each connection. Whoever reaches the port can hold 32
//! connections for five seconds and 256 KiB each; more are closed at once. A datagram is answered
//! by one of its own length, and only if it is a question, so that two servers never keep each
//! other busy.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use socket2::{Domain, Socket, Type};

/// The port of a server that was not told another.
pub const DEFAULT_PORT: u16 = 4794;

/// Connections at once.
const CONNECTIONS: usize = 32;
/// How long one may last.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most that a connection may send.
pub(crate) const MOST: usize = 256 << 10;

/// What a datagram begins with.
pub(crate) const QUESTION: u8 = b'?';
pub(crate) const ANSWER: u8 = b'!';

/// A server that answers for as long as the program runs.
#[derive(Debug)]
pub struct Server {
    port: u16,
}

impl Server {
    /// Listens on `port` of every address, 0 for one of the kernel's choice, and answers on threads
    /// of its own.
    ///
    /// # Errors
    ///
    /// The port is taken, or the kernel has no sockets.
    pub fn start(port: u16) -> Result<Self> {
        let listener = listen(Type::STREAM, port)?;
        listener.listen(128).context("listen for connections")?;
        let listener: TcpListener = listener.into();
        let port = listener.local_addr().context("ask for the port")?.port();
        let datagrams: UdpSocket = listen(Type::DGRAM, port)?.into();
        let start = |name: &str| thread::Builder::new().name(name.to_owned());
        start("connections").spawn(move || accept(&listener)).context("start a thread")?;
        start("datagrams").spawn(move || echo(&datagrams)).context("start a thread")?;
        Ok(Self { port })
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

/// A socket for both families, or for IPv4 where the kernel has no IPv6.
fn listen(kind: Type, port: u16) -> Result<Socket> {
    let bind = |domain, address: SocketAddr| {
        let socket = Socket::new(domain, kind, None)?;
        if domain == Domain::IPV6 {
            socket.set_only_v6(false)?;
        }
        if kind == Type::STREAM {
            socket.set_reuse_address(true)?;
        }
        socket.bind(&address.into())?;
        Ok::<_, io::Error>(socket)
    };
    let both = bind(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, port).into());
    let unavailable = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
    match both {
        Ok(socket) => Ok(socket),
        Err(error) if unavailable(&error) => Err(error),
        Err(_) => bind(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, port).into()),
    }
    .with_context(|| format!("listen on port {port}"))
}

fn accept(listener: &TcpListener) {
    let held = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // Out of descriptors, which those that are held give back.
            thread::sleep(Duration::from_millis(50));
            continue;
        };
        if held.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS {
            held.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let guard = Guard(Arc::clone(&held));
        let _ = thread::Builder::new().spawn(move || {
            let _guard = guard;
            let _ = converse(stream);
        });
    }
}

/// A connection's place.
struct Guard(Arc<AtomicUsize>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Takes a length and as many bytes; says as whom the asker is seen, and gives the bytes back.
fn converse(mut stream: TcpStream) -> io::Result<()> {
    let end = crate::clock::now() + PATIENCE;
    let wait = || {
        let left = end.saturating_duration_since(crate::clock::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut) } else { Ok(Some(left)) }
    };
    let seen = stream.peer_addr()?.ip().to_canonical().to_string();
    let mut len = [0; 4];
    stream.set_read_timeout(wait()?)?;
    stream.read_exact(&mut len)?;
    let len = usize::try_from(u32::from_be_bytes(len)).unwrap_or(usize::MAX);
    if len > MOST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while let Some(room) = bytes.get_mut(filled..).filter(|room| !room.is_empty()) {
        stream.set_read_timeout(wait()?)?;
        match stream.read(room)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => filled += read,
        }
    }
    let mut answer = vec![u8::try_from(seen.len()).unwrap_or(u8::MAX)];
    answer.extend(seen.as_bytes());
    answer.append(&mut bytes);
    let mut left = answer.as_slice();
    while !left.is_empty() {
        stream.set_write_timeout(wait()?)?;
        let written = stream.write(left)?;
        left = left.get(written..).unwrap_or_default();
    }
    Ok(())
}

fn echo(datagrams: &UdpSocket) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let Ok((len, from)) = datagrams.recv_from(&mut buffer) else {
            // What an answer before ran into; nobody waits for it here.
            continue;
        };
        let Some([first, ..]) = buffer.get_mut(..len) else { continue };
        if *first == QUESTION {
            *first = ANSWER;
            let _ = datagrams.send_to(buffer.get(..len).unwrap_or_default(), from);
        }
    }
}
