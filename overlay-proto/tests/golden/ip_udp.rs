//! Bare IP in UDP, byte for byte.

use overlay_proto::{Codec, DecodeError, Decoded, Family, InnerError, InnerPacket};

use crate::{documented, vni};

const IP_UDP: Codec = Codec::IpUdp;

#[test]
fn documented_datagrams_are_written_and_read() {
    for (block, carried, family) in
        [("ip-udp-ipv4", "datagram-ipv4", Family::V4), ("ip-udp-ipv6", "datagram-ipv6", Family::V6)]
    {
        let datagram = documented(block);
        assert_eq!(datagram, documented(carried)[8..], "{block}");
        assert_eq!(IP_UDP.header(vni(7), family).as_slice(), [0; 0]);
        let decoded = IP_UDP.decode(vni(7), &datagram);
        assert_eq!(decoded, Ok(Decoded { family, inner: &datagram }), "{block}");
        assert!(InnerPacket::parse_as(family, &datagram).is_ok(), "{block}");
    }
}

#[test]
fn every_first_byte_is_an_ip_version_or_named() {
    for first in 0..=u8::MAX {
        let mut datagram = documented("ip-udp-ipv4");
        datagram[0] = first;
        let decoded = IP_UDP.decode(vni(7), &datagram).map(|decoded| decoded.family);
        let expected = match first >> 4 {
            4 => Ok(Family::V4),
            6 => Ok(Family::V6),
            _ => Err(DecodeError::NextProtocol),
        };
        assert_eq!(decoded, expected, "{first:#x}");
    }
    assert_eq!(IP_UDP.decode(vni(7), &[]), Err(DecodeError::TooShort));
}

#[test]
fn a_header_of_another_codec_is_not_taken_for_a_packet() {
    for block in ["datagram-ipv4", "datagram-ipv6", "vxlan-ipv4", "vxlan-ipv6"] {
        assert_eq!(IP_UDP.decode(vni(7), &documented(block)), Err(DecodeError::NextProtocol));
    }
}

#[test]
fn a_packet_that_was_cut_short_is_not_whole() {
    let datagram = documented("ip-udp-ipv4");
    for len in 1..datagram.len() {
        let decoded = IP_UDP.decode(vni(7), &datagram[..len]).unwrap();
        let parsed =
            InnerPacket::parse_as(decoded.family, decoded.inner).map(|packet| packet.len());
        let expected = if len < 20 { InnerError::TooShort } else { InnerError::Truncated };
        assert_eq!(parsed, Err(expected), "{len}");
    }
}
