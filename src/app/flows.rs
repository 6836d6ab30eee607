//! Flows on their way to whoever looks: one thread asks the workers once a second, while somebody
//! does.
//!
//! Owns the watch over the workers, and hands each second to all who look. One that does not keep
//! up loses seconds; it holds nobody up. When the last has gone the watch ends, and the workers
//! look at no packet any more.

use std::collections::HashMap;
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use culvert_dataplane::platform::clock;
use culvert_dataplane::{
    DataPlane, EACH_A_SECOND, FlowCount, FlowKey, FlowVerdict, FlowWatch, Flows,
};
use jiff::Timestamp;

use super::pods::pods;
use super::view::Facts;
use crate::observe::{
    FLOW_SCHEMA, FlowBatch, FlowDirection, FlowRecord, FlowSource, FlowStart, FlowWord,
    protocol_name,
};

/// How often the workers' tables are taken.
const PERIOD: Duration = Duration::from_secs(1);

/// Seconds that wait for one who looks.
const WAITING: usize = 4;

/// Who may look at once.
const WATCHERS: usize = 8;

/// How long the names of pods are believed.
const NAMES: Duration = Duration::from_secs(5);

/// Whoever hands flows out.
pub(super) struct FlowHub {
    facts: Arc<Facts>,
    sample: u32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    watchers: Vec<SyncSender<Arc<FlowBatch>>>,
    is_running: bool,
}

impl FlowHub {
    /// Looks, when somebody does, at one packet in `sample` where there are many.
    pub(super) fn new(facts: Arc<Facts>, sample: u32) -> Arc<Self> {
        Arc::new(Self { facts, sample, state: Mutex::default() })
    }

    /// The seconds from now on, until the receiver is dropped.
    ///
    /// # Errors
    ///
    /// There are no workers yet, or as many look as may.
    pub(super) fn attach(self: &Arc<Self>) -> anyhow::Result<Receiver<Arc<FlowBatch>>> {
        let plane = Arc::clone(self.facts.plane()?);
        let mut state = self.state();
        anyhow::ensure!(
            state.watchers.len() < WATCHERS,
            "{WATCHERS} commands look at flows already; end one of them"
        );
        let (sender, receiver) = sync_channel(WAITING);
        if !state.is_running {
            let hub = Arc::clone(self);
            thread::Builder::new().name("flows".to_owned()).spawn(move || hub.run(&plane))?;
            state.is_running = true;
        }
        state.watchers.push(sender);
        Ok(receiver)
    }

