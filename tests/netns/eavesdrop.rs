//! Somebody between the nodes, who reads along.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use culvert_lab::Netns;
use culvert_lab::probe::Wire;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use crate::packets::contains;

/// How often what has come is looked at, so that the kernel has room for what comes.
const OFTEN: Duration = Duration::from_millis(2);

/// How many datagrams are kept, of those that nodes sent one another.
const KEPT: usize = 20_000;

/// Listens in a namespace from its start until it is dropped.
pub(crate) struct Eavesdropper {
    stop: Arc<AtomicBool>,
    ear: Arc<Mutex<Ear>>,
    listening: Option<thread::JoinHandle<()>>,
}

/// Who listens, and for what.
struct Ear {
    wire: Wire,
    marker: &'static [u8],
    heard: Heard,
}

/// What has come so far. A frame that passes several devices counts at each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    pub(crate) frames: usize,
    /// Those with what is looked for in them.
    pub(crate) readable: usize,
    /// What was in UDP, oldest first.
    pub(crate) datagrams: Vec<Datagram>,
}

/// What one node has sent to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) payload: Vec<u8>,
}

impl Eavesdropper {
    /// Begins to look for `marker` in what passes `netns`.
    pub(crate) fn start(netns: &Netns, marker: &'static [u8]) -> Self {
        let ear = Ear { wire: Wire::tap(netns).unwrap(), marker, heard: Heard::default() };
        let (stop, ear) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(ear)));
        let (stopped, other) = (Arc::clone(&stop), Arc::clone(&ear));
        let listening = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                other.lock().unwrap_or_else(PoisonError::into_inner).listen();
                thread::sleep(OFTEN);
            }
        });
        Self { stop, ear, listening: Some(listening) }
    }

    /// What has come since this was last asked, up to this moment.
    pub(crate) fn take(&self) -> Heard {
        let mut ear = self.ear.lock().unwrap_or_else(PoisonError::into_inner);
        ear.listen();
        std::mem::take(&mut ear.heard)
    }
}

impl Ear {
    fn listen(&mut self) {
        for frame in self.wire.frames().unwrap() {
            self.heard.frames += 1;
            self.heard.readable += usize::from(contains(&frame, self.marker));
            if self.heard.datagrams.len() < KEPT {
                self.heard.datagrams.extend(Datagram::of(&frame));
            }
        }
    }
}

impl Drop for Eavesdropper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(listening) = self.listening.take() {
            // It has said what went wrong.
            let _ = listening.join();
        }
    }
}

impl Datagram {
    fn of(frame: &[u8]) -> Option<Self> {
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        let (source, destination): (IpAddr, IpAddr) = match packet.net? {
            NetSlice::Ipv4(ip) => {
                let header = ip.header();
                (header.source_addr().into(), header.destination_addr().into())
            }
            NetSlice::Ipv6(ip) => {
                let header = ip.header();
                (header.source_addr().into(), header.destination_addr().into())
            }
            NetSlice::Arp(_) => return None,
        };
        let Some(TransportSlice::Udp(udp)) = packet.transport else { return None };
        Some(Self {
            from: SocketAddr::new(source, udp.source_port()),
            to: SocketAddr::new(destination, udp.destination_port()),
            payload: udp.payload().to_vec(),
        })
    }
}
