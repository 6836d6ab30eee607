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

/// `NFNL_SUBSYS_CTNETLINK`, `IPCTNL_MSG_CT_NEW`, `IPCTNL_MSG_CT_GET`, `IPCTNL_MSG_CT_DELETE`.
const CHANGE: u16 = 1 << 8;
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;

/// Attributes of connections (`CTA_*`), of their two tuples, and of addresses and ports in these.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const MARK: u16 = 8;
const ID: u16 = 12;
const ZONE: u16 = 18;
const TUPLE_ADDRESSES: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const IPV4_SOURCE: u16 = 1;
const IPV4_DESTINATION: u16 = 2;
const IPV6_SOURCE: u16 = 3;
const IPV6_DESTINATION: u16 = 4;
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;

/// `NLA_F_NESTED`, without which the kernel does not look into an attribute.
const NESTED: u16 = 0x8000;

/// The mark of connections that are barred: a number that nobody else has a reason to give.
pub(crate) const BARRED: u32 = u32::from_be_bytes(*b"CuBr");

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowFate {
    /// It stays as it is.
    Stays,
    /// It is forgotten: its next packet begins one.
    Forgotten,
    /// It is remembered as one of which rules that ask for it ([`crate::Expression::is_barred`])
    /// let no packet through, whoever sends. Where the kernel gives connections no marks, it is
    /// forgotten.
    Barred,
}

/// A connection, by its addresses and by what is asked for there.
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
    /// Number of the protocol behind IP.
    pub protocol: u8,
    /// The port that answers, if the protocol has ports.
    pub answers_from_port: Option<u16>,
    /// Whether it was barred.
    pub is_barred: bool,
}

impl Socket {
    /// Forgets the connections for which `is_wrong` says so, and returns how many.
    ///
    /// # Errors
    ///
    /// When the kernel refuses. One that ends meanwhile is forgotten too.
    pub fn forget_flows(&mut self, is_wrong: impl Fn(&Flow) -> bool) -> Result<usize> {
        self.sweep_flows(|flow| if is_wrong(flow) { FlowFate::Forgotten } else { FlowFate::Stays })
    }

    /// Forgets and bars connections as `fate` says, and returns how many.
    ///
    /// # Errors
    ///
    /// When the kernel refuses. One that ends meanwhile counts as none.
    pub fn sweep_flows(&mut self, mut fate: impl FnMut(&Flow) -> FlowFate) -> Result<usize> {
        let list = Message { kind: GET, ..Message::default() };
        let list = Request::new("list", "tracked connections", 0, list);
        let mut wrong = Vec::new();
        // A table in use is never the same from one message to the next, and may be long.
        self.0.visit(&list, &mut |message| {
            let Some(flow) = flow(&message.attributes) else { return };
            match fate(&flow) {
                FlowFate::Stays => {}
                FlowFate::Forgotten => wrong.push((deletion(&message), None)),
                FlowFate::Barred => wrong.push((deletion(&message), Some(barring(&message)))),
            }
        })?;
        let mut done = 0;
        for (deletion, barring) in wrong {
            let barred = barring.map(|barring| {
                self.0.execute(Request::new("bar", "a tracked connection", 0, barring))
            });
            let outcome = match barred {
                Some(Err(error)) if !error.is_missing() => None,
                barred => barred,
            };
            let outcome = outcome.unwrap_or_else(|| {
                self.0.execute(Request::new("forget", "a tracked connection", 0, deletion))
            });
            match outcome {
                Ok(()) => done += 1,
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }
}

/// Reads the addresses of a connection.
fn flow(attributes: &[u8]) -> Option<Flow> {
    let (source, destination) = addresses(attribute::find(attributes, ORIGINAL)?)?;
    let reply = attribute::find(attributes, REPLY)?;
    let (answers_from, answers_to) = addresses(reply)?;
    let protocol = attribute::find(reply, TUPLE_PROTOCOL).unwrap_or_default();
    let port = attribute::find(protocol, SOURCE_PORT).and_then(|port| port.try_into().ok());
    Some(Flow {
        source,
        destination,
        answers_from,
        answers_to,
        protocol: *attribute::find(protocol, PROTOCOL_NUMBER)?.first()?,
        answers_from_port: port.map(u16::from_be_bytes),
        is_barred: attribute::number(attributes, MARK) == Some(BARRED),
    })
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
    Message { kind: DELETE, attributes: identity(listed).0, ..listed.clone() }
}

/// The message that bars it, or its successor.
fn barring(listed: &Message) -> Message {
    let mut attributes = identity(listed);
    attributes.number(MARK, BARRED);
    Message { kind: CHANGE, attributes: attributes.0, ..listed.clone() }
}

/// What tells a connection from others.
fn identity(listed: &Message) -> Attributes {
    let mut attributes = Attributes::default();
    for (kind, value) in attribute::parse(&listed.attributes) {
        match kind {
            ORIGINAL => attributes.bytes(NESTED | ORIGINAL, value),
            ID | ZONE => attributes.bytes(kind, value),
            _what_does_not_identify_it => {}
        }
    }
    attributes
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
                tuple.nested(NESTED | TUPLE_PROTOCOL, |protocol| {
                    protocol.bytes(PROTOCOL_NUMBER, &[17]);
                    protocol
                        .bytes(SOURCE_PORT, &if kind == REPLY { [0, 53] } else { [0x9c, 0x40] });
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
            protocol: 17,
            answers_from_port: Some(53),
            is_barred: false,
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

    #[test]
    fn barred_connection_is_known_by_its_mark() {
        let mut barring = barring(&listed());
        assert_eq!(barring.kind, CHANGE);
        let mark = attribute::number(&barring.attributes, MARK);
        assert_eq!(mark, Some(BARRED));
        barring.attributes.extend(listed().attributes);
        assert!(flow(&barring.attributes).unwrap().is_barred);
    }
}
