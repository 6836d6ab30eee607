//! ICMP errors about datagrams that left before: what they cost, and what is made of them.

use super::packets::Spec;
use super::*;
use crate::platform::udp::{Report, ReportKind};

fn udp(payload: usize) -> Spec {
    Spec::outgoing(Family::V4, false, vec![7; payload])
}

/// An error that says that node2's path carries `mtu` bytes, about `datagram`.
fn too_big(mtu: u32, datagram: &[u8]) -> Report {
    Report::new(underlay_of(2), ReportKind::TooBig(mtu), datagram)
}

/// What control is told when this error waits at the socket.
fn noticed(report: Report) -> Option<Notice> {
    let mut bench = Bench::new(Offload::TcpUdp);
    bench.underlay.send_errors.push_back(libc::EMSGSIZE);
    bench.underlay.reports.push_back(report);
    bench.pod_sends(&VnetHeader::default(), &udp(100).build());
    bench.run();
    assert_eq!((bench.drops(), bench.sent().len()), (vec![], 1), "the packet is not lost");
    bench.noticed.try_recv().ok()
}

#[test]
fn an_error_about_another_datagram_costs_no_packet_and_no_segmentation() {
    let errors = [
        libc::EMSGSIZE,
        libc::ECONNREFUSED,
        libc::EHOSTUNREACH,
        libc::ENETUNREACH,
        libc::ENOPROTOOPT,
        libc::EPROTO,
        libc::EACCES,
        // "Source route failed": not to be taken for a kernel without segmentation.
        libc::EOPNOTSUPP,
    ];
    for errno in errors {
        let mut bench = Bench::new(Offload::TcpUdp);
        bench.underlay.send_errors.extend([errno; 2]);
        bench.underlay.reports.push_back(Report::new(underlay_of(3), ReportKind::Other, &[]));
        let spec = Spec::outgoing(Family::V4, true, vec![3; 4000]);
        bench.pod_sends(&spec.vnet(1000), &spec.build_partial());
        bench.run();
        assert_eq!((bench.drops(), bench.underlay.sent.len()), (vec![], 1), "errno {errno}");
        assert!(bench.egress.sends_trains(), "errno {errno}");
        assert!(bench.underlay.reports.is_empty());
    }
}

#[test]
fn a_port_that_nobody_listens_on_is_the_peers_only_if_it_is_that_of_its_tunnels() {
    let unreachable = |port| {
        let mut destination = underlay_of(2);
        destination.set_port(port);
        noticed(Report::new(destination, ReportKind::PortUnreachable, &[]))
    };
    let port = underlay_of(2).port();
    assert!(matches!(unreachable(port), Some(Notice::Unreachable(_))));
    assert!(unreachable(port + 1).is_none());
}

#[test]
fn a_flood_of_errors_never_ends_segmentation() {
    let mut bench = Bench::new(Offload::TcpUdp);
    // Six attempts at each of the first three trains.
    bench.underlay.send_errors.extend([libc::EOPNOTSUPP; 18]);
    for _ in 0..64 {
        let spec = Spec::outgoing(Family::V4, true, vec![3; 4000]);
        bench.pod_sends(&spec.vnet(1000), &spec.build_partial());
    }
    bench.run();
    assert!(bench.egress.sends_trains());
    let [(DropReason::UnderlayRefused, lost)] = bench.drops()[..] else {
        panic!("{:?}", bench.drops());
    };
    assert_eq!(usize::try_from(lost).unwrap() + bench.sent().len(), 64 * 4);
    assert_eq!(bench.underlay.sent.len(), 2, "trains leave again");
}

#[test]
fn a_flood_of_errors_that_are_reported_costs_no_packet() {
    for errors in [1, 2, 3, 40, 63] {
        let mut bench = Bench::new(Offload::TcpUdp);
        bench.underlay.send_errors.extend([libc::EHOSTUNREACH; 63].iter().take(errors));
        // Looking for reports takes up to 32 of them, and there are always more.
        let report = || Report::new(underlay_of(3), ReportKind::Other, &[]);
        bench.underlay.reports.extend(std::iter::repeat_with(report).take(32 * 64));
        bench.pod_sends(&VnetHeader::default(), &udp(100).build());
        bench.run();
        assert_eq!((bench.drops(), bench.sent().len()), (vec![], 1), "{errors} errors");
        assert!(bench.underlay.reports.len() < 32 * 64, "{errors} errors: reports are looked at");
    }
}

