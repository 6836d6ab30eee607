//! The way into the TUN queue: packets that go together leave as one super-packet.
//!
//! Holds places of received packets until one comes that does not continue the flow; payloads are
//! written from where they were received.

use std::io::{self, IoSlice};

use overlay_proto::InnerPacket;

use super::io_error::{Class, classify};
use super::offload::VnetHeader;
use super::offload::coalesce::{Candidate, Group, MAX_HEADER_LEN};
use super::port::TunPort;
use super::round::{Env, Notice};
use super::tap::Sight;
use crate::engine::DropReason;
use crate::platform::tun::Offload;

/// Most packets in one super-packet: 46 full-size ones fill it, and a round of small ones goes in
/// whole; with two vectors more the writing call stays far below its limit (`UIO_MAXIOV`, 1024).
const MAX_MEMBERS: usize = 128;

pub(super) struct Outlet<'p> {
    offload: Offload,
    refused: bool,
    group: Option<Group>,
    /// The packets of `group`, whole.
    members: [&'p [u8]; MAX_MEMBERS],
    count: usize,
}

impl<'p> Outlet<'p> {
    pub(super) fn new(offload: Offload) -> Self {
        Self { offload, refused: false, group: None, members: [&[]; MAX_MEMBERS], count: 0 }
    }

    /// Whether the kernel has refused a super-packet.
    pub(super) fn refused_offload(&self) -> bool {
        self.refused
    }

    /// Takes a packet for delivery; it may wait for the ones after it until [`flush`](Self::flush).
    pub(super) fn push<T: TunPort, U>(&mut self, env: &mut Env<'_, T, U>, packet: InnerPacket<'p>) {
        let Some(candidate) = self.candidate(&packet) else {
            self.flush(env);
            return write(env, packet.bytes());
        };
        if let (Some(group), Some(first)) = (&mut self.group, self.members.first())
            && self.count < MAX_MEMBERS
            && group.push(first, candidate, packet.bytes())
        {
            self.members[self.count] = packet.bytes();
            self.count += 1;
            return;
        }
        self.flush(env);
        self.group = Some(Group::new(candidate));
        self.members[0] = packet.bytes();
        self.count = 1;
    }

    /// Writes what waits.
    pub(super) fn flush<T: TunPort, U>(&mut self, env: &mut Env<'_, T, U>) {
        let Some(group) = self.group.take() else { return };
        let members = &self.members[..self.count];
        let mut space = [0; MAX_HEADER_LEN];
        let header_len = group.header_len();
        let header = &mut space[..header_len];
        header.copy_from_slice(&members[0][..header_len]);
        let vnet = group.finish(header);
        let mut parts: [&[u8]; MAX_MEMBERS + 1] = [&[]; MAX_MEMBERS + 1];
        parts[0] = header;
        for (part, member) in parts[1..].iter_mut().zip(members) {
            *part = &member[header_len..];
        }
        match send(env, &vnet, &parts[..=members.len()]) {
            Ok(()) => {}
            Err(error) if members.len() > 1 && classify(&error) == Class::Unsupported => {
                self.refused = true;
                self.offload = Offload::None;
                for member in members {
                    write(env, member);
                }
            }
            Err(error) => refused(env, &error, members),
        }
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
    if let Err(error) = send(env, &VnetHeader::default(), &[packet]) {
        refused(env, &error, &[packet]);
    }
}

fn send<T: TunPort, U>(
    env: &mut Env<'_, T, U>,
    vnet: &VnetHeader,
    parts: &[&[u8]],
) -> io::Result<()> {
    let vnet = vnet.encode();
    let mut slices = [IoSlice::new(&[]); MAX_MEMBERS + 2];
    slices[0] = IoSlice::new(&vnet);
    for (slice, part) in slices[1..].iter_mut().zip(parts) {
        *slice = IoSlice::new(part);
    }
    env.tun.send(&slices[..=parts.len()])
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
    env.counters.drops.add(reason, packets.len() as u64);
    if let Some(tap) = env.tap {
        packets.iter().for_each(|packet| tap.see(&Sight::Lost { packet, reason }));
    }
}
