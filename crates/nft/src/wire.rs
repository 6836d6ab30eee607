//! The messages of nfnetlink: a short header before the attributes.

use std::convert::Infallible;

use culvert_netlink::Protocol;
use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};
use netlink_sys::protocols::NETLINK_NETFILTER;

/// Room for one transaction: the elements of 4,000 pods are about 1 MiB. The kernel counts its own
/// bookkeeping too.
const SEND_BYTES: usize = 8 << 20;

/// Bytes of `struct nfgenmsg`: family, version, and a number in network order.
const HEADER_BYTES: usize = 4;

/// nfnetlink.
#[derive(Debug)]
pub(crate) enum Nfnetlink {}

impl Protocol for Nfnetlink {
    const NUMBER: isize = NETLINK_NETFILTER;
    const SOCKET: &'static str = "an nftables socket";
    const SEND_BYTES: Option<usize> = Some(SEND_BYTES);
    type Message = Message;
}

/// One message, with its attributes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: u16,
    pub(crate) family: u8,
    pub(crate) resource: u16,
    pub(crate) attributes: Vec<u8>,
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        HEADER_BYTES + self.attributes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (header, attributes) = buffer.split_at_mut(HEADER_BYTES);
        let [high, low] = self.resource.to_be_bytes();
        header.copy_from_slice(&[self.family, 0, high, low]);
        attributes.copy_from_slice(&self.attributes);
    }
}

impl NetlinkDeserializable for Message {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self {
            kind: header.message_type,
            family: payload.first().copied().unwrap_or_default(),
            resource: 0,
            attributes: payload.get(HEADER_BYTES..).unwrap_or_default().to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_comes_before_the_attributes() {
        let message = Message { kind: 0x10, family: 7, resource: 10, attributes: vec![4, 0, 1, 0] };
        let mut bytes = [0xff; 8];
        assert_eq!(message.buffer_len(), bytes.len());
        message.serialize(&mut bytes);
        assert_eq!(bytes, [7, 0, 0, 10, 4, 0, 1, 0]);
    }

    #[test]
    fn short_payload_has_no_attributes() {
        for length in 0..HEADER_BYTES {
            let payload = vec![7; length];
            let Ok(message) = Message::deserialize(&NetlinkHeader::default(), &payload);
            assert_eq!(message.attributes, [0; 0]);
        }
    }
}
