//! ESP and the header of handshakes, byte for byte.

use overlay_proto::esp::handshake::{self, HandshakeError, Message};
use overlay_proto::esp::{self, EspError, Header, Kind, Lane, Payload, Slot, Spi, Trailer};
use overlay_proto::esp::{Decoded, TrailerError};
use overlay_proto::{Family, Mtu};

use crate::{DOCUMENT, documented, mtu};

fn header() -> Header {
    let spi = Spi::new(Slot::new(0x12345).unwrap(), Lane::new(0x13).unwrap());
    Header { spi, sequence: 7 }
}

/// The documented header with room for a dummy behind it.
fn datagram() -> Vec<u8> {
    let mut datagram = documented("esp-header");
    datagram.resize(esp::MIN_LEN, 0xa5);
    datagram
}

#[test]
fn header_is_the_documented_one() {
    let expected = [
        0x12, 0x34, 0x50, 0x13, 0, 0, 0, 7, 0x00, 0x13, 0, 0, 0, 0, 0, 7, // no byte is left
    ];
    assert_eq!(header().encode(), expected);
    assert_eq!(documented("esp-header"), expected);
    let decoded = esp::decode(&datagram()).unwrap();
    assert_eq!(decoded, Decoded { header: header(), sealed_len: 4 });
    assert_eq!(decoded.header.spi.slot().get(), 0x12345);
    assert_eq!(decoded.header.spi.lane().get(), 0x13);
}

#[test]
fn trailers_are_literally_these() {
    let v4 = Payload::Packet(Family::V4);
    let v6 = Payload::Packet(Family::V6);
    assert_eq!(Trailer::new(v4, 1438).as_slice(), [0, 4]);
    assert_eq!(Trailer::new(v4, 1437).as_slice(), [1, 1, 4]);
    assert_eq!(Trailer::new(v6, 1436).as_slice(), [1, 2, 2, 41]);
    assert_eq!(Trailer::new(v6, 1435).as_slice(), [1, 2, 3, 3, 41]);
    assert_eq!(Trailer::new(Payload::Dummy, 0).as_slice(), [1, 2, 2, 59]);
    for len in [1435, 1436, 1437, 1438] {
        assert_eq!(esp::datagram_len(len), 16 + 1440 + 16, "{len}");
    }
    assert_eq!(esp::datagram_len(1439), 16 + 1444 + 16);
    assert_eq!(esp::datagram_len(0), esp::MIN_LEN);
}

#[test]
fn other_trailers_are_named() {
    for (bytes, error) in [
        (&[][..], TrailerError::Padding),
        (&[4], TrailerError::Padding),
        (&[0, 50], TrailerError::NextHeader),
        (&[0, 0], TrailerError::NextHeader),
        (&[1, 4], TrailerError::Padding),
        (&[2, 1, 4], TrailerError::Padding),
        (&[1, 3, 2, 4], TrailerError::Padding),
        (&[1, 2, 3, 4, 4, 4], TrailerError::Padding),
        (&[0xee, 0xee, 0, 59], TrailerError::DummyWithData),
    ] {
        assert_eq!(esp::open_trailer(bytes), Err(error), "{bytes:?}");
    }
}

#[test]
fn every_flipped_header_bit_is_named_but_those_of_slot_alone() {
    for bit in 0..8 * esp::HEADER_LEN {
        let mut datagram = datagram();
        datagram[bit / 8] ^= 0x80 >> (bit % 8);
        let outcome = esp::decode(&datagram).map(|_| ());
        // Another slot is another session's, and whoever looks it up finds out.
        let expected = if bit < 20 { Ok(()) } else { Err(EspError::Iv) };
        assert_eq!(outcome, expected, "bit {bit}");
    }
}

