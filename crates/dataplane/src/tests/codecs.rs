//! Peers of each codec: what leaves for them, what is taken from them, and on which port.

use overlay_proto::{CodecKind, Mac};

use super::packets::Spec;
use super::*;

/// The first peer speaks `codec`, the second nothing but Culvert's own.
fn speaking(codec: CodecKind) -> Bench {
    let mac = (codec == CodecKind::Vxlan).then(|| Mac::new([2, 0, 0, 0, 0, 2]));
    let mut bench = Bench::new(Offload::TcpUdp);
    let tunnel_options = TunnelOptions { codec: Some(codec), mac, ..TunnelOptions::default() };
    bench.table = table_where(MTU, tunnel_options);
    bench.underlay.codec = codec;
    bench
}

/// The codec as the first peer has it.
fn other_end(bench: &Bench) -> (Codec, Vni) {
    let peer = &bench.table.peers()[0];
    let Codec::Vxlan { own, peer: other } = peer.codec else { return (peer.codec, peer.vni) };
    (Codec::Vxlan { own: other, peer: own }, peer.vni)
}

#[test]
fn super_packets_leave_in_trains_and_arrive_joined() {
    for kind in CodecKind::ALL {
        for (family, tcp) in [(Family::V4, true), (Family::V6, true), (Family::V4, false)] {
            let mut bench = speaking(kind);
            let (codec, vni) = other_end(&bench);
            let spec = Spec::outgoing(family, tcp, vec![5; 10_000]);
            bench.pod_sends(&spec.vnet(1300), &spec.build_partial());
            bench.run();
            let [train] = bench.underlay.sent.as_slice() else { panic!("one train") };
            assert_eq!(train.peer, SocketAddr::new(underlay_of(2).ip(), kind.default_port()));
            let size = usize::from(train.segment_size.expect("several datagrams"));
            let inner: Vec<Vec<u8>> = train
                .bytes
                .chunks(size)
                .map(|datagram| codec.decode(vni, datagram).unwrap().inner.to_vec())
                .collect();
            assert_eq!(inner, spec.split(1300), "{kind}");
            let octets: usize = inner.iter().map(Vec::len).sum();
            let counted = bench.table.peers()[0].counters.egress();
            assert_eq!((counted.packets, counted.bytes), (inner.len() as u64, octets as u64));

            let spec = Spec::incoming(family, tcp, vec![6; 10_000]);
            let packets = spec.split(1300);
            let datagrams: Vec<Vec<u8>> = packets
                .iter()
                .map(|packet| [codec.header(vni, family).as_slice(), packet].concat())
                .collect();
            bench.arrive(underlay_of(2), Ecn::NotEct, &datagrams);
            bench.run();
            assert_eq!((bench.drops(), bench.tun.written.len()), (vec![], 1), "{kind}");
            assert_eq!(bench.delivered(), packets, "{kind}");
        }
    }
}

#[test]
fn a_train_to_the_port_of_another_codec_is_dropped_whole() {
    for kind in [CodecKind::Vxlan, CodecKind::IpUdp] {
        let mut bench = speaking(kind);
        let (codec, vni) = other_end(&bench);
        let packet = Spec::incoming(Family::V4, false, vec![7; 100]).build();
        let datagram = [codec.header(vni, Family::V4).as_slice(), &packet].concat();
        bench.underlay.codec = CodecKind::VxlanGpe;
        bench.arrive(underlay_of(2), Ecn::NotEct, &vec![datagram.clone(); 3]);
        bench.run();
        assert_eq!(bench.drops(), [(DropReason::WrongCodec, 3)]);
        // And from the peer that speaks what the port is for, to the port of the other.
        bench.underlay.codec = kind;
        bench.arrive(underlay_of(3), Ecn::NotEct, &[datagram]);
        bench.run();
        assert_eq!(bench.drops(), [(DropReason::WrongCodec, 4)]);
        assert!(bench.tun.written.is_empty());
    }
}

#[test]
fn a_peer_is_heard_in_both_ways_while_nodes_change_over() {
    let foreign = Foreign { is_changing: true, vxlan_vni: vni(), ..Foreign::default() };
    let peer = Mac::new([2, 0, 0, 0, 0, 2]);
    for said in [None, Some(CodecKind::Vxlan)] {
        let mut bench = Bench::new(Offload::TcpUdp);
        let tunnel_options =
            TunnelOptions { codec: said, mac: Some(peer), ..TunnelOptions::default() };
        bench.table = table_among(1, MTU, tunnel_options, foreign);
        let own = bench.table.local().mac;
        let spoken = said.unwrap_or_default();
        assert_eq!(bench.table.peers()[0].codec.kind(), spoken, "what is sent is what it says");
        let ways = [Codec::VxlanGpe, Codec::Vxlan { own: peer, peer: own }];
        let packets: Vec<_> = (0..2_u8)
            .map(|number| Spec::incoming(Family::V4, false, vec![number; 100]).build())
            .collect();
        for (codec, packet) in ways.into_iter().zip(&packets) {
            bench.underlay.codec = codec.kind();
            let datagram = [codec.header(vni(), Family::V4).as_slice(), packet].concat();
            bench.arrive(underlay_of(2), Ecn::NotEct, &[datagram]);
            bench.run();
        }
        assert_eq!((bench.drops(), bench.delivered()), (vec![], packets), "{said:?}");
        // Whom it may say it for is as narrow as ever.
        bench.underlay.codec = CodecKind::Vxlan;
        let packet = Spec::incoming(Family::V4, false, vec![9; 100]).build();
        let header = ways[1].header(vni(), Family::V4);
        let datagram = [header.as_slice(), &packet].concat();
        bench.arrive(underlay_of(3), Ecn::NotEct, &[datagram]);
        bench.run();
        assert_eq!(bench.drops(), [(DropReason::SpoofedSource, 1)]);
    }
}

#[test]
fn an_outer_congestion_mark_finds_the_inner_packet_behind_every_header() {
    for kind in CodecKind::ALL {
        for family in [Family::V4, Family::V6] {
            let mut bench = speaking(kind);
            let (codec, vni) = other_end(&bench);
            let spec = |ecn| Spec { ecn, ..Spec::incoming(family, true, vec![1; 500]) };
            let packet = spec(Ecn::Ect0).build();
            let datagram = [codec.header(vni, family).as_slice(), &packet].concat();
            bench.arrive(underlay_of(2), Ecn::Ce, &[datagram]);
            bench.run();
            assert_eq!(bench.delivered(), [spec(Ecn::Ce).build()], "{kind}, {family}");
        }
    }
}
