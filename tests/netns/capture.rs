//! What passes through a namespace, as a packet socket sees it.

use std::io::{self, Read as _};
use std::time::Duration;

use culvert_lab::{Netns, wait_for};
use socket2::{Domain, Protocol, Socket, Type};

use crate::harness::SOON;
use crate::packets;

/// `ETH_P_ALL`: packets of every protocol, both directions.
const EVERY_PROTOCOL: u16 = 0x0003;

/// Room for packets that were not looked at yet.
const BUFFER_BYTES: usize = 8 << 20;

/// Everything that passes a namespace's devices from its start on, each packet from its IP header
/// on. A packet that passes several devices is seen at each.
pub(crate) struct Capture {
    socket: Socket,
    packets: Vec<Vec<u8>>,
}

impl Capture {
    /// Starts.
    #[track_caller]
    pub(crate) fn start(netns: &Netns) -> Self {
        let protocol = Protocol::from(i32::from(EVERY_PROTOCOL.to_be()));
        let open = || Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol));
        let socket = netns.run(open).unwrap().unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.set_recv_buffer_size(BUFFER_BYTES).unwrap();
        Self { socket, packets: Vec::new() }
    }

    /// Everything so far.
    pub(crate) fn packets(&mut self) -> &[Vec<u8>] {
        let mut buffer = vec![0; 1 << 16];
        loop {
            match (&self.socket).read(&mut buffer) {
                Ok(len) => self.packets.push(buffer[..len].to_vec()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return &self.packets,
                Err(error) => panic!("capturing: {error}"),
            }
        }
    }

    /// Whether a packet with `part` has passed.
    pub(crate) fn has(&mut self, part: &[u8]) -> bool {
        self.packets().iter().any(|packet| packets::contains(packet, part))
    }

    /// The first packet with `part`, which `send` sends, waiting for it.
    ///
    /// It is sent again every second: a busy kernel loses packets between namespaces.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, part: &[u8], mut send: impl FnMut()) -> Vec<u8> {
        let what = format!("a packet with `{}`", part.escape_ascii());
        for _attempt in 0..SOON.as_secs() {
            send();
            let find = || {
                let found = self.packets().iter().find(|packet| packets::contains(packet, part));
                Ok(found.cloned())
            };
            if let Ok(found) = wait_for(Duration::from_secs(1), &what, find) {
                return found;
            }
        }
        panic!("no {what} within {SOON:?}");
    }
}

/// A capture file of packets without a link header (`LINKTYPE_RAW`).
pub(crate) fn pcap(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 0xffff, 101_u32] {
        file.extend(word.to_le_bytes());
    }
    for packet in packets {
        let len = u32::try_from(packet.len()).unwrap();
        for word in [0, 0, len, len] {
            file.extend(word.to_le_bytes());
        }
        file.extend(packet);
    }
    file
}
