//! The difference between what should be and what is, as actions in an order that can be executed.
//!
//! Pure: the same two values always give the same actions, and none when nothing differs.

use std::collections::BTreeMap;
use std::net::IpAddr;

use culvert_netlink::Route;
use ipnet::IpNet;
use overlay_proto::Mac;

use super::action::Action;
use super::desired::{
    ADOPTED_ALIAS, ALIAS_PREFIX, BRIDGE_ALIAS, Desired, Device, MAC_PREFIX, Parameter, TUN_ALIAS,
};
use super::notes::LostNote;

/// Protocol number of the routes that the kernel makes by itself (`RTPROT_KERNEL`).
const BY_KERNEL: u8 = 2;

/// The part of a node's kernel state that is ours or that we depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Actual {
    pub(super) tun: Option<ActualDevice>,
    /// Whether the TUN's owner holds the device that exists.
    pub(super) tun_attached: bool,
    pub(super) bridge: Option<ActualDevice>,
    /// Routes of others, the kernel itself among them, that lead straight to the bridge.
    pub(super) connected: Vec<Route>,
    /// Routes with our protocol number, in any table.
    pub(super) routes: Vec<ActualRoute>,
    /// The nodes' ends of pods' cables.
    pub(super) ports: Vec<Port>,
    /// Notes that ports have lost.
    pub(super) lost_notes: Vec<LostNote>,
    /// Addresses of pods for which somebody has written down another hardware address.
    pub(super) wrong_neighbours: Vec<IpAddr>,
    /// Devices that take routes from router advertisements, and would cease to once the node
    /// forwards IPv6. Nobody looks once it does.
    pub(super) advertised: Vec<String>,
    /// Values of the parameters that are desired; one whose device does not exist is missing.
    pub(super) sysctls: BTreeMap<String, String>,
    pub(super) ruleset: Ruleset,
    pub(super) source_check: Ruleset,
    pub(super) host_ports: Ruleset,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ActualDevice {
    /// The name that somebody gave it instead of its own.
    pub(super) renamed: Option<String>,
    pub(super) up: bool,
    /// Whether a bridge takes part in ARP and multicast.
    pub(super) neighbours: bool,
    /// Whether a bridge keeps its ports apart by VLAN.
    pub(super) filters_vlans: bool,
    /// Whether a bridge delivers frames to its own hardware address on this node.
    pub(super) delivers: bool,
    pub(super) mtu: u32,
    pub(super) alias: String,
    pub(super) mac: Option<Mac>,
    pub(super) tx_queue_len: u32,
    /// Whether a bridge does nothing but forward, and is bounded in what it learns.
    pub(super) plain: bool,
    pub(super) addresses: Vec<ActualAddress>,
}

