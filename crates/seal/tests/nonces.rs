//! No key seals two packets with one IV: whatever threads do at once, however often they are
//! interrupted, and whenever a node starts anew.
//!
//! `CULVERT_NONCES` says over how many packets (`make nonces`: 10^8).

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use culvert_seal::keys::{NodeKey, Psk};
use culvert_seal::mesh::{Config, Identity, Mesh, Now, Output, PeerEntry, SystemEntropy};
use culvert_seal::noise::{PostQuantum, Split};
use culvert_seal::session::{Direction, LANES_PER_WORKER, Outgoing, PeerLink, TrafficKey};
use culvert_seal::{LoggedKey, Suite, Suites};
use overlay_proto::Vni;
use overlay_proto::esp::{self, Kind, Lane, Slot};
use zeroize::Zeroizing;

/// Packets that are looked at unless somebody says otherwise.
const PACKETS: u64 = 400_000;

/// How often the first node starts anew, and renews its session in each of its lives.
const LIVES: u64 = 6;
const RENEWALS: u64 = 2;

/// Threads that seal at once, all of them on the same lanes, which workers never do.
const THREADS: u64 = 4;

/// Most packets that one of them seals at once.
const TRAIN: u64 = 64;

/// One end: a machine, and what its workers see of the other.
struct Node {
    mesh: Mesh<SystemEntropy>,
    link: Arc<PeerLink>,
}

fn key(number: u8) -> Arc<NodeKey> {
    Arc::new(NodeKey::from_secret(&Zeroizing::new([number; 32])).unwrap())
}

fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 168, 1, number], esp::PORT))
}

impl Node {
    fn start(number: u8, now: Now) -> Self {
        let config = Config {
            vni: Vni::new(7).unwrap(),
            post_quantum: PostQuantum::Off,
            suites: Suites::new(Suite::ALL),
            lanes: LANES_PER_WORKER,
        };
        let identity = Identity { keys: vec![key(number)], psks: vec![Psk::none()] };
        let mut mesh = Mesh::new(config, identity.clone(), SystemEntropy, now.instant);
        let (peer, link) = (3 - number, Arc::new(PeerLink::new("peer")));
        let keys = vec![*key(peer).public()];
        let entry = PeerEntry { address: address(peer), keys, link: Arc::clone(&link) };
        mesh.set_table(identity, vec![entry], now, &mut Output::default());
        Self { mesh, link }
    }

    /// Takes a datagram; the keys of sessions that come of it go to `out`.
    fn take(&mut self, mut datagram: Vec<u8>, now: Now, out: &mut Output) {
        if Kind::of(&datagram) == Kind::Handshake {
            return self.mesh.receive(&datagram, now, out);
        }
        let decoded = esp::decode(&datagram).unwrap();
        let slot = decoded.header.spi.slot();
        let incoming = self.mesh.shared().slots.load(slot).and_then(|slot| slot.clone()).unwrap();
        if incoming.open(decoded, &mut datagram).is_ok() && incoming.hear() {
            self.mesh.heard(slot, now, out);
        }
    }
}

/// Every key that was used to seal, and every IV that was used with it.
#[derive(Default)]
struct Audit {
    keys: HashSet<Vec<u8>>,
    packets: u64,
}

impl Audit {
    /// Takes note of the keys that a node seals with from now on.
    fn note(&mut self, keys: &[LoggedKey]) {
        for key in keys {
            let line = key.line(None);
            let text = std::str::from_utf8(line.as_bytes()).unwrap();
            // The direction from this node, whose address the line does not have.
            if text.starts_with("\"IPv4\",\"*\",") {
                let secret = text.split("\"0x").nth(2).unwrap().split('"').next().unwrap();
                assert!(self.keys.insert(secret.into()), "a key was used before");
            }
        }
    }

    /// Has threads seal `packets` packets and looks at every IV.
    fn seal(&mut self, outgoing: &Outgoing, packets: u64, now: Instant) {
        let room = packets + THREADS * TRAIN;
        let words = usize::try_from(room / 64 + 2).unwrap();
        let lanes: Vec<Vec<AtomicU64>> = (0..LANES_PER_WORKER)
            .map(|_| std::iter::repeat_with(AtomicU64::default).take(words).collect())
            .collect();
        let left = AtomicU64::new(packets);
        thread::scope(|scope| {
            for number in 0..THREADS {
                let (lanes, left) = (&lanes, &left);
                scope.spawn(move || {
                    let mut random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                    while left.load(Ordering::Relaxed) > 0 {
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        let lane = Lane::new(u16::try_from(random % 16).unwrap()).unwrap();
                        let count = 1 + random / 16 % TRAIN;
                        let count = count.min(left.load(Ordering::Relaxed)).max(1);
                        let tickets = outgoing.take(lane, u32::try_from(count).unwrap(), 64, now);
                        if (random >> 32).is_multiple_of(16) {
                            thread::yield_now(); // As a worker whose time is over.
                        }
                        tickets.unwrap().for_each(|ticket| look(lanes, ticket.header().iv()));
                        let less = |left: u64| Some(left.saturating_sub(count));
                        let _ = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
                    }
                });
            }
        });
        let seen =
            lanes.iter().flatten().map(|word| u64::from(word.load(Ordering::Relaxed).count_ones()));
        let seen: u64 = seen.sum();
        assert!(seen >= packets, "{seen} of {packets}");
        self.packets += seen;
    }
}

