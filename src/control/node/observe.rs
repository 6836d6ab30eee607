//! Reads the part of the kernel's state that [`diff()`](super::diff()) compares.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context as _, bail};
use culvert_cni::pod_port::PodPort;

use super::PROTOCOL;
use super::desired::{ALIAS_PREFIX, Desired, IPV6_FORWARDING};
use super::diff::{Actual, ActualAddress, ActualDevice, ActualRoute, Port, Ruleset};
use super::firewall::pod_ports;
use crate::platform::netlink::{Address, Link, LinkKind, Netlink, Route};
use crate::platform::sysctl::Sysctls;

/// How the plugin begins the name of the node's end of a pod's cable; hexadecimal digits follow.
const PORT_PREFIX: &str = "culv";

/// Protocol number of routes that the kernel has made by router advertisements (`RTPROT_RA`).
const ADVERTISED: u8 = 9;

/// What one look at the kernel found.
pub(super) struct Observed {
    pub(super) actual: Actual,
    /// The pods that the plugin has left notes about.
    pub(super) pods: Vec<PodPort>,
    /// Index of each device that an action may name.
    pub(super) indexes: HashMap<String, u32>,
}

/// Looks at everything but the nftables tables, which are looked at apart.
pub(super) async fn observe(
    netlink: &mut Netlink,
    parameters: &Sysctls,
    desired: &Desired,
    tun_attached: bool,
) -> anyhow::Result<Observed> {
    let links = netlink.links().await?;
    let addresses = netlink.addresses().await?;
    let routes = netlink.routes_of(PROTOCOL).await?;

    let sysctls = sysctls(parameters, desired)?;
    // Asked for only by the start that is about to switch forwarding on.
    let is_about_to_forward = sysctls.get(IPV6_FORWARDING).is_some_and(|value| value != "1");
    let advertised = if is_about_to_forward {
        let learned = netlink.routes_of(ADVERTISED).await?;
        advertised(&links, &learned, parameters)?
    } else {
        Vec::new()
    };

    let tun = named(&links, &desired.tun.name, &LinkKind::Tun)?;
    let bridge = named(&links, &desired.bridge.name, &LinkKind::Bridge)?;
    let actual = Actual {
        tun: tun.map(|link| device(link, &addresses)),
        tun_attached,
        bridge: bridge.map(|link| device(link, &addresses)),
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
        ports: links
            .iter()
            .filter_map(|link| port(link, bridge.map(|bridge| bridge.index)))
            .collect(),
        advertised,
        sysctls,
        ruleset: Ruleset::Unchecked,
        source_check: Ruleset::Unchecked,
    };
    Ok(Observed {
        actual,
        pods: pod_ports(&links, &desired.bridge.name),
        indexes: links.into_iter().map(|link| (link.name, link.index)).collect(),
    })
}

/// The devices that may have learned routes from router advertisements, or will, and whose parameter
/// says that they do unless the node forwards. A virtual device counts only if it has learned one:
/// nobody advertises to the cables of containers.
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

fn device(link: &Link, addresses: &[Address]) -> ActualDevice {
    ActualDevice {
        up: link.up,
        mtu: link.mtu,
        alias: link.alias.clone(),
        mac: link.mac,
        tx_queue_len: link.tx_queue_len,
        plain: !link.spanning_tree && !link.multicast_snooping,
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
        std::net::IpAddr::V4(_) => false,
        std::net::IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// A pod's cable that is plugged into our bridge, or that was made for it and lost it.
fn port(link: &Link, bridge: Option<u32>) -> Option<Port> {
    if link.kind != LinkKind::Veth {
        return None;
    }
    let plugged = link.controller.is_some() && link.controller == bridge;
    let unplugged = link.controller.is_none() && is_port_name(&link.name);
    // A pod that nothing is known about must be able to reach itself through a service address.
    let (hairpin, isolated) = PodPort::from_note(&link.name, &link.alias)
        .map_or((true, false), |pod| (pod.hairpin, pod.isolated));
    let port = || Port { device: link.name.clone(), mtu: link.mtu, plugged, hairpin, isolated };
    (plugged || unplugged).then(port)
}

fn is_port_name(name: &str) -> bool {
    name.strip_prefix(PORT_PREFIX).is_some_and(|digits| {
        !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    })
}

fn sysctls(parameters: &Sysctls, desired: &Desired) -> anyhow::Result<BTreeMap<String, String>> {
    let mut values = BTreeMap::new();
    for (key, _value) in &desired.sysctls {
        if let Some(value) = parameters.read(key).context("checking kernel parameters")? {
            values.insert(key.clone(), value);
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_plugins_own_names_are_plugged_in() {
        assert!(is_port_name("culv1f09ab3c"));
        assert!(!is_port_name("culvert0"));
        assert!(!is_port_name("culv"));
        assert!(!is_port_name("veth1f09ab3c"));
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
