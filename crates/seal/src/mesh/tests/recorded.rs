//! What somebody can bring about who has recorded handshakes, or has had a key for a while.

use super::*;
use crate::handshake::{Draft, Pair, Stale};

/// INITs of node1's, each newer than the one before, and what node2 answered.
fn recorded(count: u64, now: Instant) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let mut said = (Vec::new(), Vec::new());
    for turn in 0..count {
        let mut nodes = nodes(now);
        nodes[0].unix_nanos += turn;
        let init = nodes[0].want(now).remove(0);
        said.1.push(nodes[1].take(&init, now).remove(0));
        said.0.push(init);
    }
    said
}

fn unknown_spi(node: &mut Node, now: Instant) -> Vec<Vec<u8>> {
    let (mut out, moment) = (Output::default(), node.now(now));
    node.mesh.unknown_spi(address(1).ip(), moment, &mut out);
    datagrams(out)
}

/// A node that was just started knows no stamp, so that recorded INITs are new to it. Each that is
/// answered might be the peer's, which is given a moment; all together are given no more.
#[test]
fn recorded_inits_keep_no_restarted_node_from_beginning() {
    type Ask = fn(&mut Node, Instant) -> Vec<Vec<u8>>;
    for ask in [Node::want as Ask, unknown_spi] {
        let now = start();
        let (inits, _) = recorded(20, now);
        let mut node = Node::new(2, now, vec![Psk::none()]);
        let begun = inits.iter().enumerate().find_map(|(turn, init)| {
            let moment = now + Duration::from_millis(500) * u32::try_from(turn).unwrap();
            let answer = node.take(init, moment);
            assert_eq!(message(&answer[0]), Some(Message::Response));
            let begun = ask(&mut node, moment);
            assert!(turn > 0 || begun.is_empty(), "the peer may be about to use it");
            begun.first().map(|init| (turn, message(init)))
        });
        assert_eq!(begun, Some((2, Some(Message::Init))));
    }
}

/// Each answer is a datagram, and one to an old INIT costs an agreement before.
#[test]
fn recorded_inits_are_answered_so_many_times_and_no_more() {
    let now = start();
    let (inits, _) = recorded(2, now);
    let mut node = Node::new(2, now, vec![Psk::none()]);
    assert_eq!(message(&node.take(&inits[1], now)[0]), Some(Message::Response));
    assert_eq!(message(&node.take(&inits[0], now)[0]), Some(Message::Stale));
    for (number, init) in inits.iter().enumerate() {
        let moment = now + Duration::from_secs(1 + u64::try_from(number).unwrap());
        let answers = (0..1000).map(|_| node.take(init, moment).len()).sum::<usize>();
        assert_eq!(answers, 4, "INIT {number}");
    }
}

/// An answer is of one INIT, which is found out by agreements.
#[test]
fn a_recorded_answer_is_looked_at_once_and_of_many_so_many() {
    let now = start();
    let (_, answers) = recorded(100, now);
    let mut nodes = nodes(now);
    nodes[0].unix_nanos += 1000;
    let init = nodes[0].want(now);
    let looked_at = |node: &Node| node.mesh.peers[0].as_ref().unwrap().old_responses.len();
    for _ in 0..1000 {
        nodes[0].take(&answers[0], now);
    }
    assert_eq!(looked_at(&nodes[0]), 1);
    // That uses up nothing.
    for answer in &answers[..19] {
        nodes[0].take(answer, now);
    }
    let true_one = nodes[1].take(&init[0], now).remove(0);
    let mut other = nodes[1].take(&init[0], now).remove(0);
    assert_eq!(true_one, other);
    for answer in &answers {
        nodes[0].take(answer, now);
    }
    assert_eq!(looked_at(&nodes[0]), 20);
    nodes[0].take(&true_one, now);
    assert!(!nodes[0].is_up(), "so many at once");
    other.clone_from(&true_one);
    nodes[0].take(&other, now + Duration::from_millis(100));
    assert!(nodes[0].is_up(), "and one more after a while");
}

/// A refused answer may be of another secret of the cluster's, which this node gets now.
#[test]
fn an_answer_is_looked_at_again_with_other_secrets() {
    let now = start();
    let mut nodes = [Node::new(1, now, vec![psk(1)]), Node::new(2, now, vec![psk(2), psk(1)])];
    let init = nodes[0].want(now);
    let answer = nodes[1].take(&init[0], now).remove(0);
    nodes[0].take(&answer, now);
    assert!(!nodes[0].is_up());
    let identity = Identity { keys: vec![key(1)], psks: vec![psk(1), psk(2)] };
    let link = Arc::clone(&nodes[0].link);
    let entry = PeerEntry { address: address(2), keys: vec![*key(2).public()], link };
    let moment = nodes[0].now(now);
    nodes[0].mesh.set_table(identity, vec![entry], moment, &mut Output::default());
    nodes[0].take(&answer, now);
    assert!(nodes[0].is_up());
}

