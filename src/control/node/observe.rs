//! Reads the part of the kernel's state that [`diff()`](super::diff()) compares.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context as _, bail};
use culvert_cni::pod_port::{DEVICE_GROUP, FORWARDED_GROUPS, PodPort};

use super::PROTOCOL;
use super::desired::{Desired, Parameter};
use super::diff::{Actual, ActualAddress, ActualDevice, ActualRoute, Port, Ruleset};
use super::firewall::pod_ports;
use crate::platform::netlink::{Address, Link, LinkKind, Netlink};
use crate::platform::sysctl::Sysctls;

/// How the plugin begins the name of the node's end of a pod's cable; hexadecimal digits follow.
const PORT_PREFIX: &str = "culv";

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
        sysctls: sysctls(parameters, desired)?,
        ruleset: Ruleset::Unchecked,
        source_check: Ruleset::Unchecked,
    };
    Ok(Observed {
        actual,
        pods: pod_ports(&links, &desired.bridge.name),
        indexes: links.into_iter().map(|link| (link.name, link.index)).collect(),
    })
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
        plain: !link.spanning_tree
            && !link.multicast_snooping
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
    let pod = PodPort::from_note(&link.name, &link.alias);
    let is_ours = pod.is_some() || is_port_name(&link.name);
    let port = || Port {
        device: link.name.clone(),
        mtu: link.mtu,
        plugged,
        // The group of a device that somebody else made is somebody else's.
        guarded: link.forwarded_groups == FORWARDED_GROUPS
            && (link.group == DEVICE_GROUP || !is_ours),
        up: link.up || !is_ours,
        // A pod that nothing is known about must be able to reach itself through a service address.
        hairpin: pod.as_ref().is_none_or(|pod| pod.hairpin),
        isolated: pod.as_ref().is_some_and(|pod| pod.isolated),
    };
    (plugged || unplugged).then(port)
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
