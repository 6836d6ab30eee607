//! The thread `keys`: runs the machine that makes sessions, and sends its datagrams.
//!
//! It owns the [`Keeper`]. What control leaves for it is one value that the next replaces. How it
//! stands with a peer it leaves at the peer's link, so that nobody has to ask. It sleeps until
//! somebody wants something of it or something is due. Events that nobody takes are lost and
//! counted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::{io, mem};

use culvert_seal::LogLine;
use culvert_seal::mesh::{Event, Identity, Now, Output, PeerEntry, SystemEntropy, What};
use overlay_proto::Ecn;
use tokio::sync::mpsc;

use super::{Keeper, Request, SealedCounters};
use crate::platform::clock;
use crate::platform::udp::{Sender, Transmit};
use crate::platform::wake::Waker;

/// Events that wait for whoever logs them.
const EVENTS: usize = 256;

/// The thread, in the hands of control.
pub(crate) struct KeyThread {
    desk: Arc<Desk>,
    requests: SyncSender<Request>,
    counters: Arc<SealedCounters>,
    events: Mutex<Option<mpsc::Receiver<Event>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What control leaves for the thread.
struct Desk {
    /// Peers that it does not know yet.
    table: Mutex<Option<(Identity, Vec<PeerEntry>)>>,
    /// What datagrams leave by; none while this node does not listen for what is sealed.
    socket: Mutex<Option<Arc<Sender>>>,
    stop: AtomicBool,
}

struct Keys {
    keeper: Keeper<SystemEntropy>,
    desk: Arc<Desk>,
    wakers: Vec<Arc<Waker>>,
    counters: Arc<SealedCounters>,
    events: mpsc::Sender<Event>,
    key_log: Option<SyncSender<LogLine>>,
    /// Whether keys were lost that should have been written down, and nobody was told since.
    is_losing_keys: bool,
}

impl KeyThread {
    /// Starts the thread. It sends by `socket`, wakes workers when a session stands, and hands its
    /// keys to `key_log`.
    ///
    /// # Errors
    ///
    /// Out of threads.
    pub(crate) fn start(
        keeper: Keeper<SystemEntropy>,
        socket: Option<Arc<Sender>>,
        wakers: Vec<Arc<Waker>>,
        key_log: Option<SyncSender<LogLine>>,
    ) -> io::Result<Self> {
        let (sender, events) = mpsc::channel(EVENTS);
        let desk = Arc::new(Desk {
            table: Mutex::default(),
            socket: Mutex::new(socket),
            stop: AtomicBool::new(false),
        });
        let counters = Arc::<SealedCounters>::default();
        let requests = keeper.sender();
        let keys = Keys {
            keeper,
            desk: Arc::clone(&desk),
            wakers,
            counters: Arc::clone(&counters),
            events: sender,
            key_log,
            is_losing_keys: false,
        };
        let thread = std::thread::Builder::new().name("keys".to_owned());
        let thread = thread.spawn(move || keys.run())?;
        Ok(Self {
            desk,
            requests,
            counters,
            events: Mutex::new(Some(events)),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Has the thread go by these peers from now on.
    pub(crate) fn set_table(&self, identity: Identity, entries: Vec<PeerEntry>) {
        *locked(&self.desk.table) = Some((identity, entries));
        self.nudge();
    }

    /// Has it send by another socket from now on.
    pub(crate) fn set_socket(&self, socket: Option<Arc<Sender>>) {
        *locked(&self.desk.socket) = socket;
    }

    /// What people should know, for the one who asks first.
    pub(crate) fn take_events(&self) -> Option<mpsc::Receiver<Event>> {
        locked(&self.events).take()
    }

    pub(crate) fn counters(&self) -> &SealedCounters {
        &self.counters
    }

    pub(crate) fn stop(&self) {
        self.desk.stop.store(true, Ordering::Release);
        self.nudge();
        let thread = locked(&self.thread).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that makes keys has panicked");
        }
    }

    /// Whether it has ended although nobody stopped it.
    pub(crate) fn has_failed(&self) -> bool {
        locked(&self.thread).as_ref().is_some_and(JoinHandle::is_finished)
    }

    fn nudge(&self) {
        // If there is no room, the thread is awake, and looks here after each request.
        let _ = self.requests.try_send(Request::Look);
    }
}

impl Keys {
    fn run(mut self) {
        let keys = self.key_log.as_ref().map(|_| Vec::new());
        let mut out = Output { keys, ..Output::default() };
        let mut busy = true;
        while !self.desk.stop.load(Ordering::Acquire) {
            if !busy {
                let due = self.keeper.due();
                let limit = due.map(|due| due.saturating_duration_since(clock::now()));
                if let Some(request) = self.keeper.wait(limit) {
                    self.keeper.handle(request, now(), &mut out);
                }
            }
            self.take_table(&mut out);
            busy = self.keeper.work(now(), &mut out);
            self.deliver(&mut out);
        }
    }

    fn take_table(&mut self, out: &mut Output) {
        let table = locked(&self.desk.table).take();
        if let Some((identity, entries)) = table {
            self.keeper.set_table(identity, entries, now(), out);
        }
    }

    fn deliver(&mut self, out: &mut Output) {
        self.log_keys(out);
        if !out.datagrams.is_empty() {
            let socket = locked(&self.desk.socket).clone();
            for (destination, datagram) in out.datagrams.drain(..) {
                let Some(socket) = &socket else { continue };
                let sent = socket.send(&Transmit {
                    destination,
                    ecn: Ecn::NotEct,
                    segment_size: None,
                    parts: &[io::IoSlice::new(&datagram)],
                });
                if let Err(error) = sent {
                    tracing::debug!(%error, peer = %destination, "a handshake could not be sent");
                }
            }
        }
        if out.events.iter().any(|event| matches!(event.what, What::Established(..))) {
            self.wakers.iter().for_each(|waker| waker.wake());
        }
        for event in out.events.drain(..) {
            self.counters.count(&event);
            if self.events.try_send(event).is_err() {
                self.counters.lose();
            }
        }
    }

    fn log_keys(&mut self, out: &mut Output) {
        let (Some(log), Some(keys)) = (&self.key_log, &mut out.keys) else { return };
        if keys.is_empty() {
            return;
        }
        let own = locked(&self.desk.socket).as_ref().and_then(|socket| socket.address());
        let lost = keys.drain(..).filter(|key| log.try_send(key.line(own)).is_err()).count();
        let was_losing = mem::replace(&mut self.is_losing_keys, lost > 0);
        if lost > 0 && !was_losing {
            tracing::warn!("keys of sessions are lost to the key log: its disk is too slow");
        }
    }
}

fn now() -> Now {
    Now { instant: clock::now(), unix_nanos: clock::unix_nanos() }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, UdpSocket};
    use std::time::Duration;

    use culvert_seal::Suites;
    use culvert_seal::keys::{NodeKey, Psk};
    use culvert_seal::mesh::Config;
    use culvert_seal::noise::PostQuantum;
    use culvert_seal::session::PeerLink;
    use overlay_proto::Vni;
    use overlay_proto::esp::handshake::{Header, Message};
    use zeroize::Zeroizing;

    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn key(byte: u8) -> Arc<NodeKey> {
        Arc::new(NodeKey::from_secret(&Zeroizing::new([byte; 32])).unwrap())
    }

    #[test]
    fn whoever_wants_a_session_has_an_init_sent() {
        let identity = Identity { keys: vec![key(1)], psks: vec![Psk::none()] };
        let config = Config {
            vni: Vni::new(7).unwrap(),
            post_quantum: PostQuantum::Require,
            suites: Suites::of_this_machine(),
            lanes: 16,
        };
        let keeper = Keeper::new(config, identity.clone(), SystemEntropy, clock::now());
        let worker = keeper.worker(0);
        let socket = Arc::new(Sender::bind_fragmenting(LOCAL).unwrap());
        let thread = KeyThread::start(keeper, Some(socket), vec![], None).unwrap();
        let peer = UdpSocket::bind((LOCAL, 0)).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let link = Arc::new(PeerLink::new("peer"));
        let entry = PeerEntry {
            address: peer.local_addr().unwrap(),
            keys: vec![*key(2).public()],
            link: Arc::clone(&link),
        };
        thread.set_table(identity, vec![entry]);
        worker.ask(&link);
        let mut datagram = [0; 2000];
        let len = peer.recv(&mut datagram).unwrap();
        let (header, _) = Header::decode(&datagram[..len]).unwrap();
        assert_eq!((header.message, len), (Message::Init, 1312));
        assert!(link.state().is_some_and(|state| state.is_shaking_hands));
        assert!(thread.take_events().is_some() && thread.take_events().is_none());
        assert!(!thread.has_failed());
        thread.stop();
    }
}
