//! Lines of a key log, read again.

use std::net::IpAddr;
use std::sync::Arc;

use overlay_proto::Family;
use overlay_proto::esp::{Lane, Slot};
use zeroize::Zeroizing;

use crate::key_log::{SLOT_DIGITS, cipher};
use crate::noise::Refused;
use crate::session::{Incoming, KeyMaterial, MATERIAL_LEN, PeerLink};
use crate::suite::Suite;

/// The key of one direction of a session, as a line of a key log has it.
#[derive(Debug)]
pub struct SessionKey {
    /// Whose packets it seals; nothing if the line does not say.
    pub source: Option<IpAddr>,
    /// Whom they go to; nothing if the line does not say.
    pub destination: Option<IpAddr>,
    /// Where they come in there.
    pub slot: Slot,
    material: KeyMaterial,
}

/// Why a line is none of a key log's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLine {
    /// There are fewer than eight columns, or one is not in quotes.
    #[error("not eight columns, each in quotes and parted by commas")]
    Columns,
    /// The first three columns do not go together.
    #[error("the first three columns are not a family and two addresses of it, or \"*\"")]
    Addresses,
    /// The fourth column is no slot with all its lanes.
    #[error("the fourth column is not an SPI such as \"0x0001a***\"")]
    Spi,
    /// The fifth column is none of our ciphers.
    #[error("the fifth column is neither AES-GCM with 16 octet ICV nor ChaCha20 with Poly1305")]
    Cipher,
    /// The sixth column is no key and salt.
    #[error("the sixth column is not 0x and 72 hexadecimal digits")]
    Key,
}

impl SessionKey {
    /// Reads a line.
    ///
    /// # Errors
    ///
    /// The first column that is not as a key log has it.
    pub fn parse(line: &str) -> Result<Self, InvalidLine> {
        let mut columns = line.trim_end().split(',').map(|column| {
            let quoted = column.strip_prefix('"').and_then(|column| column.strip_suffix('"'));
            quoted.ok_or(InvalidLine::Columns)
        });
        let mut next = || columns.next().unwrap_or(Err(InvalidLine::Columns));
        let [family, source, destination, spi, name, key, ..] =
            [next()?, next()?, next()?, next()?, next()?, next()?, next()?, next()?];
        let family = match family {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            _ => return Err(InvalidLine::Addresses),
        };
        let end = |text: &str| match text {
            "*" => Ok(None),
            _ => {
                let address = text.parse::<IpAddr>().ok();
                let address = address.filter(|address| Family::of(*address) == family);
                address.map(Some).ok_or(InvalidLine::Addresses)
            }
        };
        let (source, destination) = (end(source)?, end(destination)?);
        let slot = spi.strip_prefix("0x").and_then(|spi| spi.strip_suffix("***"));
        let slot = slot.filter(|digits| digits.len() == SLOT_DIGITS);
        let slot = slot.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let slot = slot.and_then(Slot::new).ok_or(InvalidLine::Spi)?;
        let suite = Suite::ALL.into_iter().find(|suite| cipher(*suite) == name);
        let suite = suite.ok_or(InvalidLine::Cipher)?;
        let bytes = key.strip_prefix("0x").and_then(hex).ok_or(InvalidLine::Key)?;
        Ok(Self { source, destination, slot, material: KeyMaterial::of(suite, bytes) })
    }

    /// What opens the packets of `peer`, on whatever lane.
    ///
    /// # Errors
    ///
    /// The cryptographic library refuses.
    pub fn incoming(&self, peer: Arc<PeerLink>) -> Result<Incoming, Refused> {
        Ok(Incoming::new(self.material.key()?, self.slot, Lane::COUNT, peer))
    }
}

