//! Super-packets: cutting one apart, and putting one together.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use culvert_bench::micro::{Packet, TCP_PAYLOAD, Transport};
use culvert_dataplane::offload::coalesce::{self, Candidate, Group};
use culvert_dataplane::offload::split::{self, SplitPlan};
use overlay_proto::{Family, InnerPacket};

/// Full-size packets in a super-packet of 64 KiB.
const SEGMENTS: u16 = 46;

const FAMILIES: [(&str, Family); 2] = [("v4", Family::V4), ("v6", Family::V6)];

/// Payload of a full-size TCP packet; the IPv6 header is 20 bytes longer.
fn payload(family: Family) -> u16 {
    match family {
        Family::V4 => TCP_PAYLOAD,
        Family::V6 => TCP_PAYLOAD - 20,
    }
}

/// From a TSO super-packet to the headers of its pieces; the payload is summed and not moved.
fn cut(c: &mut Criterion) {
    let mut group = c.benchmark_group("split");
    for (name, family) in FAMILIES {
        let size = payload(family);
        let payload_len = usize::from(size) * usize::from(SEGMENTS);
        let packet = Packet { family, ..Packet::new(Transport::Tcp, 0, 1, payload_len) };
        let (header, bytes) = packet.build_super(size);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(format!("TCP {name}, {SEGMENTS} segments"), |b| {
            b.iter(|| {
                let Ok(inner) = InnerPacket::parse(black_box(&bytes)) else { return };
                let Ok(plan) = SplitPlan::new(black_box(&header), &inner) else { return };
                let mut out = [0; split::MAX_HEADER_LEN];
                for index in 0..plan.count() {
                    plan.write_header(&bytes, index, &mut out[..plan.header_len()]);
                    black_box(&out);
                }
            });
        });
    }
    group.finish();
}

/// From a train of packets to the header of the super-packet that stands for them; each checksum is
/// verified.
fn join(c: &mut Criterion) {
    let mut group = c.benchmark_group("coalesce");
    for (name, family) in FAMILIES {
        let payload_len = usize::from(payload(family));
        let packet = Packet { family, ..Packet::new(Transport::Tcp, 1, 0, payload_len) };
        let train: Vec<Vec<u8>> = (0..SEGMENTS).map(|index| packet.member(index).build()).collect();
        assert_eq!(coalesced(&train), SEGMENTS, "the train is one super-packet");
        group.throughput(Throughput::Bytes(train.iter().map(Vec::len).sum::<usize>() as u64));
        group.bench_function(format!("TCP {name}, {SEGMENTS} segments"), |b| {
            b.iter(|| coalesced(black_box(&train)));
        });
    }
    group.finish();
}

/// Coalesces `train` and says how many of it went in.
fn coalesced(train: &[Vec<u8>]) -> u16 {
    let mut group: Option<Group> = None;
    for bytes in train {
        let packet = InnerPacket::parse(bytes).ok();
        let Some(candidate) = packet.and_then(|packet| Candidate::new(&packet)) else { break };
        match &mut group {
            None => group = Some(Group::new(candidate)),
            Some(group) => {
                if !group.push(&train[0], &candidate, bytes) {
                    break;
                }
            }
        }
    }
    group.map_or(0, |group| {
        let mut header = [0; coalesce::MAX_HEADER_LEN];
        let len = group.header_len();
        header[..len].copy_from_slice(&train[0][..len]);
        black_box(group.finish(&mut header[..len]));
        group.count()
    })
}

criterion_group!(benches, cut, join);
criterion_main!(benches);
