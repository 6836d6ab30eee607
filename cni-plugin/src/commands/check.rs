//! CHECK: is the pod still plugged in as ADD left it? Repairs nothing.
//!
//! Compares the previous result with the kernel and the store. The node file is not asked, so that
//! CHECK works while the daemon is stopped.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Call;
use crate::attachment::Options;
use crate::error::{Error, Failure};
use crate::ipam::Store;
use crate::netlink::{DefaultRoute, Link, Socket};
use crate::netns::Netns;
use crate::result::{CniResult, Interface, Ip};
use crate::source_check::PodPort;

pub(super) fn check(call: &Call) -> Result<(), Failure> {
    if !call.config.version.has_check() {
        return Err(Failure::from(Error::NoCheckInVersion {
            version: call.config.version.as_str(),
        }));
    }
    let expected = Expected::read(call)?;
    check_addresses_in_store(call, &expected)?;
    check_host(call, &expected)?;
    let netns = Netns::open(call.netns()?)?;
    netns.run(|| check_pod(call, &expected))?;
    Ok(())
}

/// What the previous result says about this attachment.
struct Expected {
    mac: Option<String>,
    ips: Vec<Ip>,
    /// Names of the devices on the host, the bridge among them.
    host_devices: BTreeSet<String>,
}

impl Expected {
    fn read(call: &Call) -> Result<Self, Error> {
        let missing = || Error::BadConfig {
            key: "prevResult".to_owned(),
            value: "missing".to_owned(),
            remedy: "CHECK needs the result of ADD".to_owned(),
        };
        let document = call.config.prev_result.as_ref().ok_or_else(missing)?;
        let result = CniResult::parse(document)?;
        let ifname = call.attachment.ifname();
        let is_pods = |interface: &Interface| {
            let in_sandbox = interface.sandbox.as_ref().is_some_and(|path| !path.is_empty());
            interface.name == ifname && in_sandbox
        };
        let Some(position) = result.interfaces.iter().position(is_pods) else {
            return Err(Error::BadConfig {
                key: "prevResult".to_owned(),
                value: document.to_string(),
                remedy: format!("it needs interface {ifname} with a sandbox"),
            });
        };
        let on_host = result
            .interfaces
            .iter()
            .filter(|interface| interface.sandbox.as_ref().is_none_or(String::is_empty));
        Ok(Self {
            mac: result.interfaces[position].mac.clone(),
            host_devices: on_host.map(|interface| interface.name.clone()).collect(),
            ips: result.ips.into_iter().filter(|ip| ip.interface == Some(position)).collect(),
        })
    }

    fn addresses(&self) -> BTreeSet<IpNet> {
        self.ips.iter().map(|ip| ip.address).collect()
    }
}

fn check_addresses_in_store(call: &Call, expected: &Expected) -> Result<(), Error> {
    let held = match Store::open(&call.config.state_dir)? {
        Some(mut store) => store.allocations_of(&call.attachment)?,
        None => Vec::new(),
    };
    for allocation in &held {
        let address = allocation.interface_address();
        if !expected.addresses().contains(&address) {
            return Err(mismatch(format!(
                "the store gives {address} to {}, but prevResult does not have it",
                call.attachment
            )));
        }
    }
    for address in expected.addresses() {
        let is_held = held.iter().any(|allocation| allocation.interface_address() == address);
        if !is_held {
            return Err(mismatch(format!(
                "the store does not give {address} to {}",
                call.attachment
            )));
        }
    }
    Ok(())
}

fn check_host(call: &Call, expected: &Expected) -> Result<(), Error> {
    let mut host = Socket::open()?;
    let device = call.attachment.host_device();
    let Some(link) = host.link_by_name(&device)? else {
        return Err(mismatch(format!("host device {device} does not exist")));
    };
    if !link.is_up {
        return Err(mismatch(format!("host device {device} is down")));
    }
    let mut is_on_bridge = false;
    for name in &expected.host_devices {
        if *name != device && link.bridge.is_some() {
            let bridge = host.link_by_name(name)?;
            is_on_bridge |= bridge.is_some_and(|bridge| Some(bridge.index) == link.bridge);
        }
    }
    if !is_on_bridge {
        return Err(mismatch(format!("host device {device} is not a port of the bridge")));
    }
    check_port(call, &device, &link)
}

/// The options of the bridge port.
fn check_port(call: &Call, device: &str, link: &Link) -> Result<(), Error> {
    let Options { hairpin, isolated, source_check, .. } = call.config.options;
    let is_checked = PodPort::from_note(device, &link.alias).is_some_and(|port| port.is_checked);
    for (what, is, key, wanted) in [
        ("hairpin mode", link.hairpin, "hairpinMode", hairpin),
        ("isolation", link.isolated, "portIsolation", isolated),
        ("source check", is_checked, "macspoofchk", source_check),
    ] {
        if is != wanted {
            return Err(mismatch(format!(
                "{what} of host device {device} is {is}, and config key {key} is {wanted}"
            )));
        }
    }
    Ok(())
}

/// Runs on a thread inside the pod's namespace.
fn check_pod(call: &Call, expected: &Expected) -> Result<(), Error> {
    let mut pod = Socket::open()?;
    let ifname = call.attachment.ifname();
    let Some(link) = pod.link_by_name(ifname)? else {
        return Err(mismatch(format!("interface {ifname} does not exist")));
    };
    if !link.is_up {
        return Err(mismatch(format!("interface {ifname} is down")));
    }
    let mac = link.mac.map(|mac| mac.to_string());
    if let (Some(wanted), Some(found)) = (&expected.mac, &mac)
        && !wanted.eq_ignore_ascii_case(found)
    {
        return Err(mismatch(format!("interface {ifname} has MAC address {found}, not {wanted}")));
    }
    let addresses = pod.addresses(link.index)?;
    for address in expected.addresses() {
        if !addresses.contains(&address) {
            return Err(mismatch(format!("interface {ifname} lacks address {address}")));
        }
    }
    let routes = pod.default_routes()?;
    let gateways: BTreeSet<IpAddr> = expected.ips.iter().filter_map(|ip| ip.gateway).collect();
    for gateway in gateways {
        let route = DefaultRoute { gateway, device: link.index };
        if !routes.contains(&route) {
            return Err(mismatch(format!(
                "the default route via {gateway} on {ifname} is missing"
            )));
        }
    }
    Ok(())
}

fn mismatch(what: String) -> Error {
    Error::Mismatch { what }
}