fn hex(digits: &str) -> Option<Zeroizing<[u8; MATERIAL_LEN]>> {
    let mut bytes = Zeroizing::new([0; MATERIAL_LEN]);
    let digits = digits.as_bytes();
    if digits.len() != 2 * MATERIAL_LEN {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|it| u8::try_from(it).ok());
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use overlay_proto::Vni;

    use super::*;
    use crate::key_log::{LoggedKey, Way};
    use crate::noise::Split;
    use crate::session::Direction;

    fn material(suite: Suite) -> KeyMaterial {
        let key = |byte| Zeroizing::new([byte; 32]);
        let split = Split { from_initiator: key(1), from_responder: key(2) };
        let vni = Vni::new(7).unwrap();
        KeyMaterial::derive(&split, Direction::FromInitiator, suite, vni).unwrap()
    }

    #[test]
    fn what_was_written_is_read_again() {
        let slot = Slot::new(0xabc).unwrap();
        for suite in Suite::ALL {
            for (peer, own, way) in [
                ("192.168.1.12", Some("192.168.1.11"), Way::ToPeer),
                ("fd00::12", None, Way::FromPeer),
            ] {
                let peer: IpAddr = peer.parse().unwrap();
                let own: Option<IpAddr> = own.map(|own| own.parse().unwrap());
                let line = LoggedKey { peer, way, slot, material: material(suite) }.line(own);
                let text = std::str::from_utf8(line.as_bytes()).unwrap();
                let read = SessionKey::parse(text).unwrap();
                let ends = match way {
                    Way::ToPeer => (own, Some(peer)),
                    Way::FromPeer => (Some(peer), own),
                };
                assert_eq!(((read.source, read.destination), read.slot), (ends, slot));
                assert_eq!(read.material.bytes(), material(suite).bytes());
                assert_eq!(read.incoming(Arc::new(PeerLink::new("p"))).unwrap().suite(), suite);
            }
        }
    }

    #[test]
    fn what_is_no_line_is_refused_for_its_first_wrong_column() {
        let cipher = "AES-GCM with 16 octet ICV [RFC4106]";
        let key = "0f".repeat(MATERIAL_LEN);
        let good = format!(
            "\"IPv4\",\"192.168.1.12\",\"*\",\"0x00abc***\",\"{cipher}\",\"0x{key}\",\"NULL\",\"\""
        );
        assert!(SessionKey::parse(&good).is_ok());
        // Later versions of Wireshark have more columns.
        assert!(SessionKey::parse(&format!("{good},\"32-bit\"\n")).is_ok());
        for (part, instead, error) in [
            (",\"\"", "", InvalidLine::Columns),
            ("\"NULL\"", "NULL", InvalidLine::Columns),
            ("IPv4", "IPv6", InvalidLine::Addresses),
            ("IPv4", "IP", InvalidLine::Addresses),
            ("192.168.1.12", "node2", InvalidLine::Addresses),
            ("0x00abc***", "0x00000***", InvalidLine::Spi),
            ("0x00abc***", "0x0abc***", InvalidLine::Spi),
            ("0x00abc***", "0x00abc001", InvalidLine::Spi),
            (cipher, "NULL", InvalidLine::Cipher),
            ("0x0f", "0f", InvalidLine::Key),
            ("0x0f", "0x", InvalidLine::Key),
            ("0x0f", "0x+f", InvalidLine::Key),
        ] {
            let line = good.replacen(part, instead, 1);
            assert_eq!(SessionKey::parse(&line).err(), Some(error), "{line}");
        }
        assert_eq!(SessionKey::parse("").err(), Some(InvalidLine::Columns));
    }

    #[test]
    fn what_is_shown_of_a_key_is_not_the_key() {
        let line = LoggedKey {
            peer: [192, 168, 1, 12].into(),
            way: Way::FromPeer,
            slot: Slot::new(1).unwrap(),
            material: material(Suite::Aes256Gcm),
        };
        let line = line.line(None);
        let read = SessionKey::parse(std::str::from_utf8(line.as_bytes()).unwrap()).unwrap();
        let bytes = format!("{:?}", read.material.bytes());
        assert!(!format!("{read:?}").contains(bytes.trim_matches(['[', ']'])));
    }
}
