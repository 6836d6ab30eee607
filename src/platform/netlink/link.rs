//! Links: creating, changing and deleting one.

use culvert_netlink::{BridgePort, Request, Result};
use overlay_proto::Mac;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    BridgeBooleanOptionFlags, BridgeBooleanOptions, BridgePortState, BridgeStpState, InfoBridge,
    InfoKind, LinkAttribute,
};
use rtnetlink::{LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec};

use super::Netlink;

/// One change of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkChange {
    /// Bring it up.
    Up,
    /// Take it down.
    Down,
    /// Have it ask for its neighbours' hardware addresses, and take part in multicast.
    Neighbours,
    /// Give it another name.
    Name(String),
    /// Set its largest packet, in bytes.
    Mtu(u32),
    /// Set its alias.
    Alias(String),
    /// Set its hardware address.
    Mac(Mac),
    /// Set how many packets it queues.
    TxQueueLen(u32),
    /// Make it a port of the link with this index.
    Controller(u32),
    /// Put it in the group of devices with this number.
    Group(u32),
    /// Have a bridge carry frames whatever their VLAN. A kernel that cannot do otherwise refuses.
    NoVlanFiltering,
    /// Switch spanning tree, multicast snooping, and learning from frames that are not forwarded
    /// off at a bridge, and bound what it learns where the kernel can (6.7).
    PlainBridge {
        /// Most hardware addresses that it learns.
        learning_limit: u32,
    },
    /// Set the options of a bridge port, but for whether it forwards.
    Port(BridgePort),
    /// Have a bridge port forward frames. The kernel refuses while its device carries none.
    Forward,
}

impl Netlink {
    /// Creates a bridge with a hardware address of its own, down and without ports.
    ///
    /// # Errors
    ///
    /// When the kernel refuses: the name is taken, or bridges are not supported.
    pub(crate) fn create_bridge(&mut self, name: &str, mac: Mac) -> Result<()> {
        let bridge =
            LinkMessageBuilder::<LinkBridge>::new(name).address(mac.octets().to_vec()).build();
        let message = RouteNetlinkMessage::NewLink(bridge);
        let target = format!("bridge {name}");
        self.change(Request::new("create", target, NLM_F_CREATE | NLM_F_EXCL, message))
    }

    /// Changes the link with this index; `name` is for the error alone.
    ///
    /// A link that is gone is no error: pods come and go, and the next listing shows it.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(crate) fn change_link(
        &mut self,
        index: u32,
        name: &str,
        change: &LinkChange,
    ) -> Result<()> {
        let link = LinkUnspec::new_with_index(index);
        let (op, message) = match change {
            LinkChange::Up => ("bring up", link.up().build()),
            LinkChange::Down => ("take down", link.down().build()),
            LinkChange::Neighbours => {
                ("switch ARP and multicast on at", link.arp(true).multicast(true).build())
            }
            LinkChange::Name(name) => ("rename", link.name(name.clone()).build()),
            LinkChange::Group(group) => {
                let mut message = link.build();
                message.attributes.push(LinkAttribute::Group(*group));
                ("set the group of", message)
            }
            LinkChange::Mtu(mtu) => ("set the MTU of", link.mtu(*mtu).build()),
            LinkChange::Alias(alias) => ("set the alias of", link.alias(alias).build()),
            LinkChange::Mac(mac) => {
                ("set the hardware address of", link.address(mac.octets().to_vec()).build())
            }
            LinkChange::TxQueueLen(packets) => {
                ("set the queue length of", link.txqueuelen(*packets).build())
            }
            LinkChange::Controller(bridge) => {
                ("plug into the bridge", link.controller(*bridge).build())
            }
            LinkChange::PlainBridge { learning_limit } => {
                let flag = BridgeBooleanOptionFlags::NoLinkLocalLearn;
                let not_learning = BridgeBooleanOptions { value: flag, mask: flag };
                let bridge = LinkMessageBuilder::<LinkBridge>::new_with_info_kind(InfoKind::Bridge)
                    .index(index)
                    .stp_state(BridgeStpState::Disabled)
                    .mcast_snooping(false)
                    .append_info_data(InfoBridge::NfCallIpTables(true))
                    .append_info_data(InfoBridge::NfCallIp6Tables(true))
                    .append_info_data(InfoBridge::MultiBoolOpt(not_learning))
                    .fdb_max_learned(*learning_limit);
                ("set the bridge options of", bridge.build())
            }
            LinkChange::NoVlanFiltering => {
                let bridge = LinkMessageBuilder::<LinkBridge>::new_with_info_kind(InfoKind::Bridge)
                    .index(index)
                    .vlan_filtering(false);
                ("switch VLAN filtering off at", bridge.build())
            }
            LinkChange::Port(port) => {
                let port = LinkBridgePort::new(index)
                    .hairpin(port.hairpin)
                    .isolated(port.isolated)
                    .learning(port.learning)
                    .flood(port.flood)
                    .bcast_flood(!port.holds_back)
                    .mcast_flood(!port.holds_back)
                    // Older kernels (before 4.15, 5.18) ignore what they do not know.
                    .neigh_suppress(port.holds_back)
                    .locked(port.holds_back)
                    .group_fwd_mask(port.forwarded_groups);
                ("set the bridge port options of", port.build())
            }
            LinkChange::Forward => {
                let port = LinkBridgePort::new(index).state(BridgePortState::Forwarding);
                ("have frames forwarded by", port.build())
            }
        };
        self.change_unless_gone(Request::new(op, name, 0, RouteNetlinkMessage::NewLink(message)))
    }

    /// Deletes the link with this index; one that is already gone is no error.
    ///
    /// # Errors
    ///
    /// When the kernel refuses: hardware cannot be deleted.
    pub(crate) fn delete_link(&mut self, index: u32, name: &str) -> Result<()> {
        let message = RouteNetlinkMessage::DelLink(LinkUnspec::new_with_index(index).build());
        self.change_unless_gone(Request::new("delete", format!("device {name}"), 0, message))
    }
}
