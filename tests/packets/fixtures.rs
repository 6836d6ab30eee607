//! The captures under tests/fixtures/pcap that are made by code: each a name, a file style and its
//! packets.

use etherparse::TcpOptionElement::{
    MaximumSegmentSize, Noop, SelectiveAcknowledgement, SelectiveAcknowledgementPermitted,
    Timestamp, WindowScale,
};

use culvert_dataplane::platform::clock;
use culvert_seal::Suite;
use culvert_seal::noise::Split;
use culvert_seal::session::{Direction, Outgoing, TrafficKey};
use overlay_proto::esp::{self, Lane, Slot};
use overlay_proto::{Family, Mac, Vni};
use zeroize::Zeroizing;

use crate::craft::{TCP, UDP, carried, gpe, ip, ipv6_raw, node, pod4, pod6, transport, tunneled};
use crate::file::{self, COOKED, COOKED2, ETHERNET, RAW, Style, cooked, cooked2, ethernet};

/// The Ethernet address of node4 in `table.toml`.
const NODE4_MAC: [u8; 6] = [2, 0, 0, 0, 0, 4];

/// Every capture: its name without `.pcap`, and its bytes.
pub(crate) fn all() -> Vec<(&'static str, Vec<u8>)> {
    let ether = |packets: Vec<Vec<u8>>| -> Vec<u8> {
        let frames: Vec<_> = packets.iter().map(|packet| ethernet(&[], packet)).collect();
        file::write(Style::of(ETHERNET), &frames)
    };
    let raw = |packets: Vec<Vec<u8>>| file::write(Style::of(RAW), &packets);
    vec![
        ("tcp-options", ether(tcp_options())),
        ("tcp-super-packets", raw(tcp_super_packets())),
        ("udp", ether(udp())),
        ("fragments", ether(fragments())),
        ("icmp-errors", ether(icmp_errors())),
        ("ipv6-extensions", raw(ipv6_extensions())),
        ("ecn", raw(ecn())),
        ("quic-trains", raw(quic_trains())),
        ("jumbo", raw(jumbo())),
        ("reply-limit", raw(reply_limit())),
        ("malformed-egress", raw(malformed_egress())),
        ("malformed-ingress", raw(malformed_ingress())),
        ("codecs", raw(codecs())),
        ("vlan", vlan()),
        ("cooked-big-endian", cooked_big_endian()),
        ("cooked2-nanoseconds", cooked2_nanoseconds()),
        ("snap-len", snap_len()),
        ("sealed", raw(sealed())),
    ]
}

/// What node2 seals for node1, with both ciphers, and what others make of it. The keys are in
/// `sealed.esp_sa`.
fn sealed() -> Vec<Vec<u8>> {
    const PORT: u16 = 4500;
    let to_node1 = |from: u8, payload: &[u8]| ip(node(from), node(1)).udp(50_000, PORT, payload);
    let secret = |byte| Zeroizing::new([byte; 32]);
    let split = Split { from_initiator: secret(1), from_responder: secret(2) };
    let mut packets = Vec::new();
    for (suite, slot) in Suite::ALL.into_iter().zip([0x12345, 0x12346]) {
        let vni = Vni::new(7).unwrap();
        let key = TrafficKey::derive(&split, Direction::FromInitiator, suite, vni).unwrap();
        let outgoing = Outgoing::new(key, Slot::new(slot).unwrap(), 32, clock::now());
        let seal = |lane, family, inner: &[u8]| {
            let lane = Lane::new(lane).unwrap();
            let tickets = outgoing.take(lane, 1, inner.len(), clock::now());
            let ticket = tickets.unwrap().next().unwrap();
            let mut out = vec![0; esp::datagram_len(inner.len())];
            outgoing.seal(ticket, esp::Payload::Packet(family), inner, &mut out).unwrap();
            out
        };
        let inner = ip(pod4(2, 2), pod4(1, 2)).udp(1000, 53, b"sealed");
        let first = seal(3, Family::V4, &inner);
        packets.push(to_node1(2, &first));
        packets.push(to_node1(2, &first)); // Again.
        let inner6 = ip(pod6(2, 2), pod6(1, 2)).udp(1000, 53, b"sealed");
        packets.push(to_node1(2, &seal(19, Family::V6, &inner6)));
        // Whose it is the session says, wherever it comes from.
        packets.push(to_node1(3, &seal(3, Family::V4, &inner)));
        let third = seal(3, Family::V4, &inner);
        for (at, packet) in [(15, 1), (16, 1), (third.len() - 1, 0x80)] {
            let mut changed = third.clone();
            changed[at] ^= packet;
            packets.push(to_node1(2, &changed));
        }
        packets.push(to_node1(2, &third));
        let liar = ip(pod4(3, 2), pod4(1, 2)).udp(1000, 53, b"sealed");
        packets.push(to_node1(2, &seal(3, Family::V4, &liar)));
        let lane = Lane::new(0).unwrap();
        packets.push(to_node1(2, &outgoing.dummy(lane, clock::now()).unwrap()));
        // Nobody has the key of that session; this is a handshake; and this node has sent that.
        let mut other = first.clone();
        other[0] = 0x99;
        packets.push(to_node1(2, &other));
        packets.push(to_node1(2, &[&[0; 4], &first[4..]].concat()));
        packets.push(ip(node(1), node(2)).udp(50_000, PORT, &first));
    }
    packets
}

