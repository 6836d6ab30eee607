//! The fast checksum against the slow one that RFC 1071 prints.

use overlay_proto::checksum::{Sum, checksum, pseudo_header, update_u16};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::packets;

proptest! {
    #[test]
    fn fast_checksum_is_the_slow_one(bytes in vec(any::<u8>(), 0..3000), start in 0_usize..64) {
        let bytes = bytes.get(start..).unwrap_or_default();
        prop_assert_eq!(checksum(bytes), slow(&[bytes]));
    }

    #[test]
    fn sum_does_not_depend_on_where_it_is_split(
        bytes in vec(any::<u8>(), 0..300), a in 0_usize..300, b in 0_usize..300,
    ) {
        let (a, b) = (a.min(b).min(bytes.len()), a.max(b).min(bytes.len()));
        let parts = [&bytes[..a], &bytes[a..b], &bytes[b..]];
        let pushed = parts.iter().fold(Sum::ZERO, |sum, part| sum.push(part));
        prop_assert_eq!(pushed.finish(), slow(&[&bytes]));
        let tail = Sum::of(parts[1]).join(Sum::of(parts[2]));
        prop_assert_eq!(Sum::of(parts[0]).join(tail).finish(), slow(&[&bytes]));
        let continued = Sum::from_field(Sum::of(&bytes).fold()).push(&bytes).finish();
        prop_assert_eq!(continued, slow(&[&bytes[..], &[0][..bytes.len() % 2], &bytes[..]]));
    }

    #[test]
    fn pseudo_header_is_the_sum_of_its_bytes(
        v6 in any::<bool>(), from in any::<u128>(), to in any::<u128>(),
        protocol in any::<u8>(), len in any::<u16>(),
    ) {
        let (from, to, bytes) = packets::pseudo_header(v6, from, to, protocol, len);
        let sum = pseudo_header(from, to, protocol, u32::from(len));
        prop_assert_eq!(sum.finish(), slow(&[&bytes]));
    }

    #[test]
    fn incremental_checksum_is_the_full_one(
        mut bytes in vec(any::<u8>(), 20..60), word in 1_usize..9, new in any::<u32>(),
    ) {
        bytes[0] = 0x45; // no header is all zero, the one case in which RFC 1624 differs
        let at = word * 2;
        let before = checksum(&bytes);
        let old = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        bytes[at..at + 4].copy_from_slice(&new.to_be_bytes());
        let after = checksum(&bytes);

        let [o0, o1, o2, o3] = old.to_be_bytes();
        let [n0, n1, n2, n3] = new.to_be_bytes();
        let half = update_u16(before, u16::from_be_bytes([o0, o1]), u16::from_be_bytes([n0, n1]));
        let whole = update_u16(half, u16::from_be_bytes([o2, o3]), u16::from_be_bytes([n2, n3]));
        prop_assert_eq!(whole, after);
    }
}

#[test]
fn checksum_is_right_at_every_alignment_and_length() {
    let bytes: Vec<u8> =
        (0..400_u32).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    for start in 0..64 {
        for end in start..bytes.len() {
            assert_eq!(checksum(&bytes[start..end]), slow(&[&bytes[start..end]]), "{start}..{end}");
        }
    }
    assert_eq!(checksum(&[0xff; 65_535]), slow(&[&[0xff; 65_535]]));
    assert_eq!(checksum(&[]), 0xffff);
}

/// RFC 1071 §4.1 as printed there, over the parts in a row; all but the last of even length.
pub(crate) fn slow(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut sum = 0_u32;
    for word in bytes.chunks(2) {
        sum += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
