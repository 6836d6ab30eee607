//! Reads the part of the kernel's state that [`diff()`](super::diff()) compares.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use anyhow::{Context as _, bail};
use culvert_netlink::{Address, FixedNeighbour, Link, LinkKind, Route, RouteFilter};
use culvert_node::pod_port::{DEVICE_GROUP, FORWARDED_GROUPS, PodPort};
use ipnet::IpNet;

use super::PROTOCOL;
use super::desired::{ALIAS_PREFIX, Desired, Device, IPV6_FORWARDING, Parameter};
use super::diff::{Actual, ActualAddress, ActualDevice, ActualRoute, Port, Ruleset};
use super::firewall::{Firewall, Pods, devices, pods};
use super::notes::{Notes, noteless};
use crate::platform::netlink::Netlink;
use crate::platform::sysctl::Sysctls;

/// How the plugin begins the name of the node's end of a pod's cable; hexadecimal digits follow.
const PORT_PREFIX: &str = "culv";

/// Protocol number of routes that the kernel has made by router advertisements (`RTPROT_RA`).
const ADVERTISED: u8 = 9;

/// What one look at the kernel found.
pub(super) struct Observed {
    pub(super) actual: Actual,
    /// Whether the TUN takes packets.
    ///
    /// kernel: a device whose last queue was closed loses its carrier, and one whose queue is
    /// opened again gets it back from a work item that may have to wait; until then every packet is
    /// dropped.
    pub(super) carrying: bool,
    /// The addresses of this machine's own interfaces: neither ours nor loopback nor link-local.
    pub(super) own_addresses: Vec<IpNet>,
    /// The pods that the plugin has left notes about.
    pub(super) pods: Pods,
    /// Index of each device that an action may name.
    pub(super) indexes: HashMap<String, u32>,
    /// Names of all devices.
    pub(super) devices: BTreeSet<String>,
    /// Indexes of the devices that take packets.
    pub(super) running: HashSet<u32>,
    /// Our devices that another one has made its port, and that one's name.
    pub(super) captured: Vec<(String, String)>,
    /// Ports of pods whose note is gone.
    pub(super) noteless: Vec<String>,
}

