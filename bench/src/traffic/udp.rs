//! UDP packets at a given rate, to one pod or to several in turn, and how many arrive.
//!
//! Each packet is a datagram of its own from the sending socket on: messages go to the kernel many
//! at a time (`sendmmsg`), but never as one to be cut apart, which would measure the sender's
//! offload.

use std::io::{self, IoSlice};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use culvert_lab::clock;
use culvert_lab::interrupt;
use rustix::net::addr::SocketAddrArg as _;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg};
use socket2::SockRef;

use super::{PATIENCE, Pod};
use crate::search::{Search, Trial};

/// Messages in one call at most.
const BATCH: usize = 32;

/// How long the sender sleeps when it is ahead, and the receiver when nothing is there. Packets
/// come in bursts of what is due after this and the kernel's timer slack (50 µs): at 200,000
/// packets a second, of thirty.
const NAP: Duration = Duration::from_micros(100);

/// What a sender that was kept from running makes up for. More would be a burst that no application
/// sends and that only tests how long queues are.
const MAX_LAG: Duration = Duration::from_millis(1);

/// How long the receiver waits for stragglers once the sender has stopped.
const SETTLE: Duration = Duration::from_millis(30);

/// The receiver's buffer: what arrives while the receiver sleeps or waits for a CPU must not be
/// lost to the socket, which is no part of the network.
const RECEIVE_BUFFER_LEN: usize = 4 << 20;

/// Sockets to try rates on.
pub(crate) struct Flow {
    sender: UdpSocket,
    receivers: Vec<UdpSocket>,
    /// What is sent, in turn.
    messages: Vec<Message>,
    trial: u64,
}

struct Message {
    /// None if the socket knows.
    to: Option<SocketAddrAny>,
    payload: Vec<u8>,
}

/// How a search is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hunt {
    /// Where it starts.
    pub(crate) start_pps: f64,
    /// How it strides at first.
    pub(crate) stride: f64,
    /// How long one rate is tried.
    pub(crate) trial: Duration,
}

impl Hunt {
    /// A search of trials this long that starts near `last`, thousands of packets per second, if
    /// that is known.
    pub(crate) fn near(last: Option<f64>, trial: Duration) -> Self {
        let (start_pps, stride) = match last {
            Some(last) => (last * 1000.0 * 0.97, 1.08),
            None => (60_000.0, 1.5),
        };
        Self { start_pps, stride, trial }
    }
}

/// Packets of one trial.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offered {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    took: Duration,
}

impl Offered {
    fn rates(&self) -> Trial {
        let per_second = |packets: u64| packets as f64 / self.took.as_secs_f64();
        Trial { offered_pps: per_second(self.sent), delivered_pps: per_second(self.received) }
    }
}

impl Flow {
    /// Opens a flow of packets to these pods in turn, each with so many bytes of payload.
    pub(crate) fn open(from: &Pod, to: &[(&Pod, usize)]) -> Result<Self> {
        let sender = from.open("bind", || {
            let socket = UdpSocket::bind(SocketAddr::new(from.address, 0))?;
            SockRef::from(&socket).set_write_timeout(Some(PATIENCE))?;
            Ok(socket)
        })?;
        // One socket for each pod, and the place of each packet's.
        let mut pods: Vec<(&Pod, UdpSocket)> = Vec::new();
        let mut messages = Vec::with_capacity(to.len());
        for (pod, payload_len) in to {
            let known = pods.iter().position(|(known, _)| known.address == pod.address);
            let place = known.unwrap_or(pods.len());
            if known.is_none() {
                pods.push((pod, receiver(pod)?));
            }
            let address = pods[place].1.local_addr().context("ask for the receiver's port")?;
            messages
                .push(Message { to: Some(address.as_any()), payload: vec![0x5a; *payload_len] });
        }
        if let [message] = &mut messages[..] {
            let address = pods[0].1.local_addr().context("ask for the receiver's port")?;
            from.open("connect", || Ok(sender.connect(address)?))?;
            message.to = None;
        }
        let receivers = pods.into_iter().map(|(_, socket)| socket).collect();
        Ok(Self { sender, receivers, messages, trial: 0 })
    }

    /// Searches for the highest rate with little loss; packets per second.
    ///
    /// # Errors
    ///
    /// A socket fails, or the user interrupts.
    pub(crate) fn highest_rate(&mut self, hunt: Hunt) -> Result<f64> {
        // The first packets find neighbours and fill caches.
        self.offer(5000.0, Duration::from_millis(50))?;
        let mut search = Search::new(hunt.start_pps, hunt.stride);
        while let Some(rate) = search.next_rate() {
            interrupt::check()?;
            search.record(&self.offer(rate, hunt.trial)?.rates());
        }
        Ok(search.best_pps())
    }

