//! Packets of pods, each with a number of its own, and the kernel's view of super-packets.
//!
//! Byte by byte and by hand: nothing here is the code under test.

use std::net::IpAddr;

/// Marks a payload as ours; the packet's number follows.
const MAGIC: [u8; 4] = *b"SIM:";
/// Shortest payload: magic and number.
pub(crate) const MIN_PAYLOAD: usize = 8;

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
const FIN: u8 = 0x01;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// What a pod sends in one go.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) tcp: bool,
    pub(crate) flow: u16,
    /// Payload lengths of the packets, whose numbers are `first` and up: all equal but the last,
    /// which may be shorter.
    pub(crate) payloads: Vec<usize>,
    pub(crate) first: u32,
    /// Whether the packets leave as one super-packet.
    pub(crate) offloaded: bool,
    pub(crate) dont_fragment: bool,
    pub(crate) ttl: u8,
    /// Both bits of the ECN field.
    pub(crate) ecn: u8,
}

/// A read of the TUN queue: the packet behind its virtio-net header, and what it stands for.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    pub(crate) bytes: Vec<u8>,
    pub(crate) packets: Vec<Vec<u8>>,
    /// The account of each.
    pub(crate) numbers: Vec<Option<u32>>,
    pub(crate) dont_fragment: bool,
    /// If the packet has come out of the tunnel: the version of the table that let it.
    pub(crate) delivered_under: Option<usize>,
}

impl Spec {
    pub(crate) fn header_len(&self) -> usize {
        ip_len(self.source) + if self.tcp { 20 } else { 8 }
    }

    /// What the worker reads: one super-packet, or one read for each packet.
    pub(crate) fn reads(&self) -> Vec<Read> {
        let mut sequence = u32::from(self.flow) * 1000;
        let mut packets = Vec::new();
        for (index, len) in self.payloads.iter().enumerate() {
            let number = self.first + u32::try_from(index).unwrap();
            let last = index + 1 == self.payloads.len();
            packets.push(self.packet(number, sequence, &payload(number, *len), last));
            sequence += u32::try_from(*len).unwrap();
        }
        let read = |bytes: Vec<u8>, packets: Vec<Vec<u8>>| Read {
            bytes,
            numbers: packets.iter().map(|packet| number(packet)).collect(),
            packets,
            dont_fragment: self.dont_fragment || self.source.is_ipv6(),
            delivered_under: None,
        };
        if self.offloaded && packets.len() > 1 {
            return vec![read(self.super_packet(&packets), packets)];
        }
        let alone = |packet: Vec<u8>| read([&[0; 10], packet.as_slice()].concat(), vec![packet]);
        packets.into_iter().map(alone).collect()
    }

    fn packet(&self, number: u32, sequence: u32, payload: &[u8], last: bool) -> Vec<u8> {
        let mut bytes = vec![0; self.header_len()];
        bytes.extend_from_slice(payload);
        let total = u16::try_from(bytes.len()).unwrap();
        let protocol = if self.tcp { TCP } else { UDP };
        let ip_len = ip_len(self.source);
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                bytes[0] = 0x45;
                bytes[1] = self.ecn;
                bytes[2..4].copy_from_slice(&total.to_be_bytes());
                let identification = u16::try_from(number & 0xffff).unwrap();
                bytes[4..6].copy_from_slice(&identification.to_be_bytes());
                bytes[6] = if self.dont_fragment { 0x40 } else { 0 };
                [bytes[8], bytes[9]] = [self.ttl, protocol];
                bytes[12..16].copy_from_slice(&source.octets());
                bytes[16..20].copy_from_slice(&destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                [bytes[0], bytes[1]] = [0x60, self.ecn << 4];
                bytes[4..6].copy_from_slice(&(total - 40).to_be_bytes());
                [bytes[6], bytes[7]] = [protocol, self.ttl];
                bytes[8..24].copy_from_slice(&source.octets());
                bytes[24..40].copy_from_slice(&destination.octets());
            }
            _ => panic!("both addresses of a packet are of one family"),
        }
        let transport = &mut bytes[ip_len..];
        transport[..2].copy_from_slice(&(40_000 + self.flow).to_be_bytes());
        transport[2..4].copy_from_slice(&80_u16.to_be_bytes());
        if self.tcp {
            transport[4..8].copy_from_slice(&sequence.to_be_bytes());
            [transport[12], transport[13]] = [0x50, if last { ACK | PSH } else { ACK }];
            transport[14..16].copy_from_slice(&500_u16.to_be_bytes());
        } else {
            let len = total - u16::try_from(ip_len).unwrap();
            transport[4..6].copy_from_slice(&len.to_be_bytes());
        }
        fill_checksums(&mut bytes);
        bytes
    }

    /// The super-packet that stands for `packets`, behind its virtio-net header.
    fn super_packet(&self, packets: &[Vec<u8>]) -> Vec<u8> {
        let (ip_len, header_len) = (ip_len(self.source), self.header_len());
        let mut bytes = packets[0][..header_len].to_vec();
        packets.iter().for_each(|packet| bytes.extend_from_slice(&packet[header_len..]));
        let total = u16::try_from(bytes.len()).unwrap();
        write_lengths(&mut bytes, total, self.tcp);
        if self.tcp {
            bytes[ip_len + 13] |= PSH;
        }
        fill_checksums(&mut bytes);
        // The transport checksum is left to whoever cuts: only the pseudo-header is summed.
        let at = ip_len + if self.tcp { 16 } else { 6 };
        let pseudo = !checksum(&[&pseudo_header(&bytes, ip_len)]);
        bytes[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
        let kind = match (self.tcp, self.source) {
            (true, IpAddr::V4(_)) => 1,
            (true, IpAddr::V6(_)) => 4,
            (false, _) => 5,
        };
        let mut header = vec![1, kind];
        for field in [header_len, self.payloads[0], ip_len, at - ip_len] {
            header.extend_from_slice(&u16::try_from(field).unwrap().to_ne_bytes());
        }
        [header, bytes].concat()
    }
}