/// The capture of examples/packet-test: a pod of node1 talks to one of node2, and to nobody.
pub(crate) fn example() -> Vec<u8> {
    let (out, back) = (ip(pod4(1, 2), pod4(2, 2)), ip(pod4(2, 2), pod4(1, 2)));
    let packets = [
        out.tcp("S", 1, &[MaximumSegmentSize(1424)], b""),
        tunneled(2, &back.tcp("SA", 1, &[MaximumSegmentSize(1424)], b"")),
        out.tcp("AP", 2, &[], b"GET / HTTP/1.1\r\n\r\n"),
        tunneled(2, &back.tcp("A", 2, &[], &[0x5a; 1400])),
        tunneled(3, &back.tcp("A", 1402, &[], b"node3 has no such pod")),
        out.udp(1000, 9, &[1; 1500]),
        ip(pod4(1, 2), pod4(77, 2)).udp(1000, 53, b"is anybody there"),
    ];
    file::write(Style::of(ETHERNET), &packets.map(|packet| ethernet(&[], &packet)))
}

/// A connection from its first packet to its last, with every common option; the end of another.
fn tcp_options() -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for (out, back) in [
        (ip(pod4(1, 2), pod4(2, 2)), ip(pod4(2, 2), pod4(1, 2))),
        (ip(pod6(1, 2), pod6(2, 2)), ip(pod6(2, 2), pod6(1, 2))),
    ] {
        let syn = [
            MaximumSegmentSize(1424),
            SelectiveAcknowledgementPermitted,
            Timestamp(1, 0),
            Noop,
            WindowScale(7),
        ];
        let stamp = [Noop, Noop, Timestamp(2, 1)];
        let sack =
            [Noop, Noop, SelectiveAcknowledgement((900, 1000), [Some((1100, 1200)), None, None])];
        packets.push(out.tcp("S", 1, &syn, b""));
        packets.push(tunneled(2, &back.tcp("SA", 1, &syn, b"")));
        packets.push(out.tcp("AP", 2, &stamp, b"GET / HTTP/1.1\r\n\r\n"));
        packets.push(tunneled(2, &back.tcp("A", 2, &sack, b"")));
        packets.push(out.tcp("A", 20, &stamp, &[0x5a; 1300]));
        packets.push(out.tcp("FA", 1320, &stamp, b""));
        packets.push(tunneled(2, &back.tcp("FA", 2, &stamp, b"")));
        packets.push(out.tcp("R", 1321, &[], b""));
    }
    packets
}

