//! Neighbours: which hardware addresses the machine sends to for an IP address.

use std::net::IpAddr;

use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use overlay_proto::Mac;

use crate::error::Result;
use crate::protocol::Rtnetlink;
use crate::request::Request;
use crate::socket::Socket;

/// What somebody wrote down of a neighbour, and the kernel never asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedNeighbour {
    /// Index of the device that it is behind.
    pub link: u32,
    /// Its IP address.
    pub address: IpAddr,
    /// Its hardware address; none where the device has others than Ethernet.
    pub mac: Option<Mac>,
}

/// Neighbours that are listed at most: the kernel keeps no more by itself (`gc_thresh3`).
const MOST: usize = 4096;

/// What the kernel knows of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its IP address.
    pub address: IpAddr,
    /// Its hardware address, where there is one.
    pub mac: Option<Mac>,
    /// How it is known.
    pub standing: Standing,
}

/// How a neighbour is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has answered.
    Known,
    /// It was asked for, and has not answered.
    Silent,
    /// Somebody wrote it down, and it is never asked for.
    Fixed,
}

impl Socket<Rtnetlink> {
    /// Lists the neighbours behind the device with index `link`, the first few thousand.
    ///
    /// # Errors
    ///
    /// When the kernel refuses or does not answer in time.
    pub fn neighbours(&mut self, link: u32) -> Result<Vec<Neighbour>> {
        let mut message = NeighbourMessage::default();
        message.attributes = vec![NeighbourAttribute::IfIndex(link)];
        let message = RouteNetlinkMessage::GetNeighbour(message);
        let request = Request::new("list", "neighbours", 0, message);
        let mut found = Vec::new();
        self.visit(&request, &mut |answer| {
            if let RouteNetlinkMessage::NewNeighbour(message) = &answer
                && message.header.ifindex == link
                && found.len() < MOST
            {
                found.extend(Neighbour::read(message));
            }
        })?;
        Ok(found)
    }

    /// Lists the fixed neighbours behind the device with index `link`. Those that come or go
    /// meanwhile may be missing.
    ///
    /// # Errors
    ///
    /// When the kernel refuses or does not answer in time.
    pub fn fixed_neighbours(&mut self, link: u32) -> Result<Vec<FixedNeighbour>> {
        let mut message = NeighbourMessage::default();
        message.attributes = vec![NeighbourAttribute::IfIndex(link)];
        let message = RouteNetlinkMessage::GetNeighbour(message);
        let request = Request::new("list", "neighbours", 0, message);
        let mut found = Vec::new();
        // There may be any number of others, which are not kept.
        self.visit(&request, &mut |answer| found.extend(parse(&answer)))?;
        found.retain(|neighbour| neighbour.link == link);
        Ok(found)
    }
}

fn parse(answer: &RouteNetlinkMessage) -> Option<FixedNeighbour> {
    let RouteNetlinkMessage::NewNeighbour(message) = answer else {
        return None;
    };
    FixedNeighbour::read(message)
}

/// The addresses that a message of the kernel has.
fn addresses(message: &NeighbourMessage) -> (Option<IpAddr>, Option<Mac>) {
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        if let NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) = attribute {
            address = Some(IpAddr::from(*ip));
        } else if let NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) = attribute {
            address = Some(IpAddr::from(*ip));
        } else if let NeighbourAttribute::LinkLayerAddress(bytes) = attribute {
            mac = <[u8; 6]>::try_from(&bytes[..]).ok().map(Mac::new);
        }
    }
    (address, mac)
}

impl Neighbour {
    /// The neighbour that a message of the kernel describes; none for one that nobody asks for.
    fn read(message: &NeighbourMessage) -> Option<Self> {
        let state = message.header.state;
        let standing = if state == NeighbourState::Permanent {
            Standing::Fixed
        } else if [NeighbourState::Incomplete, NeighbourState::Failed].contains(&state) {
            Standing::Silent
        } else if state == NeighbourState::Noarp || state == NeighbourState::None {
            return None;
        } else {
            Standing::Known
        };
        let (address, mac) = addresses(message);
        Some(Self { address: address?, mac, standing })
    }
}

impl FixedNeighbour {
    /// The neighbour that a message of the kernel describes; none for one that the kernel asks
    /// about.
    #[must_use]
    pub fn read(message: &NeighbourMessage) -> Option<Self> {
        if ![NeighbourState::Permanent, NeighbourState::Noarp].contains(&message.header.state) {
            return None;
        }
        let (address, mac) = addresses(message);
        Some(Self { link: message.header.ifindex, address: address?, mac })
    }
}

/// A request to forget what is known of the neighbour `address` behind the device with index
/// `link`, called `name`: whoever sends to it asks for it.
#[must_use]
pub fn forget_neighbour(link: u32, name: &str, address: IpAddr) -> Request<RouteNetlinkMessage> {
    let mut message = NeighbourMessage::default();
    (message.header.family, message.attributes) = match address {
        IpAddr::V4(ip) => {
            (AddressFamily::Inet, vec![NeighbourAttribute::Destination(NeighbourAddress::Inet(ip))])
        }
        IpAddr::V6(ip) => {
            let destination = NeighbourAddress::Inet6(ip);
            (AddressFamily::Inet6, vec![NeighbourAttribute::Destination(destination)])
        }
    };
    message.header.ifindex = link;
    let target = format!("neighbour {address} dev {name}");
    Request::new("forget", target, 0, RouteNetlinkMessage::DelNeighbour(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_never_asked_about_is_fixed() {
        let mac = [0x0a, 0x58, 10, 244, 1, 2];
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 6;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet([10, 244, 1, 2].into())),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        for state in [NeighbourState::Reachable, NeighbourState::Stale, NeighbourState::Failed] {
            message.header.state = state;
            assert_eq!(FixedNeighbour::read(&message), None);
        }
        let address = [10, 244, 1, 2].into();
        let expected = FixedNeighbour { link: 6, address, mac: Some(Mac::new(mac)) };
        for state in [NeighbourState::Permanent, NeighbourState::Noarp] {
            message.header.state = state;
            assert_eq!(FixedNeighbour::read(&message), Some(expected));
        }
        let standing = |state: NeighbourState| {
            let mut message = message.clone();
            message.header.state = state;
            Neighbour::read(&message).map(|neighbour| neighbour.standing)
        };
        assert_eq!(standing(NeighbourState::Permanent), Some(Standing::Fixed));
        assert_eq!(standing(NeighbourState::Failed), Some(Standing::Silent));
        assert_eq!(standing(NeighbourState::Incomplete), Some(Standing::Silent));
        assert_eq!(standing(NeighbourState::Stale), Some(Standing::Known));
        assert_eq!(standing(NeighbourState::Noarp), None);
    }
}