fn payload(number: u32, len: usize) -> Vec<u8> {
    let mut payload = [MAGIC, number.to_be_bytes()].concat();
    payload.resize(len, number.to_le_bytes()[0]);
    payload
}

/// The number of a packet of ours.
pub(crate) fn number(packet: &[u8]) -> Option<u32> {
    let ip_len = if packet.first()? >> 4 == 4 { 20 } else { 40 };
    let protocol = packet.get(if ip_len == 20 { 9 } else { 6 })?;
    let payload = packet.get(ip_len + if *protocol == TCP { 20 } else { 8 }..)?;
    let number = payload.strip_prefix(&MAGIC)?.first_chunk()?;
    Some(u32::from_be_bytes(*number))
}

/// Whether a packet is a fragment of one.
pub(crate) fn is_fragment(packet: &[u8]) -> bool {
    packet[0] >> 4 == 4 && (packet[6] & 0x3f, packet[7]) != (0, 0)
}

/// Whether a fragment says that it ends where no packet can.
pub(crate) fn lies_beyond(packet: &[u8]) -> bool {
    let start = (usize::from(packet[6] & 0x1f) << 8 | usize::from(packet[7])) * 8;
    packet[0] >> 4 == 4 && start + packet.len() > 65_535
}

/// The fragments of a packet without IP options; itself, if it fits.
pub(crate) fn fragments(packet: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    if packet.len() <= mtu {
        return vec![packet.to_vec()];
    }
    let word = u16::from_be_bytes([packet[6], packet[7]]);
    let (mut offset, mut rest, mut all) = (word & 0x1fff, &packet[20..], Vec::new());
    while !rest.is_empty() {
        let fits = rest.len() <= mtu - 20;
        let (payload, after) = rest.split_at(if fits { rest.len() } else { (mtu - 20) & !7 });
        let more = if fits { word & 0x2000 } else { 0x2000 };
        let mut fragment = [&packet[..20], payload].concat();
        let total = u16::try_from(fragment.len()).unwrap();
        fragment[2..4].copy_from_slice(&total.to_be_bytes());
        fragment[6..8].copy_from_slice(&(word & 0x8000 | more | offset).to_be_bytes());
        fill_header_checksum(&mut fragment);
        all.push(fragment);
        offset += u16::try_from(payload.len() / 8).unwrap();
        rest = after;
    }
    all
}

/// Source and destination of a packet.
pub(crate) fn addresses(packet: &[u8]) -> (IpAddr, IpAddr) {
    let v6 = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
    let v4 = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
    if packet[0] >> 4 == 4 { (v4(12), v4(16)) } else { (v6(8), v6(24)) }
}

/// The packet one router further; `None` when its hops are used up.
pub(crate) fn routed(packet: &[u8]) -> Option<Vec<u8>> {
    let mut packet = packet.to_vec();
    let at = if packet[0] >> 4 == 4 { 8 } else { 7 };
    packet[at] = packet[at].checked_sub(1).filter(|ttl| *ttl > 0)?;
    fill_header_checksum(&mut packet);
    Some(packet)
}

