//! Two machines and every datagram between them.

mod crowd;
mod load;
mod recorded;
mod untrue;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use overlay_proto::Vni;
use overlay_proto::esp::handshake::{Header, Message};
use overlay_proto::esp::{self, Kind};
use zeroize::Zeroizing;

use super::*;
use crate::suite::Suite;

const YEAR: u64 = 365 * 24 * 3600 * 1_000_000_000;
const TODAY: u64 = 57 * YEAR;

/// Counts up, so that no two secrets are the same.
struct Counting(u64);

impl Entropy for Counting {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            *byte = self.0.to_be_bytes()[0];
        }
    }
}

struct Node {
    number: u8,
    mesh: Mesh<Counting>,
    link: Arc<PeerLink>,
    unix_nanos: u64,
}

fn key(byte: u8) -> Arc<NodeKey> {
    Arc::new(NodeKey::from_secret(&Zeroizing::new([byte; KEY_LEN])).unwrap())
}

fn psk(byte: u8) -> Psk {
    Psk::new(Zeroizing::new([byte; KEY_LEN]))
}

fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 168, 1, number], esp::PORT))
}

impl Node {
    fn new(number: u8, start: Instant, psks: Vec<Psk>) -> Self {
        let config = Config {
            vni: Vni::new(7).unwrap(),
            post_quantum: PostQuantum::Off,
            suites: Suites::new(Suite::ALL),
            lanes: 16,
        };
        let identity = Identity { keys: vec![key(number)], psks };
        let mesh = Mesh::new(config, identity, Counting(number.into()), start);
        let link = Arc::new(PeerLink::new("peer"));
        let mut node = Self { number, mesh, link, unix_nanos: TODAY };
        let peer = if number == 1 { 2 } else { 1 };
        node.know(&[peer], start);
        node
    }

    /// Has a table in which the peer has these keys.
    fn know(&mut self, keys: &[u8], now: Instant) -> Output {
        let peer = if self.number == 1 { 2 } else { 1 };
        let keys = keys.iter().map(|byte| *key(*byte).public()).collect();
        let entry = PeerEntry { address: address(peer), keys, link: Arc::clone(&self.link) };
        let identity = self.mesh.identity.clone();
        let mut out = Output::default();
        self.mesh.set_table(identity, vec![entry], self.now(now), &mut out);
        out
    }

    fn now(&self, instant: Instant) -> Now {
        Now { instant, unix_nanos: self.unix_nanos }
    }

    fn want(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut out = Output::default();
        self.mesh.want("peer", self.now(now), &mut out);
        datagrams(out)
    }

    fn tick(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut out = Output::default();
        self.mesh.tick(self.now(now), &mut out);
        datagrams(out)
    }

    /// Takes a datagram as a worker and the machine do.
    fn take(&mut self, datagram: &[u8], now: Instant) -> Vec<Vec<u8>> {
        let mut out = Output::default();
        let moment = self.now(now);
        if Kind::of(datagram) == Kind::Handshake {
            self.mesh.receive(datagram, moment, &mut out);
            return datagrams(out);
        }
        let mut datagram = datagram.to_vec();
        let decoded = esp::decode(&datagram).unwrap();
        let slot = decoded.header.spi.slot();
        let incoming = self.mesh.shared().slots.load(slot).and_then(|slot| slot.clone());
        let Some(incoming) = incoming else { return Vec::new() };
        if incoming.open(decoded, &mut datagram).is_ok() && incoming.hear() {
            self.mesh.heard(slot, moment, &mut out);
        }
        datagrams(out)
    }

    fn is_up(&self) -> bool {
        self.link.outgoing().is_some()
    }

    /// How many sessions come in.
    fn slots(&self) -> usize {
        self.mesh.by_slot.len()
    }
}

fn datagrams(out: Output) -> Vec<Vec<u8>> {
    out.datagrams.into_iter().map(|(_, bytes)| bytes).collect()
}

fn message(datagram: &[u8]) -> Option<Message> {
    Header::decode(datagram).ok().map(|(header, _)| header.message)
}

/// Lets both talk until nobody has anything more to say; returns all that was said.
fn talk(nodes: &mut [Node; 2], first: Vec<Vec<u8>>, now: Instant) -> Vec<Vec<u8>> {
    let mut said = Vec::new();
    let (mut to, mut waiting) = (1, first);
    while !waiting.is_empty() {
        let answers: Vec<_> =
            waiting.iter().flat_map(|datagram| nodes[to].take(datagram, now)).collect();
        said.append(&mut waiting);
        (to, waiting) = (1 - to, answers);
        assert!(said.len() < 50, "they come to an end");
    }
    said
}

