//! The way into the TUN queue: packets that go together leave as one super-packet.
//!
//! Holds places of received packets until one comes that must not overtake them and does not
//! continue them; payloads are written from where they were received. Flows come mixed, so several
//! super-packets are in the making at once, at most one of a flow: two packets of one flow never
//! change places.

use std::io::{self, IoSlice};

use arrayvec::ArrayVec;
use overlay_proto::InnerPacket;

use super::io_error::{Class, classify};
use super::offload::VnetHeader;
use super::offload::coalesce::{Candidate, Group, MAX_HEADER_LEN};
use super::port::TunPort;
use super::round::{Env, Notice};
use super::tap::Observation;
use crate::engine::DropReason;
use crate::platform::tun::Offload;

/// Most packets in one super-packet: 46 full-size ones fill it, and a round of small ones goes in
/// whole; with two vectors more the writing call stays far below its limit (`UIO_MAXIOV`, 1024).
const MAX_MEMBERS: usize = 128;

/// Super-packets in the making at once.
const OPEN: usize = 8;

pub(super) struct Outlet<'p> {
    offload: Offload,
    open: [Open<'p>; OPEN],
    /// The super-packet that took a packet last.
    newest: usize,
    /// The super-packet that is written next to make room.
    next_out: usize,
}

/// A super-packet in the making, or room for one.
struct Open<'p> {
    group: Option<Group>,
    /// The packets of `group`, whole; at most [`MAX_MEMBERS`].
    members: Vec<&'p [u8]>,
}

/// What an outlet leaves to the next one, which has other packets: room for their places.
pub(super) struct Room([Vec<&'static [u8]>; OPEN]);

impl Room {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| Vec::with_capacity(MAX_MEMBERS)))
    }
}

impl Default for Room {
    /// None yet.
    fn default() -> Self {
        Self([const { Vec::new() }; OPEN])
    }
}

impl<'p> Open<'p> {
    /// Takes `packet` if it continues the others; says whether it did.
    #[inline]
    fn push(&mut self, candidate: &Candidate, packet: &'p [u8]) -> bool {
        let (Some(group), Some(first)) = (&mut self.group, self.members.first()) else {
            return false;
        };
        let fits = self.members.len() < MAX_MEMBERS && group.push(first, candidate, packet);
        if fits {
            self.members.push(packet);
        }
        fits
    }

    /// Whether `packet`, of whatever kind, must not overtake these.
    fn is_ahead_of(&self, packet: &InnerPacket<'_>) -> bool {
        match (&self.group, self.members.first()) {
            (Some(group), Some(first)) => group.may_share_flow(first, packet),
            (Some(_) | None, _) => false,
        }
    }
}

impl<'p> Outlet<'p> {
    pub(super) fn new(offload: Offload, room: Room) -> Self {
        let open = room.0.map(|members| Open { group: None, members });
        Self { offload, open, newest: 0, next_out: 0 }
    }

    /// Takes a packet for delivery; it may wait for the ones after it.
    #[inline]
    pub(super) fn push<T: TunPort, U>(&mut self, env: &mut Env<'_, T, U>, packet: InnerPacket<'p>) {
        let candidate = self.candidate(&packet);
        if let Some(candidate) = &candidate
            && self.open[self.newest].push(candidate, packet.bytes())
        {
            return;
        }
        self.place(env, candidate.as_ref(), packet);
    }

    /// Takes a packet that does not continue the super-packet before it.
    #[inline(never)]
    fn place<T: TunPort, U>(
        &mut self,
        env: &mut Env<'_, T, U>,
        candidate: Option<&Candidate>,
        packet: InnerPacket<'p>,
    ) {
        // At most one is of its flow; but a fragment may be of the flow of each.
        for index in 0..OPEN {
            if !self.open[index].is_ahead_of(&packet) {
                continue;
            }
            if let Some(candidate) = candidate
                && self.open[index].push(candidate, packet.bytes())
            {
                self.newest = index;
                return;
            }
            self.write_out(env, index);
        }
        let Some(candidate) = candidate else {
            return write(env, packet.bytes());
        };
        let empty = self.open.iter().position(|open| open.group.is_none());
        self.newest = empty.unwrap_or_else(|| {
            let turn = self.next_out;
            self.next_out = (turn + 1) % OPEN;
            self.write_out(env, turn);
            turn
        });
        let open = &mut self.open[self.newest];
        open.group = Some(Group::new(*candidate));
        open.members.push(packet.bytes());
    }