/// What a pod's kernel leaves to be cut: up to 64 KiB, with flags that only one segment may keep.
fn tcp_super_packets() -> Vec<Vec<u8>> {
    let payload: Vec<u8> = (0..65_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let stamp = [Noop, Noop, Timestamp(2, 1)];
    let mut packets = Vec::new();
    for flow in [ip(pod4(1, 2), pod4(2, 2)), ip(pod6(1, 2), pod6(3, 2))] {
        packets.push(flow.tcp("A", 1, &stamp, &payload[..1401]));
        packets.push(flow.tcp("AP", 2000, &stamp, &payload[..2900]));
        packets.push(flow.tcp("AP", 9000, &stamp, &payload));
        packets.push(flow.tcp("AFP", 80_000, &[], &payload[..20_001]));
        packets.push(flow.ecn(2).tcp("AC", 200_000, &stamp, &payload[..14_000]));
    }
    packets
}

/// Small datagrams, to everywhere.
fn udp() -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for to in [pod4(2, 2), pod4(3, 2)] {
        packets.push(ip(pod4(1, 2), to).udp(1000, 53, b"question"));
        packets.push(ip(pod4(1, 2), to).udp(0, 0, b""));
    }
    packets.push(ip(pod6(1, 2), pod6(2, 2)).udp(1000, 53, &[1; 1416]));
    packets.push(tunneled(2, &ip(pod4(2, 2), pod4(1, 2)).udp(53, 1000, b"answer")));
    packets.push(tunneled(3, &ip(pod6(3, 2), pod6(1, 2)).udp(53, 1000, b"")));
    // A name server of the node itself, and a datagram that this node has sent: neither is for
    // pods.
    packets.push(ip(node(2), node(1)).udp(53, 53, b"not the tunnel"));
    packets.push(ip(node(1), node(2)).udp(50_000, 4790, &gpe(1, 1)));
    // No pod's address; nobody's address; to a group; between pods of this node.
    packets.push(ip(pod4(2, 2), pod4(3, 2)).udp(1, 2, b"not ours"));
    packets.push(ip(pod4(1, 2), pod4(9, 9)).udp(1, 2, b"to nobody"));
    packets.push(ip(pod6(1, 2), pod6(9, 9)).udp(1, 2, b"to nobody"));
    packets.push(ip(pod4(1, 2), [224, 0, 0, 251].into()).udp(5353, 5353, b"to a group"));
    packets.push(ip(pod4(1, 2), pod4(1, 3)).udp(1, 2, b"to a neighbour"));
    packets
}

/// First, middle and last fragments, and one that is too long.
fn fragments() -> Vec<Vec<u8>> {
    let (from, to) = (pod4(1, 2), pod4(2, 2));
    let whole = ip(from, to).may_be_fragmented().udp(7, 7, &[9; 1400]);
    let mut packets = Vec::new();
    for (start, end, more) in [(20, 500, true), (500, 980, true), (980, whole.len(), false)] {
        let mut piece = [&whole[..20], &whole[start..end]].concat();
        let offset = u16::try_from((start - 20) / 8).unwrap() | if more { 0x2000 } else { 0 };
        let len = u16::try_from(piece.len()).unwrap();
        piece[2..4].copy_from_slice(&len.to_be_bytes());
        piece[6..8].copy_from_slice(&offset.to_be_bytes());
        packets.push(piece);
    }
    let inner = packets.clone();
    let to6 = ip(pod6(1, 2), pod6(2, 2)).udp(7, 7, &[9; 600]);
    for (offset, more, range) in [(0_u16, 1, 0..304), (304, 0, 304..608)] {
        let [high, low] = (offset | more).to_be_bytes();
        let header = [UDP, 0, high, low, 0, 0, 0, 42];
        let rest = [&header[..], &transport(&to6)[range]].concat();
        packets.push(ipv6_raw(pod6(1, 2), pod6(2, 2), 44, &rest));
    }
    packets.push(ip(from, to).may_be_fragmented().udp(7, 7, &[9; 1600]));
    // The same that arrive: their source is of node1, so they are of a liar; then of node2.
    packets.push(tunneled(2, &inner[0]));
    for mut piece in inner {
        piece[12..16].copy_from_slice(&[10, 244, 2, 2]);
        piece[16..20].copy_from_slice(&[10, 244, 1, 2]);
        packets.push(tunneled(2, &piece));
    }
    // A datagram of the tunnel that was itself cut: its first piece and its last.
    let mut outer = tunneled(2, &ip(pod4(2, 2), pod4(1, 2)).udp(1, 2, &[3; 64]));
    outer[6] = 0x20;
    packets.push(outer.clone());
    outer[6..8].copy_from_slice(&[0, 9]);
    packets.push(outer);
    packets
}

