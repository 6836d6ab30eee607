//! One node among many peers, of which some do not answer: whose turn it is to shake hands.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// Handshakes under way at once here.
const FEW: usize = 8;

/// How long a datagram is on its way.
const WAY: Duration = Duration::from_millis(10);

const STEP: Duration = Duration::from_millis(10);

/// The node's key; those of the peers are smaller.
const OWN: u8 = 250;

struct Peer {
    /// Nobody is there while it is silent.
    node: Option<Mesh<Counting>>,
    /// What the node knows of it, and it of the node.
    links: [Arc<PeerLink>; 2],
    /// Whether packets wait or go to it all the time.
    wanted: bool,
}

struct Crowd {
    node: Mesh<Counting>,
    peers: Vec<Peer>,
    random: Counting,
    start: Instant,
    now: Instant,
    /// Percent of datagrams that are lost.
    loss: u64,
    /// How long an answer takes that one processor makes for all peers, and until when it is busy.
    work: Duration,
    busy_until: Instant,
    answered: BTreeSet<Vec<u8>>,
    /// By the moment of arrival: from or to which peer, and whether to the node.
    road: BTreeMap<(Instant, u64), (usize, bool, Vec<u8>)>,
    sent: u64,
    /// The most handshakes that were under way at once.
    most: usize,
}

fn mesh(number: u8, seed: u64, entries: Vec<PeerEntry>, now: Instant) -> Mesh<Counting> {
    let config = Config {
        vni: Vni::new(7).unwrap(),
        post_quantum: PostQuantum::Off,
        suites: Suites::new(Suite::ALL),
        lanes: 16,
    };
    let identity = Identity { keys: vec![key(number)], psks: vec![Psk::none()] };
    let mut mesh = Mesh::new(config, identity.clone(), Counting(seed), now);
    let moment = Now { instant: now, unix_nanos: TODAY };
    mesh.set_table(identity, entries, moment, &mut Output::default());
    mesh
}

fn entry(number: u8, link: &Arc<PeerLink>) -> PeerEntry {
    let keys = vec![*key(number).public()];
    PeerEntry { address: address(number), keys, link: Arc::clone(link) }
}

impl Crowd {
    fn new(peers: u8, seed: u64, loss: u64) -> Self {
        let start = start();
        let peers: Vec<Peer> = (0..peers)
            .map(|number| Peer {
                node: None,
                links: [number, OWN].map(|name| Arc::new(PeerLink::new(&name.to_string()))),
                wanted: false,
            })
            .collect();
        let entries = (0..).zip(&peers).map(|(number, peer)| entry(number, &peer.links[0]));
        let mut node = mesh(OWN, seed, entries.collect(), start);
        node.turns = Turns::new(FEW);
        Self {
            node,
            peers,
            random: Counting(seed ^ 0x5555),
            start,
            now: start,
            loss,
            work: Duration::ZERO,
            busy_until: start,
            answered: BTreeSet::new(),
            road: BTreeMap::new(),
            sent: 0,
            most: 0,
        }
    }

    /// Somebody is there from now on.
    fn wake(&mut self, number: u8) {
        let peer = &mut self.peers[usize::from(number)];
        let entries = vec![entry(OWN, &peer.links[1])];
        peer.node = Some(mesh(number, u64::from(number) + 1000, entries, self.start));
    }

    fn moment(&self) -> Now {
        let age = u64::try_from((self.now - self.start).as_nanos()).unwrap();
        Now { instant: self.now, unix_nanos: TODAY + age }
    }

    fn send(&mut self, peer: usize, to_node: bool, datagrams: Vec<Vec<u8>>) {
        for bytes in datagrams {
            let mut random = [0; 8];
            self.random.fill(&mut random);
            self.sent += 1;
            if u64::from_be_bytes(random) % 100 < self.loss {
                continue;
            }
            let mut leaves = self.now;
            if to_node && Kind::of(&bytes) == Kind::Handshake {
                // One that was made before, for an INIT that came again, costs nothing but waits.
                let work =
                    if self.answered.insert(bytes.clone()) { self.work } else { Duration::ZERO };
                leaves = self.busy_until.max(self.now) + work;
                self.busy_until = leaves;
            }
            self.road.insert((leaves + WAY, self.sent), (peer, to_node, bytes));
        }
    }

    /// Sends what the node has to say.
    fn say(&mut self, out: Output) {
        for (to, bytes) in out.datagrams {
            let IpAddr::V4(to) = to.ip() else { panic!("{to}") };
            self.send(to.octets()[3].into(), false, vec![bytes]);
        }
        let has_init = |peer: &&super::super::Peer| {
            peer.attempt.as_ref().is_some_and(|attempt| attempt.init.is_some())
        };
        let under_way = self.node.peers.iter().flatten().filter(has_init).count();
        assert_eq!(under_way, self.node.turns.under_way());
        self.most = self.most.max(under_way);
    }

