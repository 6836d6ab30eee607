//! Peers by the thousand, as one thread and one socket: each has a machine of its own that makes
//! sessions, as a daemon has, and sends every packet that it opens back to where it came from.
//!
//! A session says whose a datagram is, and not the address that it comes from, so that one socket
//! serves all. What is for the peers comes to the namespace of one node, to whichever address.

use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use culvert_dataplane::platform::clock;
use culvert_lab::{Lab, TableNode};
use culvert_seal::keys::{KeyId, NodeKey, Psk, PublicKey};
use culvert_seal::mesh::{Config, Entropy, Identity, Mesh, Now, Output, PeerEntry};
use culvert_seal::mesh::{SystemEntropy, What};
use culvert_seal::noise::PostQuantum;
use culvert_seal::session::{LANES_PER_WORKER, PeerLink};
use culvert_seal::{Suite, Suites};
use overlay_proto::esp::handshake::Header;
use overlay_proto::esp::{self, Kind, Lane, Payload};
use overlay_proto::{Family, Vni};
use zeroize::Zeroizing;

/// Slots of each peer, so that a datagram's slot says whose it is.
const SLOTS: u32 = 100;

/// Underlay addresses of the peers, counted up from here, and their subnets, 256 addresses each.
const FIRST_ADDRESS: u32 = u32::from_be_bytes([172, 16, 0, 1]);
const FIRST_SUBNET: u32 = u32::from_be_bytes([10, 0, 0, 0]);

/// All of their addresses, and all of their pods'.
pub(super) const ADDRESSES: &str = "172.16.0.0/12";
pub(super) const PODS: &str = "[network]\ncidrs = [\"10.0.0.0/8\"]";

/// Room for what arrives while the thread makes keys.
const RECEIVE_BUFFER_LEN: usize = 32 << 20;

/// How often the machines look at their timers.
const TICK: Duration = Duration::from_millis(100);

/// Lanes that a peer announces: those of four workers.
const LANES: u16 = 64;

/// Who is in a crowd.
pub(super) struct Members {
    keys: Vec<Arc<NodeKey>>,
}

/// A crowd that answers, until it is dropped.
pub(super) struct Crowd {
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What the crowd has seen.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Sessions that serve, each renewal being another.
    sessions: AtomicU64,
    /// Datagrams that no session could open.
    refused: AtomicU64,
}

struct Peer {
    mesh: Mesh<Numbered>,
    link: Arc<PeerLink>,
}

/// The system's random numbers, but for the first, from which slots are counted.
struct Numbered(Option<u32>);

impl Entropy for Numbered {
    fn fill(&mut self, bytes: &mut [u8]) {
        match self.0.take() {
            Some(first) if bytes.len() == 4 => bytes.copy_from_slice(&first.to_be_bytes()),
            _ => SystemEntropy.fill(bytes),
        }
    }
}

impl Members {
    pub(super) fn new(count: u32) -> Result<Self> {
        let key = || {
            let mut secret = Zeroizing::new([0; 32]);
            SystemEntropy.fill(&mut secret[..]);
            Ok(Arc::new(NodeKey::from_secret(&secret)?))
        };
        Ok(Self { keys: (0..count).map(|_| key()).collect::<Result<_>>()? })
    }

    /// Their entries of the table.
    pub(super) fn entries(&self) -> impl Iterator<Item = TableNode> {
        (0..).zip(&self.keys).map(|(number, key)| {
            let subnet = Ipv4Addr::from(FIRST_SUBNET + number * 256);
            TableNode {
                name: format!("peer{number}"),
                address: Ipv4Addr::from(FIRST_ADDRESS + number).into(),
                subnets: format!("{subnet}/24").parse().into_iter().collect(),
                public_keys: vec![key.public().to_string()],
            }
        })
    }

