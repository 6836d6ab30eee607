//! The workers as one thing that control can start, direct and stop.

mod counts;
mod probing;
mod sealing;

use std::net::IpAddr;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use culvert_seal::mesh::{Config, SystemEntropy};
use overlay_proto::esp::Lane;
use tokio::sync::mpsc;

use super::busy_poll::BusyPoll;
use super::capture::{self, Capture, CaptureFilter, MAX_CAPTURES, Taps};
use super::counters::WorkerCounters;
use super::flows::{self, FlowWatch};
use super::probe::{ProbeArrival, Probes};
use super::round::{Notice, Notices};
use super::sealed::{Keeper, KeyThread, SealedOptions, SealedWorker};
use super::underlay::{SENDERS, Sockets, Underlay};
use super::worker::{Command, Worker};
use super::{Egress, Ingress};
use crate::engine::{Sealing, Table, Tunnel};
use crate::platform::clock;
use crate::platform::overflows::overflows;
use crate::platform::tun::{Offload, TunQueue};
use crate::platform::udp::Gro;
use crate::platform::wake::{WaitSet, Waker};
use crate::platform::{Error, Result};

pub use self::counts::ReceiveDrops;

/// Commands that wait for a worker at most. Control sends one at a time and workers look whenever
/// woken; this is room for several while a worker handles one batch.
const COMMANDS: usize = 16;

/// How the data path is set up; does not change while it runs.
#[derive(Clone, Debug)]
pub struct DataPlaneOptions {
    /// Name of the TUN device.
    pub tun: String,
    /// Workers, and queues of the device.
    pub workers: usize,
    /// What the kernel may leave to us, and we to it.
    pub offload: Offload,
    /// How long a worker keeps watch before it sleeps, while messages follow each other closely.
    pub busy_poll: Duration,
    /// The daemon's start, from which ages are counted.
    pub started: Instant,
    /// How the node seals, if it does.
    pub sealed: Option<SealedOptions>,
}

/// This node's ends of its tunnels: what the sockets are bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The underlay address.
    pub address: IpAddr,
    /// Codecs and ports.
    pub tunnels: Vec<Tunnel>,
    /// Whether the port for what is sealed is one of them, on a node that seals.
    pub is_sealing: bool,
}

/// Bound sockets that no worker reads yet.
#[derive(Debug)]
pub struct Listening(Sockets);

/// The running workers.
pub struct DataPlane {
    options: DataPlaneOptions,
    table: Arc<ArcSwap<Table>>,
    workers: Vec<Handle>,
    /// The sockets in use, to keep those that another table needs too.
    sockets: Mutex<Sockets>,
    /// How often any socket had no room before there were these.
    overflows_before: Option<u64>,
    /// The queues in use, to ask whether they still have a device.
    queues: Mutex<Vec<Arc<TunQueue>>>,
    /// What the kernel granted on them. Apart, because whoever opens queues may have to wait for
    /// it.
    offload: Mutex<Offload>,
    /// Where workers tell what control should know.
    notices: Notices,
    /// What this node answers others with; who asks takes the answers to its own questions.
    probes: Probes,
    probe_arrivals: Mutex<Option<mpsc::Receiver<ProbeArrival>>>,
    /// What its own questions are sealed with.
    prober: Option<SealedWorker>,
    /// Captures that have not ended.
    captures: Mutex<Vec<Weak<()>>>,
    sealed: Option<Sealed>,
}

/// What a node has that seals.
struct Sealed {
    /// What the next table will be sealed with.
    sealing: Mutex<Sealing>,
    keys: KeyThread,
}

