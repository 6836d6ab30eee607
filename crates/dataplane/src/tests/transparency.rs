//! Nothing that offloads do can be told from a plain path: the same packets, byte for byte.

use proptest::prelude::*;

use super::packets::{ACK, CWR, ECE, FIN, PSH, SYN, Spec, URG};
use super::*;

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::V4), Just(Family::V6)]
}

fn ecn() -> impl Strategy<Value = Ecn> {
    prop_oneof![Just(Ecn::NotEct), Just(Ecn::Ect0), Just(Ecn::Ect1), Just(Ecn::Ce)]
}

fn payload(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|index| (index as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

prop_compose! {
    fn super_packet()(
        family in family(),
        tcp in any::<bool>(),
        ecn in ecn(),
        flags in prop_oneof![Just(ACK), Just(ACK | PSH), Just(ACK | FIN), Just(ACK | CWR | PSH), Just(ACK | ECE)],
        options in any::<bool>(),
        identification in any::<u16>(),
        sequence in prop_oneof![any::<u32>(), Just(u32::MAX - 5000)],
        len in 1..30_000_usize,
        gso_size in 1..1390_u16,
        seed in any::<u8>(),
    ) -> (Spec, u16) {
        // As many pieces as the kernel would make at most.
        let gso_size = gso_size.max(u16::try_from(len / 250).unwrap() + 1);
        let spec = Spec {
            ecn, options, identification, sequence,
            flags: if tcp { flags } else { ACK },
            ..Spec::outgoing(family, tcp, payload(len, seed))
        };
        (spec, gso_size)
    }
}

proptest! {
    #[test]
    fn a_super_packet_leaves_as_the_packets_that_it_stands_for((spec, gso_size) in super_packet()) {
        for offload in [Offload::TcpUdp, Offload::None] {
            let mut bench = Bench::new(offload);
            bench.pod_sends(&spec.vnet(gso_size), &spec.build_partial());
            bench.run();
            prop_assert_eq!(bench.drops(), vec![]);
            let sent: Vec<_> = bench.sent().into_iter().map(|(_, packet)| packet).collect();
            prop_assert_eq!(sent, spec.split(usize::from(gso_size)));
        }
    }

    #[test]
    fn what_was_cut_apart_is_put_together_again((mut spec, gso_size) in super_packet()) {
        spec = Spec { from: (2, 2), to: (1, 2), flags: spec.flags & !(CWR | ECE), ..spec };
        let packets = spec.split(usize::from(gso_size));
        let mut bench = Bench::new(Offload::TcpUdp);
        // Trains of equal datagrams, as the kernel makes them.
        for train in packets.chunks(64) {
            let datagrams: Vec<_> = train.iter().map(|packet| datagram(packet)).collect();
            bench.arrive(underlay_of(2), Ecn::NotEct, &datagrams);
        }
        bench.run();
        prop_assert_eq!(bench.delivered(), packets.clone());
        if packets.len() <= 128 {
            prop_assert_eq!(bench.tun.written.len(), 1, "one super-packet");
            if packets.len() > 1 {
                let header = VnetHeader::decode(bench.tun.written[0].first_chunk().unwrap()).unwrap();
                prop_assert_eq!(header, spec.vnet(gso_size));
                prop_assert_eq!(&bench.tun.written[0][VNET_HEADER_LEN..], &spec.build_partial());
            }
        }
    }
}

/// One step of a stream: how the next packet differs from the one that would continue the flow.
#[derive(Clone, Debug)]
enum Step {
    Continue,
    Short(usize),
    Long,
    Empty,
    Flags(u8),
    Ttl,
    Ecn(Ecn),
    Window,
    Acknowledgement,
    Options,
    SequenceJump(u32),
    Retransmit,
    IdentificationJump,
    FragmentBit,
    OtherFlow,
    OtherFamily,
    OtherProtocol,
    WrongTransportChecksum,
    WrongIpChecksum,
    NoUdpChecksum,
    Fragment,
    Icmp,
    IpOptions,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => Just(Step::Continue),
        1 => (1..100_usize).prop_map(Step::Short),
        1 => Just(Step::Long),
        1 => Just(Step::Empty),
        3 => prop_oneof![
            Just(FIN | ACK), Just(PSH | ACK), Just(CWR | ACK), Just(ECE | ACK), Just(SYN),
            Just(URG | ACK), Just(0_u8)
        ].prop_map(Step::Flags),
        1 => Just(Step::Ttl),
        1 => ecn().prop_map(Step::Ecn),
        1 => Just(Step::Window),
        1 => Just(Step::Acknowledgement),
        1 => Just(Step::Options),
        1 => any::<u32>().prop_map(Step::SequenceJump),
        1 => Just(Step::Retransmit),
        1 => Just(Step::IdentificationJump),
        1 => Just(Step::FragmentBit),
        2 => Just(Step::OtherFlow),
        1 => Just(Step::OtherFamily),
        1 => Just(Step::OtherProtocol),
        2 => Just(Step::WrongTransportChecksum),
        1 => Just(Step::WrongIpChecksum),
        1 => Just(Step::NoUdpChecksum),
        1 => Just(Step::Fragment),
        1 => Just(Step::Icmp),
        1 => Just(Step::IpOptions),
    ]
}

/// Plays the steps: a stream of packets, most of which continue one flow.
fn stream(family: Family, tcp: bool, size: usize, steps: &[Step]) -> Vec<Vec<u8>> {
    let mut next = Spec::incoming(family, tcp, payload(size, 3));
    let mut packets: Vec<Vec<u8>> = Vec::new();
    for step in steps {
        let mut spec = next.clone();
        let mut mangle: fn(&Spec, &mut Vec<u8>) = |_, _| {};
        match step {
            Step::Continue => {}
            Step::Short(len) => spec.payload.truncate(*len),
            Step::Long => spec.payload.push(9),
            Step::Empty => spec.payload.clear(),
            Step::Flags(flags) => spec.flags = *flags,
            Step::Ttl => spec.ttl -= 1,
            Step::Ecn(ecn) => spec.ecn = *ecn,
            Step::Window => spec.window += 1,
            Step::Acknowledgement => spec.acknowledgement += 1,
            Step::Options => spec.options = !spec.options,
            Step::SequenceJump(by) => spec.sequence = spec.sequence.wrapping_add(*by),
            Step::Retransmit => {
                if let Some(last) = packets.last().cloned() {
                    packets.push(last);
                }
                continue;
            }
            Step::IdentificationJump => spec.identification = spec.identification.wrapping_add(7),
            Step::FragmentBit => spec.dont_fragment = !spec.dont_fragment,
            Step::OtherFlow => spec.ports.0 += 1,
            Step::OtherFamily => {
                spec.family = if family == Family::V4 { Family::V6 } else { Family::V4 };
            }
            Step::OtherProtocol => spec.tcp = !spec.tcp,
            Step::WrongTransportChecksum => {
                mangle = |spec, bytes| {
                    let at = spec.ip_len() + if spec.tcp { 16 } else { 6 };
                    bytes[at] ^= 0x40;
                };
            }
            Step::WrongIpChecksum => {
                mangle = |spec, bytes| {
                    if spec.family == Family::V4 {
                        bytes[10] ^= 0x40;
                    }
                };
            }
            Step::NoUdpChecksum => {
                mangle = |spec, bytes| {
                    if !spec.tcp {
                        let at = spec.ip_len() + 6;
                        bytes[at..at + 2].fill(0);
                    }
                };
            }
            Step::Fragment => {
                mangle = |spec, bytes| {
                    if spec.family == Family::V4 {
                        bytes[6] |= 0x20;
                        fix_ip_checksum(bytes);
                    }
                };
            }
            Step::Icmp => {
                mangle = |spec, bytes| {
                    if spec.family == Family::V4 {
                        bytes[9] = 1;
                        fix_ip_checksum(bytes);
                    } else {
                        bytes[6] = 58;
                    }
                };
            }
            Step::IpOptions => {
                mangle = |spec, bytes| {
                    if spec.family == Family::V4 {
                        // Four no-operation options.
                        bytes.splice(20..20, [1, 1, 1, 1]);
                        bytes[0] = 0x46;
                        let len = u16::try_from(bytes.len()).unwrap();
                        bytes[2..4].copy_from_slice(&len.to_be_bytes());
                        fix_ip_checksum(bytes);
                    }
                };
            }
        }
        let mut bytes = spec.build();
        mangle(&spec, &mut bytes);
        packets.push(bytes);
        next.sequence = next.sequence.wrapping_add(u32::try_from(spec.payload.len()).unwrap());
        next.identification = next.identification.wrapping_add(1);
    }
    packets
}

fn fix_ip_checksum(bytes: &mut [u8]) {
    let len = usize::from(bytes[0] & 0x0f) * 4;
    bytes[10..12].fill(0);
    let sum = overlay_proto::checksum::checksum(&bytes[..len]);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// The flow of a packet: addresses, and protocol and ports, unless it is a fragment.
fn flow(packet: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    let v4 = packet[0] >> 4 == 4;
    let (addresses, protocol, ip_len) =
        if v4 { (12..20, 9, usize::from(packet[0] & 0x0f) * 4) } else { (8..40, 6, 40) };
    let is_fragment = v4 && (packet[6] & 0x3f, packet[7]) != (0, 0);
    let rest = [&packet[protocol..=protocol], &packet[ip_len..ip_len + 4]].concat();
    (packet[addresses].to_vec(), (!is_fragment).then_some(rest))
}

/// Whether two lists have the same packets, and those that may be of one flow in the same order.
fn same_in_each_flow(one: &[Vec<u8>], other: &[Vec<u8>]) -> bool {
    let of = |list: &[Vec<u8>], (addresses, rest): &(Vec<u8>, Option<Vec<u8>>)| -> Vec<Vec<u8>> {
        let is_of = |packet: &&Vec<u8>| {
            let (own, ports) = flow(packet);
            own == *addresses && (ports.is_none() || rest.is_none() || ports == *rest)
        };
        list.iter().filter(is_of).cloned().collect()
    };
    let flows: std::collections::BTreeSet<_> =
        one.iter().chain(other).map(|packet| flow(packet)).collect();
    let mut whole = flows.iter().filter(|(_, ports)| ports.is_some());
    let mut sorted = [one.to_vec(), other.to_vec()];
    sorted.iter_mut().for_each(|list| list.sort_unstable());
    sorted[0] == sorted[1] && whole.all(|flow| of(one, flow) == of(other, flow))
}

/// Whether two lists have the same packets, and those that leave by one port in the same order.
fn same_on_each_port(one: &[Vec<u8>], other: &[Vec<u8>]) -> bool {
    let of = |list: &[Vec<u8>], port: usize| -> Vec<Vec<u8>> {
        let hash = |packet: &[u8]| InnerPacket::parse(packet).unwrap().flow_hash();
        list.iter().filter(|packet| bucket(hash(packet)) == port).cloned().collect()
    };
    (0..SENDERS).all(|port| of(one, port) == of(other, port))
}

/// Cuts a stream into trains as receive offload does: equal datagrams, the last may be shorter.
fn trains(packets: &[Vec<u8>]) -> Vec<Vec<Vec<u8>>> {
    let mut trains: Vec<Vec<Vec<u8>>> = Vec::new();
    let mut closed = true;
    for packet in packets {
        let datagram = datagram(packet);
        match trains.last_mut() {
            Some(train)
                if !closed
                    && train.len() < 64
                    && (train.len() + 1) * train[0].len() < 1 << 16
                    && datagram.len() <= train[0].len() =>
            {
                closed = datagram.len() < train[0].len();
                train.push(datagram);
            }
            _ => {
                trains.push(vec![datagram]);
                closed = false;
            }
        }
    }
    trains
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_stream_is_delivered_as_it_was_sent(
        family in family(),
        tcp in any::<bool>(),
        size in 1..1400_usize,
        steps in proptest::collection::vec(step(), 1..120),
        offload in prop_oneof![Just(Offload::TcpUdp), Just(Offload::Tcp), Just(Offload::None)],
    ) {
        let packets = stream(family, tcp, size, &steps);
        let mut bench = Bench::new(offload);
        for train in trains(&packets) {
            bench.arrive(underlay_of(2), Ecn::NotEct, &train);
        }
        bench.run();
        prop_assert_eq!(bench.drops(), vec![]);
        prop_assert!(same_in_each_flow(&bench.delivered(), &packets));
    }

    #[test]
    fn any_stream_is_sent_as_it_was_read(
        family in family(),
        tcp in any::<bool>(),
        size in 1..1400_usize,
        steps in proptest::collection::vec(step(), 1..120),
        offload in prop_oneof![Just(Offload::TcpUdp), Just(Offload::None)],
    ) {
        // The same streams the other way: from node 1's pods to node 2's.
        let mut bench = Bench::new(offload);
        bench.table = {
            let members = |local: &str| {
                let node = |index: u8| NodeEntry {
                    name: format!("node{index}"),
                    address: underlay_of(index).ip(),
                    subnets: vec![
                        format!("10.244.{index}.0/24").parse().unwrap(),
                        format!("fd00:10:244:{index}::/64").parse().unwrap(),
                    ],
                    tunnel_options: TunnelOptions::default(),
                };
                let overlay = Overlay {
                    vni: vni(),
                    networks: vec!["10.244.0.0/16".parse().unwrap(), "fd00::/16".parse().unwrap()],
                    port: PORT,
                    foreign: Foreign::default(),
                };
                Membership::check(overlay, local, vec![node(1), node(2)]).unwrap()
            };
            Table::compile(&members("node2"), vec![], |_| Mtu::new(1500).unwrap(), &PeerRegistry::default())
        };
        let packets = stream(family, tcp, size, &steps);
        for packet in &packets {
            bench.pod_sends(&VnetHeader::default(), packet);
        }
        bench.run();
        prop_assert_eq!(bench.drops(), vec![]);
        let sent: Vec<_> = bench.sent().into_iter().map(|(_, packet)| packet).collect();
        prop_assert!(same_on_each_port(&sent, &packets));
    }

    #[test]
    fn hostile_bytes_never_panic(
        header in any::<[u8; VNET_HEADER_LEN]>(),
        packet in proptest::collection::vec(any::<u8>(), 0..3000),
        datagrams in proptest::collection::vec(any::<u8>(), 0..3000),
        segment_size in any::<u16>(),
    ) {
        let mut bench = Bench::new(Offload::TcpUdp);
        bench.tun.incoming.push_back([&header[..], &packet].concat().into());
        bench.underlay.incoming.push_back(MemoryTrain {
            peer: underlay_of(2),
            bucket: 0,
            ecn: Ecn::Ce,
            segment_size: Some(segment_size),
            bytes: datagrams.into(),
        });
        bench.run();
    }

    #[test]
    fn hostile_changes_to_good_packets_never_panic(
        (spec, gso_size) in super_packet(),
        flips in proptest::collection::vec((0..120_usize, any::<u8>()), 1..6),
    ) {
        let mut bench = Bench::new(Offload::TcpUdp);
        let header = spec.vnet(gso_size).encode();
        let mut bytes = [&header[..], &spec.build_partial()].concat();
        for (at, bits) in &flips {
            let at = at % bytes.len();
            bytes[at] ^= bits;
        }
        bench.tun.incoming.push_back(bytes.into());
        let mut datagrams: Vec<u8> = spec.split(usize::from(gso_size)).iter().flat_map(|packet| datagram(packet)).collect();
        for (at, bits) in &flips {
            let at = at % datagrams.len();
            datagrams[at] ^= bits;
        }
        datagrams.truncate(60_000);
        bench.underlay.incoming.push_back(MemoryTrain {
            peer: underlay_of(2),
            bucket: 0,
            ecn: Ecn::Ce,
            segment_size: Some(gso_size),
            bytes: datagrams.into(),
        });
        bench.run();
    }
}
