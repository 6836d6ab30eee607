//! ESP: what is written is read, and nothing else is.

use overlay_proto::Family;
use overlay_proto::esp::handshake::{self, Message};
use overlay_proto::esp::{self, Header, Lane, Payload, Slot, Spi, Trailer};
use proptest::collection::vec;
use proptest::prelude::*;

fn headers() -> impl Strategy<Value = Header> {
    (1..=Slot::MAX, 0..Lane::COUNT, 1..=u32::MAX).prop_map(|(slot, lane, sequence)| {
        let spi = Spi::new(Slot::new(slot).unwrap(), Lane::new(lane).unwrap());
        Header { spi, sequence }
    })
}

proptest! {
    #[test]
    fn written_header_is_read(header in headers(), inner_len in 0_usize..9000) {
        let mut datagram = header.encode().to_vec();
        datagram.resize(esp::datagram_len(inner_len), 0);
        let decoded = esp::decode(&datagram).unwrap();
        prop_assert_eq!(decoded.header, header);
        prop_assert_eq!(decoded.sealed_len, inner_len + esp::trailer_len(inner_len));
        prop_assert_eq!(decoded.sealed_len % 4, 0);
        prop_assert!(esp::trailer_len(inner_len) <= esp::MAX_TRAILER_LEN);
    }

    #[test]
    fn read_header_is_what_would_be_written(bytes in vec(any::<u8>(), 0..80)) {
        if let Ok(decoded) = esp::decode(&bytes) {
            prop_assert!(bytes.starts_with(&decoded.header.encode()));
        }
    }

    #[test]
    fn trailers_come_off_as_they_went_on(inner in vec(any::<u8>(), 1..200), v6 in any::<bool>()) {
        let payload = Payload::Packet(if v6 { Family::V6 } else { Family::V4 });
        let mut sealed = inner.clone();
        sealed.extend_from_slice(Trailer::new(payload, inner.len()).as_slice());
        prop_assert_eq!(sealed.len() % 4, 0);
        prop_assert_eq!(esp::open_trailer(&sealed), Ok((payload, inner.len())));
    }

    /// What comes off an aligned piece is exactly what [`Trailer::new`] puts on.
    #[test]
    fn no_other_trailer_comes_off(words in 1_usize..20, end in vec(0_u8..6, 6), next in any::<u8>()) {
        let mut opened = vec![0x77; words * 4];
        let start = opened.len().saturating_sub(end.len());
        let taken = opened.len() - start;
        opened[start..].copy_from_slice(&end[..taken]);
        *opened.last_mut().unwrap() = [4, 41, 59, next][usize::from(next) % 4];
        if let Ok((payload, len)) = esp::open_trailer(&opened) {
            let trailer = Trailer::new(payload, len);
            prop_assert_eq!(&opened[len..], trailer.as_slice());
        }
    }

    #[test]
    fn written_handshake_header_is_read(
        initiator: [u8; 8],
        responder: [u8; 8],
        message in 0_usize..3,
        body in vec(any::<u8>(), 0..1400),
    ) {
        let message = Message::ALL[message];
        let header = handshake::Header { initiator, responder, message };
        let mut datagram = header.encode(handshake::HEADER_LEN + body.len()).to_vec();
        datagram.extend_from_slice(&body);
        prop_assert_eq!(handshake::Header::decode(&datagram), Ok((header, &body[..])));
        // A byte more or less is not what the length says.
        prop_assert!(handshake::Header::decode(&datagram[..datagram.len() - 1]).is_err());
        datagram.push(0);
        prop_assert!(handshake::Header::decode(&datagram).is_err());
    }

    #[test]
    fn read_handshake_header_is_what_would_be_written(
        start in vec(any::<u8>(), 0..40),
        valid in any::<bool>(),
    ) {
        let mut bytes = start;
        if valid && bytes.len() >= handshake::HEADER_LEN {
            bytes[..4].fill(0);
        }
        if let Ok((header, _)) = handshake::Header::decode(&bytes) {
            prop_assert!(bytes.starts_with(&header.encode(bytes.len())));
        }
    }
}