    /// Sends at `rate` packets per second for `time`, and counts.
    ///
    /// # Errors
    ///
    /// A socket fails, or could not send at all.
    pub(crate) fn offer(&mut self, rate: f64, time: Duration) -> Result<Offered> {
        self.trial += 1;
        let tag = self.trial.to_ne_bytes();
        for message in &mut self.messages {
            message.payload[..tag.len()].copy_from_slice(&tag);
        }
        let stop = AtomicBool::new(false);
        let (sent, received) = thread::scope(|scope| {
            let receiving = scope.spawn(|| count(&self.receivers, tag, &stop));
            let sent = send(&self.sender, &self.messages, rate, time);
            stop.store(true, Ordering::Relaxed);
            let received = receiving.join().unwrap_or_else(|_| Err(io::Error::other("it ended")));
            (sent, received)
        });
        let (sent, took) = sent.context("send packets")?;
        let received = received.context("receive packets")?;
        if sent == 0 {
            return Err(anyhow!("no packet was sent"));
        }
        Ok(Offered { sent, received, took })
    }
}

fn receiver(pod: &Pod) -> Result<UdpSocket> {
    pod.open("bind", || {
        let socket = UdpSocket::bind(SocketAddr::new(pod.address, 0))?;
        socket.set_nonblocking(true)?;
        // Root may exceed the system's limit, but socket2 does not know how to say so.
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_LEN)?;
        Ok(socket)
    })
}

/// Sends `messages` in turn at `rate` for `time`; how many, and how long it really took.
fn send(
    socket: &UdpSocket,
    messages: &[Message],
    rate: f64,
    time: Duration,
) -> io::Result<(u64, Duration)> {
    let most_due = (MAX_LAG.as_secs_f64() * rate).max(1.0);
    let start = clock::now();
    // Packets that were due and that a late sender does not make up for.
    let (mut sent, mut forgiven) = (0_u64, 0.0);
    loop {
        let elapsed = start.elapsed();
        if elapsed >= time {
            return Ok((sent, elapsed));
        }
        let mut due = elapsed.as_secs_f64() * rate - sent as f64 - forgiven;
        if due > most_due {
            forgiven += due - most_due;
            due = most_due;
        }
        if due < 1.0 {
            thread::sleep(NAP);
        } else {
            let first = (sent % messages.len() as u64) as usize;
            let turn = messages.iter().cycle().skip(first).take((due as usize).min(BATCH));
            sent += send_batch(socket.as_fd(), turn)? as u64;
        }
    }
}

/// Sends `batch`, at most [`BATCH`] messages; how many the kernel took. A full queue costs the
/// packet, as on the way, and counts as sent.
fn send_batch<'a>(
    socket: impl AsFd,
    batch: impl Iterator<Item = &'a Message>,
) -> io::Result<usize> {
    let batch: Vec<(&Message, [IoSlice<'_>; 1])> =
        batch.map(|message| (message, [IoSlice::new(&message.payload)])).collect();
    let mut controls: [SendAncillaryBuffer<'_, '_, '_>; BATCH] = Default::default();
    let mut messages: Vec<MMsgHdr<'_>> = batch
        .iter()
        .zip(&mut controls)
        .map(|((message, iov), control)| match &message.to {
            Some(to) => MMsgHdr::new_with_addr(to, iov, control),
            None => MMsgHdr::new(iov, control),
        })
        .collect();
    match sendmmsg(socket, &mut messages, SendFlags::empty()) {
        Ok(taken) => Ok(taken),
        Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::AGAIN) => Ok(1),
        Err(error) => Err(error.into()),
    }
}

/// Counts the packets that begin with `tag`, until `stop` is set and no more come.
///
/// Takes what is there and sleeps. A receiver that waited in the socket would have to be woken for
/// each packet, which on a virtual machine costs the sender more than sending.
fn count(sockets: &[UdpSocket], tag: [u8; 8], stop: &AtomicBool) -> io::Result<u64> {
    let mut received = 0;
    let mut last_arrival = clock::now();
    loop {
        let mut found = false;
        for socket in sockets {
            found |= drain(socket, tag, &mut received)?;
        }
        if found {
            last_arrival = clock::now();
        } else if stop.load(Ordering::Relaxed) && last_arrival.elapsed() >= SETTLE {
            return Ok(received);
        } else {
            thread::sleep(NAP);
        }
    }
}

/// Takes what is there, and adds the packets that begin with `tag` to `received`; says whether
/// there was anything.
fn drain(socket: &UdpSocket, tag: [u8; 8], received: &mut u64) -> io::Result<bool> {
    let mut found = false;
    let mut buffer = [0; 2048];
    loop {
        match socket.recv(&mut buffer) {
            Ok(_) => {
                // Anything else is a straggler of an earlier trial.
                *received += u64::from(buffer[..tag.len()] == tag);
                found = true;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(found),
            Err(error) => return Err(error),
        }
    }
}
