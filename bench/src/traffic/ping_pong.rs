//! One small message there and back, again and again: latency without load.
//!
//! The two ends stay on different CPUs, as pods on different nodes do. Left to itself the scheduler
//! puts them now on one and now on two, which doubles what a message takes, or does not.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use culvert_lab::clock;
use culvert_lab::interrupt;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::tcp::{self, Stream};
use super::{PATIENCE, Pod};
use crate::statistics::percentile;

/// Bytes of a message.
const MESSAGE_LEN: usize = 64;

/// Exchanges before counting: caches, neighbours and handshakes.
const WARM_UP: usize = 200;

/// How long to wait for a datagram before sending the next: it is lost.
const UDP_PATIENCE: Duration = Duration::from_millis(100);

/// The protocol of the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

/// Times from one pod to the other: halves of round trips.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Latency {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

/// Exchanges messages for `time`.
///
/// # Errors
///
/// The pods do not reach each other, or the user interrupts.
pub(crate) fn run(transport: Transport, from: &Pod, to: &Pod, time: Duration) -> Result<Latency> {
    let places = Places::find();
    let exchange = || {
        pin(places.client);
        match transport {
            Transport::Tcp => over_tcp(from, to, time, places.server),
            Transport::Udp => over_udp(from, to, time, places.server),
        }
    };
    // A thread of its own, because it stays pinned.
    let trips = thread::scope(|scope| scope.spawn(exchange).join());
    let mut trips = trips.unwrap_or_else(|_| Err(anyhow!("a thread ended")))?;
    trips.sort_unstable();
    let half = |per_mille| percentile(&trips, per_mille).map(|trip| trip / 2);
    let (p50, p99) = half(500).zip(half(990)).context("no message came back")?;
    Ok(Latency { p50, p99 })
}

fn over_tcp(from: &Pod, to: &Pod, time: Duration, cpu: Option<usize>) -> Result<Vec<Duration>> {
    let (client, server) = tcp::connect(&Stream { from, to })?;
    for socket in [&client, &server] {
        socket.set_nodelay(true).context("set TCP_NODELAY")?;
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(cpu);
            let mut message = [0; MESSAGE_LEN];
            let mut server = &server;
            // The client's end ends it.
            while server.read_exact(&mut message).is_ok() && server.write_all(&message).is_ok() {}
        });
        let trips = exchange(time, || {
            let mut message = [0x5a; MESSAGE_LEN];
            (&client).write_all(&message)?;
            (&client).read_exact(&mut message)?;
            Ok(Outcome::Back)
        });
        let _ = client.shutdown(Shutdown::Both);
        trips
    })
}

fn over_udp(from: &Pod, to: &Pod, time: Duration, cpu: Option<usize>) -> Result<Vec<Duration>> {
    let server = to.open("bind", || Ok(UdpSocket::bind(SocketAddr::new(to.address, 0))?))?;
    let client = from.open("bind", || Ok(UdpSocket::bind(SocketAddr::new(from.address, 0))?))?;
    let ends = (client.local_addr().context("ask for a port")?, server.local_addr()?);
    client.connect(ends.1).context("connect")?;
    server.connect(ends.0).context("connect")?;
    client.set_read_timeout(Some(UDP_PATIENCE)).context("set a timeout")?;
    server.set_read_timeout(Some(PATIENCE)).context("set a timeout")?;
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(cpu);
            let mut message = [0; MESSAGE_LEN];
            // A short message is the client's last word.
            while let Ok(MESSAGE_LEN) = server.recv(&mut message) {
                let _ = server.send(&message);
            }
        });
        let mut number = 0_u64;
        let trips = exchange(time, || {
            number += 1;
            let mut message = [0x5a; MESSAGE_LEN];
            message[..8].copy_from_slice(&number.to_ne_bytes());
            client.send(&message)?;
            loop {
                match client.recv(&mut message) {
                    // Anything else is late, and its trip was given up.
                    Ok(_) if message[..8] == number.to_ne_bytes() => return Ok(Outcome::Back),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        return Ok(Outcome::Lost);
                    }
                    Err(error) => return Err(error),
                }
            }
        });
        // Wakes the server even if the network loses the last word.
        let _ = client.send(&[]);
        let _ = socket2::SockRef::from(&server).shutdown(Shutdown::Both);
        trips
    })
}

/// A CPU for each end: the first and the last that this process may use; none where the kernel
/// does not say.
#[derive(Clone, Copy)]
struct Places {
    client: Option<usize>,
    server: Option<usize>,
}

impl Places {
    /// Of the calling thread, which must not be pinned yet.
    fn find() -> Self {
        let Ok(allowed) = sched_getaffinity(None) else {
            return Self { client: None, server: None };
        };
        let mut cpus = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
        let client = cpus.next();
        Self { client, server: cpus.next_back().or(client) }
    }
}

/// Keeps the calling thread on `cpu`.
fn pin(cpu: Option<usize>) {
    if let Some(cpu) = cpu {
        let mut set = CpuSet::new();
        set.set(cpu);
        // One of those that were allowed; where it fails all the same, nothing is pinned.
        let _ = sched_setaffinity(None, &set);
    }
}

enum Outcome {
    Back,
    Lost,
}

/// Makes trips for `time` and returns how long each took that ended.
fn exchange(
    time: Duration,
    mut trip: impl FnMut() -> io::Result<Outcome>,
) -> Result<Vec<Duration>> {
    let mut lost = 0;
    for _ in 0..WARM_UP {
        if matches!(trip().context("exchange messages")?, Outcome::Lost) {
            lost += 1;
            // A handful may go while a tunnel is being set up.
            ensure!(lost < 20, "no message comes back");
            interrupt::check()?;
        }
    }
    let mut trips = Vec::with_capacity(1 << 16);
    let start = clock::now();
    let mut last = Duration::ZERO;
    while last < time {
        let outcome = trip().context("exchange messages")?;
        let now = start.elapsed();
        match outcome {
            Outcome::Back => trips.push(now.saturating_sub(last)),
            Outcome::Lost => interrupt::check()?,
        }
        last = now;
    }
    interrupt::check()?;
    Ok(trips)
}
