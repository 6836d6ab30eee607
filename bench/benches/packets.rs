//! One packet: the overlay header, parsing, looking up, summing.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use culvert_bench::micro::{self, Packet, Transport};
use culvert_dataplane::engine::Engine;
use culvert_dataplane::platform::clock;
use overlay_proto::checksum::checksum;
use overlay_proto::{Codec, Family, InnerPacket};

const FAMILIES: [(&str, Family); 2] = [("v4", Family::V4), ("v6", Family::V6)];

/// A cluster to start with, and one as large as it gets.
const TABLES: [u32; 2] = [3, 10_000];

fn codec(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec");
    let (codec, vni) = (Codec::default(), micro::vni());
    for (name, family) in FAMILIES {
        group.bench_function(format!("encode {name}"), |b| {
            b.iter(|| codec.header(black_box(vni), black_box(family)));
        });
        let packet = Packet { family, ..Packet::new(Transport::Udp, 1, 0, 64) }.build();
        let datagram = micro::datagram(family, &packet);
        group.bench_function(format!("decode {name}"), |b| {
            b.iter(|| codec.decode(black_box(vni), black_box(&datagram)).is_ok());
        });
    }
    group.finish();
}

fn parse(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    for (name, family) in FAMILIES {
        let packet = Packet { family, ..Packet::new(Transport::Tcp, 0, 1, 64) }.build();
        group.bench_function(name, |b| {
            b.iter(|| InnerPacket::parse(black_box(&packet)).is_ok());
        });
        group.bench_function(format!("{name} and flow hash"), |b| {
            b.iter(|| InnerPacket::parse(black_box(&packet)).map(|packet| packet.flow_hash()));
        });
    }
    group.finish();
}

fn lookup(c: &mut Criterion) {
    let mut group = c.benchmark_group("lookup");
    for nodes in TABLES {
        let table = micro::table(nodes);
        for (name, family) in FAMILIES {
            let address = micro::pod(family, 1, 2);
            group.bench_function(format!("owner {name}, {nodes} nodes"), |b| {
                b.iter(|| table.owner(black_box(address)));
            });
        }
        group.bench_function(format!("sender, {nodes} nodes"), |b| {
            b.iter(|| table.sender(black_box(micro::underlay(1).ip())));
        });
        // Every peer in turn: what a large table costs when its entries are not in the cache.
        let mut node = 0;
        group.bench_function(format!("owner v4, {nodes} nodes, each in turn"), |b| {
            b.iter(|| {
                node = (node + 7) % nodes;
                table.owner(micro::pod(Family::V4, node, 2))
            });
        });
    }
    group.finish();
}

/// Everything that is decided about a packet, on either side.
fn decide(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide");
    for nodes in TABLES {
        let table = micro::table(nodes);
        let now = clock::now();
        let mut engine = Engine::new(now);
        for (name, family) in FAMILIES {
            let leaving = Packet { family, ..Packet::new(Transport::Udp, 0, 1, 64) }.build();
            group.bench_function(format!("egress {name}, {nodes} nodes"), |b| {
                b.iter(|| micro::egress(&mut engine, &table, &leaving, now));
            });
            let packet = Packet { family, ..Packet::new(Transport::Udp, 1, 0, 64) }.build();
            let arriving = micro::datagram(family, &packet);
            group.bench_function(format!("ingress {name}, {nodes} nodes"), |b| {
                b.iter(|| micro::ingress(&engine, &table, &arriving));
            });
        }
    }
    group.finish();
}

fn sum(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    for len in [64, 1400, 64 << 10] {
        let bytes = vec![0x5a; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("{len} bytes"), |b| b.iter(|| checksum(black_box(&bytes))));
    }
    group.finish();
}

criterion_group!(benches, codec, parse, lookup, decide, sum);
criterion_main!(benches);