struct Handle {
    commands: SyncSender<Command>,
    waker: Arc<Waker>,
    counters: Arc<WorkerCounters>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl DataPlane {
    /// Binds the sockets to `ends`, which `table` needs, and starts the workers;
    /// they carry packets once the TUN device is opened. Returns where workers tell what they find
    /// out.
    ///
    /// # Errors
    ///
    /// The address is not this machine's, a port is taken, or the kernel is out of something.
    pub fn start(
        options: DataPlaneOptions,
        mut table: Table,
        ends: &Ends,
    ) -> Result<(Self, mpsc::Receiver<Notice>)> {
        let (notices, noticed) = Notices::new();
        let gro = if options.offload == Offload::None { Gro::Off } else { Gro::On };
        let sealing = options.sealed.as_ref().map(|sealed| Sealing::new(sealed.mode, sealed.port));
        if let Some(sealing) = &sealing {
            table = table.seal(sealing);
        }
        let Ends { address, tunnels, is_sealing } = ends;
        let sealed_port = sealing.as_ref().filter(|_| *is_sealing).map(Sealing::port);
        let overflows_before = overflows();
        let sockets = Sockets::bind(*address, tunnels, sealed_port, options.workers, gro)?;
        let keeper = options.sealed.as_ref().map(|sealed| keeper(sealed, &options));
        let table = Arc::new(ArcSwap::from_pointee(table));
        let (probes, probe_arrivals) = Probes::new(identifier());
        // Sequences are given out once, whoever takes them: no worker minds another in its lanes.
        let prober = keeper.as_ref().map(|keeper| keeper.worker(0));
        let workers = sockets
            .of_workers()
            .enumerate()
            .map(|(index, underlay)| {
                let sealed = keeper.as_ref().map(|keeper| keeper.worker(index));
                let table = Arc::clone(&table);
                let ways = (notices.clone(), probes.clone());
                start_worker(&options, index, underlay, table, ways, sealed)
            })
            .collect::<Result<Vec<_>>>()?;
        let sealed = match (keeper, sealing) {
            (Some(keeper), Some(sealing)) => {
                let wakers = workers.iter().map(|worker| Arc::clone(&worker.waker)).collect();
                let log = options.sealed.as_ref().and_then(|sealed| sealed.key_log.clone());
                let keys = KeyThread::start(keeper, sockets.shaker().cloned(), wakers, log)
                    .map_err(|source| Error::new("start thread", "keys", source))?;
                Some(Sealed { sealing: Mutex::new(sealing), keys })
            }
            _ => None,
        };
        let sockets = Mutex::new(sockets);
        let plane = Self {
            options,
            table,
            workers,
            sockets,
            overflows_before,
            queues: Mutex::default(),
            offload: Mutex::default(),
            notices,
            probes,
            probe_arrivals: Mutex::new(Some(probe_arrivals)),
            prober,
            captures: Mutex::default(),
            sealed,
        };
        Ok((plane, noticed))
    }

    /// Makes workers decide by `table` from their next batch on. Peers of it are sealed as
    /// [`set_keys`](Self::set_keys) last said.
    pub fn publish(&self, table: Table) {
        let table = match &self.sealed {
            Some(sealed) => table.seal(&locked(&sealed.sealing)),
            None => table,
        };
        self.table.store(Arc::new(table));
    }

    /// The table that workers decide by.
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// Binds what sockets another address or other ports need; workers go on with those that they
    /// have until [`listen`](Self::listen).
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start); nothing has changed then.
    pub fn bind(&self, ends: &Ends) -> Result<Listening> {
        let Ends { address, tunnels, is_sealing } = ends;
        let sealed = self.options.sealed.as_ref().filter(|_| *is_sealing);
        let sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.moved(*address, tunnels, sealed.map(|sealed| sealed.port)).map(Listening)
    }

    /// Moves the workers to these sockets. Those that they have already stay open, and lose
    /// nothing.
    pub fn listen(&self, Listening(sockets): Listening) {
        if let Some(sealed) = &self.sealed {
            sealed.keys.set_socket(sockets.shaker().cloned());
        }
        for (worker, underlay) in self.workers.iter().zip(sockets.of_workers()) {
            worker.send(Command::Underlay(underlay));
        }
        *self.sockets.lock().unwrap_or_else(PoisonError::into_inner) = sockets;
    }

    /// Whether the workers have a TUN device.
    pub fn is_attached(&self) -> bool {
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        !queues.is_empty() && queues.iter().all(|queue| queue.is_attached())
    }

