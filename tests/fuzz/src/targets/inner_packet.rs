//! The view of an inner packet: accessors never fail, and no byte outside the packet matters.

use overlay_proto::{Family, Fragment, InnerPacket};

pub(crate) fn run(input: &[u8]) {
    let Ok(packet) = InnerPacket::parse(input) else { return };
    let family = packet.family();
    let other = if family == Family::V4 { Family::V6 } else { Family::V4 };
    assert_eq!(InnerPacket::parse_as(family, input), Ok(packet));
    assert!(InnerPacket::parse_as(other, input).is_err());
    assert_eq!(packet.bytes(), &input[..packet.len()]);

    let upper = packet.upper_layer();
    assert!(upper.offset >= family.header_len() && upper.offset <= packet.len());
    assert_eq!(packet.transport(), &packet.bytes()[upper.offset..]);
    if packet.ports().is_some() {
        assert!(upper.fragment != Fragment::Later && packet.transport().len() >= 4);
    }
    assert_eq!(Family::of(packet.source()), family);
    assert_eq!(Family::of(packet.destination()), family);

    // What follows the packet, and what a flow may change, leave the flow alone.
    let mut changed = packet.bytes().to_vec();
    match family {
        Family::V4 => {
            changed[1] ^= 0x03; // ECN
            changed[8] ^= 0xff; // time to live
            changed[10] ^= 0xff; // checksum
        }
        Family::V6 => {
            changed[1] ^= 0x3f; // ECN and flow label
            changed[2] ^= 0xff;
            changed[7] ^= 0xff; // hop limit
        }
    }
    changed.push(0xaa);
    let changed = InnerPacket::parse(&changed).expect("no length was changed");
    assert_eq!(changed.flow_hash(), packet.flow_hash());
}
