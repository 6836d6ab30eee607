//! What nodes ask each other: a frame that is taken says what would be written.

use overlay_proto::oam::echo::Echo;
use overlay_proto::oam::{self, Ends, Message, Question};
use overlay_proto::{Codec, Family, InnerPacket, Vni};

use crate::cluster::VNI;

pub(crate) fn run(input: &[u8]) {
    let vni = Vni::new(VNI).unwrap();
    let codec = Codec::VxlanGpe;
    let framed = codec.decode_oam(vni, input).ok();
    let ours = [Family::V4, Family::V6].into_iter().find_map(|family| {
        let header = codec.oam_header(vni, family)?;
        Some((family, input.strip_prefix(header.as_slice())?))
    });
    assert_eq!(framed.map(|decoded| (decoded.family, decoded.inner)), ours);
    // The header is eight bytes that a fuzzer seldom finds.
    let inner = framed.map_or(input, |decoded| decoded.inner);
    let Ok(packet) = InnerPacket::parse(inner) else { return };
    let ends = Ends { source: packet.source(), destination: packet.destination() };
    let _ = Echo::parse_reply(&packet);
    let mut written = vec![0; packet.len() + oam::MAX_LEN];
    match oam::parse(&packet) {
        Ok(Message::Question(question, trace)) => {
            assert!(oam::is_oam(&packet));
            let len = Question::packet_len(packet.family(), trace);
            let len = question.write(ends, trace, len, &mut written).unwrap();
            let again = InnerPacket::parse(&written[..len]).unwrap();
            assert_eq!(oam::parse(&again), Ok(Message::Question(question, trace)));
            let answer = question.answer(packet.ttl());
            let answer_len = answer.write(ends.turned(), trace, &mut written).unwrap();
            assert!(
                answer_len <= packet.len().max(len),
                "an answer is no longer than its question"
            );
        }
        Ok(Message::Answer(answer, trace)) => {
            assert!(oam::is_oam(&packet));
            let len = answer.write(ends, trace, &mut written).unwrap();
            let again = InnerPacket::parse(&written[..len]).unwrap();
            assert_eq!(oam::parse(&again), Ok(Message::Answer(answer, trace)));
        }
        Err(_) => {}
    }
}
