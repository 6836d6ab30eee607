//! Forwarding entries of bridges: which hardware address is where.

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourHeader, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use overlay_proto::Mac;

use crate::error::Result;
use crate::protocol::Rtnetlink;
use crate::request::Request;
use crate::socket::Socket;

impl Socket<Rtnetlink> {
    /// Whether the bridge with index `bridge` delivers frames to `mac` on this machine.
    ///
    /// # Errors
    ///
    /// When the kernel refuses: it cannot be asked for one entry before Linux 5.0.
    pub fn delivers(&mut self, bridge: u32, mac: Mac) -> Result<bool> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.attributes = vec![
            NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec()),
            NeighbourAttribute::Controller(bridge),
        ];
        let message = RouteNetlinkMessage::GetNeighbour(message);
        let request = Request::new("look up", "a forwarding entry of the bridge", 0, message);
        let Some(RouteNetlinkMessage::NewNeighbour(found)) = self.query(&request)? else {
            return Ok(false);
        };
        Ok(found.header.state == NeighbourState::Permanent)
    }
}

/// A request that has the bridge with index `bridge`, called `name`, deliver frames to `mac` on
/// this machine.
#[must_use]
pub fn deliver(bridge: u32, name: &str, mac: Mac) -> Request<RouteNetlinkMessage> {
    let mut message = NeighbourMessage::default();
    message.header = NeighbourHeader::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = bridge;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message.attributes = vec![NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec())];
    let target = format!("the forwarding entry of {name}'s own address");
    Request::new("add", target, NLM_F_CREATE, RouteNetlinkMessage::NewNeighbour(message))
}
