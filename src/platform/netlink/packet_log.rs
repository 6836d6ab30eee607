//! Packets that nftables rules log to a group.
//!
//! Owns the subscription to one group of nfnetlink_log and the reading of its messages. The kernel
//! keeps what is not fetched in a bounded buffer and drops what does not fit; whoever listens is
//! told of that, and misses nothing that is counted. Runs on the caller's task.

use std::io;

use culvert_dataplane::platform::{Error, Result};
use rtnetlink::packet_core::{NetlinkBuffer, NlasIterator};
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};

/// Room for one read: more than the kernel puts into one.
const READ_BYTES: usize = 64 * 1024;

/// `NFNL_SUBSYS_ULOG`, and `NFULNL_MSG_PACKET` and `NFULNL_MSG_CONFIG` of it.
const PACKET: u16 = 4 << 8;
const CONFIG: u16 = 4 << 8 | 1;

/// `NLM_F_REQUEST | NLM_F_ACK`, `NLMSG_ERROR`.
const REQUEST_AND_ACK: u16 = 0x05;
const ERROR: u16 = 2;

/// `NFULA_CFG_CMD` with `NFULNL_CFG_CMD_BIND`; `NFULA_CFG_MODE` with `NFULNL_COPY_PACKET`;
/// `NFULA_CFG_TIMEOUT`.
const COMMAND: u16 = 1;
const BIND: u8 = 1;
const MODE: u16 = 2;
const COPY_PACKET: u8 = 2;
const TIMEOUT: u16 = 4;

/// After so many hundredths of a second the kernel hands over what it has gathered.
const GATHERING: u32 = 10;

/// `NFULA_PAYLOAD`, `NFULA_PREFIX`.
const PAYLOAD: u16 = 9;
const PREFIX: u16 = 10;

/// Bytes of `struct nfgenmsg`.
const NFNETLINK_HEADER_BYTES: usize = 4;
const NETLINK_HEADER_BYTES: usize = 16;

/// A packet that a rule logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Logged {
    /// What the rule put before it.
    pub(crate) prefix: String,
    /// The packet, from its IP header, as much as the rule lets through.
    pub(crate) packet: Vec<u8>,
}

/// A subscription to one group.
pub(crate) struct PacketLog {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

impl PacketLog {
    /// Subscribes, on the current tokio runtime and in the network namespace of this thread.
    ///
    /// # Errors
    ///
    /// The kernel has no nfnetlink_log, or another program listens to the group.
    pub(crate) async fn open(group: u16) -> Result<Self> {
        let failed =
            |error| Error::new("listen to", format!("packets logged to group {group}"), error);
        let mut log = Self { socket: subscribe().map_err(failed)?, buffer: Vec::new() };
        log.bind(group).await.map_err(failed)?;
        Ok(log)
    }

    async fn bind(&mut self, group: u16) -> io::Result<()> {
        let kernel = SocketAddr::new(0, 0);
        self.socket.send_to(&configuration(group), &kernel).await?;
        loop {
            self.receive().await?;
            let verdict = messages(&self.buffer).find(|message| message.message_type() == ERROR);
            let Some(verdict) = verdict else { continue };
            let code = verdict.payload().first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
            return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
        }
    }

    /// The next packets; an empty list if some were lost.
    ///
    /// # Cancel safety
    ///
    /// A dropped future has taken nothing off the socket.
    ///
    /// # Errors
    ///
    /// When the socket fails for good.
    pub(crate) async fn next(&mut self) -> Result<Vec<Logged>> {
        match self.receive().await {
            Ok(()) => Ok(messages(&self.buffer).filter_map(|message| read(&message)).collect()),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(Vec::new()),
            Err(error) => Err(Error::new("read", "logged packets", error)),
        }
    }

    async fn receive(&mut self) -> io::Result<()> {
        self.buffer.clear();
        self.buffer.reserve(READ_BYTES);
        self.socket.recv(&mut self.buffer).await
    }
}

fn subscribe() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
    socket.socket_mut().bind_auto()?;
    Ok(socket)
}

/// The request that binds a group to the socket, and asks for packets.
fn configuration(group: u16) -> Vec<u8> {
    let [high, low] = group.to_be_bytes();
    let mut body = vec![0, 0, high, low];
    attribute(&mut body, COMMAND, &[BIND]);
    // All that the rule lets through.
    let [a, b, c, d] = u32::from(u16::MAX).to_be_bytes();
    attribute(&mut body, MODE, &[a, b, c, d, COPY_PACKET, 0]);
    attribute(&mut body, TIMEOUT, &GATHERING.to_be_bytes());
    let length = u32::try_from(NETLINK_HEADER_BYTES + body.len()).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(CONFIG.to_ne_bytes());
    message.extend(REQUEST_AND_ACK.to_ne_bytes());
    // Sequence and port: one question, one answer.
    message.extend([0; 8]);
    message.extend(body);
    message
}

fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Splits what one read returned into messages.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = NetlinkBuffer<&[u8]>> {
    std::iter::from_fn(move || {
        let message = NetlinkBuffer::new_checked(bytes).ok()?;
        let length = usize::try_from(message.length()).ok()?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(message)
    })
}

/// The packet in a message, if it has one.
fn read(message: &NetlinkBuffer<&[u8]>) -> Option<Logged> {
    if message.message_type() != PACKET {
        return None;
    }
    let attributes = message.payload().get(NFNETLINK_HEADER_BYTES..)?;
    let find = |kind: u16| {
        let found = NlasIterator::new(attributes).flatten().find(|found| found.kind() == kind);
        found.map(|found| found.value().to_vec())
    };
    let prefix = find(PREFIX).unwrap_or_default();
    let prefix = prefix.strip_suffix(&[0]).unwrap_or(&prefix);
    Some(Logged {
        prefix: String::from_utf8_lossy(prefix).into_owned(),
        packet: find(PAYLOAD).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(NETLINK_HEADER_BYTES + body.len()).unwrap();
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], body].concat()
    }

    #[test]
    fn packet_is_read_with_its_prefix() {
        let mut body = vec![2, 0, 0x12, 0xb6];
        attribute(&mut body, PREFIX, b"i-3b8d\0");
        attribute(&mut body, PAYLOAD, &[0x45, 0, 0]);
        let bytes = message(PACKET, &body);
        let found: Vec<_> = messages(&bytes).filter_map(|message| read(&message)).collect();
        let expected = Logged { prefix: "i-3b8d".to_owned(), packet: vec![0x45, 0, 0] };
        assert_eq!(found, [expected]);
        assert!(messages(&message(CONFIG, &body)).all(|message| read(&message).is_none()));
    }

    #[test]
    fn configuration_binds_the_group() {
        let bytes = configuration(4790);
        assert_eq!(bytes.len(), 16 + 4 + 8 + 12 + 8);
        assert_eq!(bytes[16..20], [0, 0, 0x12, 0xb6]);
        assert_eq!(bytes[24], BIND);
    }
}
