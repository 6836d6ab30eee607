//! Classic pcap files by hand, in every variant that there is.

/// LINKTYPE numbers.
pub(crate) const ETHERNET: u32 = 1;
pub(crate) const RAW: u32 = 101;
pub(crate) const COOKED: u32 = 113;
pub(crate) const COOKED2: u32 = 276;

/// When the first packet of every capture was "captured": 2026-01-01 00:00:00 UTC.
const EPOCH: u32 = 1_767_225_600;

/// Time between two packets, in microseconds.
const STEP: u32 = 200;

/// How a file is written.
#[derive(Clone, Copy)]
pub(crate) struct Style {
    pub(crate) link: u32,
    pub(crate) big_endian: bool,
    pub(crate) nanoseconds: bool,
    /// Bytes that are kept of a frame.
    pub(crate) snap_len: usize,
}

impl Style {
    pub(crate) fn of(link: u32) -> Self {
        Self { link, big_endian: false, nanoseconds: false, snap_len: 262_144 }
    }
}

/// The file of these frames.
pub(crate) fn write(style: Style, frames: &[Vec<u8>]) -> Vec<u8> {
    let number =
        |value: u32| if style.big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let half =
        |value: u16| if style.big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let magic = if style.nanoseconds { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
    let mut file = number(magic).to_vec();
    [2, 4].iter().for_each(|version| file.extend(half(*version)));
    let snap_len = u32::try_from(style.snap_len).unwrap();
    [0, 0, snap_len, style.link].iter().for_each(|value| file.extend(number(*value)));
    for (index, frame) in frames.iter().enumerate() {
        let micros = u32::try_from(index).unwrap() * STEP;
        let fraction = if style.nanoseconds { micros * 1000 } else { micros };
        let kept = &frame[..frame.len().min(style.snap_len)];
        for value in [
            EPOCH,
            fraction,
            u32::try_from(kept.len()).unwrap(),
            u32::try_from(frame.len()).unwrap(),
        ] {
            file.extend(number(value));
        }
        file.extend_from_slice(kept);
    }
    file
}

/// An Ethernet frame of `packet` behind VLAN tags, padded as the shortest frame is.
pub(crate) fn ethernet(tags: &[(u16, u16)], packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    for (protocol, vlan) in tags {
        frame.extend(protocol.to_be_bytes());
        frame.extend(vlan.to_be_bytes());
    }
    frame.extend(ethertype(packet));
    frame.extend_from_slice(packet);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// What `tcpdump -i any` wrote.
pub(crate) fn cooked(packet: &[u8]) -> Vec<u8> {
    // Sent by us; Ethernet; six bytes of address.
    let header = [0, 4, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0];
    [&header[..], &ethertype(packet), packet].concat()
}

/// What it writes now.
pub(crate) fn cooked2(packet: &[u8]) -> Vec<u8> {
    // Reserved; interface 3; Ethernet; sent by us; six bytes of address.
    let header = [0, 0, 0, 0, 0, 3, 0, 1, 4, 6, 2, 0, 0, 0, 0, 1, 0, 0];
    [&ethertype(packet)[..], &header, packet].concat()
}

fn ethertype(packet: &[u8]) -> [u8; 2] {
    if packet.first().is_some_and(|first| first >> 4 == 6) { [0x86, 0xdd] } else { [8, 0] }
}