    /// Opens the TUN device, creating it if need be, and gives each worker a queue of it.
    ///
    /// # Errors
    ///
    /// As [`TunQueue::open`].
    pub fn open_tun(&self) -> Result<()> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        // The old queues would count against the device's limit.
        queues.clear();
        let mut open = Vec::with_capacity(self.workers.len());
        let mut offload = self.options.offload;
        for _ in &self.workers {
            let queue = TunQueue::open(&self.options.tun)?;
            offload = queue.set_offload(offload)?;
            open.push(Arc::new(queue));
        }
        for (worker, queue) in self.workers.iter().zip(&open) {
            worker.send(Command::Tun(Arc::clone(queue), offload));
        }
        let mut granted = self.offload.lock().unwrap_or_else(PoisonError::into_inner);
        if *granted != offload || self.options.offload != offload {
            tracing::info!(
                granted = offload.as_str(),
                asked = self.options.offload.as_str(),
                "TUN offloads"
            );
        }
        (*queues, *granted) = (open, offload);
        Ok(())
    }

    /// What the kernel granted on the TUN device.
    pub fn offload(&self) -> Offload {
        *self.offload.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets somebody look at packets until the capture is dropped.
    ///
    /// # Errors
    ///
    /// As many captures as there may be run already.
    pub fn capture(&self, filter: &CaptureFilter) -> Result<Capture> {
        let epoch = (clock::now(), clock::unix_nanos());
        let (capture, taps) = capture::open(filter, self.workers.len(), epoch);
        let mut running = self.captures.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|one| one.strong_count() > 0);
        if running.len() >= MAX_CAPTURES {
            let full = format!("{MAX_CAPTURES} captures run already; end one of them");
            return Err(Error::new("start", "a capture", std::io::Error::other(full)));
        }
        running.push(capture.sign());
        drop(running);
        for (worker, tap) in self.workers.iter().zip(taps) {
            worker.send(Command::Capture(Box::new(tap)));
        }
        Ok(capture)
    }

    /// Counts flows until the watch is dropped, or another one is begun: of more packets than a
    /// worker looks at each of, one in `sample` is looked at.
    pub fn watch_flows(&self, sample: u32) -> FlowWatch {
        let (watch, taps) = flows::open(sample, self.workers.len(), clock::now());
        for (worker, tap) in self.workers.iter().zip(taps) {
            worker.send(Command::Flows(Box::new(tap)));
        }
        watch
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Lets the workers handle what has arrived, and ends them.
    pub fn stop(&self) {
        for worker in &self.workers {
            worker.send(Command::Stop);
        }
        for worker in &self.workers {
            let thread = worker.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
            if thread.is_some_and(|thread| thread.join().is_err()) {
                tracing::error!("a worker has panicked");
            }
        }
        if let Some(sealed) = &self.sealed {
            sealed.keys.stop();
        }
    }

    /// Whether a worker, or the thread that makes keys, has ended although nobody stopped it.
    pub fn has_failed(&self) -> bool {
        let failed = |worker: &Handle| {
            let thread = worker.thread.lock().unwrap_or_else(PoisonError::into_inner);
            thread.as_ref().is_some_and(JoinHandle::is_finished)
        };
        self.workers.iter().any(failed)
            || self.sealed.as_ref().is_some_and(|sealed| sealed.keys.has_failed())
    }
}

impl Handle {
    fn send(&self, command: Command) {
        // A worker that does not look for so long is dead, which `has_failed` tells.
        let _ = self.commands.try_send(command);
        self.waker.wake();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells ICMP echo of this daemon from that of others; which number it is does not matter.
fn identifier() -> u16 {
    let [low, high, ..] = clock::unix_nanos().to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// The machine that makes sessions, with a lane for each worker and source port.
fn keeper(sealed: &SealedOptions, options: &DataPlaneOptions) -> Keeper<SystemEntropy> {
    let lanes = (options.workers * SENDERS).min(Lane::COUNT.into());
    let lanes = u16::try_from(lanes).unwrap_or(Lane::COUNT);
    let config = Config { lanes, ..sealed.config };
    Keeper::new(config, sealed.identity.clone(), SystemEntropy, options.started)
}

fn start_worker(
    options: &DataPlaneOptions,
    index: usize,
    underlay: Underlay,
    table: Arc<ArcSwap<Table>>,
    (notices, probes): (Notices, Probes),
    sealed: Option<SealedWorker>,
) -> Result<Handle> {
    let name = format!("worker-{index}");
    let fail = |source| Error::new("start thread", &name, source);
    let (commands, receiver) = sync_channel(COMMANDS);
    let waker = Arc::new(Waker::new().map_err(fail)?);
    let counters = Arc::new(WorkerCounters::default());
    let mut egress = Egress::new();
    let mut ingress = Ingress::new(Offload::None);
    if options.offload == Offload::None {
        egress.without_trains();
    }
    ingress.reflect(probes);
    if let Some(sealed) = sealed {
        egress.seal_as(sealed.clone());
        ingress.open_as(sealed);
    }
    let worker = Worker {
        commands: receiver,
        waker: Arc::clone(&waker),
        set: WaitSet::new().map_err(fail)?,
        table,
        counters: Arc::clone(&counters),
        notices,
        started: options.started,
        underlay,
        tun: None,
        egress,
        ingress,
        busy_poll: BusyPoll::new(options.busy_poll),
        taps: Taps::default(),
    };
    let thread =
        std::thread::Builder::new().name(name.clone()).spawn(move || worker.run()).map_err(fail)?;
    Ok(Handle { commands, waker, counters, thread: Mutex::new(Some(thread)) })
}