impl ActualDevice {
    /// Whether it is up and stays so: one that is given its name back goes down for that.
    fn is_up(&self) -> bool {
        self.up && self.renamed.is_none()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ActualAddress {
    pub(super) net: IpNet,
    /// Whether it carries our protocol number.
    pub(super) ours: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ActualRoute {
    /// Name of the device; empty when there is none or several.
    pub(super) device: String,
    pub(super) route: Route,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) device: String,
    pub(super) mtu: u32,
    /// Whether it is a port of our bridge; otherwise it is to become one.
    pub(super) plugged: bool,
    /// Whether all that comes in by it passes the bridge's rules.
    pub(super) guarded: bool,
    /// Whether it is up, if it is a pod's that we know.
    pub(super) up: bool,
    /// Whether it has the options that its pod was attached with, if that is known.
    pub(super) configured: bool,
    /// Whether the bridge forwards its frames, if it has a carrier.
    pub(super) forwards: bool,
    /// What the bridge is to do for it when it is plugged again.
    pub(super) hairpin: bool,
    pub(super) isolated: bool,
}

impl Port {
    /// Whether it does what it is there for.
    pub(super) fn is_right(&self) -> bool {
        self.plugged && self.guarded && self.up && self.configured && self.forwards
    }
}

/// An nftables table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Ruleset {
    /// Nobody looked, because nothing said that it changed.
    #[default]
    Unchecked,
    /// As it should be.
    Current,
    /// Missing, or somebody changed it.
    Drifted,
}

pub(super) fn diff(desired: &Desired, actual: &Actual) -> Vec<Action> {
    let mut actions = Vec::new();
    // Everything else about a pod follows from its note.
    actions.extend(
        actual.lost_notes.iter().map(|lost| Action::RestoreNote {
            device: lost.device.clone(),
            note: lost.note.clone(),
        }),
    );
    // What guards the pods comes before anything that lets them send.
    if actual.ruleset == Ruleset::Drifted {
        actions.push(Action::ApplyRuleset);
    }
    if actual.source_check == Ruleset::Drifted {
        actions.push(Action::ApplySourceCheck { bridge: desired.bridge.name.clone() });
    }
    if actual.host_ports == Ruleset::Drifted {
        actions.push(Action::ApplyHostPorts);
    }
    create_devices(desired, actual, &mut actions);

    let created = ActualDevice::default();
    let tun = actual.tun.as_ref().unwrap_or(&created);
    let bridge = actual.bridge.as_ref().unwrap_or(&created);
    set_up_tun(desired, tun, &mut actions);
    let bridge_mtu = bridge_mtu(desired, &actual.ports);
    set_up_bridge(desired, actual.bridge.as_ref(), bridge_mtu, &mut actions);
    for device in &actual.advertised {
        // kernel: 1 is "unless this node forwards"; when forwarding is switched on, the routes that
        // were learned go, and no more are. 2 is "even so".
        let key = format!("net/ipv6/conf/{device}/accept_ra");
        actions.push(Action::SetSysctl { key, value: "2", needed: false });
    }
    for Parameter { key, value, needed } in &desired.sysctls {
        let is = actual.sysctls.get(key).map(String::as_str);
        // A parameter of a device that is only being made is set where it then is.
        let comes_with_device = actual.tun.is_none() || actual.bridge.is_none();
        if is != Some(*value) && (is.is_some() || *needed || comes_with_device) {
            actions.push(Action::SetSysctl { key: key.clone(), value, needed: *needed });
        }
    }
    // Up comes after the parameters: some of them, such as whether to make a link-local address,
    // are read when the device comes up.
    for (wanted, is) in [(&desired.tun, tun), (&desired.bridge, bridge)] {
        if !is.is_up() {
            actions.push(Action::SetUp { device: wanted.name.clone() });
        }
    }

    let stale_on_tun = stale(&desired.tun, tun, |_address| true);
    let stale_on_bridge = stale(&desired.bridge, bridge, |address| {
        address.ours
            || desired.cluster_networks.iter().any(|network| network.contains(&address.net.addr()))
    });
    // IPv6 refuses an address that is there with another prefix length, so that one goes first.
    // Other stale ones go last: removing an address removes the routes that prefer it as source.
    let (tun_first, tun_last) = in_the_way(&desired.tun, stale_on_tun);
    let (bridge_first, bridge_last) = in_the_way(&desired.bridge, stale_on_bridge);
    remove_addresses(&desired.tun, &tun_first, &mut actions);
    remove_addresses(&desired.bridge, &bridge_first, &mut actions);
    add_addresses(&desired.tun, tun, &mut actions);
    add_addresses(&desired.bridge, bridge, &mut actions);
    set_routes(&wanted_routes(desired, actual), &actual.routes, &mut actions);
    narrow_connected(desired, actual, bridge_mtu, &mut actions);
    remove_addresses(&desired.tun, &tun_last, &mut actions);
    remove_addresses(&desired.bridge, &bridge_last, &mut actions);

    set_ports(&desired.bridge, &actual.ports, &mut actions);
    actions.extend(actual.wrong_neighbours.iter().map(|address| Action::ForgetNeighbour {
        device: desired.bridge.name.clone(),
        address: *address,
    }));
    actions
}

fn create_devices(desired: &Desired, actual: &Actual, actions: &mut Vec<Action>) {
    for (wanted, is) in [(&desired.tun, &actual.tun), (&desired.bridge, &actual.bridge)] {
        if let Some(renamed) = is.as_ref().and_then(|is| is.renamed.clone()) {
            actions.push(Action::Rename { device: renamed, name: wanted.name.clone() });
        }
    }
    if actual.tun.is_none() || !actual.tun_attached {
        actions.push(Action::OpenTun { device: desired.tun.name.clone() });
    }
    if actual.bridge.is_none() {
        actions.push(Action::CreateBridge {
            device: desired.bridge.name.clone(),
            mac: desired.bridge_mac,
        });
    }
}

fn set_up_tun(desired: &Desired, tun: &ActualDevice, actions: &mut Vec<Action>) {
    let device = || desired.tun.name.clone();
    if tun.alias != TUN_ALIAS {
        actions.push(Action::SetAlias { device: device(), alias: TUN_ALIAS });
    }
    if tun.tx_queue_len != desired.tx_queue_len {
        actions.push(Action::SetTxQueueLen { device: device(), packets: desired.tx_queue_len });
    }
    set_mtu(&desired.tun, tun, actions);
}

/// The bridge's MTU: no less than that of a port, whose pod was attached when more fitted.
///
/// kernel: what pods of a node send each other in fragments is put together for the rules of IP
/// (br_netfilter), and dropped without a word if a fragment was longer than the bridge's MTU
/// (6.18).
fn bridge_mtu(desired: &Desired, ports: &[Port]) -> u32 {
    let ports = ports.iter().map(|port| port.mtu);
    ports.max().unwrap_or_default().max(desired.bridge.mtu)
}

/// Has what the node itself sends or routes to its pods be no longer than the overlay's packets,
/// where the bridge takes longer ones: a pod that was attached since gets no others.
fn narrow_connected(
    desired: &Desired,
    actual: &Actual,
    bridge_mtu: u32,
    actions: &mut Vec<Action>,
) {
    let mtu = Some(desired.bridge.mtu).filter(|mtu| *mtu < bridge_mtu);
    for connected in &desired.connected {
        let is_kernels =
            |is: &&Route| is.protocol == BY_KERNEL && is.destination == connected.destination;
        if let Some(is) = actual.connected.iter().find(is_kernels).filter(|is| is.mtu != mtu) {
            let (device, route) = (desired.bridge.name.clone(), Route { mtu, ..is.clone() });
            actions.push(Action::ReplaceRoute { device, route });
        }
    }
}

fn set_up_bridge(
    desired: &Desired,
    bridge: Option<&ActualDevice>,
    mtu: u32,
    actions: &mut Vec<Action>,
) {
    let device = || desired.bridge.name.clone();
    let alias = match bridge {
        None => Some(BRIDGE_ALIAS),
        Some(bridge) if !bridge.alias.starts_with(ALIAS_PREFIX) => Some(ADOPTED_ALIAS),
        Some(_ours) => None,
    };
    if let Some(alias) = alias {
        actions.push(Action::SetAlias { device: device(), alias });
    }
    // A hardware address stays when the subnet changes, and when the bridge was somebody else's,
    // because pods remember it.
    let foreign = |mac: Option<Mac>| !mac.is_some_and(|mac| mac.octets().starts_with(&MAC_PREFIX));
    if let Some(bridge) = bridge.filter(|bridge| foreign(bridge.mac)) {
        let mac = match (bridge.mac, alias) {
            // kernel: one that nobody has set follows the bridge's ports.
            (Some(mac), Some(_adopting)) => Some(mac),
            (Some(_), None) if bridge.alias == ADOPTED_ALIAS => None,
            (Some(_), None) | (None, _) => Some(desired.bridge_mac),
        };
        actions.extend(mac.map(|mac| Action::SetMac { device: device(), mac }));
    }
    if let Some(bridge) = bridge {
        if !bridge.neighbours {
            actions.push(Action::SetNeighbours { device: device() });
        }
        if bridge.filters_vlans {
            actions.push(Action::UnsetVlanFiltering { device: device() });
        }
        if let (false, Some(mac)) = (bridge.delivers, bridge.mac) {
            actions.push(Action::Deliver { device: device(), mac });
        }
    }
    let created = ActualDevice::default();
    let bridge = bridge.unwrap_or(&created);
    if !bridge.plain {
        actions.push(Action::SetBridgeOptions { device: device() });
    }
    // kernel: only an MTU that is set after creation stops the bridge from following its ports.
    set_mtu(&Device { mtu, ..desired.bridge.clone() }, bridge, actions);
}

fn set_mtu(wanted: &Device, is: &ActualDevice, actions: &mut Vec<Action>) {
    if is.mtu != wanted.mtu {
        actions.push(Action::SetMtu { device: wanted.name.clone(), mtu: wanted.mtu });
    }
}

/// Addresses of `is` that should not be there, among those that `may_remove` says are ours.
fn stale(
    wanted: &Device,
    is: &ActualDevice,
    may_remove: impl Fn(&ActualAddress) -> bool,
) -> Vec<IpNet> {
    is.addresses
        .iter()
        .filter(|address| !wanted.addresses.contains(&address.net) && may_remove(address))
        .map(|address| address.net)
        .collect()
}

/// Splits stale addresses into those that a wanted one collides with, and the others.
fn in_the_way(wanted: &Device, stale: Vec<IpNet>) -> (Vec<IpNet>, Vec<IpNet>) {
    stale
        .into_iter()
        .partition(|net| wanted.addresses.iter().any(|wanted| wanted.addr() == net.addr()))
}

fn add_addresses(wanted: &Device, is: &ActualDevice, actions: &mut Vec<Action>) {
    for address in &wanted.addresses {
        if !is.addresses.iter().any(|is| is.net == *address) {
            actions.push(Action::AddAddress { device: wanted.name.clone(), address: *address });
        }
    }
}

fn remove_addresses(device: &Device, stale: &[IpNet], actions: &mut Vec<Action>) {
    actions.extend(
        stale.iter().map(|address| Action::RemoveAddress {
            device: device.name.clone(),
            address: *address,
        }),
    );
}

/// The routes that are to carry our mark, each with its device.
fn wanted_routes<'a>(desired: &'a Desired, actual: &Actual) -> Vec<(&'a str, Route)> {
    let mut wanted: Vec<(&str, Route)> =
        desired.routes.iter().map(|route| (desired.tun.name.as_str(), route.route())).collect();
    let Some(bridge) = &actual.bridge else {
        return wanted;
    };
    for connected in &desired.connected {
        // The kernel makes it when the address is added and when the device comes up.
        let is_made = !bridge.is_up()
            || !bridge.addresses.iter().any(|is| is.net.trunc() == connected.destination)
            || actual.connected.iter().any(|is| is.destination == connected.destination);
        if !is_made {
            wanted.push((&desired.bridge.name, connected.route()));
        }
    }
    wanted
}

