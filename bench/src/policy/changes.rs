//! From a change of a policy at the API server until the kernel goes by it, and until connections
//! that it forbids are cut.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use culvert_lab::clock;
use serde::Serialize;
use serde_json::json;

use super::objects::{self, own_policy};
use super::prober::{Flows, Prober};
use super::stage::Stage;
use crate::statistics::percentile;
use crate::traffic::pause;

/// Where datagrams go.
const PORT: u16 = 9000;

/// Other changes, while there are many.
const CHANGES_PER_SECOND: u32 = 100;

/// Flows that are tracked beside the one that is cut.
const FLOWS: u64 = 100_000;

/// Milliseconds that changes took, in ascending order.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Took {
    pub(super) ms: Vec<f64>,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
}

impl Took {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let at = |per_mille| percentile(&times, per_mille).map_or(f64::NAN, ms);
        Self { p50_ms: at(500), p99_ms: at(990), ms: times.iter().copied().map(ms).collect() }
    }
}

/// Opens or closes the server's port.
pub(super) fn allow(stage: &Stage, is_open: bool) {
    let ports = json!([{ "ports": [{ "port": PORT, "protocol": "UDP" }] }]);
    let ingress = if is_open { ports } else { json!([]) };
    stage.put_policy(own_policy("changes", ("pod", "node1-pod1"), &ingress));
}

/// How long `count` changes take, that open and close in turns.
pub(super) fn measure(stage: &Stage, count: usize) -> Result<Took> {
    allow(stage, false);
    let prober = Prober::start(stage.client(), stage.server_pod(), PORT, Flows::New)?;
    prober.until_closed(clock::now())?;
    let mut times = Vec::new();
    for number in 0..count {
        // Of varying length, so that whatever has a rhythm is met at every phase.
        pause(Duration::from_millis(150 + 37 * (number as u64) % 100))?;
        let is_open = number.is_multiple_of(2);
        let begin = clock::now();
        allow(stage, is_open);
        times.push(if is_open { prober.until_open(begin) } else { prober.until_closed(begin) }?);
    }
    Ok(Took::of(times))
}

/// What a hundred other changes a second do to that, and what they open.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Storm {
    pub(super) took: Took,
    pub(super) changes_per_second: f64,
    /// Datagrams that arrived where every version of the policies forbids them, and all that were
    /// sent there.
    pub(super) leaked: usize,
    pub(super) sent: usize,
}

/// Changes other policies and pods for `time`, a hundred times a second, and one of ours meanwhile.
pub(super) fn storm(stage: &Stage, time: Duration) -> Result<Storm> {
    allow(stage, false);
    let prober = Prober::start(stage.client(), stage.server_pod(), PORT, Flows::New)?;
    prober.until_closed(clock::now())?;
    let never = Prober::start(stage.client(), stage.server_pod(), PORT + 1, Flows::New)?;
    let start = clock::now();
    thread::scope(|scope| {
        let changing = scope.spawn(|| {
            let mut count: u32 = 0;
            while start.elapsed() < time {
                objects::change(&stage.server, count as usize);
                count += 1;
                let due = Duration::from_secs(1) * count / CHANGES_PER_SECOND;
                thread::sleep(due.saturating_sub(start.elapsed()));
            }
            f64::from(count) / start.elapsed().as_secs_f64()
        });
        let mut times = Vec::new();
        while start.elapsed() < time {
            pause(Duration::from_millis(37 * (times.len() as u64) % 100))?;
            let is_open = times.len().is_multiple_of(2);
            let begin = clock::now();
            allow(stage, is_open);
            times.push(if is_open {
                prober.until_open(begin)
            } else {
                prober.until_closed(begin)
            }?);
        }
        let changes_per_second =
            changing.join().map_err(|_| anyhow!("whoever makes changes ended"))?;
        let (sent, leaked) = never.counts();
        Ok(Storm { took: Took::of(times), changes_per_second, leaked, sent })
    })
}

/// How long until an established flow is cut among many others; and how many there were.
pub(super) fn cut(stage: &Stage, count: usize) -> Result<(Took, u64)> {
    let mut times = Vec::new();
    let mut tracked = u64::MAX;
    for _ in 0..count {
        allow(stage, true);
        pause(Duration::from_secs(2))?;
        let prober = Prober::start(stage.client(), stage.server_pod(), PORT, Flows::One)?;
        prober.until_open(clock::now())?;
        fill(stage)?;
        tracked = tracked.min(flows(stage)?);
        let begin = clock::now();
        allow(stage, false);
        times.push(prober.until_closed(begin)?);
    }
    ensure!(tracked >= FLOWS, "only {tracked} flows are tracked at once");
    Ok((Took::of(times), tracked))
}

/// Begins [`FLOWS`] flows from the client to the pod of the other node, which nobody isolates.
fn fill(stage: &Stage) -> Result<()> {
    let (from, to) = (stage.client(), stage.far().address);
    from.netns
        .run(|| {
            let per_socket: u64 = 50_000;
            for _socket in 0..FLOWS.div_ceil(per_socket) + 1 {
                let socket = UdpSocket::bind(SocketAddr::new(from.address, 0))?;
                for port in 1..=per_socket {
                    // Refused by whoever does not listen there, which is told with a later one.
                    let _sent = socket.send_to(b"x", SocketAddr::new(to, 1024 + port as u16));
                }
            }
            Ok::<_, std::io::Error>(())
        })?
        .context("begin many flows")
}

/// Flows that the first node tracks.
fn flows(stage: &Stage) -> Result<u64> {
    let path = "/proc/sys/net/netfilter/nf_conntrack_count";
    let text = stage.lab.node(1).netns().run(|| fs::read_to_string(path))?;
    text.context("read the number of flows")?.trim().parse().context("a number of flows")
}
