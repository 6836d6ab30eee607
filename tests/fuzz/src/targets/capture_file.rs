//! Captures, pcap and pcapng: each ends, and a frame never claims less than it has.

use culvert::pcap::{Reader, network_layer};

/// Bytes of the shortest frame with what is around it (a pcap record header).
const LEAST_RECORD_LEN: usize = 16;

pub(crate) fn run(input: &[u8]) {
    let mut reader = match Reader::open(input) {
        Ok(reader) => reader,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let mut frames = 0;
    loop {
        match reader.next_frame() {
            Ok(Some(frame)) => {
                frames += 1;
                assert!(
                    frame.bytes.len() <= frame.original_len && frame.bytes.len() <= input.len()
                );
                if let Ok(packet) = network_layer(frame.link, frame.bytes) {
                    assert!(packet.len() <= frame.bytes.len());
                }
            }
            Ok(None) => break,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                break;
            }
        }
        assert!(frames <= input.len() / LEAST_RECORD_LEN, "frames out of nothing");
    }
}