/// What routers and hosts say about packets.
fn icmp_errors() -> Vec<Vec<u8>> {
    let about = ip(pod4(2, 2), pod4(1, 2)).udp(53, 1000, b"answer");
    let out = ip(pod4(1, 2), pod4(2, 2));
    let about6 = ip(pod6(2, 2), pod6(1, 2)).udp(53, 1000, b"answer");
    let out6 = ip(pod6(1, 2), pod6(2, 2));
    let back = ip(pod4(2, 1), pod4(1, 2));
    let mut packets = vec![
        out.ping(b"are you there"),
        out6.ping(b"are you there"),
        out.icmp(3, 3, [0; 4], &about),
        out.icmp(3, 4, [0, 0, 5, 0xb8], &about),
        out.icmp(11, 0, [0; 4], &about),
        out6.icmp(1, 4, [0; 4], &about6),
        out6.icmp(2, 0, [0, 0, 5, 0], &about6),
        tunneled(2, &back.icmp(3, 4, [0, 0, 5, 0], &out.udp(1, 2, b"too long"))),
        tunneled(2, &out.ping(b"of a liar")),
    ];
    // No error about an error, and none about what nobody could be told of (RFC 1122 §3.2.2).
    packets.push(ip(pod4(1, 2), pod4(9, 9)).icmp(3, 3, [0; 4], &about));
    packets.push(ip(pod4(1, 2), pod4(9, 9)).ping(b"to nobody"));
    packets
}

/// Chains of extension headers, and chains that are none.
fn ipv6_extensions() -> Vec<Vec<u8>> {
    let (from, to) = (pod6(1, 2), pod6(2, 2));
    let datagram = ip(from, to).udp(7, 7, b"behind headers");
    let datagram = transport(&datagram);
    let header = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let behind = |kinds: &[u8], last: u8, payload: &[u8]| {
        let nexts = kinds[1..].iter().copied().chain([last]);
        let mut rest: Vec<u8> = nexts.flat_map(header).collect();
        rest.extend_from_slice(payload);
        ipv6_raw(from, to, kinds[0], &rest)
    };
    let segment = ip(from, to).tcp("A", 1, &[], b"data");
    vec![
        behind(&[0], UDP, datagram),
        behind(&[60], UDP, datagram),
        behind(&[43], UDP, datagram),
        behind(&[0, 60, 43, 60], TCP, transport(&segment)),
        behind(&[60; 8], UDP, datagram),
        behind(&[60; 9], UDP, datagram),
        behind(&[0], 59, b"nothing is next"),
        ipv6_raw(from, to, 60, &[UDP]),
        ipv6_raw(from, to, 59, b""),
        // A jumbogram says a length of 0 and its true one in an option.
        {
            let mut jumbo = behind(&[0], UDP, datagram);
            jumbo[4..6].copy_from_slice(&[0, 0]);
            jumbo
        },
        tunneled(2, &{
            let mut arriving = behind(&[0, 60], UDP, datagram);
            arriving[8..40].rotate_left(16);
            arriving
        }),
    ]
}

/// Every mark out, and every pair of marks in (RFC 6040 §4.2).
fn ecn() -> Vec<Vec<u8>> {
    let mut packets: Vec<_> =
        (0..4).map(|mark| ip(pod4(1, 2), pod4(2, 2)).ecn(mark).udp(1, 2, b"marked")).collect();
    packets.extend((0..4).map(|mark| ip(pod6(1, 2), pod6(2, 2)).ecn(mark).udp(1, 2, b"marked")));
    for inner in 0..4 {
        for outer in 0..4 {
            let packet = ip(pod4(2, 2), pod4(1, 2)).ecn(inner).udp(1, 2, b"marked");
            packets.push(carried(2, outer, &[&gpe(1, 1)[..], &packet].concat()));
        }
    }
    packets
}