    /// Lets them answer in the namespace of the lab's second node, from where they reach the first.
    /// What they send back takes up to `spread`, on each lane another time.
    pub(super) fn gather(&self, lab: &Lab, spread: Duration) -> Result<Crowd> {
        let (node, place) = (lab.node(1), lab.node(2));
        place.netns().ip(&format!("route add local {ADDRESSES} dev lo\n"))?;
        node.netns().ip(&format!("route add {ADDRESSES} via {}\n", place.address()))?;
        let socket = place.netns().run(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, esp::PORT))?;
            rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_LEN)?;
            socket.set_read_timeout(Some(Duration::from_millis(1)))?;
            std::io::Result::Ok(socket)
        })?;
        let socket = socket.context("bind the crowd's port")?;
        let own: PublicKey = node.public_keys()?.first().context("a key")?.parse()?;
        let address = SocketAddr::new(node.address(), esp::PORT);
        let began = clock::now();
        let peer = |(number, key)| Peer::new(number, key, own, address, began);
        let room = Room {
            peers: (0..).zip(&self.keys).map(peer).collect::<Result<_>>()?,
            by_id: (0..)
                .zip(&self.keys)
                .map(|(number, key)| (*key.id().as_bytes(), number))
                .collect(),
            began,
            late: vec![VecDeque::new(); usize::from(LANES_PER_WORKER)],
            spread,
            socket,
            counts: Arc::default(),
            address,
        };
        let (counts, stop) = (Arc::clone(&room.counts), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || room.answer(&stopped));
        Ok(Crowd { counts, stop, thread: Some(thread) })
    }

    /// An address in the subnet of a peer.
    pub(super) fn pod(number: u32) -> Ipv4Addr {
        Ipv4Addr::from(FIRST_SUBNET + number * 256 + 2)
    }
}

impl Crowd {
    pub(super) fn sessions(&self) -> u64 {
        self.counts.sessions.load(Ordering::Relaxed)
    }

    pub(super) fn refused(&self) -> u64 {
        self.counts.refused.load(Ordering::Relaxed)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Whoever measures has seen that it does not answer.
            let _ = thread.join();
        }
    }
}

impl Peer {
    fn new(
        number: u32,
        key: &Arc<NodeKey>,
        node: PublicKey,
        address: SocketAddr,
        began: Instant,
    ) -> Result<Self> {
        let identity = Identity { keys: vec![Arc::clone(key)], psks: vec![Psk::none()] };
        let config = Config {
            vni: Vni::new(1)?,
            post_quantum: PostQuantum::Require,
            suites: Suites::new([Suite::Aes256Gcm]),
            lanes: LANES,
        };
        let entropy = Numbered(Some(number * SLOTS));
        let mut mesh = Mesh::new(config, identity.clone(), entropy, began);
        let link = Arc::new(PeerLink::new("node"));
        let entry = PeerEntry { address, keys: vec![node], link: Arc::clone(&link) };
        mesh.set_table(identity, vec![entry], now(), &mut Output::default());
        Ok(Self { mesh, link })
    }
}

/// What the thread has.
struct Room {
    peers: Vec<Peer>,
    by_id: HashMap<[u8; KeyId::LEN], usize>,
    socket: UdpSocket,
    counts: Arc<Counts>,
    began: Instant,
    address: SocketAddr,
    /// What is on its way, of each of the source ports that a lane may stand for.
    late: Vec<VecDeque<(Instant, Vec<u8>)>>,
    spread: Duration,
}

