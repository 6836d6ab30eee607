//! Taking inputs apart: the same bytes always mean the same, and any bytes mean something.

/// What is left of an input.
pub(crate) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next byte; 0 behind the end.
    pub(crate) fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    /// The next two bytes as a number.
    pub(crate) fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// At most `len` bytes.
    pub(crate) fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// Bytes behind their length.
    pub(crate) fn piece(&mut self) -> &'a [u8] {
        let len = usize::from(self.word());
        self.take(len)
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }
}

/// Puts right what random bytes never are: the checksums of an IPv4 header without options and of
/// TCP or UDP directly behind either IP header. Leaves alone what is too short for that.
pub(crate) fn fix_checksums(packet: &mut [u8]) {
    let (ip_len, protocol) = match packet.first() {
        Some(0x45) if packet.len() >= 20 => {
            packet[10..12].fill(0);
            let sum = naive_checksum(&[&packet[..20]]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            (20, packet[9])
        }
        Some(first) if first >> 4 == 6 && packet.len() >= 40 => (40, packet[6]),
        _ => return,
    };
    let at = match protocol {
        6 => 16,
        17 => 6,
        _ => return,
    };
    let (ip, transport) = packet.split_at_mut(ip_len);
    if transport.len() < at + 2 {
        return;
    }
    transport[at..at + 2].fill(0);
    let addresses = if ip_len == 20 { &ip[12..20] } else { &ip[8..40] };
    let len = u32::try_from(transport.len()).unwrap().to_be_bytes();
    let sum = naive_checksum(&[addresses, &len, &[0, 0, 0, protocol], transport]);
    let sum = if sum == 0 && protocol == 17 { 0xffff } else { sum };
    transport[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// The internet checksum, byte by byte; all but the last part have an even length.
pub(crate) fn naive_checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
    }
    !u16::try_from(sum).unwrap()
}
