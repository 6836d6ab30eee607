//! Putting together: the kernel's split of a super-packet gives back exactly the packets in it.

use culvert_dataplane::offload::Gso;
use culvert_dataplane::offload::coalesce::{Candidate, Group, MAX_HEADER_LEN};
use culvert_dataplane::offload::split::SplitPlan;
use overlay_proto::InnerPacket;

use crate::input::{Input, fix_checksums};

/// Enough for a group that ends for every reason there is.
const MAX_PACKETS: usize = 16;

pub(crate) fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let mut packets: Vec<Vec<u8>> = Vec::new();
    while !input.is_empty() && packets.len() < MAX_PACKETS {
        let choice = input.byte();
        let packet = match packets.last() {
            // The packet that would follow: most pairs of random packets have nothing in common.
            Some(last) if choice & 2 != 0 => follow(last, input.piece()),
            _ => input.piece().to_vec(),
        };
        let mut packet = packet;
        if choice & 1 == 0 {
            fix_checksums(&mut packet);
        }
        packets.push(packet);
    }
    let mut group: Option<(Group, Vec<&[u8]>)> = None;
    for packet in &packets {
        let Ok(parsed) = InnerPacket::parse(packet) else { continue };
        let Some(candidate) = Candidate::new(&parsed) else { continue };
        if let Some((group, members)) = &mut group
            && group.push(members[0], &candidate, parsed.bytes())
        {
            members.push(parsed.bytes());
            continue;
        }
        if let Some((group, members)) = group.replace((Group::new(candidate), vec![parsed.bytes()]))
        {
            check(&group, &members);
        }
    }
    if let Some((group, members)) = group {
        check(&group, &members);
    }
}

/// A packet with the header of `last` one step on, and a payload of its own.
fn follow(last: &[u8], payload: &[u8]) -> Vec<u8> {
    let Ok(packet) = InnerPacket::parse(last) else { return payload.to_vec() };
    let Some(candidate) = Candidate::new(&packet) else { return payload.to_vec() };
    let ip_len = packet.transport_offset();
    let header_len = Group::new(candidate).header_len();
    let old_len = u32::try_from(packet.len() - header_len).unwrap();
    let mut next = [&packet.bytes()[..header_len], payload].concat();
    let total = u16::try_from(next.len()).unwrap_or(u16::MAX);
    if ip_len == 20 {
        let identification = u16::from_be_bytes([next[4], next[5]]).wrapping_add(1);
        next[2..4].copy_from_slice(&total.to_be_bytes());
        next[4..6].copy_from_slice(&identification.to_be_bytes());
    } else {
        next[4..6].copy_from_slice(&total.saturating_sub(40).to_be_bytes());
    }
    if candidate.is_udp() {
        let len = total.saturating_sub(u16::try_from(ip_len).unwrap());
        next[ip_len + 4..ip_len + 6].copy_from_slice(&len.to_be_bytes());
    } else {
        let field = ip_len + 4..ip_len + 8;
        let sequence = u32::from_be_bytes(next[field.clone()].try_into().unwrap());
        next[field].copy_from_slice(&sequence.wrapping_add(old_len).to_be_bytes());
    }
    next
}

fn check(group: &Group, members: &[&[u8]]) {
    assert_eq!(usize::from(group.count()), members.len());
    let header_len = group.header_len();
    assert!(header_len <= MAX_HEADER_LEN);
    let mut bytes = members[0][..header_len].to_vec();
    let header = group.finish(&mut bytes);
    members.iter().for_each(|member| bytes.extend_from_slice(&member[header_len..]));
    if members.len() == 1 {
        assert_eq!((header.gso, bytes.as_slice()), (Gso::None, members[0]));
        return;
    }
    let packet = InnerPacket::parse(&bytes).expect("a super-packet is a packet");
    assert_eq!(packet.len(), bytes.len());
    let plan = SplitPlan::new(&header, &packet).expect("a super-packet can be split");
    assert_eq!(plan.count(), members.len());
    for (index, member) in members.iter().enumerate() {
        let mut part = vec![0xa5; plan.header_len()];
        plan.write_header(&bytes, index, &mut part);
        part.extend_from_slice(&bytes[plan.payload(index)]);
        assert_eq!(part, *member, "part {index}");
    }
}
