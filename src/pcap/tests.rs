//! Captures of every kind, and captures that are none.

use proptest::prelude::*;

use super::*;

/// A file of the classic format with one frame, by hand.
fn classic(big: bool, magic: u32, link: u32, frames: &[(u32, u32, u32, &[u8])]) -> Vec<u8> {
    let number = |value: u32| if big { value.to_be_bytes() } else { value.to_le_bytes() };
    let half = |value: u16| if big { value.to_be_bytes() } else { value.to_le_bytes() };
    let mut file = number(magic).to_vec();
    file.extend(half(2));
    file.extend(half(4));
    [0, 0, 262_144, link].iter().for_each(|value| file.extend(number(*value)));
    for (seconds, fraction, original, bytes) in frames {
        let captured = u32::try_from(bytes.len()).unwrap();
        [*seconds, *fraction, captured, *original].iter().for_each(|v| file.extend(number(*v)));
        file.extend_from_slice(bytes);
    }
    file
}

/// A big-endian pcapng block by hand.
fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 12).unwrap();
    [&kind.to_be_bytes(), &len.to_be_bytes(), body, &len.to_be_bytes()].concat()
}

fn section() -> Vec<u8> {
    block(0x0a0d_0d0a, &[&[0x1a, 0x2b, 0x3c, 0x4d, 0, 1, 0, 0][..], &[0xff; 8]].concat())
}

/// An interface description with the option that says what timestamps count.
fn interface(link: u16, resolution: u8, offset: i64) -> Vec<u8> {
    let mut body = link.to_be_bytes().to_vec();
    body.extend([0, 0, 0, 0, 0, 0]);
    body.extend([0, 9, 0, 1, resolution, 0, 0, 0]);
    body.extend([0, 14, 0, 8]);
    body.extend(offset.to_be_bytes());
    body.extend([0; 4]);
    block(1, &body)
}

fn enhanced(interface: u32, time: u64, original: u32, bytes: &[u8]) -> Vec<u8> {
    let mut body = interface.to_be_bytes().to_vec();
    body.extend(time.to_be_bytes());
    body.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
    body.extend(original.to_be_bytes());
    body.extend_from_slice(bytes);
    body.resize(body.len().next_multiple_of(4), 0);
    block(6, &body)
}

/// Time, original length and bytes of every frame.
fn frames(file: &[u8]) -> Result<Vec<(u64, usize, Vec<u8>)>, Error> {
    let mut reader = Reader::open(file)?;
    let mut found = Vec::new();
    while let Some(frame) = reader.next_frame()? {
        found.push((frame.timestamp_ns, frame.original_len, frame.bytes.to_vec()));
    }
    Ok(found)
}

#[test]
fn classic_files_of_both_orders_and_both_resolutions_are_read() {
    for big in [false, true] {
        for (magic, nanos) in [(0xa1b2_c3d4_u32, 7000), (0xa1b2_3c4d, 7)] {
            let file = classic(big, magic, 101, &[(5, 7, 100, b"abc"), (6, 0, 2, b"de")]);
            let expected =
                [(5_000_000_000 + nanos, 100, b"abc".to_vec()), (6_000_000_000, 2, b"de".to_vec())];
            assert_eq!(frames(&file).unwrap(), expected, "{big} {magic:x}");
        }
    }
}

#[test]
fn big_endian_blocks_and_every_resolution_of_timestamps_are_read() {
    let cases = [
        (6, 0, 3_000_001, 3_000_001_000),     // microseconds
        (9, 0, 3_000_000_001, 3_000_000_001), // nanoseconds
        (12, 0, 3_000_000_001_999, 3_000_000_001),
        (0x80 | 10, 0, 3 * 1024 + 512, 3_500_000_000), // 2⁻¹⁰ seconds
        (0, 100, 3, 103_000_000_000),                  // whole seconds, from 100 on
        (255, 0, 1, 0),
    ];
    for (resolution, offset, time, nanos) in cases {
        let file = [section(), interface(101, resolution, offset), enhanced(0, time, 9, b"abcde")];
        assert_eq!(frames(&file.concat()).unwrap(), [(nanos, 9, b"abcde".to_vec())]);
    }
}

#[test]
fn simple_and_obsolete_packet_blocks_are_read() {
    let simple = block(3, &[&5_u32.to_be_bytes()[..], b"abcde\0\0\0"].concat());
    let old = [&[0, 0, 0, 3][..], &[0; 8], &[0, 0, 0, 4], &[0, 0, 0, 6], b"wxyz"].concat();
    let file = [section(), interface(101, 6, 0), simple, block(2, &old)].concat();
    assert_eq!(frames(&file).unwrap(), [(0, 5, b"abcde".to_vec()), (0, 6, b"wxyz".to_vec())]);
}

#[test]
fn blocks_of_unknown_kinds_are_passed_over() {
    let file = [section(), block(0x0bad, b"....odd."), interface(1, 6, 0), block(5, &[0; 12])];
    assert!(frames(&file.concat()).unwrap().is_empty());
}

#[test]
fn interfaces_keep_their_own_link_types_and_a_new_section_forgets_them() {
    let file = [section(), interface(1, 6, 0), interface(276, 6, 0), enhanced(1, 0, 1, b"x")];
    let file = file.concat();
    let mut reader = Reader::open(&file[..]).unwrap();
    assert_eq!(reader.next_frame().unwrap().unwrap().link, LinkType::Cooked2);

    let file = [file, section(), enhanced(0, 0, 1, b"x")].concat();
    let error = frames(&file).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
}

