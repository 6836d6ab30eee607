//! ESP and the header of handshakes: what is read is exactly what we would have written.

use overlay_proto::esp::{self, Kind, Trailer, handshake};

pub(crate) fn run(input: &[u8]) {
    match Kind::of(input) {
        Kind::Handshake => {
            if let Ok((header, body)) = handshake::Header::decode(input) {
                let written = [&header.encode(input.len()), body].concat();
                assert_eq!(written, input);
            }
        }
        Kind::Esp => {
            if let Ok(decoded) = esp::decode(input) {
                assert!(input.starts_with(&decoded.header.encode()));
                assert_eq!(esp::HEADER_LEN + decoded.sealed_len + esp::TAG_LEN, input.len());
            }
        }
    }
    // As if it had been opened.
    if let Ok((payload, len)) = esp::open_trailer(input)
        && input.len().is_multiple_of(4)
    {
        assert_eq!(&input[len..], Trailer::new(payload, len).as_slice());
    }
}