#[expect(clippy::disallowed_methods, reason = "any moment will do")]
fn start() -> Instant {
    Instant::now()
}

fn nodes(now: Instant) -> [Node; 2] {
    [1, 2].map(|number| Node::new(number, now, vec![Psk::none()]))
}

fn established(now: Instant) -> ([Node; 2], Vec<Vec<u8>>) {
    let mut nodes = nodes(now);
    let first = nodes[0].want(now);
    let said = talk(&mut nodes, first, now);
    assert!(nodes.iter().all(Node::is_up));
    (nodes, said)
}

#[test]
fn a_session_takes_a_round_trip_and_a_packet() {
    let (nodes, said) = established(start());
    let messages: Vec<_> = said.iter().map(|datagram| message(datagram)).collect();
    // The dummies confirm the session, one to each other.
    assert_eq!(messages, [Some(Message::Init), Some(Message::Response), None, None]);
    assert!(nodes.iter().all(|node| node.slots() == 1));
}

#[test]
fn whoever_looks_sees_the_session_and_when_it_will_be_renewed() {
    let now = start();
    let mut nodes = nodes(now);
    let state = |node: &Node| node.link.state().unwrap();
    assert_eq!(state(&nodes[0]), PeerState::default());
    let first = nodes[0].want(now);
    assert!(state(&nodes[0]).is_shaking_hands);
    let later = now + Duration::from_millis(30);
    talk(&mut nodes, first, later);
    for (node, role) in nodes.iter().zip([Role::Initiator, Role::Responder]) {
        let PeerState { session, is_shaking_hands, last_failure } = state(node);
        let session = session.unwrap();
        assert_eq!((is_shaking_hands, last_failure), (false, None));
        assert_eq!((session.suite, session.role), (Suite::Aes256Gcm, role));
        assert_eq!((session.began, session.post_quantum), (later, PostQuantum::Off));
        let renewal = session.renew_at - later;
        assert!((100..=140).contains(&renewal.as_secs()), "{renewal:?}");
        assert!(session.is_with_first_key);
    }
    // Another key is the one to begin with.
    let mut out = Output::default();
    let identity = Identity { keys: vec![key(9), key(1)], psks: vec![Psk::none()] };
    let link = Arc::clone(&nodes[0].link);
    let entry = PeerEntry { address: address(2), keys: vec![*key(2).public()], link };
    let moment = nodes[0].now(later);
    nodes[0].mesh.set_table(identity.clone(), vec![entry], moment, &mut out);
    assert!(!state(&nodes[0]).session.unwrap().is_with_first_key);
    nodes[0].mesh.set_table(identity, Vec::new(), moment, &mut out);
    assert_eq!(nodes[0].link.state(), None, "it is no peer any more");
}

#[test]
fn how_long_a_handshake_took_is_told() {
    let now = start();
    let mut nodes = nodes(now);
    let init = nodes[0].want(now).remove(0);
    let mut out = Output::default();
    let answered = now + Duration::from_millis(30);
    let moment = nodes[1].now(answered);
    nodes[1].mesh.receive(&init, moment, &mut out);
    let response = out.datagrams.remove(0).1;
    let took = |out: &Output| {
        let What::Established(_, _, took) = out.events[0].what else { panic!("{:?}", out.events) };
        took.as_millis()
    };
    let arrived = now + Duration::from_millis(70);
    let mut out = Output::default();
    let moment = nodes[0].now(arrived);
    nodes[0].mesh.receive(&response, moment, &mut out);
    assert_eq!(took(&out), 70);
    let mut dummy = out.datagrams.remove(0).1;
    let decoded = esp::decode(&dummy).unwrap();
    let slot = decoded.header.spi.slot();
    let incoming = nodes[1].mesh.shared().slots.load(slot).and_then(|slot| slot.clone()).unwrap();
    assert!(incoming.open(decoded, &mut dummy).is_ok() && incoming.hear());
    let mut out = Output::default();
    let moment = nodes[1].now(now + Duration::from_millis(110));
    nodes[1].mesh.heard(slot, moment, &mut out);
    assert_eq!(took(&out), 80);
}