/// Looks at everything but the nftables tables, which are looked at apart.
pub(super) fn observe(
    netlink: &mut Netlink,
    parameters: &Sysctls,
    desired: &Desired,
    tun_attached: bool,
    (firewall, notes): (&mut Firewall, &mut Notes),
) -> anyhow::Result<Observed> {
    let mut links = netlink.socket.links()?;
    // From here on these ports count as having their notes, which will be put back.
    let mut lost_notes = notes.keep(&mut links);
    let unknown = noteless(&links);
    if !unknown.is_empty() {
        // Lost while nobody looked, but the source check goes on without a daemon.
        notes.learn(&links, firewall.remembered(&unknown));
        lost_notes.extend(notes.keep(&mut links));
    }
    let addresses = netlink.socket.addresses()?;
    let routes = netlink.socket.routes(RouteFilter::Protocol(PROTOCOL))?;

    let sysctls = sysctls(parameters, desired)?;
    // Asked for only by the start that is about to switch forwarding on.
    let is_about_to_forward = sysctls.get(IPV6_FORWARDING).is_some_and(|value| value != "1");
    let advertised = if is_about_to_forward {
        let learned = netlink.socket.routes(RouteFilter::Protocol(ADVERTISED))?;
        advertised(&links, &learned, parameters)?
    } else {
        Vec::new()
    };

    let tun = named(&links, &desired.tun.name, &LinkKind::Tun)?
        .or_else(|| renamed(&links, &addresses, &desired.tun, &LinkKind::Tun));
    let bridge = named(&links, &desired.bridge.name, &LinkKind::Bridge)?
        .or_else(|| renamed(&links, &addresses, &desired.bridge, &LinkKind::Bridge));
    let mut connected = Vec::new();
    let mut delivers = true;
    let mut fixed = Vec::new();
    if let Some(bridge) = bridge {
        fixed = netlink.socket.fixed_neighbours(bridge.index)?;
        connected = netlink.socket.routes(RouteFilter::Device(bridge.index))?;
        connected.retain(|route| route.direct && route.protocol != PROTOCOL);
        if let Some(mac) = bridge.mac {
            // A kernel before 5.0 cannot be asked, and is believed.
            delivers = match netlink.socket.delivers(bridge.index, mac) {
                Err(error) if error.is_interrupted() => return Err(error.into()),
                asked => asked.unwrap_or(true),
            };
        }
    }
    // By the name that the bridge has at the moment: its pods go on under it.
    let pods = pods(&links, bridge.map_or(&desired.bridge.name, |bridge| &bridge.name));
    let actual = Actual {
        tun: tun.map(|link| device(link, &desired.tun, &addresses)),
        tun_attached,
        bridge: bridge
            .map(|link| ActualDevice { delivers, ..device(link, &desired.bridge, &addresses) }),
        connected,
        routes: routes
            .into_iter()
            .map(|route| ActualRoute {
                device: links
                    .iter()
                    .find(|link| Some(link.index) == route.link)
                    .map(|link| link.name.clone())
                    .unwrap_or_default(),
                route,
            })
            .collect(),
        ports: links.iter().filter_map(|link| port(link, bridge, &links, desired)).collect(),
        lost_notes,
        wrong_neighbours: wrong_neighbours(&fixed, &pods.ports),
        advertised,
        sysctls,
        ruleset: Ruleset::Unchecked,
        source_check: Ruleset::Unchecked,
        host_ports: Ruleset::Unchecked,
    };
    Ok(Observed {
        carrying: tun.is_some_and(|link| link.running),
        own_addresses: own_addresses(&links, &addresses),
        actual,
        pods,
        devices: devices(&links),
        running: links.iter().filter(|link| link.running).map(|link| link.index).collect(),
        captured: captured(&links, [tun, bridge]),
        noteless: noteless(&links),
        indexes: links.into_iter().map(|link| (link.name, link.index)).collect(),
    })
}

/// The pods' addresses that the node would send to another hardware address, whatever the pod says.
fn wrong_neighbours(fixed: &[FixedNeighbour], pods: &[PodPort]) -> Vec<IpAddr> {
    let is_wrong = |neighbour: &&FixedNeighbour| {
        let has = |pod: &&PodPort| pod.addresses.iter().any(|ip| ip.addr() == neighbour.address);
        // One that is not checked may use any hardware address.
        let owner = pods.iter().filter(|pod| pod.is_checked).find(has);
        owner.is_some_and(|pod| neighbour.mac != Some(pod.mac))
    };
    fixed.iter().filter(is_wrong).map(|neighbour| neighbour.address).collect()
}

/// Those of `devices` that are ports of another one, which decides about their packets.
fn captured(links: &[Link], devices: [Option<&Link>; 2]) -> Vec<(String, String)> {
    let name = |index: u32| {
        let found = links.iter().find(|link| link.index == index);
        found.map_or_else(|| format!("device {index}"), |link| link.name.clone())
    };
    let devices = devices.into_iter().flatten();
    devices.filter_map(|link| Some((link.name.clone(), name(link.controller?)))).collect()
}

/// The devices that may have learned routes from router advertisements, or will, and whose
/// parameter says that they do unless the node forwards. A virtual device counts only if it has
/// learned one: nobody advertises to the cables of containers.
fn advertised(
    links: &[Link],
    learned: &[Route],
    parameters: &Sysctls,
) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for link in links {
        let is_own = link.alias.starts_with(ALIAS_PREFIX);
        let is_virtual = matches!(link.kind, LinkKind::Tun | LinkKind::Bridge | LinkKind::Veth);
        let has_learned = learned.iter().any(|route| route.link == Some(link.index));
        if link.loopback || is_own || link.controller.is_some() || (is_virtual && !has_learned) {
            continue;
        }
        let key = format!("net/ipv6/conf/{}/accept_ra", link.name);
        let value = parameters.read(&key).context("checking kernel parameters")?;
        if value.as_deref() == Some("1") {
            found.push(link.name.clone());
        }
    }
    Ok(found)
}

