//! Datagrams from pod to pod, one each millisecond, and which of them arrive: when a change of the
//! rules is in force is when the first one comes through, or the last.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use culvert_lab::{clock, interrupt};

use crate::traffic::Pod;

/// Time between two datagrams: how exactly the moment is known.
const PACE: Duration = Duration::from_millis(1);

/// How long nothing arrives before it counts as cut.
const SILENCE: Duration = Duration::from_millis(150);

/// How long a change may take until it counts as lost.
const LIMIT: Duration = Duration::from_secs(20);

/// Which datagrams begin flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flows {
    /// Each of them.
    New,
    /// The first alone. It is answered, as all are: a flow without an answer counts as new with
    /// each of its packets (`nf_conntrack`), and needs no cutting.
    One,
}

/// When each datagram was sent, and whether it has arrived.
#[derive(Default)]
struct Seen {
    sent: Vec<Instant>,
    arrived: Vec<bool>,
}

/// The datagrams, until this is dropped.
pub(super) struct Prober {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Prober {
    /// Begins to send from one pod to a port of the other.
    pub(super) fn start(from: &Pod, to: &Pod, port: u16, flows: Flows) -> Result<Self> {
        let to_address = SocketAddr::new(to.address, port);
        let receiver = to.netns.run(|| UdpSocket::bind(to_address))?.context("bind")?;
        receiver.set_read_timeout(Some(Duration::from_millis(20))).context("set a timeout")?;
        let seen = Arc::<Mutex<Seen>>::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (seen_there, stop_there) = (Arc::clone(&seen), Arc::clone(&stop));
        let receiving = thread::spawn(move || {
            let mut buffer = [0; 16];
            while !stop_there.load(Ordering::Relaxed) {
                let Ok((length, sender)) = receiver.recv_from(&mut buffer) else { continue };
                if flows == Flows::One {
                    // Whether it arrives does not matter.
                    let _answered = receiver.send_to(&buffer[..length], sender);
                }
                let number = buffer[..length].try_into().map(u64::from_be_bytes);
                let mut seen = seen_there.lock().unwrap_or_else(PoisonError::into_inner);
                if let Ok(number) = number
                    && let Some(arrived) = seen.arrived.get_mut(number as usize)
                {
                    *arrived = true;
                }
            }
        });
        let (netns, address) = (from.netns.clone(), from.address);
        let (seen_here, stop_here) = (Arc::clone(&seen), Arc::clone(&stop));
        let sending = thread::spawn(move || {
            // Ends with the bench; what it could not send did not arrive.
            let _ended = netns.run(|| {
                let _sent = send(address, to_address, flows, &seen_here, &stop_here);
            });
        });
        Ok(Self { seen, stop, threads: vec![receiving, sending] })
    }

    /// How many were sent, and how many arrived.
    pub(super) fn counts(&self) -> (usize, usize) {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        (seen.sent.len(), seen.arrived.iter().filter(|arrived| **arrived).count())
    }

    /// Waits until a datagram that was sent after `begin` arrives, and says when that was sent.
    pub(super) fn until_open(&self, begin: Instant) -> Result<Duration> {
        self.wait(|seen| {
            let first = seen.sent.partition_point(|sent| *sent < begin);
            let after = seen.sent[first..].iter().zip(&seen.arrived[first..]);
            let mut after = after.filter(|(_, arrived)| **arrived);
            after.next().map(|(sent, _)| sent.duration_since(begin))
        })
    }

    /// Waits until none arrives any more, and says when the last one that did was sent.
    pub(super) fn until_closed(&self, begin: Instant) -> Result<Duration> {
        self.wait(|seen| {
            let last = seen.arrived.iter().rposition(|arrived| *arrived).map(|at| seen.sent[at]);
            let last = last.unwrap_or(begin).max(begin);
            let newest = *seen.sent.last()?;
            (newest.duration_since(last) >= SILENCE).then(|| last.duration_since(begin))
        })
    }

    fn wait(&self, mut done: impl FnMut(&Seen) -> Option<Duration>) -> Result<Duration> {
        let start = clock::now();
        while start.elapsed() < LIMIT {
            interrupt::check()?;
            let found = done(&self.seen.lock().unwrap_or_else(PoisonError::into_inner));
            if let Some(took) = found {
                return Ok(took);
            }
            thread::sleep(Duration::from_millis(2));
        }
        bail!("a change was not in force after {LIMIT:?}")
    }
}

fn send(
    from: std::net::IpAddr,
    to: SocketAddr,
    flows: Flows,
    seen: &Mutex<Seen>,
    stop: &AtomicBool,
) -> io::Result<()> {
    let open = || {
        let socket = UdpSocket::bind(SocketAddr::new(from, 0))?;
        socket.connect(to)?;
        Ok::<_, io::Error>(socket)
    };
    let mut socket = open()?;
    let start = clock::now();
    let mut number: u32 = 0;
    while !stop.load(Ordering::Relaxed) {
        if flows == Flows::New {
            socket = open()?;
        }
        {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.sent.push(clock::now());
            seen.arrived.push(false);
        }
        // A datagram that is dropped here is one that did not arrive.
        let _sent = socket.send(&u64::from(number).to_be_bytes());
        number += 1;
        thread::sleep((PACE * number).saturating_sub(start.elapsed()));
    }
    Ok(())
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ended = thread.join();
        }
    }
}