/// Both log what Wireshark needs of the two directions, and with one log the other is the same.
#[test]
fn both_ends_log_the_same_keys_of_a_session_and_only_if_asked() {
    let now = start();
    let mut nodes = nodes(now);
    let init = nodes[0].want(now).remove(0);
    let mut silent = Output::default();
    let mut outs = [(); 2].map(|()| Output { keys: Some(Vec::new()), ..Output::default() });
    let moment = nodes[1].now(now);
    nodes[1].mesh.receive(&init, moment, &mut outs[1]);
    let response = outs[1].datagrams[0].1.clone();
    let moment = nodes[0].now(now);
    nodes[0].mesh.receive(&response, moment, &mut outs[0]);
    assert!(nodes[0].is_up());
    let lines = [1, 2].map(|number| {
        let keys = outs[usize::from(number) - 1].keys.take().unwrap();
        let own = Some(address(number).ip());
        let mut lines: Vec<_> = keys.iter().map(|key| key.line(own).as_bytes().to_vec()).collect();
        lines.sort();
        lines
    });
    assert_eq!(lines[0], lines[1]);
    assert_eq!(lines[0].len(), 2);
    assert_ne!(lines[0][0], lines[0][1]);

    let mut other = Node::new(2, now, vec![Psk::none()]);
    let moment = other.now(now);
    other.mesh.receive(&init, moment, &mut silent);
    assert_eq!(silent.datagrams.len(), 1, "an answer");
    assert!(silent.keys.is_none());
}

/// Tables may come faster than the machine takes them: what it sees of a peer that left and came
/// back is another link.
#[test]
fn a_peer_that_was_away_in_between_gets_sessions_by_its_new_link() {
    let now = start();
    let (mut nodes, _) = established(now);
    let old = std::mem::replace(&mut nodes[0].link, Arc::new(PeerLink::new("peer")));
    nodes[0].know(&[2], now);
    assert!(old.outgoing().is_none() && !nodes[0].is_up() && nodes[0].slots() == 0);
    let first = nodes[0].want(now);
    talk(&mut nodes, first, now);
    assert!(old.outgoing().is_none() && nodes[0].is_up());
}

/// What waited while a session came has been served: the next who waits is news.
#[test]
fn a_wish_that_was_fulfilled_is_forgotten() {
    let now = start();
    let mut nodes = nodes(now);
    assert!(nodes[0].link.activity().want());
    let first = nodes[0].want(now);
    assert!(!nodes[0].link.activity().want(), "somebody waits already");
    talk(&mut nodes, first, now);
    assert!(nodes[0].link.activity().want());
}

#[test]
fn a_clock_that_goes_back_costs_a_round_trip() {
    let now = start();
    let mut nodes = nodes(now);
    nodes[0].unix_nanos = TODAY + 10 * YEAR;
    let first = nodes[0].want(now);
    talk(&mut nodes, first, now);
    // The node is restarted, and its clock is right again.
    nodes[0] = Node::new(1, now, vec![Psk::none()]);
    let first = nodes[0].want(now);
    let said = talk(&mut nodes, first, now);
    let messages: Vec<_> = said.iter().filter_map(|datagram| message(datagram)).collect();
    let expected = [Message::Init, Message::Stale, Message::Init, Message::Response];
    assert_eq!(messages, expected);
    assert!(nodes.iter().all(Node::is_up));
}

#[test]
fn an_old_stale_moves_nobodys_clock() {
    let now = start();
    let mut nodes = nodes(now);
    nodes[0].unix_nanos = TODAY + 10 * YEAR;
    let first = nodes[0].want(now);
    talk(&mut nodes, first, now);
    nodes[0] = Node::new(1, now, vec![Psk::none()]);
    let first = nodes[0].want(now);
    let stale = nodes[1].take(&first[0], now);
    assert_eq!(message(&stale[0]), Some(Message::Stale));
    // Another INIT is on its way when it comes.
    nodes[0] = Node::new(1, now, vec![Psk::none()]);
    nodes[0].unix_nanos += 1;
    nodes[0].want(now);
    assert_eq!(nodes[0].take(&stale[0], now), Vec::<Vec<u8>>::new());
}

/// Whoever recorded an INIT can have it answered, and no more: a session that nobody has used takes
/// no other's place, however long its time is.
#[test]
fn an_answer_that_nobody_makes_use_of_serves_nobody() {
    let now = start();
    let mut nodes = nodes(now);
    let first = nodes[0].want(now);
    nodes[1].take(&first[0], now);
    for step in 1..400 {
        nodes[1].tick(now + step * BUSY_TICK);
        assert!(!nodes[1].is_up(), "after {step} looks");
        assert_eq!(nodes[1].link.state().unwrap().session, None);
    }
    assert_eq!(nodes[1].slots(), 0, "it is forgotten");
}