    /// Writes what waits. Returns what super-packets the kernel takes, which is none if it has
    /// refused one, and the room.
    pub(super) fn finish<T: TunPort, U>(mut self, env: &mut Env<'_, T, U>) -> (Offload, Room) {
        for index in 0..OPEN {
            self.write_out(env, index);
        }
        // An empty vector is collected in place, into one that may hold other borrows.
        let emptied = |open: Open<'p>| open.members.into_iter().map_while(|_| None).collect();
        (self.offload, Room(self.open.map(emptied)))
    }

    /// Writes the super-packet at `index`, if there is one.
    fn write_out<T: TunPort, U>(&mut self, env: &mut Env<'_, T, U>, index: usize) {
        let Open { group, members } = &mut self.open[index];
        let (Some(group), Some(first)) = (group.take(), members.first()) else { return };
        let mut space = [0; MAX_HEADER_LEN];
        let header_len = group.header_len();
        let header = &mut space[..header_len];
        header.copy_from_slice(&first[..header_len]);
        let vnet = group.finish(header);
        let payloads = members.iter().map(|member| &member[header_len..]);
        match send(env, &vnet, std::iter::once(&*header).chain(payloads)) {
            Ok(()) => {}
            Err(error) if members.len() > 1 && classify(&error) == Class::Unsupported => {
                self.offload = Offload::None;
                members.iter().for_each(|member| write(env, member));
            }
            Err(error) => refused(env, &error, members),
        }
        members.clear();
    }

    fn candidate(&self, packet: &InnerPacket<'_>) -> Option<Candidate> {
        match self.offload {
            Offload::None => None,
            Offload::Tcp => Candidate::new(packet).filter(|candidate| !candidate.is_udp()),
            Offload::TcpUdp => Candidate::new(packet),
        }
    }
}

fn write<T: TunPort, U>(env: &mut Env<'_, T, U>, packet: &[u8]) {
    if let Err(error) = send(env, &VnetHeader::default(), std::iter::once(packet)) {
        refused(env, &error, &[packet]);
    }
}

/// Writes what is made of `parts`: a header and the payloads of at most [`MAX_MEMBERS`] packets.
fn send<'a, T: TunPort, U>(
    env: &mut Env<'_, T, U>,
    vnet: &VnetHeader,
    parts: impl Iterator<Item = &'a [u8]>,
) -> io::Result<()> {
    let vnet = vnet.encode();
    let mut slices = ArrayVec::<_, { MAX_MEMBERS + 2 }>::new_const();
    slices.push(IoSlice::new(&vnet));
    for part in parts {
        slices.push(IoSlice::new(part));
    }
    env.tun.send(&slices)
}

fn refused<T, U>(env: &Env<'_, T, U>, error: &io::Error, packets: &[&[u8]]) {
    let reason = match classify(error) {
        Class::Empty | Class::Full => DropReason::TunFull,
        Class::Gone => {
            env.notices.send(Notice::TunGone);
            DropReason::TunRefused
        }
        Class::TooBig | Class::Unsupported | Class::Refused => {
            tracing::debug!(%error, "the TUN device refused a packet");
            DropReason::TunRefused
        }
    };
    env.count_drops(reason, packets.len() as u64, None);
    if let Some(tap) = env.tap {
        packets.iter().for_each(|packet| tap.observe(&Observation::Lost { packet, reason }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{MemoryTun, MemoryUnderlay};
    use crate::round::Notices;
    use crate::tests::{packet_for_the_outlet, table};
    use crate::{WorkerCounters, platform::clock};

    /// Nothing is allocated from round to round: what collects in place does.
    #[test]
    fn the_room_outlives_the_packets() {
        let (table, counters, notices) = (table(), WorkerCounters::default(), Notices::new().0);
        let (mut tun, mut underlay) = (MemoryTun::default(), MemoryUnderlay::default());
        let now = clock::now();
        let mut env = Env::new(&mut tun, &mut underlay, &table, &counters, &notices, now);
        let mut room = Room::new();
        let places = room.0.each_ref().map(|members| members.as_ptr().addr());
        for _ in 0..3 {
            let bytes = packet_for_the_outlet();
            let mut outlet = Outlet::new(Offload::TcpUdp, room);
            outlet.push(&mut env, InnerPacket::parse(&bytes).unwrap());
            (_, room) = outlet.finish(&mut env);
        }
        assert_eq!(env.tun.written.len(), 3);
        assert_eq!(room.0.each_ref().map(|members| members.as_ptr().addr()), places);
        assert!(room.0.iter().all(|members| members.capacity() >= MAX_MEMBERS));
    }
}
