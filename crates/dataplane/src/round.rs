//! One turn of a worker: what it works with and what it comes to.

use std::io::IoSlice;
use std::net::IpAddr;
use std::time::Instant;

use tokio::sync::mpsc;

use super::counters::WorkerCounters;
use super::offload::VnetHeader;
use super::path_claim::PathClaim;
use super::port::TunPort;
use super::tap::Tap;
use crate::engine::{DropReason, LastDrop, Table};

/// What a round came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// The source ran dry.
    Idle,
    /// There may be more.
    More,
    /// The device has been deleted.
    Gone,
}

/// What a round works with that is not its own.
pub struct Env<'a, T, U> {
    /// The pods' side.
    pub tun: &'a mut T,
    /// The wire's side.
    pub underlay: &'a mut U,
    /// The table as it is during this round.
    pub table: &'a Table,
    /// Where to count.
    pub counters: &'a WorkerCounters,
    /// Where to tell what control should know.
    pub notices: &'a Notices,
    /// Who looks at single packets, if anybody does.
    pub tap: Option<&'a dyn Tap>,
    /// The moment of the round.
    pub now: Instant,
    /// Bytes read so far, in both directions.
    pub octets: usize,
}

impl<'a, T, U> Env<'a, T, U> {
    /// A round at `now` that nobody looks into.
    pub fn new(
        tun: &'a mut T,
        underlay: &'a mut U,
        table: &'a Table,
        counters: &'a WorkerCounters,
        notices: &'a Notices,
        now: Instant,
    ) -> Self {
        Self { tun, underlay, table, counters, notices, tap: None, now, octets: 0 }
    }

    /// Counts packets that go no further; `from` is whom the last of them was from.
    pub(super) fn count_drops(&self, reason: DropReason, packets: u64, from: Option<IpAddr>) {
        self.counters.drops.add(reason, packets, LastDrop { at: self.now, from });
    }
}

/// What workers find out and control should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A datagram toward this address was longer than the device carries by which it should leave.
    RouteTooNarrow(IpAddr),
    /// Somebody says that a path carries less than its route promises.
    PathClaim(PathClaim),
    /// Somebody says that nobody listens where this peer should.
    Unreachable(IpAddr),
    /// The TUN device has been deleted.
    TunGone,
}

/// The way of notices from workers to control: short, and never waited for. A notice that finds it
/// full is lost; what it was about will be noticed again.
#[derive(Clone, Debug)]
pub struct Notices {
    sender: mpsc::Sender<Notice>,
}

impl Notices {
    /// How many notices wait at most.
    const CAPACITY: usize = 64;

    /// Opens the way.
    pub fn new() -> (Self, mpsc::Receiver<Notice>) {
        let (sender, receiver) = mpsc::channel(Self::CAPACITY);
        (Self { sender }, receiver)
    }

    pub(super) fn send(&self, notice: Notice) {
        // Full or nobody listening: see above.
        let _ = self.sender.try_send(notice);
    }
}

/// Sends an ICMP error of ours to the pods' side.
pub(super) fn send_reply<T: TunPort>(tun: &mut T, counters: &WorkerCounters, packet: &[u8]) {
    let header = VnetHeader::default().encode();
    if tun.send(&[IoSlice::new(&header), IoSlice::new(packet)]).is_ok() {
        counters.add_reply();
    }
}
