//! The handshake against snow, which was written by others, and against messages kept in a file.

mod golden;
mod oracle;

use zeroize::Zeroizing;

use super::*;
use crate::keys::{NodeKey, Psk, SharedSecret};

const PROLOGUE: &[u8] = b"culvert sealed 1 and so on";
const FIRST: Payload = *b"first payload 16";
const SECOND: Payload = *b"second, as long.";

fn secret(byte: u8) -> Zeroizing<[u8; KEY_LEN]> {
    Zeroizing::new([byte; KEY_LEN])
}

fn key(byte: u8) -> NodeKey {
    NodeKey::from_secret(&secret(byte)).unwrap()
}

fn psk(byte: u8) -> Psk {
    Psk::new(secret(byte))
}

/// Two nodes that know each other.
struct Ends {
    initiator: NodeKey,
    responder: NodeKey,
    shared: SharedSecret,
}

impl Ends {
    fn new() -> Self {
        let (initiator, responder) = (key(1), key(2));
        let shared = initiator.agree(responder.public()).unwrap();
        Self { initiator, responder, shared }
    }

    fn begin(&self, post_quantum: PostQuantum) -> (Initiator, Vec<u8>) {
        let ephemeral = Ephemeral::of_initiator(post_quantum, &secret(3)).unwrap();
        let mut message = Vec::new();
        let keys = (self.initiator.public(), self.responder.public());
        let begun = Initiator::begin(
            post_quantum,
            PROLOGUE,
            keys,
            &self.shared,
            ephemeral,
            &FIRST,
            &mut message,
        );
        (begun.unwrap(), message)
    }

    fn read(
        &self,
        post_quantum: PostQuantum,
        message: &[u8],
    ) -> Result<(Payload, Responder), Refused> {
        let keys = (&self.responder, self.initiator.public());
        Responder::read(post_quantum, PROLOGUE, keys, &self.shared, message)
    }

    fn answer(&self, responder: Responder, psk: &Psk) -> (Vec<u8>, Split) {
        let ephemeral = Ephemeral::of_responder(&secret(4)).unwrap();
        let mut message = Vec::new();
        let split = responder.answer(psk, &ephemeral, &SECOND, &mut message).unwrap();
        (message, split)
    }
}

fn bytes(split: &Split) -> [[u8; KEY_LEN]; 2] {
    [*split.from_initiator, *split.from_responder]
}

const BOTH: [PostQuantum; 2] = [PostQuantum::Require, PostQuantum::Off];

#[test]
fn both_ends_come_to_the_same_keys() {
    for post_quantum in BOTH {
        let ends = Ends::new();
        let (initiator, first) = ends.begin(post_quantum);
        assert_eq!(first.len(), post_quantum.first_len());
        let (payload, responder) = ends.read(post_quantum, &first).unwrap();
        assert_eq!(payload, FIRST);
        let (second, theirs) = ends.answer(responder, &psk(9));
        assert_eq!(second.len(), post_quantum.second_len());
        assert!(second.len() <= first.len(), "an answer is never longer than its question");
        let (payload, ours) =
            initiator.finish(&ends.initiator, &[psk(8), psk(9)], &second).unwrap();
        assert_eq!(payload, SECOND);
        assert_eq!(bytes(&ours), bytes(&theirs));
        assert_ne!(ours.from_initiator, ours.from_responder);
    }
}

#[test]
fn no_two_handshakes_have_a_key_in_common() {
    let ends = Ends::new();
    let keys = || {
        let (_, first) = ends.begin(PostQuantum::Require);
        let (_, responder) = ends.read(PostQuantum::Require, &first).unwrap();
        bytes(&ends.answer(responder, &psk(9)).1)
    };
    // The X25519 keys are the same both times; ML-KEM's are not.
    let (one, other) = (keys(), keys());
    assert!(one.iter().all(|key| !other.contains(key)));
}

#[test]
fn a_wrong_psk_is_refused_and_the_right_one_may_still_come() {
    let ends = Ends::new();
    let (initiator, first) = ends.begin(PostQuantum::Require);
    let (_, responder) = ends.read(PostQuantum::Require, &first).unwrap();
    let (second, _) = ends.answer(responder, &psk(9));
    assert_eq!(initiator.finish(&ends.initiator, &[psk(8)], &second).err(), Some(Refused));
    assert_eq!(initiator.finish(&ends.initiator, &[], &second).err(), Some(Refused));
    assert!(initiator.finish(&ends.initiator, &[psk(9)], &second).is_ok());
}

#[test]
fn whoever_lacks_one_of_the_keys_is_refused() {
    let ends = Ends::new();
    let (_, first) = ends.begin(PostQuantum::Require);
    let read = |own: &NodeKey, peer: &NodeKey, shared: &SharedSecret, prologue: &[u8]| {
        let keys = (own, peer.public());
        Responder::read(PostQuantum::Require, prologue, keys, shared, &first).map(|_| ())
    };
    let (right, stranger) = (&ends.shared, key(7));
    let wrong = stranger.agree(ends.responder.public()).unwrap();
    assert_eq!(read(&ends.responder, &ends.initiator, right, PROLOGUE), Ok(()));
    assert_eq!(read(&stranger, &ends.initiator, right, PROLOGUE), Err(Refused));
    assert_eq!(read(&ends.responder, &stranger, right, PROLOGUE), Err(Refused));
    assert_eq!(read(&ends.responder, &ends.initiator, &wrong, PROLOGUE), Err(Refused));
    assert_eq!(read(&ends.responder, &ends.initiator, right, b"another network"), Err(Refused));
}

#[test]
fn neither_end_goes_down_to_classical_keys() {
    let ends = Ends::new();
    for (one, other) in [(BOTH[0], BOTH[1]), (BOTH[1], BOTH[0])] {
        let (_, first) = ends.begin(one);
        assert_eq!(ends.read(other, &first).err(), Some(Refused));
    }
}

#[test]
fn every_flipped_bit_and_every_missing_byte_is_refused() {
    for post_quantum in BOTH {
        let ends = Ends::new();
        let (initiator, first) = ends.begin(post_quantum);
        let (_, responder) = ends.read(post_quantum, &first).unwrap();
        let (second, _) = ends.answer(responder, &psk(9));
        let psks = [psk(9)];
        for bit in 0..8 * first.len() {
            let mut changed = first.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(ends.read(post_quantum, &changed).err(), Some(Refused), "first, bit {bit}");
        }
        for bit in 0..8 * second.len() {
            let mut changed = second.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let refused = initiator.finish(&ends.initiator, &psks, &changed).err();
            assert_eq!(refused, Some(Refused), "second, bit {bit}");
        }
        for len in 0..first.len() {
            assert_eq!(ends.read(post_quantum, &first[..len]).err(), Some(Refused), "{len}");
        }
        for len in 0..second.len() {
            let refused = initiator.finish(&ends.initiator, &psks, &second[..len]).err();
            assert_eq!(refused, Some(Refused), "{len}");
        }
        assert!(initiator.finish(&ends.initiator, &psks, &second).is_ok());
    }
}