/// Trains of datagrams of one length with a shorter last one, as QUIC sends them; out and in.
fn quic_trains() -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    let lens = |count: usize| std::iter::repeat_n(1250, count).chain([321]);
    for len in lens(70) {
        packets.push(ip(pod4(1, 2), pod4(2, 2)).udp(50_443, 443, &vec![0x40; len]));
    }
    for len in lens(70) {
        packets.push(tunneled(2, &ip(pod4(2, 2), pod4(1, 2)).udp(443, 50_443, &vec![0x41; len])));
    }
    for len in lens(40) {
        packets.push(ip(pod6(1, 2), pod6(3, 2)).ecn(2).udp(50_443, 443, &vec![0x42; len]));
    }
    packets
}

/// Around the longest packet that fits, and far beyond.
fn jumbo() -> Vec<Vec<u8>> {
    let (v4, v6) = (ip(pod4(1, 2), pod4(2, 2)), ip(pod6(1, 2), pod6(2, 2)));
    let mut packets = Vec::new();
    for len in [1464, 1465, 9000] {
        packets.push(v4.udp(1, 2, &vec![1; len - 28]));
        packets.push(v4.may_be_fragmented().udp(1, 2, &vec![1; len - 28]));
        packets.push(v6.udp(1, 2, &vec![1; len - 48]));
    }
    // To nobody, whatever the length.
    packets.push(ip(pod4(1, 2), pod4(9, 9)).udp(1, 2, &[1; 8972]));
    // One that fits the nodes and is no packet of this overlay's MTU: it arrives all the same.
    packets.push(tunneled(2, &ip(pod4(2, 2), pod4(1, 2)).udp(1, 2, &[1; 8900])));
    packets
}

/// More packets to nobody than answers are given at once.
fn reply_limit() -> Vec<Vec<u8>> {
    (0..70).map(|n| ip(pod4(1, 2), pod4(9, 9)).udp(n, 2, b"to nobody")).collect()
}

/// What pods may send that is no packet.
fn malformed_egress() -> Vec<Vec<u8>> {
    let good = ip(pod4(1, 2), pod4(2, 2)).udp(1, 2, b"good");
    let good6 = ip(pod6(1, 2), pod6(2, 2)).udp(1, 2, b"good");
    let with = |at: usize, value: u8| {
        let mut bad = good.clone();
        bad[at] = value;
        bad
    };
    vec![
        good.clone(),
        vec![0x45],
        good[..19].to_vec(),
        good6[..39].to_vec(),
        with(0, 0x55),
        with(0, 0x05),
        with(0, 0x44),
        with(3, 19),
        with(3, 200),
        good[..good.len() - 1].to_vec(),
        good6[..good6.len() - 1].to_vec(),
        // Options beyond the packet.
        {
            let mut bad = with(0, 0x4f);
            bad[3] = 40;
            bad
        },
        // A wrong checksum is the receiver's to find.
        with(11, 0xee),
        // Ports cut off.
        ipv6_raw(pod6(1, 2), pod6(2, 2), UDP, &[1]),
        ipv6_raw(pod6(1, 2), pod6(2, 2), TCP, &[1, 2, 3]),
    ]
}