/// The MAC is what keeps strangers from costing an agreement.
#[test]
fn a_datagram_with_a_bit_flipped_is_of_no_pair() {
    let now = start();
    let mut nodes = nodes(now);
    let first = nodes[0].want(now);
    let answers = nodes[1].take(&first[0], now);
    for (to, datagram) in [(1, &first[0]), (0, &answers[0])] {
        let pairs = nodes[to].mesh.shared().pairs.load_full();
        assert!(pairs.of_datagram(datagram).is_some());
        for byte in 0..datagram.len() {
            let mut changed = datagram.clone();
            changed[byte] ^= 1 << (byte % 8);
            assert!(pairs.of_datagram(&changed).is_none(), "byte {byte}");
        }
        assert!(pairs.of_datagram(&datagram[..datagram.len() - 1]).is_none());
    }
}

#[test]
fn an_init_that_comes_again_displaces_nothing() {
    let now = start();
    let mut nodes = nodes(now);
    let first = nodes[0].want(now);
    let answers = [(); 2].map(|()| nodes[1].take(&first[0], now));
    assert_eq!(answers[0], answers[1], "the RESP is made once");
    assert_eq!(nodes[1].slots(), 1);
    assert!(!nodes[1].is_up(), "nobody has proved that it is alive");
    talk(&mut nodes, vec![first[0].clone()], now);
    let serving = |node: &Node| node.link.outgoing().as_ref().map(Arc::as_ptr);
    let before = serving(&nodes[1]);
    assert_eq!(nodes[1].take(&first[0], now), Vec::<Vec<u8>>::new());
    // One that is older than another, too.
    let second = {
        nodes[0] = Node::new(1, now, vec![Psk::none()]);
        nodes[0].unix_nanos += 1;
        nodes[0].want(now)
    };
    talk(&mut nodes, second, now);
    let after = serving(&nodes[1]);
    assert_ne!(before, after);
    let answer = nodes[1].take(&first[0], now);
    assert_eq!(message(&answer[0]), Some(Message::Stale));
    assert_eq!((serving(&nodes[1]), nodes[1].slots()), (after, 2));
}

#[test]
fn recorded_inits_keep_no_new_one_from_its_answer() {
    let mut now = start();
    let mut nodes = nodes(now);
    let mut recorded = Vec::new();
    for turn in 1..=100 {
        now += Duration::from_secs(120);
        nodes[0] = Node::new(1, now, vec![Psk::none()]);
        nodes[0].unix_nanos += turn;
        let init = nodes[0].want(now);
        recorded.extend(init.clone());
        talk(&mut nodes, init, now);
    }
    // Somebody sends all of them, again and again.
    for turn in 101..110 {
        for _round in 0..20 {
            now += Duration::from_millis(10);
            recorded.iter().for_each(|init| drop(nodes[1].take(init, now)));
        }
        nodes[0] = Node::new(1, now, vec![Psk::none()]);
        nodes[0].unix_nanos += turn;
        let init = nodes[0].want(now);
        let answer = nodes[1].take(&init[0], now);
        assert_eq!(answer.first().and_then(|it| message(it)), Some(Message::Response), "{turn}");
        talk(&mut nodes, answer, now);
    }
}

#[test]
fn inits_are_answered_so_many_and_no_more() {
    let now = start();
    let mut nodes = nodes(now);
    let mut answered = 0;
    for turn in 0..100 {
        nodes[0] = Node::new(1, now, vec![Psk::none()]);
        nodes[0].unix_nanos += turn;
        let init = nodes[0].want(now);
        answered += nodes[1].take(&init[0], now).len();
        assert_eq!(nodes[1].slots(), 1, "one session waits for its first packet");
    }
    assert_eq!(answered, 20);
}

#[test]
fn the_first_psk_is_used_and_all_are_taken() {
    let now = start();
    let mut nodes =
        [Node::new(1, now, vec![psk(1), psk(2)]), Node::new(2, now, vec![psk(2), psk(3)])];
    let first = nodes[0].want(now);
    talk(&mut nodes, first, now);
    assert!(nodes.iter().all(Node::is_up));
    let mut strangers = [Node::new(1, now, vec![psk(1)]), Node::new(2, now, vec![psk(2), psk(1)])];
    let first = strangers[0].want(now);
    talk(&mut strangers, first, now);
    assert!(strangers.iter().all(|node| !node.is_up()));
    let state = strangers[0].link.state().unwrap();
    assert_eq!((state.last_failure, state.session), (Some(Failure::WrongPsk), None));
}

/// Else whoever sends a node's own words back to it passes for the peer.
#[test]
fn a_peer_with_this_nodes_own_key_is_spoken_to_by_nobody() {
    let now = start();
    let mut nodes = nodes(now);
    nodes[0].know(&[1], now);
    assert_eq!(nodes[0].want(now), Vec::<Vec<u8>>::new());
}

