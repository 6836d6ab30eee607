//! Sessions that follow one another while packets are on their way.

use std::collections::BTreeMap;

use overlay_proto::Family;
use overlay_proto::esp::{Lane, Payload};

use super::*;

/// How long a datagram is on its way at most.
const LONGEST_WAY: Duration = Duration::from_millis(50);

/// Packets that each node sends in a millisecond.
const PACKETS: usize = 3;

/// Two nodes, and all that is between them.
struct Load {
    nodes: [Node; 2],
    random: Counting,
    start: Instant,
    now: Instant,
    /// By the moment of its arrival: to whom it goes.
    road: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    sent: u64,
    sealed: u64,
    opened: u64,
}

impl Load {
    fn random(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.random.fill(&mut bytes);
        u64::from_be_bytes(bytes)
    }

    fn send(&mut self, to: usize, bytes: Vec<u8>) {
        let longest = u64::try_from(LONGEST_WAY.as_micros()).unwrap();
        let way = Duration::from_micros(self.random() % (longest + 1));
        self.sent += 1;
        self.road.insert((self.now + way, self.sent), (to, bytes));
    }

    /// Has the node seal packets on some of its lanes.
    fn talk(&mut self, from: usize) {
        let link = Arc::clone(&self.nodes[from].link);
        for _ in 0..PACKETS {
            let lane = Lane::new(u16::try_from(self.random() % 16).unwrap()).unwrap();
            let outgoing = link.outgoing();
            let outgoing = outgoing.as_ref().expect("there is a session at every moment");
            let inner = self.sealed.to_be_bytes();
            let tickets = outgoing.take(lane, 1, inner.len(), self.now);
            let ticket = tickets.unwrap().next().unwrap();
            let mut out = vec![0; esp::datagram_len(inner.len())];
            outgoing.seal(ticket, Payload::Packet(Family::V4), &inner, &mut out).unwrap();
            self.sealed += 1;
            self.send(1 - from, out);
        }
        let ms = self.ms();
        link.activity().note_sent(ms);
    }

    fn ms(&self) -> u64 {
        u64::try_from((self.now - self.start).as_millis()).unwrap()
    }

    /// A millisecond passes.
    fn step(&mut self, is_talking: bool) {
        self.now += Duration::from_millis(1);
        let later = self.road.split_off(&(self.now, 0));
        for (_, (to, bytes)) in std::mem::replace(&mut self.road, later) {
            let answers = self.arrive(to, &bytes);
            answers.into_iter().for_each(|bytes| self.send(1 - to, bytes));
        }
        for node in 0..2 {
            if is_talking {
                self.talk(node);
            }
            if self.ms().is_multiple_of(50) {
                let said = self.nodes[node].tick(self.now);
                said.into_iter().for_each(|bytes| self.send(1 - node, bytes));
            }
        }
    }

    fn arrive(&mut self, to: usize, bytes: &[u8]) -> Vec<Vec<u8>> {
        if Kind::of(bytes) == Kind::Handshake {
            return self.nodes[to].take(bytes, self.now);
        }
        let mut datagram = bytes.to_vec();
        let decoded = esp::decode(&datagram).unwrap();
        let slot = decoded.header.spi.slot();
        let node = &mut self.nodes[to];
        let incoming = node.mesh.shared().slots.load(slot).and_then(|slot| slot.clone());
        let incoming = incoming.expect("a session receives for as long as its packets arrive");
        let (payload, _) = incoming.open(decoded, &mut datagram).expect("nobody has changed it");
        let ms = u64::try_from((self.now - self.start).as_millis()).unwrap();
        incoming.peer().activity().note_received(ms);
        self.opened += u64::from(payload != Payload::Dummy);
        let mut out = Output::default();
        if incoming.hear() {
            let moment = node.now(self.now);
            node.mesh.heard(slot, moment, &mut out);
        }
        datagrams(out)
    }

    /// The sessions that both seal with.
    fn sessions(&self) -> [Option<Slot>; 2] {
        [0, 1].map(|node: usize| {
            self.nodes[node].link.outgoing().as_ref().map(|outgoing| outgoing.slot())
        })
    }
}

/// Both ends begin in turn, and packets take up to fifty milliseconds, each as long as it likes.
#[test]
fn a_thousand_renewals_under_load_lose_no_packet() {
    const RENEWALS: usize = 1000;
    let start = start();
    let (nodes, _) = established(start);
    let mut load = Load {
        nodes,
        random: Counting(7),
        start,
        now: start,
        road: BTreeMap::new(),
        sent: 0,
        sealed: 0,
        opened: 0,
    };
    for renewal in 0..RENEWALS {
        let before = load.sessions();
        let by = renewal % 2;
        let (mut out, moment) = (Output::default(), load.nodes[by].now(load.now));
        load.nodes[by].mesh.begin(0, moment.instant, moment, &mut out);
        datagrams(out).into_iter().for_each(|bytes| load.send(1 - by, bytes));
        let is_over = |load: &Load| {
            load.sessions().iter().zip(&before).all(|(now, before)| now.is_some() && now != before)
        };
        let mut steps = 0;
        while !is_over(&load) {
            load.step(true);
            steps += 1;
            assert!(steps < 1000, "renewal {renewal} comes to an end");
        }
        // What was sealed with the session before is still on its way.
        for _ in 0..=LONGEST_WAY.as_millis() {
            load.step(true);
        }
    }
    for _ in 0..=LONGEST_WAY.as_millis() {
        load.step(false);
    }
    assert!(load.sealed > 400_000, "{} packets are no load", load.sealed);
    assert_eq!(load.opened, load.sealed);
}