/// To and from nodes without Culvert: a kernel's VXLAN device (node4), bare IP in UDP (node5).
fn codecs() -> Vec<Vec<u8>> {
    const VXLAN: u16 = 8472;
    const IP_UDP: u16 = 8285;
    const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 9];
    let own = Mac::derived(node(1)).octets();
    let at =
        |from: u8, port: u16, payload: &[u8]| ip(node(from), node(1)).udp(50_000, port, payload);
    let frame = |to: [u8; 6], kind: u16, inner: &[u8]| {
        let header: &[u8] = &[8, 0, 0, 0, 0, 0, 1, 0];
        [header, &to, &NODE4_MAC, &kind.to_be_bytes(), inner].concat()
    };
    let (from4, from5) = (ip(pod4(4, 2), pod4(1, 2)), ip(pod4(5, 2), pod4(1, 2)));
    let answer4 = from4.udp(53, 1000, b"answer");
    let answer6 = ip(pod6(4, 2), pod6(1, 2)).udp(53, 1000, b"answer");
    let bare = from5.udp(53, 1000, b"answer");
    vec![
        ip(pod4(1, 2), pod4(4, 2)).udp(1000, 53, b"question"),
        ip(pod6(1, 2), pod6(4, 2)).udp(1000, 53, b"question"),
        ip(pod4(1, 2), pod4(5, 2)).udp(1000, 53, b"question"),
        at(4, VXLAN, &frame(own, 0x0800, &answer4)),
        at(4, VXLAN, &frame(own, 0x86dd, &answer6)),
        at(5, IP_UDP, &bare),
        // The longest that fits each, and one byte more.
        ip(pod4(1, 2), pod4(4, 2)).udp(1000, 53, &[1; 1422]),
        ip(pod4(1, 2), pod4(4, 2)).udp(1000, 53, &[1; 1423]),
        ip(pod4(1, 2), pod4(5, 2)).udp(1000, 53, &[1; 1444]),
        ip(pod4(1, 2), pod4(5, 2)).udp(1000, 53, &[1; 1445]),
        // Each node speaks what is another's.
        at(4, IP_UDP, &answer4),
        tunneled(4, &answer4),
        at(5, VXLAN, &frame(own, 0x0800, &bare)),
        at(2, VXLAN, &frame(own, 0x0800, &ip(pod4(2, 2), pod4(1, 2)).udp(1, 2, b"node2"))),
        // For another device; ARP; a protocol that contradicts the packet; cut off.
        at(4, VXLAN, &frame(STRANGER, 0x0800, &answer4)),
        at(4, VXLAN, &frame([0xff; 6], 0x0806, &[0; 28])),
        at(4, VXLAN, &frame(own, 0x86dd, &answer4)),
        at(4, VXLAN, &frame(own, 0x0800, &answer4)[..21]),
        at(5, IP_UDP, &[]),
        at(5, IP_UDP, &[0x15; 40]),
    ]
}

/// What strangers may send to the tunnel.
fn malformed_ingress() -> Vec<Vec<u8>> {
    let good = ip(pod4(2, 2), pod4(1, 2)).udp(1, 2, b"good");
    let good6 = ip(pod6(2, 2), pod6(1, 2)).udp(1, 2, b"good");
    let header = |header: [u8; 8]| carried(2, 0, &[&header[..], &good].concat());
    let inner = |inner: &[u8]| carried(2, 0, &[&gpe(1, 1)[..], inner].concat());
    let with = |at: usize, value: u8| {
        let mut bad = good.clone();
        bad[at] = value;
        inner(&bad)
    };
    let mut packets = vec![tunneled(2, &good), tunneled(2, &good6)];
    // From nobody, and from a node that lies about its pods.
    packets.push(ip([192, 168, 1, 99].into(), node(1)).udp(
        5,
        4790,
        &[&gpe(1, 1)[..], &good].concat(),
    ));
    packets.push(tunneled(3, &good));
    packets.push(tunneled(2, &ip(pod4(1, 2), pod4(1, 3)).udp(1, 2, b"our own")));
    packets.push(tunneled(2, &ip([8, 8, 8, 8].into(), pod4(1, 3)).udp(1, 2, b"from outside")));
    packets.push(tunneled(2, &ip(pod4(2, 2), pod4(3, 2)).udp(1, 2, b"for node3")));
    packets.push(tunneled(2, &ip(pod4(2, 2), [8, 8, 8, 8].into()).udp(1, 2, b"for outside")));
    // The header: too short, then each of its fields.
    packets.extend((0..8).map(|len| carried(2, 0, &gpe(1, 1)[..len])));
    packets.push(header([0x1c, 0, 0, 1, 0, 0, 1, 0])); // version 1
    packets.push(header([0x04, 0, 0, 1, 0, 0, 1, 0])); // no VNI flag
    packets.push(header([0x08, 0, 0, 1, 0, 0, 1, 0])); // no protocol flag
    packets.push(header([0x0d, 0, 0, 1, 0, 0, 1, 0])); // OAM
    packets.push(header([0x0c, 1, 0, 1, 0, 0, 1, 0])); // reserved, three times
    packets.push(header([0x0c, 0, 1, 1, 0, 0, 1, 0]));
    packets.push(header([0x0c, 0, 0, 1, 0, 0, 1, 1]));
    packets.extend([0, 3, 4, 255].map(|next| header(gpe(1, next))));
    packets.extend([0, 2, 0xff_ffff].map(|vni| header(gpe(vni, 1))));
    // What is carried.
    packets.push(carried(2, 0, &gpe(1, 1)));
    packets.push(inner(&good[..19]));
    packets.push(inner(&good[..good.len() - 1]));
    packets.push(inner(&good6));
    packets.push(carried(2, 0, &[&gpe(1, 2)[..], &good].concat()));
    packets.push(with(0, 0x55));
    packets.push(with(0, 0x44));
    packets.push(with(3, 19));
    packets.push(carried(
        2,
        0,
        &[&gpe(1, 2)[..], &{
            let mut jumbo = good6.clone();
            jumbo[4..7].copy_from_slice(&[0, 0, 0]);
            jumbo
        }]
        .concat(),
    ));
    // More than the packet is no harm: it is cut off.
    packets.push(inner(&[&good[..], b"more"].concat()));
    // A UDP length that the kernel refuses.
    let mut long = tunneled(2, &good);
    long[24..26].copy_from_slice(&[0xff, 0xff]);
    packets.push(long);
    packets
}

