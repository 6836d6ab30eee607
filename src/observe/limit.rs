//! A listener whose connections are bounded in number, time and size, and which always has room.
//!
//! Whoever can reach the port can open connections and hold them. A new connection is therefore
//! never kept waiting: when all slots are taken, one that is held goes, out of those of the client
//! that holds the most. A probe that comes, asks and goes is served in a moment of which nobody can
//! rob it without opening connections faster than they are served.

use std::future::Future as _;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};

/// Connections at once.
const CONNECTIONS: usize = 64;

/// Time from the first byte to the end of a request, and bytes of all requests of one connection: a
/// probe's and a scraper's have some hundreds.
const REQUEST_PATIENCE: Duration = Duration::from_secs(5);
const REQUEST_LEN: usize = 16 << 10;

/// Time that one connection may last; scrapers connect anew.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Limited {
    listener: TcpListener,
    slots: Arc<Mutex<Slots>>,
    patience: Duration,
}

impl Limited {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self::lasting(listener, PATIENCE)
    }

    /// The same with connections that may last so long after they have asked.
    pub(crate) fn lasting(listener: TcpListener, patience: Duration) -> Self {
        Self { listener, slots: Arc::default(), patience }
    }
}

impl Listener for Limited {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.listener).await;
        let (number, told_to_go) = lock(&self.slots).take(address.ip());
        let now = Instant::now();
        let slot = Slot { number, slots: Arc::clone(&self.slots) };
        let connection = Connection {
            stream,
            told_to_go,
            is_over: false,
            deadline: Box::pin(sleep_until(now + REQUEST_PATIENCE)),
            end: now + self.patience,
            left: REQUEST_LEN,
            _slot: slot,
        };
        (connection, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Who holds a connection, the oldest first.
#[derive(Default)]
struct Slots {
    next: u64,
    taken: Vec<Taken>,
}

struct Taken {
    number: u64,
    client: IpAddr,
    /// Ends the connection when it is dropped.
    _hold: oneshot::Sender<()>,
}

impl Slots {
    /// Gives a slot to a connection of `address`; the other end tells it when it has lost it.
    fn take(&mut self, address: IpAddr) -> (u64, oneshot::Receiver<()>) {
        let client = client(address);
        if self.taken.len() >= CONNECTIONS {
            let held = |client| self.taken.iter().filter(|taken| taken.client == client).count();
            // The new one counts too, so that a client with as many as the others pays for its own.
            let share = |taken: &Taken| held(taken.client) + usize::from(taken.client == client);
            let most = self.taken.iter().map(share).max().unwrap_or_default();
            if let Some(oldest) = self.taken.iter().position(|taken| share(taken) == most) {
                self.taken.remove(oldest);
            }
        }
        self.next += 1;
        let (hold, told_to_go) = oneshot::channel();
        self.taken.push(Taken { number: self.next, client, _hold: hold });
        (self.next, told_to_go)
    }

    fn give_back(&mut self, number: u64) {
        self.taken.retain(|taken| taken.number != number);
    }
}

/// What counts as one client: an IPv4 address, or the 64 bits of an IPv6 address that lead to a
/// link.
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into()
        }
        address @ (IpAddr::V4(_) | IpAddr::V6(_)) => address,
    }
}

fn lock(slots: &Mutex<Slots>) -> std::sync::MutexGuard<'_, Slots> {
    slots.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A slot that is given back when this is dropped.
struct Slot {
    number: u64,
    slots: Arc<Mutex<Slots>>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.slots).give_back(self.number);
    }
}

/// A connection that holds a slot and ends in time.
pub(crate) struct Connection {
    stream: TcpStream,
    told_to_go: oneshot::Receiver<()>,
    is_over: bool,
    /// When the request must be there, and later when the connection ends.
    deadline: Pin<Box<Sleep>>,
    end: Instant,
    /// Bytes that may still be asked with.
    left: usize,
    _slot: Slot,
}

impl Connection {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.is_over = self.is_over
            || Pin::new(&mut self.told_to_go).poll(cx).is_ready()
            || self.deadline.as_mut().poll(cx).is_ready();
        if self.is_over { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }

    /// It has asked, so that it may have its answer.
    fn extend(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.check(cx)?;
        let end = self.end;
        if self.deadline.deadline() != end {
            self.deadline.as_mut().reset(end);
            // So that the new deadline wakes this task.
            self.check(cx)?;
        }
        Ok(())
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        match self.left.checked_sub(buf.filled().len() - before) {
            Some(left) => self.left = left,
            None => return Poll::Ready(Err(io::ErrorKind::FileTooLarge.into())),
        }
        result
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.extend(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    // Else a long answer would be copied for each connection.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.extend(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CROWD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn others() -> impl Iterator<Item = IpAddr> {
        (1..).map(|number: u8| IpAddr::from([192, 168, 1, number]))
    }

    fn is_held(receiver: &mut oneshot::Receiver<()>) -> bool {
        matches!(receiver.try_recv(), Err(oneshot::error::TryRecvError::Empty))
    }

    #[test]
    fn the_newest_connection_always_has_a_slot_and_the_oldest_goes() {
        let mut slots = Slots::default();
        let mut held: Vec<_> = (0..3 * CONNECTIONS).map(|_| slots.take(CROWD).1).collect();
        let alive: Vec<bool> = held.iter_mut().map(is_held).collect();
        let expected: Vec<bool> =
            (0..3 * CONNECTIONS).map(|number| number >= 2 * CONNECTIONS).collect();
        assert_eq!(alive, expected);
        assert_eq!(slots.taken.len(), CONNECTIONS);
    }

    #[test]
    fn who_holds_the_most_loses_and_nobody_else() {
        let mut slots = Slots::default();
        let few: Vec<IpAddr> = others().take(10).collect();
        let mut first: Vec<_> = few.iter().map(|client| slots.take(*client).1).collect();
        for _ in 0..10 * CONNECTIONS {
            slots.take(CROWD);
        }
        assert!(first.iter_mut().all(is_held));
        // Ten of a link are one client.
        let one = "2001:db8::1".parse().unwrap();
        let other = "2001:db8::ffff".parse().unwrap();
        assert_eq!(client(one), client(other));
        assert_ne!(client(one), client("2001:db8:0:1::1".parse().unwrap()));
    }

    #[test]
    fn a_slot_that_is_given_back_costs_nobody_his() {
        let mut slots = Slots::default();
        let mut held: Vec<_> = (0..CONNECTIONS).map(|_| slots.take(CROWD)).collect();
        slots.give_back(held[7].0);
        let (_, _new) = slots.take(CROWD);
        let alive =
            held.iter_mut().map(|(_, receiver)| usize::from(is_held(receiver))).sum::<usize>();
        assert_eq!(alive, CONNECTIONS - 1);
    }
}