/// Whoever had a key for a while can say that it is the end of time, to either end of a handshake.
/// With its next key the node is heard again, and hears.
#[test]
fn what_was_said_of_time_goes_with_the_key() {
    let now = start();
    let mut nodes = nodes(now);
    let mut thief = Node::new(1, now, vec![Psk::none()]);
    thief.unix_nanos = u64::MAX;
    let init = thief.want(now);
    assert_eq!(message(&nodes[1].take(&init[0], now)[0]), Some(Message::Response));
    let later = now + Duration::from_secs(2);
    assert_eq!(nodes[1].want(later).len(), 1);
    let pair = Pair::new(&key(1), key(2).public()).unwrap();
    let mut draft = Draft::new(pair.header(Message::Stale, false));
    Stale { newest: u64::MAX, refused: TODAY }.write(&mut draft);
    let again = nodes[1].take(&draft.finish(&pair), later);
    assert_eq!(message(&again[0]), Some(Message::Init));

    // The node goes over to another key, as one does without a restart.
    nodes[0].mesh.identity.keys = vec![key(3), key(1)];
    nodes[0].know(&[2], later);
    nodes[1].know(&[1, 3], later);
    nodes[0].mesh.identity.keys = vec![key(3)];
    nodes[0].know(&[2], later);
    nodes[1].know(&[3], later);
    for turn in 1..4 {
        let moment = later + Duration::from_secs(400) * turn;
        (0..2).for_each(|number| drop(nodes[number].tick(moment)));
        assert!(nodes.iter().all(|node| !node.is_up()));
        let begins = usize::try_from(turn % 2).unwrap();
        let init = nodes[begins].want(moment);
        let answer = nodes[1 - begins].take(&init[0], moment);
        assert_eq!(message(&answer[0]), Some(Message::Response), "in turn {turn}");
        let dummy = nodes[begins].take(&answer[0], moment);
        nodes[1 - begins].take(&dummy[0], moment);
        assert!(nodes.iter().all(Node::is_up));
    }
}

/// The two nodes, that of the larger name first, which answers an INIT that crosses its own.
fn by_name(now: Instant) -> [Node; 2] {
    let mut nodes = nodes(now);
    if key(1).id() < key(2).id() {
        nodes.reverse();
    }
    nodes
}

/// Both begin, and each has an answer from the other that has not arrived: that of the larger
/// name's first.
fn both_answered(nodes: &mut [Node; 2], now: Instant) -> [Vec<u8>; 2] {
    let first = nodes[0].want(now);
    let to_first = nodes[1].take(&first[0], now).remove(0);
    let later = now + Duration::from_secs(1);
    let second = nodes[1].want(later);
    let to_second = nodes[0].take(&second[0], later).remove(0);
    assert_eq!([&to_first, &to_second].map(|it| message(it)), [Some(Message::Response); 2]);
    [to_first, to_second]
}

/// Each has its answer when that of the other is on its way: both seal with one session in the end.
#[test]
fn two_who_have_begun_at_once_come_to_one_session() {
    let now = start();
    let mut nodes = by_name(now);
    let answers = both_answered(&mut nodes, now);
    let now = now + Duration::from_secs(1);
    let dummies = [0, 1].map(|number| nodes[number].take(&answers[number], now));
    for (number, dummies) in dummies.iter().enumerate() {
        for dummy in dummies {
            let more = nodes[1 - number].take(dummy, now);
            more.iter().for_each(|dummy| drop(nodes[number].take(dummy, now)));
        }
    }
    // What each seals with is still opened when whatever came before is gone.
    let later = now + Duration::from_secs(20);
    (0..2).for_each(|number| drop(nodes[number].tick(later)));
    for (from, to) in [(0, 1), (1, 0)] {
        let slot = nodes[from].link.outgoing().as_ref().unwrap().slot();
        let incoming = nodes[to].mesh.shared().slots.load(slot);
        assert!(incoming.is_some_and(|it| it.is_some()), "from {from} to {to}");
        assert_eq!(nodes[from].slots(), 1);
    }
}

/// The session before receives although one that was answered for is kept as well: the other end
/// seals with it until it hears of another.
#[test]
fn the_session_before_receives_whatever_was_answered_for() {
    let now = start();
    let mut nodes = by_name(now);
    let init = nodes[0].want(now);
    let answer = nodes[1].take(&init[0], now);
    let dummy = nodes[0].take(&answer[0], now);
    let dummy = nodes[1].take(&dummy[0], now);
    nodes[0].take(&dummy[0], now);
    let before = Arc::clone(nodes[1].link.outgoing().as_ref().unwrap());

    let later = now + Duration::from_secs(130);
    let (mut renewals, mut out) = (Vec::new(), Output::default());
    for node in &mut nodes {
        node.unix_nanos += 1;
        let moment = node.now(later);
        node.mesh.begin(0, later, moment, &mut out);
        renewals.append(&mut out.datagrams);
    }
    // The INIT of the smaller name is answered, and then that of the larger has its answer, from
    // before the other end began.
    let mut other = Node::new(nodes[1].number, later, vec![Psk::none()]);
    let answer = other.take(&renewals[0].1, later);
    assert_eq!(message(&nodes[0].take(&renewals[1].1, later)[0]), Some(Message::Response));
    nodes[0].take(&answer[0], later);
    let after = nodes[0].link.outgoing().as_ref().map(|it| it.slot());
    assert!(after.is_some());
    let dummy = before.dummy(receive::DUMMY_LANE, later).unwrap();
    let decoded = esp::decode(&dummy).unwrap();
    let incoming = nodes[0].mesh.shared().slots.load(decoded.header.spi.slot());
    let incoming = incoming.and_then(|it| it.clone()).expect("it still receives");
    assert!(incoming.open(decoded, &mut dummy.to_vec()).is_ok());
    assert_eq!(nodes[0].slots(), 3);
}