/// One tag, two, and what switches used before there was a number for two; ARP.
fn vlan() -> Vec<u8> {
    let packet = ip(pod4(1, 2), pod4(2, 2)).udp(1, 2, b"tagged");
    let packet6 = ip(pod6(1, 2), pod6(2, 2)).udp(1, 2, b"tagged");
    let arriving = tunneled(2, &ip(pod4(2, 2), pod4(1, 2)).udp(1, 2, b"tagged"));
    let mut arp = ethernet(&[], &[0; 28]);
    arp[12..14].copy_from_slice(&[8, 6]);
    file::write(
        Style::of(ETHERNET),
        &[
            ethernet(&[(0x8100, 5)], &packet),
            ethernet(&[(0x88a8, 7), (0x8100, 5)], &packet6),
            ethernet(&[(0x9100, 7), (0x8100, 0xe005)], &arriving),
            arp,
            vec![2; 13],
        ],
    )
}

fn cooked_big_endian() -> Vec<u8> {
    let style = Style { big_endian: true, ..Style::of(COOKED) };
    file::write(style, &mixed().iter().map(|packet| cooked(packet)).collect::<Vec<_>>())
}

fn cooked2_nanoseconds() -> Vec<u8> {
    let style = Style { nanoseconds: true, ..Style::of(COOKED2) };
    file::write(style, &mixed().iter().map(|packet| cooked2(packet)).collect::<Vec<_>>())
}

/// Frames of which only the first 96 bytes were kept, and one of which less than a header was.
fn snap_len() -> Vec<u8> {
    let style = Style { snap_len: 96, ..Style::of(ETHERNET) };
    let mut packets = mixed();
    packets.push(ip(pod4(1, 2), pod4(2, 2)).udp(1, 2, &[7; 1436]));
    packets.push(ip(pod4(1, 2), pod4(2, 2)).udp(1, 2, &[7; 1437]));
    packets.push(tunneled(3, &ip(pod4(3, 2), pod4(1, 2)).udp(1, 2, &[7; 1400])));
    file::write(style, &packets.iter().map(|packet| ethernet(&[], packet)).collect::<Vec<_>>())
}

/// Something of each direction and family.
fn mixed() -> Vec<Vec<u8>> {
    vec![
        ip(pod4(1, 2), pod4(2, 2)).tcp("S", 1, &[MaximumSegmentSize(1424)], b""),
        tunneled(2, &ip(pod4(2, 2), pod4(1, 2)).tcp("SA", 1, &[], b"")),
        ip(pod6(1, 2), pod6(3, 2)).ping(b"hello"),
        tunneled(3, &ip(pod6(3, 2), pod6(1, 2)).udp(1, 2, b"hello")),
        ip(pod4(2, 2), pod4(1, 2)).udp(1, 2, b"not ours"),
    ]
}