#[test]
fn an_error_about_the_packet_itself_is_one_in_the_end() {
    let mut bench = Bench::new(Offload::TcpUdp);
    bench.underlay.send_errors.extend([libc::EHOSTUNREACH; 100]);
    bench.pod_sends(&VnetHeader::default(), &udp(100).build());
    bench.run();
    assert_eq!(bench.drops(), [(DropReason::UnderlayRefused, 1)]);
    assert_eq!(bench.underlay.send_errors.len(), 100 - 6, "it is not tried without end");
}

#[test]
fn a_claim_about_what_we_send_is_passed_on() {
    for family in [Family::V4, Family::V6] {
        let packet = Spec::outgoing(family, false, vec![7; 1400]).build();
        let datagram = datagram(&packet);
        // A router quotes what it wants to.
        for quoted in [datagram.len(), 64, 8 + 8] {
            let claim = PathClaim { peer: underlay_of(2).ip(), mtu: 1400 };
            let found = noticed(too_big(1400, &datagram[..quoted]));
            assert_eq!(found, Some(Notice::PathClaim(claim)), "{quoted} bytes, {family:?}");
        }
    }
}

#[test]
fn a_claim_that_cannot_be_true_is_not_passed_on() {
    let long = datagram(&udp(1400).build());
    let mut foreign = long.clone();
    foreign[6] ^= 1;
    let longer_than_we_send = datagram(&udp(1500).build());
    let about = |destination, mtu| Report::new(destination, ReportKind::TooBig(mtu), &long);
    let elsewhere = SocketAddr::new(underlay_of(2).ip(), PORT + 1);
    let cases = [
        ("nothing is quoted", too_big(1400, &[])),
        ("another network's number", too_big(1400, &foreign)),
        ("it would have fit", too_big(1400, &datagram(&udp(100).build()))),
        ("just as long", too_big(1464, &long)),
        ("longer than anything we send", too_big(1400, &longer_than_we_send)),
        ("no number of bytes for a packet", too_big(70_000, &long)),
        ("a node that no table has", about(underlay_of(9), 1400)),
        ("another port", about(elsewhere, 1400)),
        ("something else", Report::new(underlay_of(2), ReportKind::Other, &long)),
    ];
    for (case, report) in cases {
        assert_eq!(noticed(report), None, "{case}");
    }
}

#[test]
fn ipv6_is_never_told_less_than_it_promises() {
    for (mtu, v4, v6) in [(1200, 1200, 1280), (1279, 1279, 1280), (1280, 1280, 1280)] {
        let mut bench = Bench::new(Offload::None);
        bench.table = table_with_mtu(mtu);
        for (family, limit) in [(Family::V4, v4), (Family::V6, v6)] {
            let headers = if family == Family::V4 { 28 } else { 48 };
            let packet = |len: usize| Spec::outgoing(family, false, vec![7; len - headers]).build();
            bench.pod_sends(&VnetHeader::default(), &packet(limit));
            bench.run();
            assert_eq!(bench.sent().len(), 1, "{family:?}: {limit} bytes leave");
            bench.pod_sends(&VnetHeader::default(), &packet(limit + 1));
            bench.run();
            assert_eq!(bench.sent().len(), 1, "{family:?}: one more does not");
            let reply = bench.delivered().pop().expect("the pod is told");
            let told = match family {
                Family::V4 => &reply[26..28],
                Family::V6 => &reply[46..48],
            };
            assert_eq!(told, u16::try_from(limit).unwrap().to_be_bytes(), "{family:?}");
            bench.underlay.sent.clear();
            bench.tun.written.clear();
        }
    }
}
