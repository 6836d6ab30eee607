//! From a change in the source to every node forwarding by it.
//!
//! Every node sends a packet to a pod of the mover each [`PACE`]. The mover's address in the source
//! changes, and the switch, which has both addresses, listens at the new one: a node forwards by
//! the change when its first datagram arrives there.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use culvert_lab::clock;
use culvert_lab::{Lab, UNDERLAY_PORT, interrupt};
use serde::Serialize;

use super::stage::{Kind, MOVER_POD, PLACES, Stage};
use crate::programs::Programs;
use crate::progress::Progress;
use crate::statistics::percentile;
use crate::traffic::pause;

/// Nodes that have to learn of a change.
pub(super) const NODES: u16 = 8;

/// Time between two packets of a node: how exactly the moment is known.
const PACE: Duration = Duration::from_millis(2);

/// How long the listener sleeps when nothing is there.
const NAP: Duration = Duration::from_micros(200);

/// How long a change may take until it counts as lost.
const LIMIT: Duration = Duration::from_secs(20);

/// Changes that do not count: the first packets find neighbours.
const WARM_UP: usize = 2;

/// How long it took, by change.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Spread {
    /// Until the last of the nodes forwarded by it, in ms, in ascending order.
    pub(super) slowest_ms: Vec<f64>,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
}

/// How long `rounds` changes will take.
pub(super) fn duration(rounds: usize) -> Duration {
    Duration::from_millis(400) * u32::try_from(rounds + WARM_UP).unwrap_or(u32::MAX)
}

pub(super) fn measure(
    kind: Kind,
    programs: &Programs,
    rounds: usize,
    progress: &mut Progress,
) -> Result<Spread> {
    progress.say(&format!("{}: building {NODES} nodes", kind.name()));
    let mut stage = Stage::build(kind, programs, NODES, 0)?;
    stage.start()?;
    let listeners = listeners(&stage.lab)?;
    let senders = senders(&stage.lab)?;
    progress.step(
        &format!("{}: {rounds} changes, seen by {NODES} nodes", kind.name()),
        duration(rounds),
    );
    let stop = AtomicBool::new(false);
    let times = thread::scope(|scope| {
        let sending = scope.spawn(|| send(&senders, &stop));
        let times = changes(&mut stage, &listeners, rounds);
        stop.store(true, Ordering::Relaxed);
        let sent = sending.join().map_err(|_| anyhow!("the sender ended"))?;
        sent.context("send packets")?;
        times
    })?;
    let at = |per_mille| percentile(&times, per_mille).map_or(f64::NAN, ms);
    Ok(Spread {
        p50_ms: at(500),
        p99_ms: at(990),
        slowest_ms: times.iter().copied().map(ms).collect(),
    })
}

fn changes(stage: &mut Stage, listeners: &[UdpSocket; 2], rounds: usize) -> Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(rounds);
    for round in 0..rounds + WARM_UP {
        // Of varying length, so that a source that is looked at in turns is met at every phase.
        pause(Duration::from_millis(100 + 37 * (round as u64) % 200))?;
        let place = (round + 1) % PLACES.len();
        listeners.iter().try_for_each(drain).context("listen")?;
        let took = change(stage, place, &listeners[place])
            .with_context(|| format!("change {}", round + 1))?;
        if round >= WARM_UP {
            times.push(took);
        }
    }
    times.sort_unstable();
    Ok(times)
}

/// Moves the mover; how long until every node sends there.
fn change(stage: &mut Stage, place: usize, listener: &UdpSocket) -> Result<Duration> {
    let nodes: Vec<IpAddr> = stage.lab.nodes().iter().map(culvert_lab::Node::address).collect();
    let start = clock::now();
    thread::scope(|scope| {
        let changing = scope.spawn(|| stage.move_to(place));
        let mut seen: BTreeMap<IpAddr, Duration> = BTreeMap::new();
        let mut buffer = [0; 2048];
        while seen.len() < nodes.len() {
            match listener.recv_from(&mut buffer) {
                Ok((_, from)) if nodes.contains(&from.ip()) => {
                    seen.entry(from.ip()).or_insert_with(|| start.elapsed());
                }
                Ok((_, stranger)) => bail!("a datagram from {stranger}"),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(NAP),
                Err(error) => return Err(error).context("listen"),
            }
            interrupt::check()?;
            if start.elapsed() > LIMIT {
                bail!("after {LIMIT:?} only {:?} forward by it", seen.keys());
            }
        }
        changing.join().map_err(|_| anyhow!("the source refused the change"))??;
        Ok(seen.into_values().max().unwrap_or_default())
    })
}

/// Sockets at both places of the mover.
fn listeners(lab: &Lab) -> Result<[UdpSocket; 2]> {
    let listen = |place: Ipv4Addr| -> Result<UdpSocket> {
        let socket = lab.switch().run(|| UdpSocket::bind((place, UNDERLAY_PORT)))?;
        let socket = socket.with_context(|| format!("listen at {place}"))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let [one, two] = PLACES.map(listen);
    Ok([one?, two?])
}

/// A socket in each node, to a pod of the mover.
fn senders(lab: &Lab) -> Result<Vec<UdpSocket>> {
    let connect = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(SocketAddr::from((MOVER_POD, 9)))?;
        Ok::<_, io::Error>(socket)
    };
    lab.nodes().iter().map(|node| Ok(node.netns().run(connect)??)).collect()
}

fn send(senders: &[UdpSocket], stop: &AtomicBool) -> io::Result<()> {
    while !stop.load(Ordering::Relaxed) {
        for sender in senders {
            match sender.send(b"which way?") {
                // While the mover's neighbour entry is made, the kernel may say that it is nowhere.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::HostUnreachable => {}
                Err(error) => return Err(error),
            }
        }
        thread::sleep(PACE);
    }
    Ok(())
}

/// Takes what came before.
fn drain(socket: &UdpSocket) -> io::Result<()> {
    let mut buffer = [0; 2048];
    loop {
        match socket.recv(&mut buffer) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