/// Demands that the IV is new. It is made of a lane and a sequence of 32 bits.
fn look(lanes: &[Vec<AtomicU64>], iv: [u8; 8]) {
    let iv = u64::from_be_bytes(iv);
    let (lane, sequence) = (iv >> 48, iv & 0xffff_ffff_ffff);
    let word = &lanes[usize::try_from(lane).unwrap()][usize::try_from(sequence / 64).unwrap()];
    let before = word.fetch_or(1 << (sequence % 64), Ordering::Relaxed);
    assert!(before & 1 << (sequence % 64) == 0, "lane {lane}, sequence {sequence} twice");
}

/// Both shake hands until the first has a session that it had not before.
fn shake(nodes: &mut [Node; 2], audit: &mut Audit, now: Now, first: Vec<Vec<u8>>) {
    let (mut to, mut waiting) = (1, first);
    while !waiting.is_empty() {
        let mut out = Output { keys: Some(Vec::new()), ..Output::default() };
        for datagram in waiting {
            nodes[to].take(datagram, now, &mut out);
        }
        audit.note(&out.keys.unwrap());
        waiting = out.datagrams.into_iter().map(|(_, bytes)| bytes).collect();
        to = 1 - to;
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the zero of the virtual clock, and a parameter")]
fn no_key_seals_two_packets_with_one_iv() {
    let wanted = std::env::var("CULVERT_NONCES").ok().map(|text| text.parse().unwrap());
    let each = wanted.unwrap_or(PACKETS) / (LIVES * RENEWALS * 2);
    let mut now = Now { instant: Instant::now(), unix_nanos: 1 };
    let mut audit = Audit::default();
    let mut nodes = [1, 2].map(|number| Node::start(number, now));
    for _ in 0..LIVES {
        // As after kill -9: of what it had it knows nothing, and the other end knows all of it.
        nodes[0] = Node::start(1, now);
        for _ in 0..RENEWALS {
            now.instant += std::time::Duration::from_secs(125);
            now.unix_nanos += 125_000_000_000;
            let mut out = Output { keys: Some(Vec::new()), ..Output::default() };
            let before = nodes[0].link.outgoing().clone();
            if before.is_some() {
                nodes[0].link.activity().note_sent(u64::MAX / 2);
                nodes[0].mesh.tick(now, &mut out);
            } else {
                nodes[0].mesh.want("peer", now, &mut out);
            }
            let first = out.datagrams.into_iter().map(|(_, bytes)| bytes).collect();
            shake(&mut nodes, &mut audit, now, first);
            for node in &nodes {
                let outgoing = node.link.outgoing().clone().unwrap();
                assert!(before.as_ref().is_none_or(|before| !Arc::ptr_eq(before, &outgoing)));
                audit.seal(&outgoing, each, now.instant);
            }
        }
    }
    let sessions = usize::try_from(LIVES * RENEWALS).unwrap();
    assert_eq!(audit.keys.len(), 2 * sessions, "a key for each direction of each session");
    assert!(audit.packets >= each * LIVES * RENEWALS * 2);
}

/// The audit itself: a counter that starts again with the same key, and a key that comes again.
#[test]
fn what_is_used_again_is_noticed() {
    let now = Now { instant: start(), unix_nanos: 1 };
    let outgoing = || {
        let secret = |byte| Zeroizing::new([byte; 32]);
        let split = Split { from_initiator: secret(1), from_responder: secret(2) };
        let vni = Vni::new(7).unwrap();
        let direction = Direction::FromInitiator;
        let key = TrafficKey::derive(&split, direction, Suite::Aes256Gcm, vni).unwrap();
        Outgoing::new(key, Slot::new(1).unwrap(), LANES_PER_WORKER, now.instant)
    };
    let lanes: Vec<Vec<AtomicU64>> = vec![vec![AtomicU64::new(0), AtomicU64::new(0)]];
    let seal = || {
        let tickets = outgoing().take(Lane::new(0).unwrap(), 10, 64, now.instant);
        tickets.unwrap().for_each(|ticket| look(&lanes, ticket.header().iv()));
    };
    seal();
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(seal)).is_err());

    let mut nodes = [1, 2].map(|number| Node::start(number, now));
    let mut out = Output { keys: Some(Vec::new()), ..Output::default() };
    nodes[0].mesh.want("peer", now, &mut out);
    let init = out.datagrams.remove(0).1;
    nodes[1].mesh.receive(&init, now, &mut out);
    let keys = out.keys.unwrap();
    let mut audit = Audit::default();
    audit.note(&keys);
    let again = || audit.note(&keys);
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(again)).is_err());
}

#[expect(clippy::disallowed_methods, reason = "any moment will do")]
fn start() -> Instant {
    Instant::now()
}
