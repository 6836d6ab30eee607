//! Answers that no machine makes: of a peer that says other things, or of whoever has a key of its.

use overlay_proto::esp::handshake::HEADER_LEN;

use super::*;
use crate::handshake::{Answer, Draft, Offer, Pair, prologue};
use crate::noise::{Ephemeral, Responder};

/// What node2 answers an INIT of node1's if it says what `change` makes of the truth.
fn answer(init: &[u8], change: fn(&mut Answer)) -> Vec<u8> {
    let pair = Pair::new(&key(2), key(1).public()).unwrap();
    let (header, _) = Header::decode(init).unwrap();
    let prologue = prologue(Vni::new(7).unwrap(), &header);
    let keys = (pair.own(), pair.peer());
    let body = &pair.verified(init).unwrap()[HEADER_LEN..];
    let read = Responder::read(PostQuantum::Off, &prologue, keys, pair.shared(), body);
    let Ok((payload, responder)) = read else { panic!("no INIT of node1's to node2") };
    let Offer { stamp, slot, lanes, .. } = Offer::decode(&payload).unwrap();
    let mut answer = Answer { stamp, slot, lanes, suite: Suite::ChaCha20Poly1305 };
    change(&mut answer);
    let mut draft = Draft::new(pair.header(Message::Response, false));
    let ephemeral = Ephemeral::of_responder(&Zeroizing::new([9; KEY_LEN])).unwrap();
    let split = responder.answer(&Psk::none(), &ephemeral, &answer.encode(), &mut draft.bytes);
    assert!(split.is_ok());
    draft.finish(&pair)
}

#[test]
fn an_answer_that_does_not_fit_the_offer_makes_no_session() {
    for (change, fits) in [
        ((|_| {}) as fn(&mut Answer), true),
        (|answer| answer.stamp += 1, false),
        // Where this machine is without AES, how long it takes may tell of the key.
        (|answer| answer.suite = Suite::Aes256Gcm, false),
    ] {
        let now = start();
        let mut nodes = nodes(now);
        nodes[0].mesh.config.suites = Suites::new([Suite::ChaCha20Poly1305]);
        let init = nodes[0].want(now).remove(0);
        nodes[0].take(&answer(&init, change), now);
        assert_eq!(nodes[0].is_up(), fits);
        let failure = (!fits).then_some(Failure::WrongKeys);
        assert_eq!(nodes[0].link.state().unwrap().last_failure, failure);
    }
}

/// Whoever has got one of two keys of a peer's uses up nothing of handshakes with the other.
#[test]
fn an_answer_with_another_key_of_the_peers_is_not_looked_at() {
    let now = start();
    let mut nodes = nodes(now);
    nodes[0].know(&[2, 3], now);
    let init = nodes[0].want(now).remove(0);
    let (header, _) = Header::decode(&init).unwrap();
    assert_eq!(header.responder, *key(2).id().as_bytes());
    let pair = Pair::new(&key(3), key(1).public()).unwrap();
    let mut draft = Draft::new(pair.header(Message::Response, false));
    draft.bytes.resize(HEADER_LEN + PostQuantum::Off.second_len(), 5);
    nodes[0].take(&draft.finish(&pair), now);
    assert_eq!(nodes[0].mesh.peers[0].as_ref().unwrap().old_responses.len(), 0);
    assert_eq!(nodes[0].link.state().unwrap().last_failure, None);
}
