//! Hostile reads from the TUN device: pods influence packets and virtio-net headers alike.

use std::sync::atomic::{AtomicU64, Ordering};

use culvert_dataplane::offload::split::SplitPlan;
use culvert_dataplane::offload::{Gso, VnetHeader};
use culvert_dataplane::platform::tun::VNET_HEADER_LEN;
use overlay_proto::{Codec, InnerPacket, Vni};

use crate::cluster::{MTU, VNI, Worker, endpoint, offload, owner};
use crate::input::Input;

/// As many as one round reads, and some more.
const MAX_READS: usize = 70;

pub(crate) fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let mut worker = Worker::new(offload(input.byte()));
    let mut reads = 0;
    let mut packets = 0;
    while !input.is_empty() && reads < MAX_READS {
        let read = input.piece();
        reads += 1;
        packets += stands_for(read) as u64;
        worker.tun.incoming.push_back(read.to_vec().into());
    }
    worker.run();
    let mut sent = 0;
    for train in &worker.underlay.sent {
        let node = (2..=3).find(|node| endpoint(*node) == train.peer).expect("a peer's address");
        let size = train.segment_size.map_or(train.bytes.len(), usize::from);
        for datagram in train.bytes.chunks(size) {
            let vni = Vni::new(VNI).unwrap();
            let decoded = Codec::default().decode(vni, datagram).expect("what a peer takes");
            let packet = InnerPacket::parse_as(decoded.family, decoded.inner).expect("a packet");
            assert_eq!(packet.len(), decoded.inner.len());
            assert!(packet.len() <= usize::from(MTU), "no longer than the path");
            assert_eq!(owner(packet.source()), Some(1), "from a pod of this node");
            assert_eq!(owner(packet.destination()), Some(node), "to the node that owns it");
            sent += 1;
        }
    }
    let counted: u64 = worker.table.peers().iter().map(|peer| peer.counters.egress().packets).sum();
    assert_eq!(counted, sent);
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let fragmented = (count(&worker.counters.fragmented), count(&worker.counters.fragments));
    assert_eq!(
        sent + fragmented.0 + worker.drops(),
        packets + fragmented.1,
        "each packet has one fate"
    );
    for reply in &worker.tun.written {
        let packet = InnerPacket::parse(&reply[VNET_HEADER_LEN..]).expect("replies are packets");
        assert_eq!(owner(packet.destination()), Some(1), "replies go to pods of this node");
    }
    assert!(worker.tun.written.len() <= worker.drops() as usize, "a reply is about a drop");
}

/// How many packets a read stands for: one, if header and packet contradict each other.
fn stands_for(read: &[u8]) -> usize {
    let Some((header, bytes)) = read.split_first_chunk::<VNET_HEADER_LEN>() else { return 1 };
    let (Ok(header), Ok(packet)) = (VnetHeader::decode(header), InnerPacket::parse(bytes)) else {
        return 1;
    };
    match header.gso {
        Gso::None => 1,
        Gso::Tcp4 | Gso::Tcp6 | Gso::Udp => {
            SplitPlan::new(&header, &packet).map_or(1, |plan| plan.count())
        }
    }
}