fn set_routes(wanted: &[(&str, Route)], actual: &[ActualRoute], actions: &mut Vec<Action>) {
    let mut stale: Vec<&ActualRoute> = actual.iter().collect();
    for (device, route) in wanted {
        let is_right = |is: &&ActualRoute| {
            is.device == *device && is.route == Route { link: is.route.link, ..route.clone() }
        };
        if let Some(right) = stale.iter().position(is_right) {
            stale.remove(right);
            continue;
        }
        let same_place = stale.iter().position(|is| {
            is.route.destination == route.destination
                && is.route.table == route.table
                && is.route.priority == route.priority
        });
        let (device, route) = ((*device).to_owned(), route.clone());
        match same_place {
            Some(wrong) => {
                stale.remove(wrong);
                actions.push(Action::ReplaceRoute { device, route });
            }
            None => actions.push(Action::AddRoute { device, route }),
        }
    }
    actions.extend(stale.into_iter().map(|is| Action::RemoveRoute { route: is.route.clone() }));
}

fn set_ports(bridge: &Device, ports: &[Port], actions: &mut Vec<Action>) {
    for port in ports {
        let is_blocked = port.plugged && !port.forwards;
        if !(Port { forwards: true, ..port.clone() }).is_right() {
            actions.push(Action::PlugPort {
                device: port.device.clone(),
                bridge: bridge.name.clone(),
                hairpin: port.hairpin,
                isolated: port.isolated,
            });
        }
        if is_blocked {
            actions.push(Action::Forward { device: port.device.clone() });
        }
        // Raised, never lowered.
        // kernel: a veth drops what its other end sends above its own MTU, and tells nobody (6.18).
        // Left alone, the packet reaches the bridge or the TUN, whose ICMP error names the new MTU
        // to the pod.
        if port.mtu < bridge.mtu {
            actions.push(Action::SetMtu { device: port.device.clone(), mtu: bridge.mtu });
        }
    }
}

#[cfg(test)]
mod tests;
