//! Hostile datagrams: whatever arrives, each is dropped for a reason or was rightly delivered.

use bytes::Bytes;
use culvert_dataplane::MemoryTrain;
use culvert_dataplane::offload::split::SplitPlan;
use culvert_dataplane::offload::{Gso, VnetHeader};
use culvert_dataplane::platform::tun::VNET_HEADER_LEN;
use overlay_proto::{Codec, Ecn, Family, InnerPacket, Vni};

use crate::cluster::{VNI, Worker, endpoint, offload, owner};
use crate::input::{Input, fix_checksums};

/// As many as one round takes, and some more.
const MAX_TRAINS: usize = 40;

pub(crate) fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let mut worker = Worker::new(offload(input.byte()));
    let sender = input.byte() % 5; // 1 is this node itself, 0 and 4 are strangers
    let mut datagrams = 0;
    while !input.is_empty() && worker.underlay.incoming.len() < MAX_TRAINS {
        let train = train(&mut input, sender);
        let size = train.segment_size.map_or(train.bytes.len(), usize::from).max(1);
        datagrams += train.bytes.len().div_ceil(size).max(1);
        worker.underlay.incoming.push_back(train);
    }
    worker.run();
    let delivered: usize = worker.tun.written.iter().map(|written| check(written, sender)).sum();
    assert_eq!(delivered as u64 + worker.drops(), datagrams as u64, "each has one fate");
    let counted: u64 =
        worker.table.peers().iter().map(|peer| peer.counters.ingress().packets).sum();
    assert_eq!(counted, delivered as u64);
    assert!(worker.underlay.sent.is_empty(), "nothing that arrives is sent on");
}

fn train(input: &mut Input<'_>, sender: u8) -> MemoryTrain {
    let choice = input.byte();
    let segment_size = if choice & 1 == 0 { None } else { Some(input.word().max(1)) };
    let mut bytes = input.piece().to_vec();
    // A right header in front, and right checksums, are what random bytes never have.
    if choice & 2 == 0 {
        let family = if bytes.first().is_some_and(|first| first >> 4 == 6) {
            Family::V6
        } else {
            Family::V4
        };
        fix_checksums(&mut bytes);
        let header = Codec::default().header(Vni::new(VNI).unwrap(), family);
        bytes.splice(..0, header.as_slice().iter().copied());
    }
    if choice & 4 != 0 {
        // A train of equal datagrams.
        bytes = bytes.repeat(3);
    }
    MemoryTrain {
        peer: endpoint(sender),
        bucket: 0,
        ecn: Ecn::from_bits(choice >> 6),
        segment_size: match (choice & 4 != 0, segment_size) {
            (true, _) => u16::try_from(bytes.len() / 3).ok().filter(|size| *size > 0),
            (false, size) => size,
        },
        bytes: bytes.into(),
    }
}

/// Checks what was written to the TUN queue and says how many packets it stands for.
fn check(written: &Bytes, sender: u8) -> usize {
    let header = VnetHeader::decode(written.first_chunk().unwrap()).expect("we wrote it");
    let packet = InnerPacket::parse(&written[VNET_HEADER_LEN..]).expect("whole packets only");
    assert_eq!(packet.len(), written.len() - VNET_HEADER_LEN);
    assert!(matches!(sender, 2 | 3), "strangers deliver nothing");
    assert_eq!(owner(packet.source()), Some(sender), "the sender owns the source");
    assert_eq!(owner(packet.destination()), Some(1), "the destination is here");
    match header.gso {
        Gso::None => 1,
        Gso::Tcp4 | Gso::Tcp6 | Gso::Udp => {
            SplitPlan::new(&header, &packet).expect("the kernel can split it").count()
        }
    }
}
