//! Two daemons that have to seal: one of them is killed, and then strangers flood it with forged
//! handshakes while the other begins anew.

use std::fs;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use culvert_dataplane::platform::udp::{Sender, Transmit};
use culvert_lab::{Lab, Node, clock, interrupt, wait_until};
use culvert_seal::keys::{KeyId, PublicKey};
use overlay_proto::esp::handshake::{Header, Message};
use overlay_proto::{Ecn, esp};
use serde::Serialize;

use crate::networks::{PREFIX, bypass_filters};
use crate::programs::Programs;
use crate::traffic::{Pod, pause};
use crate::usage::CpuTime;

/// Between two datagrams of a stream.
const PACE: Duration = Duration::from_micros(200);

/// How long anything here may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Length of an INIT.
const INIT_LEN: usize = 1312;

/// Forged INITs in one call, and source ports that they come from, so that every worker gets some.
const TRAIN: usize = 32;
const PORTS: usize = 8;

/// What killing a daemon costs.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Killed {
    /// Milliseconds from when the node said that it is ready until the first packet of the slower
    /// direction arrived, by round.
    pub(super) first_packet_ms: Vec<f64>,
    /// Milliseconds from the start until the node was ready.
    pub(super) ready_ms: Vec<f64>,
}

/// What a flood of forged INITs does.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Flooded {
    /// Forged INITs a second that were asked for, and that were sent.
    pub(super) asked: u32,
    pub(super) sent_per_second: f64,
    /// Of honest datagrams between the nodes: sent, and lost.
    pub(super) honest: u64,
    pub(super) lost: u64,
    /// CPU of the flooded daemon, in percent of a core.
    pub(super) cpu_percent: f64,
    /// Milliseconds from when the other node, started anew, was ready until the first packet of the
    /// slower direction arrived, by round.
    pub(super) handshake_ms: Vec<f64>,
}

/// Two nodes with a pod each.
pub(super) struct Pair {
    lab: Lab,
    pods: [Pod; 2],
}

/// Datagrams from one pod to the other until it is dropped or stopped.
struct Stream {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    arrived: Arc<AtomicU64>,
    /// When the newest arrived, in microseconds after `began`, plus one.
    newest: Arc<AtomicU64>,
    began: Instant,
    threads: Vec<JoinHandle<()>>,
}

impl Stream {
    fn start(from: &Pod, to: &Pod) -> Result<Self> {
        let bind = |pod: &Pod| {
            let socket = pod.netns.run(|| UdpSocket::bind((pod.address, 0)))?;
            socket.context("bind in the pod")
        };
        let (client, server) = (bind(from)?, bind(to)?);
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&server, 4 << 20)?;
        server.set_read_timeout(Some(Duration::from_millis(20)))?;
        let target = server.local_addr()?;
        let stream = Self {
            stop: Arc::default(),
            sent: Arc::default(),
            arrived: Arc::default(),
            newest: Arc::default(),
            began: clock::now(),
            threads: Vec::new(),
        };
        let (stop, sent) = (Arc::clone(&stream.stop), Arc::clone(&stream.sent));
        let sending = thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if client.send_to(&[0; 64], target).is_ok() {
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                thread::sleep(PACE);
            }
        });
        let stop = Arc::clone(&stream.stop);
        let (arrived, newest) = (Arc::clone(&stream.arrived), Arc::clone(&stream.newest));
        let began = stream.began;
        let receiving = thread::spawn(move || {
            let mut buffer = [0; 128];
            let mut is_over = false;
            while !is_over {
                // What is late comes within this.
                is_over = stop.load(Ordering::Relaxed);
                while server.recv(&mut buffer).is_ok() {
                    arrived.fetch_add(1, Ordering::Relaxed);
                    let age = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX - 1);
                    newest.store(age + 1, Ordering::Relaxed);
                    if is_over {
                        break;
                    }
                }
            }
        });
        Ok(Self { threads: vec![sending, receiving], ..stream })
    }

    /// Waits for the next arrival and tells when it was.
    fn next(&self) -> Result<Instant> {
        self.newest.store(0, Ordering::Relaxed);
        let start = clock::now();
        loop {
            if let Some(age) = self.newest.load(Ordering::Relaxed).checked_sub(1) {
                return Ok(self.began + Duration::from_micros(age));
            }
            interrupt::check()?;
            ensure!(start.elapsed() < LIMIT, "no packet arrived for {LIMIT:?}");
            thread::sleep(Duration::from_micros(100));
        }
    }

    /// Ends it; how many were sent, and how many of them were lost.
    fn stop(mut self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // One that panicked has counted too little.
            let _ = thread.join();
        }
        let (sent, arrived) = (&self.sent, &self.arrived);
        let sent = sent.load(Ordering::Relaxed);
        (sent, sent.saturating_sub(arrived.load(Ordering::Relaxed)))
    }
}

impl Pair {
    pub(super) fn build(programs: &Programs) -> Result<Self> {
        let lab = Lab::builder(format!("{PREFIX}sealpair"))
            .nodes(2)
            .pods(1)
            .culvert(&programs.culvert)
            .plugin(&programs.plugin)
            .sealed("require")
            .replace()
            .up()?;
        bypass_filters(&lab)?;
        let pods = [1, 2].map(|node| Pod::from(&lab.pod(node, 1)));
        Ok(Self { lab, pods })
    }