/// The link called `name`, which must be of the given kind if it exists.
fn named<'a>(links: &'a [Link], name: &str, kind: &LinkKind) -> anyhow::Result<Option<&'a Link>> {
    let Some(link) = links.iter().find(|link| link.name == name) else {
        return Ok(None);
    };
    if link.kind != *kind {
        bail!(
            "the name {name} is needed for a {kind}, but a {} has it: rename that one, or configure \
             another name",
            link.kind
        );
    }
    Ok(Some(link))
}

/// The device of ours that `wanted` describes, under a name that somebody else gave it. A device of
/// another daemon in this namespace has the addresses of another node.
fn renamed<'a>(
    links: &'a [Link],
    addresses: &[Address],
    wanted: &Device,
    kind: &LinkKind,
) -> Option<&'a Link> {
    links.iter().filter(|link| link.kind == *kind && link.alias.starts_with(ALIAS_PREFIX)).find(
        |link| {
            addresses.iter().any(|is| is.link == link.index && wanted.addresses.contains(&is.net))
        },
    )
}

/// The addresses of this machine that are not the daemon's doing.
fn own_addresses(links: &[Link], addresses: &[Address]) -> Vec<IpNet> {
    let is_ours = |index: u32| {
        links.iter().any(|link| link.index == index && link.alias.starts_with(ALIAS_PREFIX))
    };
    addresses
        .iter()
        .filter(|address| !is_ours(address.link))
        // By address and not by device: a node may have its routed address on the loopback device.
        .filter(|address| !address.net.addr().is_loopback())
        .filter(|address| match address.net.addr() {
            IpAddr::V4(ip) => !ip.is_link_local(),
            IpAddr::V6(ip) => !ip.is_unicast_link_local(),
        })
        .map(|address| address.net)
        .collect()
}

fn device(link: &Link, wanted: &Device, addresses: &[Address]) -> ActualDevice {
    ActualDevice {
        renamed: (link.name != wanted.name).then(|| link.name.clone()),
        up: link.up,
        neighbours: link.arp && link.multicast,
        filters_vlans: link.vlan_filtering,
        delivers: true,
        mtu: link.mtu,
        alias: link.alias.clone(),
        mac: link.mac,
        tx_queue_len: link.tx_queue_len,
        plain: !link.spanning_tree
            && !link.multicast_snooping
            && link.skips_rules == [false; 2]
            && !link.learns_from_groups
            && link.learning_limit != Some(0),
        addresses: addresses
            .iter()
            .filter(|address| address.link == link.index)
            .filter(|address| link.kind == LinkKind::Tun || !is_link_local(address))
            .map(|address| ActualAddress {
                net: address.net,
                ours: address.protocol == Some(PROTOCOL),
            })
            .collect(),
    }
}

