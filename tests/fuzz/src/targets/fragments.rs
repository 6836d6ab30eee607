//! Fragmentation: whatever the header says, each fragment is a packet that fits, and together they
//! carry the payload where it was.

use overlay_proto::{Fragments, InnerPacket, Mtu};

use crate::input::{Input, naive_checksum};

pub(crate) fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let mtu = Mtu::new(u32::from(input.word()).max(u32::from(Mtu::MIN))).unwrap();
    let bytes = input.rest();
    let Ok(packet) = InnerPacket::parse(bytes) else { return };
    let Some(mut fragments) = Fragments::new(&packet, mtu) else { return };
    assert!(!packet.dont_fragment());
    let header_len = packet.transport_offset();
    let place = |bytes: &[u8]| u16::from_be_bytes([bytes[6], bytes[7]]);
    let start = usize::from(place(bytes) & 0x1fff) * 8;
    let mut buffer = packet.bytes().to_vec();
    let mut next = header_len;
    while let Some(fragment) = fragments.next_in(&mut buffer) {
        let parsed = InnerPacket::parse(fragment).expect("a fragment is a packet");
        assert_eq!(parsed.len(), fragment.len());
        assert!(mtu.fits(fragment.len()), "it fits");
        assert_eq!(naive_checksum(&[&fragment[..header_len]]), 0);
        assert_eq!(usize::from(place(fragment) & 0x1fff) * 8 - start, next - header_len);
        let end = next + fragment.len() - header_len;
        assert_eq!(fragment[header_len..], packet.bytes()[next..end], "the payload is as it was");
        let more = end < packet.len() || place(bytes) & 0x2000 != 0;
        assert_eq!(place(fragment) & 0x2000 != 0, more);
        next = end;
    }
    assert_eq!(next, packet.len(), "nothing is left over");
}
