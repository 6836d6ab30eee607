//! Bulk TCP: one sending and one receiving thread for each stream, and the bytes that arrive.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use culvert_lab::clock;
use socket2::SockRef;

use super::{PATIENCE, Pod, pause};
use crate::usage::CpuTime;

/// Bytes of one write and one read: what iperf3 uses.
const BLOCK_LEN: usize = 128 << 10;

/// A stream from one pod to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream<'a> {
    pub(crate) from: &'a Pod,
    pub(crate) to: &'a Pod,
}

/// How long to send: first without counting, then with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timing {
    pub(crate) warm_up: Duration,
    pub(crate) window: Duration,
}

/// What arrived within the window, over all streams, and what it took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moved {
    pub(crate) bytes: u64,
    pub(crate) time: Duration,
    pub(crate) cpu: CpuTime,
}

impl Moved {
    /// Gigabits of payload in a second.
    pub(crate) fn gbits(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.time.as_secs_f64() / 1e9
    }

    /// Seconds of CPU for a gigabyte of payload: of the machine, and of the daemons.
    pub(crate) fn cpu_per_gigabyte(&self) -> (f64, f64) {
        let gigabytes = self.bytes as f64 / 1e9;
        (self.cpu.machine.as_secs_f64() / gigabytes, self.cpu.daemons.as_secs_f64() / gigabytes)
    }
}

/// Sends over all of `streams` at once, as fast as it goes, and counts what arrives.
///
/// # Errors
///
/// A stream cannot be opened or breaks, nothing arrives, or the user interrupts.
pub(crate) fn bulk(streams: &[Stream<'_>], timing: Timing, daemons: &[u32]) -> Result<Moved> {
    let pairs = streams.iter().map(connect).collect::<Result<Vec<(TcpStream, TcpStream)>>>()?;
    let counters: Vec<AtomicU64> = pairs.iter().map(|_| AtomicU64::new(0)).collect();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let threads: Vec<_> = pairs
            .iter()
            .zip(&counters)
            .flat_map(|((sender, receiver), counter)| {
                [
                    scope.spawn(|| send(sender, &stop).context("send")),
                    scope.spawn(|| receive(receiver, counter, &stop).context("receive")),
                ]
            })
            .collect();
        let moved = watch(&counters, timing, daemons);
        stop.store(true, Ordering::Relaxed);
        for socket in pairs.iter().flat_map(|(sender, receiver)| [sender, receiver]) {
            // Wakes whoever waits in it. It may have ended by itself.
            let _ = socket.shutdown(Shutdown::Both);
        }
        let broken = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("a thread ended"))))
            .find_map(Result::err);
        let moved = moved?;
        match broken {
            Some(error) => Err(error),
            None => Ok(moved),
        }
    })
}

/// A connected stream, as its two ends.
pub(super) fn connect(stream: &Stream<'_>) -> Result<(TcpStream, TcpStream)> {
    let Stream { from, to } = stream;
    let listener = to.open("listen", || Ok(TcpListener::bind(SocketAddr::new(to.address, 0))?))?;
    let address = listener.local_addr().context("ask for the server's port")?;
    let sender = from.open("connect", || Ok(TcpStream::connect_timeout(&address, PATIENCE)?))?;
    // The connection is established, so this does not wait.
    let (receiver, _) = listener.accept().context("accept")?;
    for socket in [&sender, &receiver] {
        socket.set_read_timeout(Some(PATIENCE)).context("set a timeout")?;
        socket.set_write_timeout(Some(PATIENCE)).context("set a timeout")?;
        // Closing throws away what is under way, so that it is not there when the next one starts.
        SockRef::from(socket).set_linger(Some(Duration::ZERO)).context("set SO_LINGER")?;
    }
    Ok((sender, receiver))
}

fn watch(counters: &[AtomicU64], timing: Timing, daemons: &[u32]) -> Result<Moved> {
    let total = || counters.iter().map(|counter| counter.load(Ordering::Relaxed)).sum::<u64>();
    pause(timing.warm_up)?;
    let (start, cpu, bytes) = (clock::now(), CpuTime::so_far(daemons)?, total());
    pause(timing.window)?;
    let (end_bytes, time, end_cpu) = (total(), start.elapsed(), CpuTime::so_far(daemons)?);
    ensure!(end_bytes > bytes, "nothing arrived within {:?}", timing.window);
    Ok(Moved { bytes: end_bytes - bytes, time, cpu: end_cpu.since(&cpu) })
}

fn send(mut socket: &TcpStream, stop: &AtomicBool) -> io::Result<()> {
    let block = vec![0x5a; BLOCK_LEN];
    while !stop.load(Ordering::Relaxed) {
        match socket.write(&block) {
            Ok(_) => {}
            Err(_) if stop.load(Ordering::Relaxed) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn receive(mut socket: &TcpStream, counter: &AtomicU64, stop: &AtomicBool) -> io::Result<()> {
    let mut block = vec![0; BLOCK_LEN];
    while !stop.load(Ordering::Relaxed) {
        match socket.read(&mut block) {
            Ok(0) => break,
            Ok(len) => {
                counter.fetch_add(len as u64, Ordering::Relaxed);
            }
            Err(_) if stop.load(Ordering::Relaxed) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