    fn step(&mut self) {
        self.now += STEP;
        let moment = self.moment();
        let ms = u64::try_from((self.now - self.start).as_millis()).unwrap();
        let later = self.road.split_off(&(self.now, u64::MAX));
        for (_, (index, to_node, bytes)) in std::mem::replace(&mut self.road, later) {
            let mut out = Output::default();
            if to_node {
                take(&mut self.node, bytes, moment, &mut out);
                self.say(out);
            } else if let Some(node) = &mut self.peers[index].node {
                take(node, bytes, moment, &mut out);
                self.send(index, true, datagrams(out));
            }
        }
        for index in 0..self.peers.len() {
            let Peer { links, wanted, node } = &self.peers[index];
            if links[0].outgoing().is_some() {
                // Data goes both ways, as fast as it is wanted.
                for activity in links.iter().map(|link| link.activity()).filter(|_| *wanted) {
                    activity.note_sent(ms);
                    activity.note_received(ms);
                }
                assert!(node.is_some());
            } else if *wanted && links[0].activity().want() {
                let mut out = Output::default();
                self.node.want(&index.to_string(), moment, &mut out);
                self.say(out);
            }
        }
        if ms.is_multiple_of(50) {
            let mut out = Output::default();
            self.node.tick(moment, &mut out);
            self.say(out);
            for index in 0..self.peers.len() {
                let mut out = Output::default();
                if let Some(node) = &mut self.peers[index].node {
                    node.tick(moment, &mut out);
                }
                self.send(index, true, datagrams(out));
            }
        }
    }

    /// Goes on until it is so, which it must be within `limit`.
    fn until(&mut self, limit: Duration, what: &str, is_so: impl Fn(&Self) -> bool) {
        let end = self.now + limit;
        while !is_so(self) {
            assert!(self.now < end, "{what} takes longer than {limit:?}");
            self.step();
        }
    }

    fn is_up(&self, number: u8) -> bool {
        self.peers[usize::from(number)].links[0].outgoing().is_some()
    }

    /// How often an INIT to the peer was made anew.
    fn attempts(&self, number: u8) -> usize {
        self.node.peers[usize::from(number)].as_ref().map_or(0, |peer| peer.next_pair)
    }
}

/// Takes a datagram as a worker and the machine do.
fn take(mesh: &mut Mesh<Counting>, mut datagram: Vec<u8>, now: Now, out: &mut Output) {
    if Kind::of(&datagram) == Kind::Handshake {
        return mesh.receive(&datagram, now, out);
    }
    let decoded = esp::decode(&datagram).unwrap();
    let slot = decoded.header.spi.slot();
    let Some(incoming) = mesh.shared().slots.load(slot).and_then(|slot| slot.clone()) else {
        return;
    };
    if incoming.open(decoded, &mut datagram).is_ok() && incoming.hear() {
        mesh.heard(slot, now, out);
    }
}

#[test]
fn all_have_sessions_although_few_handshakes_are_under_way_at_once() {
    for seed in 0..12 {
        let loss = seed % 3 * 10;
        let mut crowd = Crowd::new(100, seed, loss);
        for number in 0..100 {
            crowd.wake(number);
            crowd.peers[usize::from(number)].wanted = true;
        }
        // Of a hundred peers eight at once, a round trip each; what is lost is sent again.
        let round_trips = (100 / FEW as u32 + 1) * 2 * WAY;
        let limit = if loss == 0 { round_trips + 2 * STEP } else { Duration::from_secs(60) };
        crowd.until(limit, "a crowd", |crowd| (0..100).all(|number| crowd.is_up(number)));
        assert_eq!(crowd.most, FEW);
    }
}

/// Eight answers take longer than anybody has a place for certain.
#[test]
fn answers_that_take_their_time_come_to_sessions() {
    let mut crowd = Crowd::new(60, 1, 0);
    crowd.work = Duration::from_millis(200);
    for number in 0..60 {
        crowd.wake(number);
        crowd.peers[usize::from(number)].wanted = true;
    }
    let all = |crowd: &Crowd| (0..60).all(|number| crowd.is_up(number));
    crowd.until(60 * 3 * crowd.work, "a slow crowd", all);
}

#[test]
fn peers_that_do_not_answer_hold_up_nobody() {
    let seconds = Duration::from_secs;
    let (living, silent) = (0..30_u8, 30..70);
    for seed in 0..3 {
        let mut crowd = Crowd::new(80, seed, 0);
        for number in 0..80_u8 {
            crowd.peers[usize::from(number)].wanted = number < 70;
        }
        living.clone().for_each(|number| crowd.wake(number));
        // Eight of the silent have all places, for a second, and then the next eight.
        let is_up = |crowd: &Crowd| living.clone().all(|number| crowd.is_up(number));
        crowd.until(seconds(6), "the living", is_up);
        // Two lines that never end, and sessions are renewed as if nobody waited.
        let mut renewed = crowd.peers[0].links[0].outgoing().clone().unwrap();
        for turn in 0..20 {
            let end = crowd.now + seconds(15);
            while crowd.now < end {
                crowd.step();
                assert!(is_up(&crowd), "a session ends that is in use");
            }
            // Whoever is wanted the first time goes ahead of all that have not answered.
            if let Some(number) = (70..80).nth(turn / 2).filter(|_| turn % 2 == 1) {
                crowd.wake(number);
                crowd.peers[usize::from(number)].wanted = true;
                crowd.until(seconds(1) + 6 * WAY, "a newcomer", |crowd| crowd.is_up(number));
            }
        }
        let now = crowd.peers[0].links[0].outgoing().clone().unwrap();
        assert!(!Arc::ptr_eq(&std::mem::replace(&mut renewed, now.clone()), &now));
        // Forty peers, of which eight are asked in a second: each is asked all the time.
        let asked: Vec<usize> = silent.clone().map(|number| crowd.attempts(number)).collect();
        let [least, most] = [asked.iter().min(), asked.iter().max()].map(|it| *it.unwrap());
        assert!(least * 6 >= 300 / 2 && most <= least + 6, "{asked:?}");
        // And one that comes to life is found by that.
        crowd.wake(69);
        crowd.until(seconds(12), "one that comes to life", |crowd| crowd.is_up(69));
        assert_eq!(crowd.most, FEW);
    }
}