    fn streams(&self) -> Result<[Stream; 2]> {
        let [one, two] = &self.pods;
        let streams = [Stream::start(one, two)?, Stream::start(two, one)?];
        streams.iter().try_for_each(|stream| stream.next().map(drop))?;
        Ok(streams)
    }

    /// Kills the first daemon and starts it again, so often.
    pub(super) fn kill(&self, rounds: usize) -> Result<Killed> {
        let streams = self.streams()?;
        let mut killed = Killed { first_packet_ms: Vec::new(), ready_ms: Vec::new() };
        for _ in 0..rounds {
            pause(Duration::from_millis(500))?;
            let node = self.lab.node(1);
            node.kill9()?;
            let (start, ready, arrived) = start_and_hear(node, &streams)?;
            killed.ready_ms.push(ms(start, ready));
            killed.first_packet_ms.push(ms(ready, arrived));
        }
        Ok(killed)
    }

    /// Floods the first daemon with so many forged INITs a second while the other is started anew.
    pub(super) fn flood(&self, rate: u32, lasts: Duration, rounds: usize) -> Result<Flooded> {
        let [node, other] = [1, 2].map(|node| self.lab.node(node));
        let flood = Flood::start(&self.lab, rate)?;
        let daemon = node.pid().context("the daemon has ended")?;
        let streams = self.streams()?;
        let (before, at) = (CpuTime::so_far(&[daemon])?, clock::now());
        let sent_before = flood.sent.load(Ordering::Relaxed);
        pause(lasts)?;
        let took = at.elapsed().as_secs_f64();
        let cpu = CpuTime::so_far(&[daemon])?.since(&before).daemons;
        let sent = flood.sent.load(Ordering::Relaxed) - sent_before;
        let (mut honest, mut lost) = (0, 0);
        for stream in streams {
            let (sent, missing) = stream.stop();
            honest += sent;
            lost += missing;
        }
        let streams = self.streams()?;
        let mut handshake_ms = Vec::new();
        for _ in 0..rounds {
            other.kill9()?;
            let (_, ready, arrived) = start_and_hear(other, &streams)?;
            handshake_ms.push(ms(ready, arrived));
        }
        for stream in streams {
            stream.stop();
        }
        flood.stop();
        ensure!(node.pid() == Some(daemon), "the flooded daemon has ended");
        Ok(Flooded {
            asked: rate,
            sent_per_second: sent as f64 / took,
            honest,
            lost,
            cpu_percent: cpu.as_secs_f64() / took * 100.0,
            handshake_ms,
        })
    }
}

/// Starts a daemon that was killed: when it was started, when it was ready, and when the first
/// packet of the slower direction arrived after that.
fn start_and_hear(node: &Node, streams: &[Stream; 2]) -> Result<(Instant, Instant, Instant)> {
    // The plugin reads it, and the daemon writes it when it is ready.
    let ready_file = node.run_dir().join("node.json");
    fs::remove_file(&ready_file).context("remove the node file of the killed daemon")?;
    let start = clock::now();
    node.spawn()?;
    loop {
        if ready_file.exists() {
            break;
        }
        interrupt::check()?;
        ensure!(start.elapsed() < LIMIT, "the daemon was not ready after {LIMIT:?}");
        thread::sleep(Duration::from_micros(100));
    }
    let ready = clock::now();
    let mut last = ready;
    for stream in streams {
        last = last.max(stream.next()?);
    }
    wait_until(LIMIT, "the node to be ready", || node.is_ready())?;
    Ok((start, ready, last))
}

fn ms(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64() * 1e3
}

/// Forged INITs with the names of both nodes and a MAC that nobody has made.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Flood {
    fn start(lab: &Lab, rate: u32) -> Result<Self> {
        let id = |node: &Node| -> Result<[u8; KeyId::LEN]> {
            let key: PublicKey = node.public_keys()?.first().context("a key")?.parse()?;
            Ok(*KeyId::of(&key).as_bytes())
        };
        let (node, other) = (lab.node(1), lab.node(2));
        let header = Header { initiator: id(other)?, responder: id(node)?, message: Message::Init };
        let mut forged = vec![0x5a; INIT_LEN];
        let header = header.encode(INIT_LEN);
        forged.get_mut(..header.len()).context("room")?.copy_from_slice(&header);
        let train = forged.repeat(TRAIN);
        let destination = SocketAddr::new(node.address(), esp::PORT);
        let from: IpAddr = "192.168.1.1".parse()?;
        let open = || (0..PORTS).map(|_| Sender::bind(from)).collect::<Result<Vec<_>, _>>();
        let senders = lab.switch().run(open)?.context("bind the flood's ports")?;
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::<AtomicU64>::default());
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = thread::spawn(move || {
            let (start, mut done) = (clock::now(), 0_u64);
            for sender in senders.iter().cycle() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let due = start.elapsed().as_secs_f64() * f64::from(rate);
                if done as f64 >= due {
                    thread::sleep(Duration::from_micros(100));
                    continue;
                }
                let is_sent = sender.send(&Transmit {
                    destination,
                    ecn: Ecn::NotEct,
                    segment_size: u16::try_from(INIT_LEN).ok(),
                    parts: &[IoSlice::new(&train)],
                });
                done += TRAIN as u64;
                if is_sent.is_ok() {
                    count.fetch_add(TRAIN as u64, Ordering::Relaxed);
                }
            }
        });
        Ok(Self { stop, sent, thread })
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        // A panic has ended it too.
        let _ = self.thread.join();
    }
}
