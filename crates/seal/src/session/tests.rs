use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use overlay_proto::esp::{self, Lane, Payload, Slot};
use overlay_proto::{Family, Vni};
use zeroize::Zeroizing;

use super::*;
use crate::noise::Split;
use crate::suite::Suite;

const PACKET: Payload = Payload::Packet(Family::V4);

fn split() -> Split {
    let key = |byte| Zeroizing::new([byte; 32]);
    Split { from_initiator: key(1), from_responder: key(2) }
}

fn key(suite: Suite, vni: u32, direction: Direction) -> TrafficKey {
    TrafficKey::derive(&split(), direction, suite, Vni::new(vni).unwrap()).unwrap()
}

fn slot() -> Slot {
    Slot::new(0x12345).unwrap()
}

fn lane(number: u16) -> Lane {
    Lane::new(number).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "any moment will do")]
fn now() -> Instant {
    Instant::now()
}

fn outgoing(suite: Suite) -> Outgoing {
    Outgoing::new(key(suite, 7, Direction::FromInitiator), slot(), 32, now())
}

fn incoming(suite: Suite) -> Incoming {
    let key = key(suite, 7, Direction::FromInitiator);
    Incoming::new(key, slot(), 32, Arc::new(PeerLink::new("peer")))
}

fn seal(outgoing: &Outgoing, number: u16, inner: &[u8]) -> Vec<u8> {
    let mut out = vec![0xa5; 2000];
    let ticket = outgoing.take(lane(number), 1, inner.len(), now()).unwrap().next().unwrap();
    let len = outgoing.seal(ticket, PACKET, inner, &mut out).unwrap();
    out.truncate(len);
    out
}

#[expect(clippy::unwrap_in_result, reason = "a test fails by panicking")]
fn open(incoming: &Incoming, datagram: &[u8]) -> Result<(Payload, Vec<u8>), OpenError> {
    let mut datagram = datagram.to_vec();
    let decoded = esp::decode(&datagram).unwrap();
    incoming.open(decoded, &mut datagram).map(|(payload, inner)| (payload, inner.to_vec()))
}

#[test]
fn what_is_sealed_is_opened_once() {
    for suite in Suite::ALL {
        let (outgoing, incoming) = (outgoing(suite), incoming(suite));
        for len in (1..100).chain([1437, 1438]) {
            let inner: Vec<u8> = (0..len).map(|byte| byte as u8).collect();
            let datagram = seal(&outgoing, 19, &inner);
            assert_eq!(datagram.len(), esp::datagram_len(len));
            assert!(len < 8 || !datagram.windows(8).any(|bytes| bytes == &inner[..8]));
            assert_eq!(open(&incoming, &datagram), Ok((PACKET, inner)));
            assert_eq!(open(&incoming, &datagram), Err(OpenError::Replayed));
        }
    }
}

/// Another implementation comes to the same bytes.
#[test]
fn what_is_sealed_is_what_was_written_down() {
    let golden = include_str!("../../tests/golden/esp.txt");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let value = |name: &str| {
        let mut lines = golden.lines().filter_map(|line| line.split_once(" = "));
        lines.find(|(found, _)| *found == name).unwrap().1
    };
    let text = value("inner").as_bytes();
    let byte = |digits: &[u8]| u8::from_str_radix(str::from_utf8(digits).unwrap(), 16).unwrap();
    let inner: Vec<u8> = text.chunks(2).map(byte).collect();
    for suite in Suite::ALL {
        let vni = Vni::new(7).unwrap();
        let material = KeyMaterial::derive(&split(), Direction::FromInitiator, suite, vni).unwrap();
        assert_eq!(hex(material.bytes()), value(&format!("{suite}.material")));
        let datagram = seal(&outgoing(suite), 19, &inner);
        assert_eq!(hex(&datagram), value(&format!("{suite}.datagram")));
    }
}

