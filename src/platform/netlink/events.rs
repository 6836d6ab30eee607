//! Notices of changes that anybody makes to this namespace's network.
//!
//! Owns the subscription, over bare sockets: rtnetlink knows neither netfilter's messages nor those
//! about parameters (`RTM_NEWNETCONF`), and queues what it reads without a bound, while here it is
//! enough that there was something. Never interprets a change beyond its kind: whoever listens
//! reads the new state from the kernel. Runs on the caller's task. The kernel drops notices when
//! the listener is slow, and says so; that counts as a change of every kind.

use std::io;

use culvert_dataplane::platform::{Error, Result};
use culvert_nft::TableFamily;
use rtnetlink::packet_core::{NetlinkBuffer, NlasIterator};
use rtnetlink::sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use rtnetlink::sys::{AsyncSocket as _, AsyncSocketExt as _, TokioSocket};

/// Room for one read: more than the kernel puts into one.
const READ_BYTES: usize = 64 * 1024;

/// Netlink pads every message to this many bytes.
const ALIGN_BYTES: usize = 4;

/// `NFNLGRP_NFTABLES`: every committed change of an nftables object.
const NFTABLES_GROUP: u32 = 7;

/// `NFNL_SUBSYS_NFTABLES`, the high byte of the type of an nftables message.
const NFTABLES_SUBSYSTEM: u16 = 10;

/// `NFT_MSG_NEWGEN`: closes a transaction, and names no table.
const NEW_GENERATION: u16 = 15;

/// `NFT_MSG_NEWSETELEM`, `NFT_MSG_DELSETELEM`.
const ELEMENT_CHANGES: [u16; 2] = [12, 14];

/// Bytes of `struct nfgenmsg`, before the attributes of an nftables message.
const NFTABLES_HEADER_BYTES: usize = 4;

/// Attribute 1 of every other nftables message is the name of the table that it concerns.
const TABLE_NAME: u16 = 1;

/// The groups of changes that can break a node: devices, addresses and routes, and the parameters
/// (forwarding, rp_filter) that the kernel announces.
const ROUTE_GROUPS: [u32; 7] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV4_NETCONF,
    libc::RTNLGRP_IPV6_NETCONF,
];

/// What kind of thing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// A link, an address, a route or a parameter.
    Routing,
    /// An nftables table that the subscription names.
    Nft,
    /// Anything: the kernel dropped notices.
    Lost,
}

/// An nftables table to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watched {
    /// Its family.
    pub family: TableFamily,
    /// Its name.
    pub table: &'static str,
    /// Whether changes of the elements of its sets count.
    pub elements: bool,
}

/// A subscription to notices.
pub(crate) struct Notices {
    route: TokioSocket,
    /// None where the kernel has no nftables.
    netfilter: Option<TokioSocket>,
    route_buffer: Vec<u8>,
    netfilter_buffer: Vec<u8>,
    /// The nftables tables to hear of.
    tables: &'static [Watched],
}

impl Notices {
    /// Subscribes, on the current tokio runtime and in the network namespace of this thread, to
    /// changes of routing and of the nftables `tables`.
    ///
    /// # Errors
    ///
    /// When a socket cannot be opened. A kernel without nftables is no error.
    pub(crate) fn open(tables: &'static [Watched]) -> Result<Self> {
        let open = || -> io::Result<(TokioSocket, Option<TokioSocket>)> {
            let route = subscribe(NETLINK_ROUTE, ROUTE_GROUPS)?;
            let netfilter = match subscribe(NETLINK_NETFILTER, [NFTABLES_GROUP]) {
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::EPROTONOSUPPORT | libc::ENOENT | libc::EINVAL)
                    ) =>
                {
                    None
                }
                other => Some(other?),
            };
            Ok((route, netfilter))
        };
        let (route, netfilter) =
            open().map_err(|error| Error::new("subscribe to", "kernel notices", error))?;
        Ok(Self {
            route,
            netfilter,
            route_buffer: Vec::with_capacity(READ_BYTES),
            netfilter_buffer: Vec::with_capacity(READ_BYTES),
            tables,
        })
    }

    /// Waits for the next notice.
    ///
    /// # Cancel safety
    ///
    /// A dropped future has taken no notice off the sockets.
    ///
    /// # Errors
    ///
    /// When a socket fails for good.
    pub(crate) async fn next(&mut self) -> Result<Notice> {
        loop {
            self.route_buffer.clear();
            self.netfilter_buffer.clear();
            let received = tokio::select! {
                received = self.route.recv(&mut self.route_buffer) => {
                    received.map(|()| Some(Notice::Routing))
                }
                received = receive(self.netfilter.as_ref(), &mut self.netfilter_buffer) => {
                    received.map(|()| {
                        messages(&self.netfilter_buffer)
                            .any(|message| self.tables.iter().any(|table| concerns(&message, *table)))
                            .then_some(Notice::Nft)
                    })
                }
            };
            match received {
                Ok(Some(notice)) => return Ok(notice),
                Ok(None) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    return Ok(Notice::Lost);
                }
                Err(error) => return Err(Error::new("read", "kernel notices", error)),
            }
        }
    }
}

fn subscribe(protocol: isize, groups: impl IntoIterator<Item = u32>) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(protocol)?;
    socket.socket_mut().bind_auto()?;
    for group in groups {
        socket.socket_mut().add_membership(group)?;
    }
    Ok(socket)
}

async fn receive(socket: Option<&TokioSocket>, buffer: &mut Vec<u8>) -> io::Result<()> {
    match socket {
        Some(socket) => socket.recv(buffer).await,
        None => std::future::pending().await,
    }
}

/// Splits what one read returned into messages.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = NetlinkBuffer<&[u8]>> {
    std::iter::from_fn(move || {
        let message = NetlinkBuffer::new_checked(bytes).ok()?;
        let length = usize::try_from(message.length()).ok()?;
        bytes = bytes.get(length.next_multiple_of(ALIGN_BYTES)..).unwrap_or(&[]);
        Some(message)
    })
}

/// Whether an nftables message is about `watched`.
fn concerns(message: &NetlinkBuffer<&[u8]>, watched: Watched) -> bool {
    let kind = message.message_type();
    if kind >> 8 != NFTABLES_SUBSYSTEM || kind & 0xff == NEW_GENERATION {
        return false;
    }
    if !watched.elements && ELEMENT_CHANGES.contains(&(kind & 0xff)) {
        return false;
    }
    if message.payload().first() != Some(&watched.family.number()) {
        return false;
    }
    let attributes = message.payload().get(NFTABLES_HEADER_BYTES..).unwrap_or(&[]);
    NlasIterator::new(attributes).flatten().any(|attribute| {
        attribute.kind() == TABLE_NAME
            && attribute.value().strip_suffix(&[0]) == Some(watched.table.as_bytes())
    })
}