#[test]
fn what_is_no_capture_is_refused_by_name() {
    let error = frames(b"<html>").unwrap_err().to_string();
    assert_eq!(error, "neither pcap nor pcapng: it begins with [3c, 68, 74, 6d]");
    assert!(frames(b"").is_err());
}

#[test]
fn a_file_that_ends_too_early_says_where() {
    let file = classic(false, 0xa1b2_c3d4, 1, &[(0, 0, 3, b"abc"), (0, 0, 3, b"def")]);
    for cut in 44..file.len() {
        let error = frames(&file[..cut]).unwrap_err();
        assert!(matches!(error, Error::CutOff { at: 43 }), "{cut}: {error}");
    }
    assert_eq!(frames(&file[..43]).unwrap().len(), 1);
}

#[test]
fn a_length_that_cannot_be_is_refused_and_not_allocated() {
    let mut file = classic(false, 0xa1b2_c3d4, 1, &[(0, 0, 3, b"abc")]);
    file[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(frames(&file).unwrap_err(), Error::Damaged { at: 24, .. }));
    for len in [0_u32, 11, 13, u32::MAX - 3] {
        let mut file = [section(), block(7, b"....")].concat();
        let at = section().len() + 4;
        file[at..at + 4].copy_from_slice(&len.to_be_bytes());
        assert!(matches!(frames(&file).unwrap_err(), Error::Damaged { .. }), "{len}");
    }
}

/// A source that gives one byte at a time, as a pipe may.
struct Trickle<'a>(&'a [u8]);

impl std::io::Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = self.0.len().min(buffer.len()).min(1);
        buffer[..len].copy_from_slice(&self.0[..len]);
        self.0 = &self.0[len..];
        Ok(len)
    }
}

#[test]
fn what_is_written_is_read_back_from_a_trickling_pipe() {
    let mut file = Vec::new();
    let interfaces = ["inner", "outer"].map(|name| Interface { name, description: "a test's" });
    let mut writer = Writer::new(&mut file, &interfaces).unwrap();
    let time = 1_700_000_000_123_456_789;
    writer.packet(1, time, &[b"ab", b"", b"cde"], 77, "drop spoofed_source").unwrap();
    writer.packet(0, time + 1, &[b"x"], 1, "").unwrap();
    writer.statistics(0, time + 2, 5, 3).unwrap();
    let mut reader = Reader::open(Trickle(&file)).unwrap();
    let frame = reader.next_frame().unwrap().unwrap();
    assert_eq!((frame.interface, frame.timestamp_ns, frame.original_len), (1, time, 77));
    assert_eq!((frame.bytes, frame.comment), (&b"abcde"[..], Some("drop spoofed_source")));
    assert_eq!(frame.link, LinkType::Raw);
    assert_eq!(reader.next_frame().unwrap().unwrap().bytes, b"x");
    assert!(reader.next_frame().unwrap().is_none());
    assert_eq!((reader.lost(), reader.position()), (3, file.len() as u64));
}

#[test]
fn the_packet_is_found_behind_every_link_header_and_vlan_tags() {
    let ethernet = |kind: &[u8]| [&[2; 12][..], kind, b"IP"].concat();
    let cases: [(LinkType, Vec<u8>); 7] = [
        (LinkType::Raw, b"IP".to_vec()),
        (LinkType::Ethernet, ethernet(&[8, 0])),
        (LinkType::Ethernet, ethernet(&[0x86, 0xdd])),
        (LinkType::Ethernet, ethernet(&[0x81, 0, 0, 9, 8, 0])),
        (LinkType::Ethernet, ethernet(&[0x88, 0xa8, 0, 9, 0x81, 0, 0, 7, 0x86, 0xdd])),
        (LinkType::Cooked, [&[0; 14][..], &[8, 0], b"IP"].concat()),
        (LinkType::Cooked2, [&[0x86, 0xdd][..], &[0; 18], b"IP"].concat()),
    ];
    for (link, frame) in cases {
        assert_eq!(network_layer(link, &frame), Ok(&b"IP"[..]), "{link:?} {frame:x?}");
        for cut in 0..frame.len() - 2 {
            if link != LinkType::Raw {
                assert_eq!(network_layer(link, &frame[..cut]), Err(NoPacket::TooShort));
            }
        }
    }
    assert_eq!(network_layer(LinkType::Ethernet, &ethernet(&[8, 6])), Err(NoPacket::NotIp));
    assert_eq!(network_layer(LinkType::Other(147), b""), Err(NoPacket::Link(147)));
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(
        start in 0..4_usize,
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let header = match start {
            0 => Vec::new(),
            1 => classic(true, 0xa1b2_3c4d, 1, &[]),
            2 => [section(), interface(113, 9, -1)].concat(),
            _ => [section(), interface(1, 0xff, i64::MIN)].concat(),
        };
        let _ = frames(&[header, bytes].concat());
    }

    #[test]
    fn changing_bytes_of_a_capture_never_makes_the_reader_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut file = [
            section(), interface(1, 9, 0), enhanced(0, 1, 60, &[7; 33]),
            block(3, &[0, 0, 0, 4, 1, 2, 3, 4]), block(5, &[0; 28]),
        ].concat();
        for (index, value) in changes {
            let at = index.index(file.len());
            file[at] = value;
        }
        let _ = frames(&file);
    }
}