/// The kernel gives a bridge its link-local address, which is none of our business.
fn is_link_local(address: &Address) -> bool {
    match address.net.addr() {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// A pod's cable that is plugged into our bridge, or that belongs there.
fn port(link: &Link, bridge: Option<&Link>, links: &[Link], desired: &Desired) -> Option<Port> {
    if link.kind != LinkKind::Veth {
        return None;
    }
    let plugged = link.controller.is_some() && link.controller == bridge.map(|bridge| bridge.index);
    let pod = PodPort::from_note(&link.name, &link.alias);
    let is_ours = pod.is_some() || is_port_name(&link.name);
    if !plugged && !is_lost(link, pod.as_ref(), links, desired) {
        return None;
    }
    // A pod that nothing is known about must be able to reach itself through a service address.
    let hairpin = pod.as_ref().is_none_or(|pod| pod.hairpin);
    let isolated = pod.as_ref().is_some_and(|pod| pod.isolated);
    let options = link.port.unwrap_or_default();
    // The plugin sets the options and brings it up at once, when all that guards the pod is there.
    let is_being_made = plugged && !link.up && options.forwarded_groups == 0;
    let configured = link.arp
        && options.hairpin == hairpin
        && options.isolated == isolated
        && options.learning
        && options.flood
        && !options.holds_back;
    // Whoever has no carrier forwards nothing, and is told to by the bridge when it has one.
    let carries = link.running && bridge.is_some_and(|bridge| bridge.up && bridge.running);
    Some(Port {
        device: link.name.clone(),
        mtu: link.mtu,
        plugged,
        // The group of a device that somebody else made is somebody else's.
        guarded: is_being_made
            || options.forwarded_groups == FORWARDED_GROUPS
                && (link.group == DEVICE_GROUP || !is_ours),
        up: is_being_made || link.up || !is_ours,
        configured: is_being_made || configured || pod.is_none(),
        forwards: !plugged || !carries || options.is_forwarding,
        hairpin,
        isolated,
    })
}

/// Whether a device that is not in our bridge belongs there: a pod's, which has been unplugged, or
/// plugged into a bridge that is no daemon's. Another daemon's pods have addresses of another node.
fn is_lost(link: &Link, pod: Option<&PodPort>, links: &[Link], desired: &Desired) -> bool {
    let subnets = || desired.connected.iter().map(|route| route.destination);
    let is_in_subnet = |pod: &PodPort| {
        pod.addresses.iter().any(|ip| subnets().any(|subnet| subnet.contains(&ip.addr())))
    };
    match (link.controller, pod) {
        (None, None) => is_port_name(&link.name),
        (None, Some(pod)) => is_port_name(&link.name) || is_in_subnet(pod),
        (Some(_foreign), None) => false,
        (Some(foreign), Some(pod)) => {
            let is_daemons = links
                .iter()
                .any(|link| link.index == foreign && link.alias.starts_with(ALIAS_PREFIX));
            !is_daemons && is_in_subnet(pod)
        }
    }
}

/// Whether the plugin gives such names.
pub(super) fn is_port_name(name: &str) -> bool {
    name.strip_prefix(PORT_PREFIX).is_some_and(|digits| {
        !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    })
}

fn sysctls(parameters: &Sysctls, desired: &Desired) -> anyhow::Result<BTreeMap<String, String>> {
    let mut values = BTreeMap::new();
    for Parameter { key, .. } in &desired.sysctls {
        if let Some(value) = parameters.read(key).context("checking kernel parameters")? {
            values.insert(key.clone(), value);
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use culvert_netlink::BridgePort;

    #[test]
    fn only_the_plugins_own_names_are_plugged_in() {
        assert!(is_port_name("culv1f09ab3c"));
        assert!(!is_port_name("culvert0"));
        assert!(!is_port_name("culv"));
        assert!(!is_port_name("veth1f09ab3c"));
    }

    #[test]
    fn port_that_the_plugin_is_making_is_left_to_it() {
        let made = Link {
            name: "culv1f09ab3c".into(),
            kind: LinkKind::Veth,
            controller: Some(3),
            group: DEVICE_GROUP,
            arp: true,
            ..Link::default()
        };
        let desired = Desired::new(&super::super::fixture::spec());
        let bridge = Link { index: 3, ..Link::default() };
        let is_right = |link: &Link| {
            port(link, Some(&bridge), &[], &desired).is_some_and(|port| port.is_right())
        };
        let guard = BridgePort { forwarded_groups: FORWARDED_GROUPS, ..BridgePort::default() };
        assert!(is_right(&made));
        let up = Link { up: true, ..made.clone() };
        assert!(!is_right(&up));
        let guarded = Link { port: Some(guard), ..up.clone() };
        assert!(is_right(&guarded));
        for wrong in [
            Link { up: false, ..guarded.clone() },
            Link { group: 0, ..guarded.clone() },
            Link { controller: None, ..guarded },
            Link { controller: None, ..made },
        ] {
            assert!(!is_right(&wrong), "{wrong:?}");
        }
        let stranger = Link { name: "veth0".into(), group: 0, ..up };
        assert!(!is_right(&stranger));
        assert!(is_right(&Link { port: Some(guard), ..stranger }));
    }

    #[test]
    fn port_without_a_carrier_is_not_blocked() {
        let desired = Desired::new(&super::super::fixture::spec());
        let bridge = Link { index: 3, up: true, running: true, ..Link::default() };
        let options = BridgePort { forwarded_groups: FORWARDED_GROUPS, ..BridgePort::default() };
        let idle = Link {
            name: "culv1f09ab3c".into(),
            kind: LinkKind::Veth,
            controller: Some(3),
            port: Some(options),
            up: true,
            ..Link::default()
        };
        let forwards = |link: &Link, bridge: &Link| {
            port(link, Some(bridge), &[], &desired).is_some_and(|port| port.forwards)
        };
        assert!(forwards(&idle, &bridge));
        let blocked = Link { running: true, ..idle.clone() };
        assert!(!forwards(&blocked, &bridge));
        assert!(forwards(&blocked, &Link { up: false, ..bridge.clone() }));
        let options = BridgePort { is_forwarding: true, ..options };
        assert!(forwards(&Link { port: Some(options), ..blocked }, &bridge));
    }

    #[test]
    fn hardware_address_that_is_not_the_pods_is_wrong() {
        let note = "culvert pod 0a:58:0a:f4:01:02 checked 10.244.1.2";
        let pod = |note: &str| PodPort::from_note("culv0", note).into_iter().collect::<Vec<_>>();
        let fixed = |address: &str, mac: Option<[u8; 6]>| FixedNeighbour {
            link: 3,
            address: address.parse().unwrap(),
            mac: mac.map(overlay_proto::Mac::new),
        };
        let own = [0x0a, 0x58, 10, 244, 1, 2];
        let found = |fixed, note: &str| wrong_neighbours(&[fixed], &pod(note)).len();
        assert_eq!(found(fixed("10.244.1.2", Some(own)), note), 0);
        assert_eq!(found(fixed("10.244.1.2", Some([2; 6])), note), 1);
        assert_eq!(found(fixed("10.244.1.2", None), note), 1);
        assert_eq!(found(fixed("10.244.1.3", Some([2; 6])), note), 0);
        assert_eq!(found(fixed("10.244.1.2", Some([2; 6])), &note.replace(" checked", "")), 0);
    }

    #[test]
    fn device_of_ours_that_is_a_port_of_another_is_named_with_it() {
        let named = |index, name: &str| Link { index, name: name.into(), ..Link::default() };
        let (tun, vrf) = (named(2, "culvert0"), named(9, "blue"));
        let bridge = Link { controller: Some(9), ..named(3, "v-net-0") };
        let links = [tun.clone(), bridge.clone(), vrf];
        let found = captured(&links, [Some(&tun), Some(&bridge)]);
        assert_eq!(found, [("v-net-0".to_owned(), "blue".to_owned())]);
        assert_eq!(captured(&links, [Some(&tun), None]), []);
    }

    #[test]
    fn name_taken_by_another_kind_says_what_to_do() {
        let links = [Link {
            name: "v-net-0".into(),
            kind: LinkKind::Other("dummy".into()),
            ..Link::default()
        }];
        let error = named(&links, "v-net-0", &LinkKind::Bridge).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("v-net-0"), "{text}");
        assert!(text.contains("dummy device"), "{text}");
        assert!(text.contains("rename"), "{text}");
    }
}
