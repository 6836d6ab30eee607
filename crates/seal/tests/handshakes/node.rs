//! A node: its keys, its clock, its machine, and a worker that seals and opens.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use culvert_seal::keys::{NodeKey, Psk, PublicKey};
use culvert_seal::mesh::{Config, Identity, Mesh, Now, Output, PeerEntry, Shared};
use culvert_seal::noise::PostQuantum;
use culvert_seal::session::{OpenError, Outgoing, PeerLink, Ticket};
use culvert_seal::{Suite, Suites};
use overlay_proto::esp::{self, Kind, Lane, Payload};
use overlay_proto::{Family, Vni};
use zeroize::Zeroizing;

use crate::random::Random;

pub(crate) const LANES: u16 = 32;

/// What a datagram turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Data { from: usize, number: u64 },
    Nothing,
    Replayed,
}

pub(crate) struct Node {
    pub(crate) index: usize,
    pub(crate) keys: Vec<Arc<NodeKey>>,
    /// Nanoseconds that the clock on the wall is off, and the moment of that clock's zero.
    pub(crate) clock: i64,
    pub(crate) mesh: Mesh<Random>,
    shared: Arc<Shared>,
    links: HashMap<usize, Arc<PeerLink>>,
    started: Instant,
}

pub(crate) fn address(node: usize) -> SocketAddr {
    SocketAddr::new(IpAddr::from([192, 168, 1, u8::try_from(node).unwrap()]), esp::PORT)
}

pub(crate) fn key(random: &mut Random) -> Arc<NodeKey> {
    let mut secret = Zeroizing::new([0; 32]);
    culvert_seal::mesh::Entropy::fill(random, &mut secret[..]);
    Arc::new(NodeKey::from_secret(&secret).unwrap())
}

impl Node {
    pub(crate) fn new(
        index: usize,
        keys: Vec<Arc<NodeKey>>,
        random: &mut Random,
        now: Instant,
    ) -> Self {
        let suites = if random.percent(50) {
            Suites::new(Suite::ALL)
        } else {
            Suites::new([Suite::ChaCha20Poly1305])
        };
        let config = Config {
            vni: Vni::new(7).unwrap(),
            post_quantum: PostQuantum::Off,
            suites,
            lanes: LANES,
        };
        let identity = Identity { keys: keys.clone(), psks: vec![Psk::none()] };
        let mesh = Mesh::new(config, identity, random.fork(), now);
        let shared = Arc::clone(mesh.shared());
        Self { index, keys, clock: 0, mesh, shared, links: HashMap::new(), started: now }
    }

    pub(crate) fn now(&self, instant: Instant) -> Now {
        let age = i64::try_from(instant.duration_since(self.started).as_nanos()).unwrap();
        let unix = 1_800_000_000_000_000_000 + age + self.clock;
        Now { instant, unix_nanos: u64::try_from(unix).unwrap() }
    }

    pub(crate) fn ms(&self, instant: Instant) -> u64 {
        u64::try_from(instant.duration_since(self.started).as_millis()).unwrap()
    }

    pub(crate) fn link(&mut self, peer: usize) -> Arc<PeerLink> {
        let link = self.links.entry(peer);
        Arc::clone(link.or_insert_with(|| Arc::new(PeerLink::new(&peer.to_string()))))
    }

    pub(crate) fn set_table(
        &mut self,
        table: &[(usize, Vec<PublicKey>)],
        instant: Instant,
        out: &mut Output,
    ) {
        let mut entries = Vec::new();
        for (peer, keys) in table.iter().cloned() {
            if peer == self.index {
                continue;
            }
            entries.push(PeerEntry { address: address(peer), keys, link: self.link(peer) });
        }
        let identity = Identity { keys: self.keys.clone(), psks: vec![Psk::none()] };
        self.mesh.set_table(identity, entries, self.now(instant), out);
    }

    /// Seals packet `number`, if there is a session; also says with which key and IV.
    pub(crate) fn seal(
        &mut self,
        peer: usize,
        lane: u16,
        number: u64,
        instant: Instant,
    ) -> Option<(Vec<u8>, Arc<Outgoing>, [u8; 8])> {
        let link = self.link(peer);
        let outgoing = link.outgoing().as_ref().map(Arc::clone)?;
        let mut tickets = outgoing.take(Lane::new(lane).unwrap(), 1, 40, instant).ok()?;
        let ticket: Ticket = tickets.next().unwrap();
        let iv = ticket.header().iv();
        let inner = [number.to_be_bytes(), (self.index as u64).to_be_bytes()].concat();
        let mut datagram = vec![0; esp::datagram_len(inner.len())];
        let payload = Payload::Packet(Family::V4);
        outgoing.seal(ticket, payload, &inner, &mut datagram).unwrap();
        link.activity().note_sent(self.ms(instant));
        Some((datagram, outgoing, iv))
    }

    pub(crate) fn take(
        &mut self,
        from: IpAddr,
        datagram: &mut [u8],
        instant: Instant,
        out: &mut Output,
    ) -> Taken {
        let now = self.now(instant);
        if Kind::of(datagram) == Kind::Handshake {
            self.mesh.receive(datagram, now, out);
            return Taken::Nothing;
        }
        let Ok(decoded) = esp::decode(datagram) else { return Taken::Nothing };
        let slot = decoded.header.spi.slot();
        let Some(incoming) = self.shared.slots.load(slot).and_then(|slot| slot.clone()) else {
            self.mesh.unknown_spi(from, now, out);
            return Taken::Nothing;
        };
        let ms = self.ms(instant);
        match incoming.open(decoded, datagram) {
            Ok((payload, inner)) => {
                if incoming.hear() {
                    self.mesh.heard(slot, now, out);
                }
                let activity = incoming.peer().activity();
                if payload == Payload::Dummy {
                    activity.note_heard(ms);
                    return Taken::Nothing;
                }
                activity.note_received(ms);
                let (number, sender) = inner.split_first_chunk().unwrap();
                let sender = u64::from_be_bytes(sender.try_into().unwrap());
                let from = incoming.peer().name().parse().unwrap();
                assert_eq!(sender, from as u64, "the session's peer is who sealed");
                Taken::Data { from, number: u64::from_be_bytes(*number) }
            }
            Err(OpenError::Replayed) => Taken::Replayed,
            Err(OpenError::BadTag) => Taken::Nothing,
            Err(error @ (OpenError::Lane | OpenError::BadTrailer)) => panic!("{error}"),
        }
    }
}
