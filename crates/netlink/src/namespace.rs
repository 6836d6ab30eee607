//! Other network namespaces, as the kernel numbers them here.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};

use crate::error::Result;
use crate::protocol::Rtnetlink;
use crate::request::Request;
use crate::socket::Socket;

impl Socket<Rtnetlink> {
    /// This namespace's number for `netns`, if there is a device between the two.
    ///
    /// # Errors
    ///
    /// When the kernel refuses: the descriptor is not that of a namespace.
    pub fn number_of(&mut self, netns: BorrowedFd<'_>) -> Result<Option<i32>> {
        let mut message = NsidMessage::default();
        message.attributes = vec![NsidAttribute::Fd(netns.as_raw_fd().cast_unsigned())];
        let message = RouteNetlinkMessage::GetNsId(message);
        let request = Request::new("look up", "a network namespace", 0, message);
        let Some(RouteNetlinkMessage::NewNsId(answer)) = self.query(&request)? else {
            return Ok(None);
        };
        let number = answer.attributes.iter().find_map(|attribute| {
            if let NsidAttribute::Id(number) = attribute { Some(*number) } else { None }
        });
        // kernel: -1 stands for "has none".
        Ok(number.filter(|number| *number >= 0))
    }
}