    fn run(&self, plane: &DataPlane) {
        let watch = plane.watch_flows(self.sample);
        let mut names = Names::default();
        let mut start = clock::now();
        loop {
            thread::sleep(PERIOD);
            let now = clock::now();
            let batch = Arc::new(batch(&watch, plane, &mut names, start, now));
            start = now;
            let mut state = self.state();
            state.watchers.retain(|watcher| match watcher.try_send(Arc::clone(&batch)) {
                Ok(()) | Err(TrySendError::Full(_)) => true,
                Err(TrySendError::Disconnected(_)) => false,
            });
            if state.watchers.is_empty() {
                state.is_running = false;
                return;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the function that streams flows to a connection, which it keeps.
pub(super) fn flow_source(hub: Arc<FlowHub>) -> FlowSource {
    Arc::new(move |stream: UnixStream| {
        let seconds = hub.attach()?;
        let sample = hub.sample;
        thread::Builder::new().name("flows-out".to_owned()).spawn(move || {
            // A reader that has gone is no failure.
            if let Err(error) = stream_out(&seconds, sample, stream) {
                tracing::debug!(%error, "somebody looks at flows no more");
            }
        })?;
        Ok(())
    })
}

fn stream_out(
    seconds: &Receiver<Arc<FlowBatch>>,
    sample: u32,
    stream: UnixStream,
) -> io::Result<()> {
    let mut out = BufWriter::new(stream);
    line(&mut out, &FlowStart { schema: FLOW_SCHEMA, each: EACH_A_SECOND, sample })?;
    while let Ok(batch) = seconds.recv() {
        line(&mut out, &*batch)?;
    }
    Ok(())
}

fn line(out: &mut impl Write, value: &impl serde::Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// What was counted from `start` to `now`.
fn batch(
    watch: &FlowWatch,
    plane: &DataPlane,
    names: &mut Names,
    start: Instant,
    now: Instant,
) -> FlowBatch {
    let Flows { counts, others, missed } = watch.take();
    names.refresh(now);
    let nanos = i128::from(clock::unix_nanos());
    let time = Timestamp::from_nanosecond(nanos).unwrap_or_default();
    // People compare seconds; more digits would be of no use to anybody.
    let time = Timestamp::from_second(time.as_second()).unwrap_or_default().to_string();
    let table = plane.table();
    let peer = |address: Option<IpAddr>| {
        let sender = table.sender(address?)?;
        Some(table.peer(sender).name().to_owned())
    };
    let one = |(key, count): (FlowKey, FlowCount)| record(&key, count, &time, names, &peer);
    let mut flows: Vec<FlowRecord> =
        counts.into_iter().filter(|(_, count)| count.packets > 0).map(one).collect();
    flows.sort_by(|one, other| (other.bytes, &one.source).cmp(&(one.bytes, &other.source)));
    let seconds = now.saturating_duration_since(start).as_secs_f64();
    FlowBatch { seconds, flows, others: others.packets, missed }
}

fn record(
    key: &FlowKey,
    count: FlowCount,
    time: &str,
    names: &Names,
    peer: &impl Fn(Option<IpAddr>) -> Option<String>,
) -> FlowRecord {
    let (verdict, reason) = match key.verdict {
        FlowVerdict::Forward => (FlowWord::Forward, None),
        FlowVerdict::Deliver => (FlowWord::Deliver, None),
        FlowVerdict::Reply(reason) => (FlowWord::Reply, Some(reason)),
        FlowVerdict::Drop(reason) => (FlowWord::Drop, Some(reason)),
    };
    let inner = key.inner;
    let has_ports = inner.is_some_and(|it| (it.source_port, it.destination_port) != (0, 0));
    let ports = inner.filter(|_| has_ports);
    let (source, destination) =
        (inner.map(|inner| inner.source), inner.map(|inner| inner.destination));
    FlowRecord {
        schema: FLOW_SCHEMA,
        time: time.to_owned(),
        direction: if key.egress { FlowDirection::Egress } else { FlowDirection::Ingress },
        verdict,
        reason,
        source,
        destination,
        protocol: inner.map(|inner| protocol_name(inner.protocol)),
        source_port: ports.map(|ports| ports.source_port),
        destination_port: ports.map(|ports| ports.destination_port),
        source_pod: names.of(source),
        destination_pod: names.of(destination),
        peer: peer(key.outer),
        outer: key.outer,
        packets: count.packets,
        bytes: count.bytes,
    }
}

/// The pods of this node by their addresses.
#[derive(Default)]
struct Names {
    by_address: HashMap<IpAddr, String>,
    read: Option<Instant>,
}

impl Names {
    /// Asks the kernel, from time to time. One that does not answer costs the names.
    fn refresh(&mut self, now: Instant) {
        if self.read.is_some_and(|read| now.saturating_duration_since(read) < NAMES) {
            return;
        }
        self.read = Some(now);
        let Ok(pods) = pods() else { return };
        self.by_address = pods
            .into_iter()
            .flat_map(|pod| {
                let name = pod.name();
                pod.addresses.into_iter().map(move |address| (address, name.clone()))
            })
            .collect();
    }

    fn of(&self, address: Option<IpAddr>) -> Option<String> {
        self.by_address.get(&address?).cloned()
    }
}
