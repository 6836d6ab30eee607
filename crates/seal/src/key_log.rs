//! Keys of sessions as lines of Wireshark's table `esp_sa`, for whoever asks for them.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use overlay_proto::esp::Slot;
use zeroize::Zeroizing;

use crate::session::KeyMaterial;
use crate::suite::Suite;

/// Longer than any line, so that none is moved while it grows, which would leave a copy behind.
const LINE_ROOM: usize = 512;

/// Digits of an SPI that are a session's; the others are the lane's, and one key serves all.
pub(crate) const SLOT_DIGITS: usize = 5;

/// The key of one direction of a session with a peer.
pub struct LoggedKey {
    pub(crate) peer: IpAddr,
    pub(crate) way: Way,
    /// The receiver's.
    pub(crate) slot: Slot,
    pub(crate) material: KeyMaterial,
}

/// Which way a key's packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ToPeer,
    FromPeer,
}

impl LoggedKey {
    /// The key as Wireshark reads it, at the node with the underlay address `own`; if that is not
    /// known, any will do.
    #[must_use]
    pub fn line(&self, own: Option<IpAddr>) -> LogLine {
        let mut line = Zeroizing::new(String::with_capacity(LINE_ROOM));
        self.write(own, &mut line).expect("a string takes what it is given");
        LogLine(line)
    }

    /// Columns that Wireshark got after 4.0 are left out: without them it takes what is right.
    fn write(&self, own: Option<IpAddr>, line: &mut String) -> fmt::Result {
        let family = if self.peer.is_ipv4() { "IPv4" } else { "IPv6" };
        write!(line, "\"{family}\"")?;
        let ends = match self.way {
            Way::ToPeer => [own, Some(self.peer)],
            Way::FromPeer => [Some(self.peer), own],
        };
        for end in ends {
            match end {
                Some(address) => write!(line, ",\"{address}\"")?,
                None => line.write_str(",\"*\"")?,
            }
        }
        let slot = self.slot.get();
        write!(line, ",\"0x{slot:0SLOT_DIGITS$x}***\",\"{}\",\"0x", cipher(self.material.suite()))?;
        self.material.bytes().iter().try_for_each(|byte| write!(line, "{byte:02x}"))?;
        line.write_str("\",\"NULL\",\"\"\n")
    }
}

/// What Wireshark calls the suite. Version 4.0 does not know the second yet.
pub(crate) const fn cipher(suite: Suite) -> &'static str {
    match suite {
        Suite::Aes256Gcm => "AES-GCM with 16 octet ICV [RFC4106]",
        Suite::ChaCha20Poly1305 => "ChaCha20 with Poly1305 [RFC7634]",
    }
}

impl fmt::Debug for LoggedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { peer, way, slot, material: _ } = self;
        f.debug_struct("LoggedKey")
            .field("peer", peer)
            .field("way", way)
            .field("slot", slot)
            .finish_non_exhaustive()
    }
}

/// A line with a secret in it, and its end.
pub struct LogLine(Zeroizing<String>);

impl LogLine {
    /// The bytes to be written.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for LogLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogLine").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use overlay_proto::Vni;

    use super::*;
    use crate::noise::Split;
    use crate::session::Direction;

    fn logged(peer: &str, way: Way, suite: Suite) -> LoggedKey {
        let key = |byte| Zeroizing::new([byte; 32]);
        let split = Split { from_initiator: key(1), from_responder: key(2) };
        let vni = Vni::new(7).unwrap();
        let material = KeyMaterial::derive(&split, Direction::FromInitiator, suite, vni).unwrap();
        LoggedKey { peer: peer.parse().unwrap(), way, slot: Slot::new(0xabc).unwrap(), material }
    }

    fn text(line: &LogLine) -> &str {
        std::str::from_utf8(line.as_bytes()).unwrap()
    }

    #[test]
    fn a_line_has_the_columns_of_wireshark() {
        let key = logged("192.168.1.12", Way::ToPeer, Suite::Aes256Gcm);
        let line = key.line(Some([192, 168, 1, 11].into()));
        let (before, rest) = text(&line).split_once(",\"0x00abc***\",").unwrap();
        assert_eq!(before, "\"IPv4\",\"192.168.1.11\",\"192.168.1.12\"");
        let hex: String = key.material.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex.len(), 72, "key and salt");
        let columns =
            format!("\"AES-GCM with 16 octet ICV [RFC4106]\",\"0x{hex}\",\"NULL\",\"\"\n");
        assert_eq!(rest, columns);

        let key = logged("fd00::12", Way::FromPeer, Suite::ChaCha20Poly1305);
        let line = key.line(None);
        assert!(text(&line).starts_with("\"IPv6\",\"fd00::12\",\"*\",\"0x00abc***\",\"ChaCha20 "));
        assert!(text(&line).len() < LINE_ROOM);
    }

    #[test]
    fn only_the_line_itself_shows_the_key() {
        let key = logged("192.168.1.12", Way::ToPeer, Suite::Aes256Gcm);
        let line = key.line(None);
        let secret = text(&line).split("\"0x").nth(2).unwrap().split('"').next().unwrap();
        let bytes = format!("{:?}", key.material.bytes());
        for shown in [format!("{key:?}"), format!("{line:?}"), format!("{:?}", key.material)] {
            assert!(!shown.contains(secret) && !shown.contains(bytes.trim_matches(['[', ']'])));
        }
    }
}