/// Sets the ECN field. A wrong header checksum stays as wrong as it was (RFC 1624 §3, eqn. 3), so
/// that whoever checks it next still sees the damage.
pub(crate) fn set_ecn(packet: &mut [u8], ecn: u8) {
    if packet[0] >> 4 == 4 {
        let old = [packet[0], packet[1]];
        packet[1] = packet[1] & !3 | ecn;
        let not = |bytes: [u8; 2]| (!u16::from_be_bytes(bytes)).to_be_bytes();
        let sum = not([packet[10], packet[11]]);
        let sum = checksum(&[&sum, &not(old), &packet[..2]]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        packet[1] = packet[1] & !0x30 | ecn << 4;
    }
}

/// What the kernel makes of a packet written to the TUN queue behind its virtio-net header.
pub(crate) fn kernel_split(written: &[u8]) -> Vec<Vec<u8>> {
    let (header, packet) = written.split_at(10);
    let field = |at: usize| usize::from(u16::from_ne_bytes([header[at], header[at + 1]]));
    if header[1] == 0 {
        return vec![packet.to_vec()];
    }
    let (gso_size, ip_len) = (field(4), field(6));
    let tcp = header[1] != 5;
    let header_len = ip_len + if tcp { 20 } else { 8 };
    let pieces: Vec<&[u8]> = packet[header_len..].chunks(gso_size).collect();
    let mut packets = Vec::new();
    let mut sent = 0_u32;
    for (index, piece) in pieces.iter().enumerate() {
        let mut bytes = [&packet[..header_len], piece].concat();
        let total = u16::try_from(bytes.len()).unwrap();
        write_lengths(&mut bytes, total, tcp);
        if ip_len == 20 {
            let step = u16::try_from(index).unwrap();
            let identification = u16::from_be_bytes([bytes[4], bytes[5]]).wrapping_add(step);
            bytes[4..6].copy_from_slice(&identification.to_be_bytes());
        }
        if tcp {
            let at = ip_len + 4;
            let sequence = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
            bytes[at..at + 4].copy_from_slice(&sequence.wrapping_add(sent).to_be_bytes());
            if index + 1 < pieces.len() {
                bytes[ip_len + 13] &= !(PSH | FIN);
            }
            sent += u32::try_from(piece.len()).unwrap();
        }
        fill_checksums(&mut bytes);
        packets.push(bytes);
    }
    packets
}

fn ip_len(address: IpAddr) -> usize {
    if address.is_ipv4() { 20 } else { 40 }
}

fn write_lengths(bytes: &mut [u8], total: u16, tcp: bool) {
    let ip_len = if bytes[0] >> 4 == 4 {
        bytes[2..4].copy_from_slice(&total.to_be_bytes());
        20
    } else {
        bytes[4..6].copy_from_slice(&(total - 40).to_be_bytes());
        40
    };
    if !tcp {
        let len = total - u16::try_from(ip_len).unwrap();
        bytes[ip_len + 4..ip_len + 6].copy_from_slice(&len.to_be_bytes());
    }
}

fn fill_header_checksum(bytes: &mut [u8]) {
    if bytes[0] >> 4 == 4 {
        bytes[10..12].fill(0);
        let sum = checksum(&[&bytes[..20]]);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

fn fill_checksums(bytes: &mut [u8]) {
    fill_header_checksum(bytes);
    let ip_len = if bytes[0] >> 4 == 4 { 20 } else { 40 };
    let protocol = bytes[if ip_len == 20 { 9 } else { 6 }];
    let at = ip_len + if protocol == TCP { 16 } else { 6 };
    bytes[at..at + 2].fill(0);
    let sum = checksum(&[&pseudo_header(bytes, ip_len), &bytes[ip_len..]]);
    let sum = if sum == 0 && protocol == UDP { 0xffff } else { sum };
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn pseudo_header(bytes: &[u8], ip_len: usize) -> Vec<u8> {
    let (addresses, protocol) =
        if ip_len == 20 { (&bytes[12..20], bytes[9]) } else { (&bytes[8..40], bytes[6]) };
    let len = u32::try_from(bytes.len() - ip_len).unwrap().to_be_bytes();
    [addresses, &len, &[0, 0, 0, protocol]].concat()
}

/// The internet checksum over parts of which all but the last have an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