#[test]
fn what_nobody_sends_is_named() {
    let with = |at: usize, bytes: &[u8]| {
        let mut datagram = datagram();
        datagram[at..at + bytes.len()].copy_from_slice(bytes);
        esp::decode(&datagram).map(|_| ())
    };
    assert_eq!(with(0, &[0, 0, 0, 0x13]), Err(EspError::Slot));
    assert_eq!(with(4, &[0; 4]), Err(EspError::Sequence));
    for len in 0..esp::MIN_LEN {
        assert_eq!(esp::decode(&datagram()[..len]).map(|_| ()), Err(EspError::TooShort), "{len}");
    }
    let mut longer = datagram();
    for expected in [Err(EspError::Unaligned), Err(EspError::Unaligned)] {
        longer.push(0);
        assert_eq!(esp::decode(&longer).map(|_| ()), expected);
    }
    longer.extend([0, 0]);
    assert_eq!(esp::decode(&longer).map(|decoded| decoded.sealed_len), Ok(8));
}

#[test]
fn mtu_is_the_documented_one() {
    for (name, family, left) in [("IPv4", Family::V4, 1438), ("IPv6", Family::V6, 1418)] {
        assert_eq!(esp::mtu(mtu(1500), family), Some(mtu(left)));
        let ip = family.header_len();
        let row = format!("| ESP | {name} | {ip} | 8 | 16 + 2 + 16 | {} | {left} |", ip + 42);
        assert!(DOCUMENT.contains(&row), "no row {row}");
    }
    assert!(DOCUMENT.contains(&format!("UDP destination\nport {}", esp::PORT)));
}

/// Every underlay: the longest packet fits, and one byte more does not.
#[test]
fn mtu_is_exact() {
    for family in [Family::V4, Family::V6] {
        let outer = family.header_len() + 8;
        for bytes in Mtu::MIN..=u16::MAX {
            let Some(left) = esp::mtu(mtu(bytes.into()), family) else {
                assert!(outer + esp::datagram_len(576) > bytes.into(), "{bytes}");
                continue;
            };
            let len = usize::from(left.get());
            assert!(outer + esp::datagram_len(len) <= bytes.into(), "{bytes}");
            assert!(outer + esp::datagram_len(len + 1) > bytes.into(), "{bytes}");
        }
    }
}

fn handshake_header() -> handshake::Header {
    handshake::Header {
        initiator: [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88],
        responder: [0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0x01],
        message: Message::Init,
    }
}

#[test]
fn handshake_header_is_the_documented_one() {
    let header = handshake_header();
    assert_eq!(header.encode(1312).as_slice(), documented("handshake-header"));
    let response = handshake::Header { message: Message::Response, ..header }.encode(1216);
    assert_eq!(response[20..], [0, 0x20, 240, 0x20, 0, 0, 0, 2, 0, 0, 0x04, 0xbc]);
    let stale = handshake::Header { message: Message::Stale, ..header }.encode(64);
    assert_eq!(stale[20..], [0, 0x20, 240, 0x20, 0, 0, 0, 3, 0, 0, 0, 60]);

    let mut datagram = documented("handshake-header");
    datagram.resize(1312, 0xa5);
    let (decoded, body) = handshake::Header::decode(&datagram).unwrap();
    assert_eq!((decoded, body.len()), (header, 1280));
    assert_eq!(Kind::of(&datagram), Kind::Handshake);
    assert_eq!(Kind::of(&documented("esp-header")), Kind::Esp);
}

#[test]
fn every_flipped_bit_of_a_handshake_header_is_named_but_those_of_names() {
    for bit in 0..8 * handshake::HEADER_LEN {
        let mut datagram = documented("handshake-header");
        datagram.resize(1312, 0xa5);
        datagram[bit / 8] ^= 0x80 >> (bit % 8);
        let outcome = handshake::Header::decode(&datagram).map(|_| ());
        let expected = match bit / 8 {
            0..=3 => Err(HandshakeError::Marker),
            4..=19 => Ok(()),
            20 => Err(HandshakeError::NextPayload),
            21 => Err(HandshakeError::Version),
            22 => Err(HandshakeError::Exchange),
            23 => Err(HandshakeError::Flags),
            // From 1 to 3 is one bit: then the flags are not those of the message.
            24..=27 if bit == 8 * 28 - 2 => Err(HandshakeError::Flags),
            24..=27 => Err(HandshakeError::Message),
            _ => Err(HandshakeError::Length),
        };
        assert_eq!(outcome, expected, "bit {bit}");
    }
    let short = handshake::Header::decode(&documented("handshake-header")[..31]).map(|_| ());
    assert_eq!(short, Err(HandshakeError::TooShort));
}
