//! A capture file as a stream of frames.

use std::io::{self, Read};

use super::block::{self, Captured, Order};
use super::{LinkType, MAX_BLOCK_LEN};

/// Bytes that one reading call asks for at least.
const READ_LEN: usize = 256 << 10;

/// One captured frame.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// What the frame begins with.
    pub link: LinkType,
    /// When it was captured, in nanoseconds since 1970; zero if the file does not say.
    pub timestamp_ns: u64,
    /// How long it was, in bytes; more than there are if it was cut off.
    pub original_len: usize,
    /// What was kept of it.
    pub bytes: &'a [u8],
    /// Which interface of the capture, counted from 0.
    pub interface: usize,
    /// Its comment.
    pub comment: Option<&'a str>,
}

/// Why a capture cannot be read further.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading failed.
    #[error("reading the capture failed: {0}")]
    Io(#[from] io::Error),
    /// It begins like neither format.
    #[error("neither pcap nor pcapng: it begins with {0}")]
    Unknown(String),
    /// It ends within a record.
    #[error("the capture ends in the middle of a packet, at byte {at}")]
    CutOff {
        /// Where the record begins.
        at: u64,
    },
    /// A record contradicts itself.
    #[error("the capture is damaged at byte {at}: {what}")]
    Damaged {
        /// Where the record begins.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
}

/// Reads frame by frame.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    buffer: Vec<u8>,
    /// The part of `buffer` that was read and not yet used.
    start: usize,
    end: usize,
    /// Bytes of the file before `start`.
    passed: u64,
    format: Format,
    /// Frames that the capturing program says it has lost.
    lost: u64,
}

#[derive(Debug)]
enum Format {
    Pcap { order: Order, link: LinkType, nanos_per_unit: u64 },
    Pcapng { order: Order, interfaces: Vec<Captured> },
}

const PCAP_HEADER_LEN: usize = 24;
const RECORD_HEADER_LEN: usize = 16;
/// Type and length of a pcapng block, and the length again at its end.
const BLOCK_HEADER_LEN: usize = 8;
const BLOCK_OVERHEAD: usize = 12;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;

/// Most interfaces of one section: a capture of every device of a large node has some hundred.
const MAX_INTERFACES: usize = 1 << 16;

impl<R: Read> Reader<R> {
    /// Reads the file's header.
    ///
    /// # Errors
    ///
    /// It is no capture, or cannot be read.
    pub fn open(source: R) -> Result<Self, Error> {
        let mut reader = Self {
            source,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            passed: 0,
            format: Format::Pcapng { order: Order::Little, interfaces: Vec::new() },
            lost: 0,
        };
        reader.fill(4)?;
        let magic = reader.have().first_chunk::<4>().copied();
        let (order, nanos_per_unit) = match magic {
            Some([0xd4, 0xc3, 0xb2, 0xa1]) => (Order::Little, 1000),
            Some([0xa1, 0xb2, 0xc3, 0xd4]) => (Order::Big, 1000),
            Some([0x4d, 0x3c, 0xb2, 0xa1]) => (Order::Little, 1),
            Some([0xa1, 0xb2, 0x3c, 0x4d]) => (Order::Big, 1),
            Some([0x0a, 0x0d, 0x0d, 0x0a]) => return Ok(reader),
            Some(other) => return Err(Error::Unknown(format!("{other:02x?}"))),
            None => return Err(Error::Unknown(format!("{:02x?}", reader.have()))),
        };
        if !reader.fill(PCAP_HEADER_LEN)? {
            return Err(reader.cut_off());
        }
        // The upper half of the field says whether frames end with a checksum (FCS), which the
        // packet's own length cuts off.
        let link = order.u32(reader.have(), 20).unwrap_or_default() & 0xffff;
        let link = LinkType::from_number(u16::try_from(link).unwrap_or(u16::MAX));
        reader.format = Format::Pcap { order, link, nanos_per_unit };
        reader.advance(PCAP_HEADER_LEN);
        Ok(reader)
    }

