//! Capture files: reading pcap and pcapng, finding the IP packet in a frame, writing pcapng.
//!
//! Bytes to values and back, one frame at a time, in constant memory, from files and pipes alike.
//! Never knows what an overlay is. What it reads comes from strangers: lengths are checked before
//! they are believed, and nothing is allocated by them beyond `MAX_BLOCK_LEN`.

mod block;
mod link;
mod reader;
mod writer;

pub use link::{LinkType, NoPacket, network_layer};
pub use reader::{Error, Frame, Reader};
pub(crate) use writer::{Interface, Writer};

/// Longest record or block that is read. Programs that capture write at most 256 KiB for each frame
/// (`MAXIMUM_SNAPLEN` of tcpdump); the rest is room for options.
pub(crate) const MAX_BLOCK_LEN: usize = 1 << 20;

#[cfg(test)]
mod tests;
