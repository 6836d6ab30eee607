//! pcapng for others to read: raw IP packets with nanoseconds and comments.

use std::io::{self, Write};

/// An interface that packets are attributed to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interface<'a> {
    /// Its name, which Wireshark shows.
    pub name: &'a str,
    /// What it stands for.
    pub description: &'a str,
}

/// Writes a capture of raw IP packets, in this machine's byte order.
#[derive(Debug)]
pub(crate) struct Writer<W> {
    out: W,
    /// A block in the making; kept so that nothing is allocated for each.
    block: Vec<u8>,
}

/// Raw IP. Its number in the registry is 101, but libpcap (1.10) then refuses files with two
/// interfaces, because it compares its own number, which is 12 on Linux, with that in the file.
/// With 12 it reads them, and so does Wireshark.
const LINK_RAW: u16 = 12;
/// Timestamps count 10⁻⁹ seconds.
const NANOSECONDS: u8 = 9;

const OPTION_COMMENT: u16 = 1;
const IF_NAME: u16 = 2;
const IF_DESCRIPTION: u16 = 3;
const IF_TSRESOL: u16 = 9;
const ISB_IFRECV: u16 = 4;
const ISB_IFDROP: u16 = 5;
const SHB_APPLICATION: u16 = 4;

impl<W: Write> Writer<W> {
    /// Writes the file's header.
    ///
    /// # Errors
    ///
    /// What `out` says.
    pub(crate) fn new(out: W, interfaces: &[Interface<'_>]) -> io::Result<Self> {
        let mut writer = Self { out, block: Vec::new() };
        writer.begin(0x0a0d_0d0a);
        writer.u32(0x1a2b_3c4d);
        writer.u32(1); // Version 1.0: two halves, of which the first is one.
        writer.block.extend_from_slice(&u64::MAX.to_ne_bytes()); // A section of unknown length.
        writer.option(SHB_APPLICATION, concat!("culvert ", env!("CARGO_PKG_VERSION")).as_bytes());
        writer.finish()?;
        for interface in interfaces {
            writer.begin(1);
            writer.u32(u32::from(LINK_RAW));
            writer.u32(0);
            writer.option(IF_NAME, interface.name.as_bytes());
            writer.option(IF_DESCRIPTION, interface.description.as_bytes());
            writer.option(IF_TSRESOL, &[NANOSECONDS]);
            writer.finish()?;
        }
        Ok(writer)
    }

    /// Writes one packet, made of `parts`, with `comment`. `interface` counts from 0.
    ///
    /// # Errors
    ///
    /// What `out` says.
    pub(crate) fn packet(
        &mut self,
        interface: u32,
        timestamp_ns: u64,
        parts: &[&[u8]],
        original_len: usize,
        comment: &str,
    ) -> io::Result<()> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        self.begin(6);
        self.u32(interface);
        self.u32(u32::try_from(timestamp_ns >> 32).unwrap_or_default());
        self.u32(u32::try_from(timestamp_ns & u64::from(u32::MAX)).unwrap_or_default());
        self.u32(u32::try_from(len).unwrap_or(u32::MAX));
        self.u32(u32::try_from(original_len).unwrap_or(u32::MAX));
        parts.iter().for_each(|part| self.block.extend_from_slice(part));
        self.pad();
        self.option(OPTION_COMMENT, comment.as_bytes());
        self.finish()
    }

    /// Writes what was counted on an interface: packets that were seen, and those of them that are
    /// missing here.
    ///
    /// # Errors
    ///
    /// What `out` says.
    pub(crate) fn statistics(
        &mut self,
        interface: u32,
        timestamp_ns: u64,
        seen: u64,
        lost: u64,
    ) -> io::Result<()> {
        self.begin(5);
        self.u32(interface);
        self.u32(u32::try_from(timestamp_ns >> 32).unwrap_or_default());
        self.u32(u32::try_from(timestamp_ns & u64::from(u32::MAX)).unwrap_or_default());
        self.option(ISB_IFRECV, &seen.to_ne_bytes());
        self.option(ISB_IFDROP, &lost.to_ne_bytes());
        self.finish()
    }

    /// Hands everything to the system.
    ///
    /// # Errors
    ///
    /// What `out` says.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn begin(&mut self, kind: u32) {
        self.block.clear();
        self.u32(kind);
        self.u32(0); // The length, which is not known yet.
    }

    fn u32(&mut self, value: u32) {
        self.block.extend_from_slice(&value.to_ne_bytes());
    }

    fn pad(&mut self) {
        self.block.resize(self.block.len().next_multiple_of(4), 0);
    }

    /// Adds an option; a value beyond 64 KiB is cut.
    fn option(&mut self, code: u16, value: &[u8]) {
        let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
        self.block.extend_from_slice(&code.to_ne_bytes());
        self.block.extend_from_slice(&len.to_ne_bytes());
        self.block.extend_from_slice(&value[..usize::from(len)]);
        self.pad();
    }

    /// Ends the options and writes the block.
    fn finish(&mut self) -> io::Result<()> {
        self.u32(0);
        let len = u32::try_from(self.block.len() + 4).unwrap_or(u32::MAX);
        self.block[4..8].copy_from_slice(&len.to_ne_bytes());
        self.u32(len);
        self.out.write_all(&self.block)
    }
}