    /// The next frame; `None` at the end.
    ///
    /// # Errors
    ///
    /// Reading failed, or the rest makes no sense.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, Error> {
        match self.format {
            Format::Pcap { order, link, nanos_per_unit } => {
                self.next_record(order, link, nanos_per_unit)
            }
            Format::Pcapng { .. } => self.next_packet_block(),
        }
    }

    /// How many bytes of the file have been used.
    pub fn position(&self) -> u64 {
        self.passed
    }

    /// Frames that the capturing program says it has lost, so far.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    fn next_record(
        &mut self,
        order: Order,
        link: LinkType,
        nanos_per_unit: u64,
    ) -> Result<Option<Frame<'_>>, Error> {
        if !self.fill(RECORD_HEADER_LEN)? {
            return if self.have().is_empty() { Ok(None) } else { Err(self.cut_off()) };
        }
        let field = |at| order.u32(self.have(), at).unwrap_or_default();
        let timestamp_ns =
            u64::from(field(0)) * 1_000_000_000 + u64::from(field(4)) * nanos_per_unit;
        let (captured_len, original_len) = (field(8) as usize, field(12) as usize);
        if captured_len > MAX_BLOCK_LEN {
            return Err(self.damaged("a record that is longer than any frame"));
        }
        let len = RECORD_HEADER_LEN + captured_len;
        if !self.fill(len)? {
            return Err(self.cut_off());
        }
        let start = self.start;
        self.advance(len);
        let bytes = &self.buffer[start + RECORD_HEADER_LEN..start + len];
        let original_len = original_len.max(captured_len);
        Ok(Some(Frame { link, timestamp_ns, original_len, bytes, interface: 0, comment: None }))
    }

    fn next_packet_block(&mut self) -> Result<Option<Frame<'_>>, Error> {
        loop {
            let Some((kind, len)) = self.next_block()? else { return Ok(None) };
            let Format::Pcapng { order, interfaces } = &mut self.format else { return Ok(None) };
            let order = *order;
            let body = &self.buffer[self.start + BLOCK_HEADER_LEN..self.start + len - 4];
            let packet = match kind {
                INTERFACE => {
                    match block::interface(order, body) {
                        Some(interface) if interfaces.len() < MAX_INTERFACES => {
                            interfaces.push(interface);
                        }
                        _ => return Err(self.damaged("an interface that makes no sense")),
                    }
                    self.advance(len);
                    continue;
                }
                STATISTICS => {
                    let dropped = block::options(order, body, 12)
                        .find(|(code, _)| *code == block::OPTION_DROPPED);
                    let dropped = dropped.and_then(|(_, value)| order.u64(value, 0));
                    self.lost = self.lost.saturating_add(dropped.unwrap_or_default());
                    self.advance(len);
                    continue;
                }
                ENHANCED_PACKET => block::enhanced(order, body, interfaces),
                SIMPLE_PACKET => block::simple(order, body, interfaces),
                PACKET => block::obsolete(order, body, interfaces),
                _ => {
                    self.advance(len);
                    continue;
                }
            };
            let link = packet.and_then(|packet| Some(interfaces.get(packet.interface)?.link));
            let (Some(packet), Some(link)) = (packet, link) else {
                return Err(self.damaged("a packet that contradicts its block"));
            };
            let start = self.start + BLOCK_HEADER_LEN;
            self.advance(len);
            let body = &self.buffer[start..start + len - BLOCK_OVERHEAD];
            let end = packet.start + packet.captured_len;
            let comment = match kind {
                SIMPLE_PACKET => None,
                _ => block::options(order, body, end.next_multiple_of(4))
                    .find(|(code, _)| *code == block::OPTION_COMMENT)
                    .and_then(|(_, value)| std::str::from_utf8(value).ok()),
            };
            return Ok(Some(Frame {
                link,
                timestamp_ns: packet.timestamp_ns,
                original_len: (packet.original_len as usize).max(packet.captured_len),
                bytes: &body[packet.start..end],
                interface: packet.interface,
                comment,
            }));
        }
    }

    /// Brings the next block whole into the buffer: its type and length.
    fn next_block(&mut self) -> Result<Option<(u32, usize)>, Error> {
        if !self.fill(BLOCK_OVERHEAD)? {
            return if self.have().is_empty() { Ok(None) } else { Err(self.cut_off()) };
        }
        let mut order = match &self.format {
            Format::Pcapng { order, .. } => *order,
            Format::Pcap { order, .. } => *order,
        };
        let kind = order.u32(self.have(), 0).unwrap_or_default();
        // The number reads the same in both orders; the magic that follows tells which it is.
        if kind == SECTION_HEADER {
            order = match self.have().get(8..12) {
                Some([0x4d, 0x3c, 0x2b, 0x1a]) => Order::Little,
                Some([0x1a, 0x2b, 0x3c, 0x4d]) => Order::Big,
                _ => return Err(self.damaged("a section without a byte order")),
            };
            self.format = Format::Pcapng { order, interfaces: Vec::new() };
        }
        let len = order.u32(self.have(), 4).unwrap_or_default() as usize;
        if !(BLOCK_OVERHEAD..=MAX_BLOCK_LEN).contains(&len) || !len.is_multiple_of(4) {
            return Err(self.damaged("a block of an impossible length"));
        }
        if !self.fill(len)? {
            return Err(self.cut_off());
        }
        if order.u32(self.have(), len - 4) != u32::try_from(len).ok() {
            return Err(self.damaged("a block whose two lengths differ"));
        }
        Ok(Some((kind, len)))
    }

    /// Reads until `len` bytes are there; false if the file ends before.
    fn fill(&mut self, len: usize) -> io::Result<bool> {
        if self.end - self.start >= len {
            return Ok(true);
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let room = len.max(READ_LEN);
        if self.buffer.len() < room {
            self.buffer.resize(room, 0);
        }
        while self.end < len {
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Ok(false),
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn have(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    fn advance(&mut self, len: usize) {
        self.start += len;
        self.passed += len as u64;
    }

    fn cut_off(&self) -> Error {
        Error::CutOff { at: self.passed }
    }

    fn damaged(&self, what: &'static str) -> Error {
        Error::Damaged { at: self.passed, what }
    }
}