impl Room {
    fn answer(mut self, stop: &AtomicBool) {
        let (mut buffer, mut reply) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        let mut next_tick = clock::now();
        while !stop.load(Ordering::Relaxed) {
            if let Ok(len) = self.socket.recv(&mut buffer) {
                let datagram = buffer.get_mut(..len).unwrap_or_default();
                match Kind::of(datagram) {
                    Kind::Handshake => self.shake(datagram),
                    Kind::Esp => {
                        if self.echo(datagram, &mut reply).is_none() {
                            self.counts.refused.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            }
            self.send_late();
            if clock::now() >= next_tick {
                next_tick = clock::now() + TICK;
                for number in 0..self.peers.len() {
                    let mut out = Output::default();
                    self.peers[number].mesh.tick(now(), &mut out);
                    self.deliver(&out);
                }
            }
        }
    }

    fn shake(&mut self, datagram: &[u8]) {
        let Ok((header, _)) = Header::decode(datagram) else { return };
        let whose = [header.responder, header.initiator].into_iter();
        let Some(&number) = whose.filter_map(|id| self.by_id.get(&id)).next() else { return };
        let mut out = Output::default();
        self.peers[number].mesh.receive(datagram, now(), &mut out);
        self.deliver(&out);
    }

    /// Opens a datagram and sends its packet back.
    fn echo(&mut self, datagram: &mut [u8], reply: &mut [u8]) -> Option<()> {
        let decoded = esp::decode(datagram).ok()?;
        let slot = decoded.header.spi.slot();
        let number = usize::try_from(slot.get().checked_sub(1)? / SLOTS).ok()?;
        let peer = self.peers.get_mut(number)?;
        let incoming = peer.mesh.shared().slots.load(slot)?;
        let incoming = Arc::clone(incoming.as_ref()?);
        let (payload, inner) = incoming.open(decoded, datagram).ok()?;
        let elapsed = u64::try_from(self.began.elapsed().as_millis()).ok()?;
        if incoming.hear() {
            let mut out = Output::default();
            peer.mesh.heard(slot, now(), &mut out);
            self.deliver(&out);
        }
        let link = Arc::clone(&self.peers.get(number)?.link);
        let Payload::Packet(Family::V4) = payload else {
            link.activity().note_heard(elapsed);
            return Some(());
        };
        link.activity().note_received(elapsed);
        turn_round(inner);
        let outgoing = link.outgoing();
        let outgoing = outgoing.as_ref()?;
        let lane = Lane::new(decoded.header.spi.lane().get() % LANES)?;
        let ticket = outgoing.take(lane, 1, inner.len(), clock::now()).ok()?.next()?;
        let len = outgoing.seal(ticket, payload, inner, reply).ok()?;
        link.activity().note_sent(elapsed);
        let datagram = reply.get(..len)?;
        if self.spread.is_zero() {
            return self.socket.send_to(datagram, self.address).ok().map(|_| ());
        }
        let path = lane.get() % LANES_PER_WORKER;
        let delay = self.spread * u32::from(path) / u32::from(LANES_PER_WORKER - 1);
        self.late.get_mut(usize::from(path))?.push_back((clock::now() + delay, datagram.to_vec()));
        Some(())
    }

    fn send_late(&mut self) {
        for path in &mut self.late {
            while path.front().is_some_and(|(at, _)| clock::now() >= *at)
                && let Some((_, datagram)) = path.pop_front()
            {
                if self.socket.send_to(&datagram, self.address).is_err() {
                    self.counts.refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    fn deliver(&self, out: &Output) {
        for event in &out.events {
            if matches!(event.what, What::Established(..)) {
                self.counts.sessions.fetch_add(1, Ordering::Relaxed);
            }
        }
        for (_, datagram) in &out.datagrams {
            // What is lost is sent again.
            let _ = self.socket.send_to(datagram, self.address);
        }
    }
}

/// Exchanges the ends of an IPv4 packet with UDP, which changes no checksum.
fn turn_round(packet: &mut [u8]) {
    if let Some(addresses) = packet.get_mut(12..20) {
        addresses.rotate_left(4);
    }
    if let Some(ports) = packet.get_mut(20..24) {
        ports.rotate_left(2);
    }
}

fn now() -> Now {
    Now { instant: clock::now(), unix_nanos: clock::unix_nanos() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_say_whose_a_session_is() {
        let members = Members::new(3).unwrap();
        let address: SocketAddr = "127.0.0.1:4500".parse().unwrap();
        let node = *members.keys[0].public();
        let peers: Vec<Peer> = (1..3)
            .map(|number| {
                Peer::new(number, &members.keys[number as usize], node, address, clock::now())
                    .unwrap()
            })
            .collect();
        for (number, mut peer) in (1..).zip(peers) {
            let mut out = Output::default();
            peer.mesh.want("node", now(), &mut out);
            assert_eq!(out.datagrams.len(), 1);
            assert!(members.entries().nth(number).unwrap().name.ends_with(&number.to_string()));
        }
    }

    #[test]
    fn a_packet_that_is_turned_round_goes_back() {
        let mut packet = [0; 28];
        packet[12..24].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2, 0, 7, 0, 9]);
        turn_round(&mut packet);
        assert_eq!(packet[12..24], [10, 0, 0, 2, 10, 0, 0, 1, 0, 9, 0, 7]);
    }
}