/// Packets of sixteen lanes, of which each has a way of its own that takes up to fifty
/// milliseconds; a million packets a second.
#[test]
fn lanes_with_ways_of_their_own_do_not_push_one_another_out_of_a_window() {
    const LANES: u16 = 16;
    const PACKETS: u64 = 80_000;
    let way_of = |lane: u16| u64::from(lane) * 50_000 / u64::from(LANES - 1);
    let refused = |lane_of: &dyn Fn(u16) -> u16| {
        let (outgoing, incoming) = (outgoing(Suite::Aes256Gcm), incoming(Suite::Aes256Gcm));
        let mut road: Vec<(u64, Vec<u8>)> = (0..PACKETS)
            .map(|micros| {
                let path = u16::try_from(micros % u64::from(LANES)).unwrap();
                (micros + way_of(path), seal(&outgoing, lane_of(path), &[0x45; 20]))
            })
            .collect();
        road.sort_by_key(|(arrives, _)| *arrives);
        let outcomes = road.iter().map(|(_, datagram)| open(&incoming, datagram));
        outcomes.filter(|outcome| *outcome == Err(OpenError::Replayed)).count()
    };
    assert_eq!(refused(&|path| path), 0);
    // What all of them would lose if they counted together.
    assert!(refused(&|_| 0) > 1000);
}

#[test]
fn in_place_and_out_of_place_are_the_same_bytes() {
    for suite in Suite::ALL {
        let inner = [0x45; 61];
        let one = seal(&outgoing(suite), 3, &inner);
        let outgoing = outgoing(suite);
        let mut other = vec![0; esp::datagram_len(inner.len())];
        other[16..16 + 61].copy_from_slice(&inner);
        let ticket = outgoing.take(lane(3), 1, 61, now()).unwrap().next().unwrap();
        assert_eq!(outgoing.seal_in_place(ticket, PACKET, 61, &mut other), Ok(other.len()));
        assert_eq!(one, other);
    }
}

