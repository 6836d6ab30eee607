//! The virtio-net header and what it makes the data path do: cut apart, or finish a checksum.

use culvert_dataplane::offload::split::{MAX_HEADER_LEN, SplitPlan, finish_checksum};
use culvert_dataplane::offload::{Gso, VnetHeader};
use culvert_dataplane::platform::tun::VNET_HEADER_LEN;
use overlay_proto::InnerPacket;

pub(crate) fn run(input: &[u8]) {
    let Some((header, bytes)) = input.split_first_chunk::<VNET_HEADER_LEN>() else { return };
    let Ok(header) = VnetHeader::decode(header) else { return };
    let again = VnetHeader::decode(&header.encode()).expect("we wrote it");
    let verified = header.verified && header.partial.is_none();
    assert_eq!(again, VnetHeader { verified, ..header });

    if let Some(partial) = header.partial {
        let mut finished = bytes.to_vec();
        if finish_checksum(partial, &mut finished).is_ok() {
            let at = usize::from(partial.start) + usize::from(partial.offset);
            finished[at..at + 2].copy_from_slice(&bytes[at..at + 2]);
        }
        assert_eq!(finished, bytes, "no other byte changes");
    }
    let Ok(packet) = InnerPacket::parse(bytes) else { return };
    if header.gso != Gso::None
        && let Ok(plan) = SplitPlan::new(&header, &packet)
    {
        check(&plan, &packet, header.gso_size.into());
    }
}

fn check(plan: &SplitPlan, packet: &InnerPacket<'_>, gso_size: usize) {
    assert!(plan.header_len() <= MAX_HEADER_LEN);
    let mut next = plan.header_len();
    for index in 0..plan.count() {
        let payload = plan.payload(index);
        assert_eq!(payload.start, next, "payloads lie end to end");
        assert!(!payload.is_empty() && payload.len() <= gso_size);
        next = payload.end;
        // A header may be written anywhere, so that its work is bounded by what is sent.
        if index < 4 || index + 1 == plan.count() {
            let mut out = vec![0xa5; plan.header_len()];
            plan.write_header(packet.bytes(), index, &mut out);
            out.extend_from_slice(&packet.bytes()[payload]);
            let part = InnerPacket::parse(&out).expect("a part is a packet");
            assert_eq!(part.len(), out.len());
            assert!(part.len() <= plan.packet_len());
            assert_eq!(part.source(), packet.source());
            assert_eq!(part.destination(), packet.destination());
            assert_eq!(part.flow_hash(), packet.flow_hash());
        }
    }
    assert_eq!(next, packet.len(), "nothing is left over");
}