#[test]
fn a_key_that_leaves_the_table_ends_its_sessions_at_once() {
    let now = start();
    let (mut nodes, said) = established(now);
    let out = nodes[1].know(&[7], now);
    assert_eq!(out.events.iter().map(|event| event.what).collect::<Vec<_>>(), [What::Ended]);
    assert!(!nodes[1].is_up() && nodes[1].slots() == 0);
    // Its handshakes are a stranger's.
    assert_eq!(nodes[1].take(&said[0], now), Vec::<Vec<u8>>::new());
    nodes[1].know(&[7, 1], now);
    assert!(!nodes[1].is_up(), "it begins anew");
}

#[test]
fn an_init_is_repeated_with_pauses_that_grow() {
    let now = start();
    let mut nodes = nodes(now);
    let first = nodes[0].want(now);
    let mut sent = Vec::new();
    for ms in (0..12_000).step_by(50) {
        let moment = now + Duration::from_millis(ms);
        nodes[0].link.activity().want();
        sent.extend(nodes[0].tick(moment).into_iter().map(|datagram| (ms, datagram)));
    }
    let same: Vec<_> = sent.iter().filter(|(_, datagram)| *datagram == first[0]).collect();
    assert_eq!(same.len(), 4, "five in all, then another with a newer stamp");
    let times: Vec<_> = sent.iter().map(|(ms, _)| *ms).collect();
    let pauses: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!((200..=350).contains(&times[0]), "{times:?}");
    assert!(pauses.iter().all(|pause| (400..=4850).contains(pause)), "{pauses:?}");
    assert_eq!(nodes[0].slots(), 1);
    let state = nodes[0].link.state().unwrap();
    assert_eq!((state.last_failure, state.is_shaking_hands), (Some(Failure::NoAnswer), true));
}

/// Lets a minute pass and more, with data both ways or none.
fn pass(nodes: &mut [Node; 2], now: Instant, seconds: u64, data: bool) -> (usize, bool) {
    let (mut inits, mut always_up) = (0, true);
    for tick in 0..seconds * 4 {
        let moment = now + Duration::from_millis(tick * 250);
        let ms = tick * 250;
        for from in 0..2 {
            if data {
                nodes[from].link.activity().note_sent(ms);
                nodes[from].link.activity().note_received(ms);
            }
            let mut waiting = nodes[from].tick(moment);
            let mut to = 1 - from;
            while !waiting.is_empty() {
                inits += waiting.iter().filter(|it| message(it) == Some(Message::Init)).count();
                let take = |datagram: &Vec<u8>| nodes[to].take(datagram, moment);
                waiting = waiting.iter().flat_map(take).collect();
                to = 1 - to;
            }
        }
        always_up &= nodes.iter().all(Node::is_up);
    }
    (inits, always_up)
}

#[test]
fn a_session_in_use_is_renewed_before_it_ends() {
    let now = start();
    let (mut nodes, _) = established(now);
    let (inits, always_up) = pass(&mut nodes, now, 600, true);
    assert!(always_up);
    assert!((5..=6).contains(&inits), "{inits} in ten minutes");
    assert!(nodes.iter().all(|node| node.slots() <= 2));
}

#[test]
fn a_session_that_nobody_uses_ends() {
    let now = start();
    let (mut nodes, _) = established(now);
    let (inits, _) = pass(&mut nodes, now, 200, false);
    assert_eq!(inits, 0);
    assert!(nodes.iter().all(|node| !node.is_up() && node.slots() == 0));
    assert_eq!(nodes[0].mesh.next_tick(now), None, "and nothing is looked at any more");
}

#[test]
fn who_has_lost_a_session_begins_one_when_told_and_not_too_often() {
    let now = start();
    let (mut nodes, _) = established(now);
    nodes[1] = Node::new(2, now, vec![Psk::none()]);
    let unknown = |node: &mut Node, at: Instant| {
        let mut out = Output::default();
        let now = node.now(at);
        node.mesh.unknown_spi(address(1).ip(), now, &mut out);
        datagrams(out)
    };
    let init = unknown(&mut nodes[1], now);
    assert_eq!(init.len(), 1);
    assert_eq!(unknown(&mut nodes[1], now), Vec::<Vec<u8>>::new(), "one is on its way");
    let answer = nodes[0].take(&init[0], now);
    let dummy = nodes[1].take(&answer[0], now);
    nodes[0].take(&dummy[0], now);
    assert!(nodes.iter().all(Node::is_up));
    // With a session that lives, nobody can be made to begin another.
    assert_eq!(unknown(&mut nodes[1], now), Vec::<Vec<u8>>::new());
}