#[test]
fn a_dummy_carries_nothing() {
    for suite in Suite::ALL {
        let datagram = outgoing(suite).dummy(lane(0), now()).unwrap();
        assert_eq!(open(&incoming(suite), &datagram), Ok((Payload::Dummy, vec![])));
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    for suite in Suite::ALL {
        let (outgoing, incoming) = (outgoing(suite), incoming(suite));
        let datagram = seal(&outgoing, 0, &[0x45; 40]);
        for bit in 0..8 * datagram.len() {
            let mut changed = datagram.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            if let Ok(decoded) = esp::decode(&changed) {
                assert_eq!(incoming.open(decoded, &mut changed).err(), Some(OpenError::BadTag));
            }
        }
        assert!(open(&incoming, &datagram).is_ok(), "what was refused has no place in the window");
    }
}

#[test]
fn a_key_serves_one_direction_suite_and_network() {
    let datagram = seal(&outgoing(Suite::Aes256Gcm), 0, &[0x45; 40]);
    for key in [
        key(Suite::Aes256Gcm, 7, Direction::FromResponder),
        key(Suite::Aes256Gcm, 8, Direction::FromInitiator),
        key(Suite::ChaCha20Poly1305, 7, Direction::FromInitiator),
    ] {
        let other = Incoming::new(key, slot(), 32, Arc::new(PeerLink::new("peer")));
        assert_eq!(open(&other, &datagram), Err(OpenError::BadTag));
    }
}

#[test]
fn lanes_that_were_not_announced_are_refused_without_cryptography() {
    let outgoing = outgoing(Suite::Aes256Gcm);
    let key = key(Suite::Aes256Gcm, 7, Direction::FromInitiator);
    let narrow = Incoming::new(key, slot(), 16, Arc::new(PeerLink::new("peer")));
    assert!(open(&narrow, &seal(&outgoing, 15, &[0x45; 40])).is_ok());
    assert_eq!(open(&narrow, &seal(&outgoing, 16, &[0x45; 40])), Err(OpenError::Lane));
    assert_eq!(outgoing.take(lane(32), 1, 40, now()).err(), Some(Spent::Lane));
}

#[test]
fn each_lane_counts_for_itself_and_opens_in_any_order() {
    let (outgoing, incoming) = (outgoing(Suite::Aes256Gcm), incoming(Suite::Aes256Gcm));
    let mut datagrams: Vec<_> =
        (0..200).map(|index| seal(&outgoing, index % 32, &[0x45; 40])).collect();
    datagrams.reverse();
    assert!(datagrams.iter().all(|datagram| open(&incoming, datagram).is_ok()));
    assert!(datagrams.iter().all(|datagram| open(&incoming, datagram).is_err()));
}

#[test]
fn a_trailer_of_another_kind_is_refused_although_authentic() {
    let outgoing = outgoing(Suite::Aes256Gcm);
    let ticket = outgoing.take(lane(0), 1, 0, now()).unwrap().next().unwrap();
    let mut datagram = vec![0x45; 2000];
    // A dummy with data.
    let len = outgoing.seal(ticket, Payload::Dummy, &[0x45; 6], &mut datagram).unwrap();
    let opened = open(&incoming(Suite::Aes256Gcm), &datagram[..len]);
    assert_eq!(opened, Err(OpenError::BadTrailer));
}

#[test]
fn a_key_ends_by_sequence_blocks_and_age() {
    let last = limits::MAX_SEQUENCE - 2;
    let worn = outgoing(Suite::Aes256Gcm);
    worn.skip(0, last, 0);
    assert!(worn.is_worn());
    assert!(worn.take(lane(0), 1, 40, now()).is_ok());
    // Also when it is asked for again and again.
    for _ in 0..1000 {
        assert_eq!(worn.take(lane(0), 64, 40, now()).err(), Some(Spent::Sequence));
    }
    assert!(worn.take(lane(1), 1, 40, now()).is_ok());
    worn.skip(1, 0, limits::MAX_BLOCKS);
    assert_eq!(worn.take(lane(1), 1, 40, now()).err(), Some(Spent::Blocks));

    let young = outgoing(Suite::Aes256Gcm);
    assert!(!young.is_worn());
    assert!(young.take(lane(0), 1, 40, now() + Duration::from_secs(179)).is_ok());
    let old = now() + limits::MAX_AGE;
    assert_eq!(young.take(lane(0), 1, 40, old).err(), Some(Spent::Age));
}

#[test]
fn blocks_are_told_to_the_others() {
    let outgoing = outgoing(Suite::Aes256Gcm);
    // 1,600 bytes are 100 blocks, and one for the tag.
    for _ in 0..1000 {
        outgoing.take(lane(0), 10, 1600, now()).unwrap();
    }
    let told = outgoing.blocks();
    assert!((1_010_000 - told) < 1 << 16, "{told}");
}

/// Would notice a counter that restarts: every (key, IV) that four threads on the same and on other
/// lanes seal with is different.
#[test]
fn no_iv_is_used_twice_with_a_key() {
    let outgoing = outgoing(Suite::ChaCha20Poly1305);
    let ivs = std::thread::scope(|scope| {
        let thread = |worker: u16| {
            let outgoing = &outgoing;
            move || {
                (0..20_000_u32)
                    .flat_map(|turn| {
                        let number = (worker % 2) * 16 + u16::try_from(turn % 16).unwrap();
                        outgoing.take(lane(number), 1 + turn % 5, 40, now()).unwrap()
                    })
                    .map(|ticket| ticket.header().iv())
                    .collect::<Vec<_>>()
            }
        };
        let threads: Vec<_> = (0..4).map(|worker| scope.spawn(thread(worker))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(ivs.len(), 4 * 60_000);
    assert_eq!(ivs.iter().collect::<HashSet<_>>().len(), ivs.len());
}

#[test]
fn slots_are_found_until_they_are_removed() {
    let slots = Slots::new();
    let found = |slot| slots.load(slot).is_some_and(|incoming| incoming.is_some());
    assert!(!found(slot()));
    slots.install(Arc::new(incoming(Suite::Aes256Gcm)));
    assert!(found(slot()));
    assert!(!found(Slot::new(1).unwrap()) && !found(Slot::new(Slot::MAX).unwrap()));
    slots.remove(slot());
    assert!(!found(slot()));
}

#[test]
fn no_key_is_shown() {
    let shown = format!("{:?} {:?}", outgoing(Suite::Aes256Gcm), incoming(Suite::Aes256Gcm));
    assert!(shown.contains("TrafficKey { suite: Aes256Gcm, .. }"), "{shown}");
}

#[test]
fn plain_is_refused_once_the_peer_seals_and_what_was_on_the_way_has_come() {
    let link = PeerLink::new("peer");
    assert!(!link.seals() && !link.refuses_plain(u64::MAX - 1));
    link.set_outgoing(Some(Arc::new(outgoing(Suite::Aes256Gcm))));
    assert!(link.seals() && !link.refuses_plain(10_000));
    link.refuse_plain(20_000);
    link.refuse_plain(30_000);
    assert!(!link.refuses_plain(20_999) && link.refuses_plain(21_000));
    link.set_outgoing(None);
    assert!(link.seals() && link.refuses_plain(21_000));
}
