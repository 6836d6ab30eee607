//! Tracked connections: finding those that should not be as they are, and forgetting them.
//!
//! The kernel decides about address translation once, with the first packet of a connection, and
//! keeps to it. A connection that is forgotten begins anew with its next packet.

use std::net::IpAddr;

use culvert_netlink::Request;

use crate::attribute::{self, Attributes};
use crate::error::Result;
use crate::socket::Socket;
use crate::wire::Message;

/// `NFNL_SUBSYS_CTNETLINK`, `IPCTNL_MSG_CT_GET`, `IPCTNL_MSG_CT_DELETE`.
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;

/// Attributes of connections (`CTA_*`), of their two tuples, and of the addresses in these.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const TUPLE_ADDRESSES: u16 = 1;
const IPV4_SOURCE: u16 = 1;
const IPV4_DESTINATION: u16 = 2;
const IPV6_SOURCE: u16 = 3;
const IPV6_DESTINATION: u16 = 4;

/// `NLA_F_NESTED`, without which the kernel does not look into an attribute.
const NESTED: u16 = 0x8000;

/// A connection, by its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Who opened it.
    pub source: IpAddr,
    /// Whom that one sends to.
    pub destination: IpAddr,
    /// Who answers: another than the destination, where that is translated.
    pub answers_from: IpAddr,
    /// Whom that one sends to: another than the source, where that is translated.
    pub answers_to: IpAddr,
}

impl Socket {
    /// Forgets the connections for which `is_wrong` says so, and returns how many.
    ///
    /// # Errors
    ///
    /// When the kernel refuses. One that ends meanwhile is forgotten too.
    pub fn forget_flows(&mut self, is_wrong: impl Fn(&Flow) -> bool) -> Result<usize> {
        let list = Message { kind: GET, ..Message::default() };
        let list = Request::new("list", "tracked connections", 0, list);
        let mut wrong = Vec::new();
        // A table in use is never the same from one message to the next, and may be long.
        self.0.visit(&list, &mut |message| {
            if flow(&message.attributes).is_some_and(|flow| is_wrong(&flow)) {
                wrong.push(deletion(&message));
            }
        })?;
        let mut forgotten = 0;
        for message in wrong {
            match self.0.execute(Request::new("forget", "a tracked connection", 0, message)) {
                Ok(()) => forgotten += 1,
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(forgotten)
    }
}

/// Reads the addresses of a connection.
fn flow(attributes: &[u8]) -> Option<Flow> {
    let (source, destination) = addresses(attribute::find(attributes, ORIGINAL)?)?;
    let (answers_from, answers_to) = addresses(attribute::find(attributes, REPLY)?)?;
    Some(Flow { source, destination, answers_from, answers_to })
}

/// Source and destination of a tuple.
fn addresses(tuple: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let found = attribute::find(tuple, TUPLE_ADDRESSES)?;
    let of = |ipv4, ipv6| -> Option<IpAddr> {
        match (attribute::find(found, ipv4), attribute::find(found, ipv6)) {
            (Some(bytes), _) => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
            (None, Some(bytes)) => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
            (None, None) => None,
        }
    };
    Some((of(IPV4_SOURCE, IPV6_SOURCE)?, of(IPV4_DESTINATION, IPV6_DESTINATION)?))
}

/// The message that deletes the connection that `listed` describes, and no successor of it.
fn deletion(listed: &Message) -> Message {
    let mut attributes = Attributes::default();
    for (kind, value) in attribute::parse(&listed.attributes) {
        match kind {
            ORIGINAL => attributes.bytes(NESTED | ORIGINAL, value),
            ID | ZONE => attributes.bytes(kind, value),
            _what_does_not_identify_it => {}
        }
    }
    Message { kind: DELETE, attributes: attributes.0, ..listed.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection from 10.244.1.2 to 192.0.2.1 that is translated to 192.168.1.11.
    fn listed() -> Message {
        let mut attributes = Attributes::default();
        for (kind, source, destination) in [
            (ORIGINAL, [10, 244, 1, 2], [192, 0, 2, 1]),
            (REPLY, [192, 0, 2, 1], [192, 168, 1, 11]),
        ] {
            attributes.nested(NESTED | kind, |tuple| {
                tuple.nested(NESTED | TUPLE_ADDRESSES, |addresses| {
                    addresses.bytes(IPV4_SOURCE, &source);
                    addresses.bytes(IPV4_DESTINATION, &destination);
                });
            });
        }
        attributes.number(3, 0x18e);
        attributes.number(ID, 77);
        Message { kind: 1 << 8, family: 2, resource: 0, attributes: attributes.0 }
    }

    #[test]
    fn flow_has_the_addresses_of_both_directions() {
        let expected = Flow {
            source: [10, 244, 1, 2].into(),
            destination: [192, 0, 2, 1].into(),
            answers_from: [192, 0, 2, 1].into(),
            answers_to: [192, 168, 1, 11].into(),
        };
        assert_eq!(flow(&listed().attributes), Some(expected));
        assert_eq!(flow(&[]), None);
    }

    #[test]
    fn deletion_names_the_connection_and_nothing_else() {
        let deletion = deletion(&listed());
        assert_eq!((deletion.kind, deletion.family), (DELETE, 2));
        let kinds: Vec<u16> =
            attribute::parse(&deletion.attributes).map(|(kind, _value)| kind).collect();
        assert_eq!(kinds, [ORIGINAL, ID]);
    }
}
