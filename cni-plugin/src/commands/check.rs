//! CHECK: is the pod still plugged in as ADD left it? Repairs nothing.
//!
//! Compares the previous result and the configuration with the kernel and the store. The node file
//! is not asked, so that CHECK works while the daemon is stopped.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::Call;
use super::own_table::OwnTable;
use crate::config::{RouteSpec, Settings, bad};
use crate::error::{Error, Failure, shorten};
use crate::netlink::{Route, RouteFilter, Socket};
use crate::plan;
use crate::result::{CniResult, Interface, Ip};
use culvert_node::attachment::{Attachment, check_ifname};
use culvert_node::ipam::Store;
use culvert_node::netns::Netns;
use culvert_node::pod_port::PodPort;

pub(super) fn check(call: &Call<'_>) -> Result<(), Failure> {
    let settings = call.settings()?;
    let expected = Expected::read(call)?;
    let note = check_host(call, &settings, &expected)?;
    let ips: Vec<IpNet> = expected.ips.iter().map(|ip| ip.address).collect();
    if let Some(what) = call.check_host_ports(&settings, &ips)? {
        return Err(mismatch(what).into());
    }
    check_holder(call, note.as_ref(), &expected)?;
    let netns = Netns::open(call.netns()?)?;
    let attachment = &call.attachment;
    netns.run(|| check_pod(attachment, &settings, &expected))?;
    Ok(())
}

/// What the previous result says about this attachment.
struct Expected {
    mac: Option<String>,
    ips: Vec<Ip>,
    /// Routes through one of our gateways: destination and gateway.
    routes: Vec<(IpNet, IpAddr)>,
    /// Names of the devices on the host, the bridge among them.
    host_devices: BTreeSet<String>,
}

impl Expected {
    fn read(call: &Call<'_>) -> Result<Self, Error> {
        let missing = || bad("prevResult", &Value::Null, "CHECK needs the result of ADD");
        let document = call.config.prev_result.as_ref().ok_or_else(missing)?;
        let result = CniResult::parse(document)?;
        let ifname = call.attachment.ifname();
        let is_pods = |interface: &Interface| {
            let in_sandbox = interface.sandbox.as_ref().is_some_and(|path| !path.is_empty());
            interface.name == ifname && in_sandbox
        };
        let Some(position) = result.interfaces.iter().position(is_pods) else {
            let remedy = format!("it needs interface {ifname} with a sandbox");
            return Err(bad("prevResult", document, &remedy));
        };
        let ips: Vec<Ip> =
            result.ips.into_iter().filter(|ip| ip.interface == Some(position)).collect();
        let on_host = result
            .interfaces
            .iter()
            .filter(|interface| interface.sandbox.as_ref().is_none_or(String::is_empty));
        Ok(Self {
            mac: result.interfaces[position].mac.clone(),
            // What can be no device is none.
            host_devices: on_host
                .map(|interface| interface.name.clone())
                .filter(|name| check_ifname(name).is_ok())
                .collect(),
            routes: result
                .routes
                .iter()
                .filter_map(|route| Some((route.dst, route.gw?)))
                .filter(|(_, gateway)| ips.iter().any(|ip| ip.gateway == Some(*gateway)))
                .collect(),
            ips,
        })
    }

    fn addresses(&self) -> BTreeSet<IpNet> {
        self.ips.iter().map(|ip| ip.address).collect()
    }
}

/// Compares what the pod is to have with what it holds, by the note on its port and by the store.
///
/// What the note has and the store lacks is no difference: the store was lost, and will be made
/// anew.
fn check_holder(call: &Call<'_>, note: Option<&PodPort>, expected: &Expected) -> Result<(), Error> {
    let attachment = &call.attachment;
    let expected: BTreeSet<IpAddr> = expected.ips.iter().map(|ip| ip.address.addr()).collect();
    let noted = note.map(|port| port.addresses.iter().map(IpNet::addr).collect::<BTreeSet<_>>());
    if let Some(noted) = noted.as_ref().filter(|noted| **noted != expected) {
        return Err(mismatch(format!(
            "the note on its port gives {} to {attachment}, but prevResult {}",
            list(noted),
            list(&expected)
        )));
    }
    let records = match Store::open(&call.config.state_dir)? {
        Some(mut store) => store.records_at(attachment, &expected)?,
        None => Vec::new(),
    };
    for record in &records {
        let (address, holder) = (record.allocation.address, &record.attachment);
        if holder != attachment && *holder != Attachment::unnamed(&attachment.host_device()) {
            return Err(mismatch(format!("the store gives {address} to {holder}")));
        }
        if !expected.contains(&address) {
            return Err(mismatch(format!(
                "the store gives {address} to {attachment}, but prevResult does not have it"
            )));
        }
    }
    for address in expected.iter().filter(|_| noted.is_none()) {
        if !records.iter().any(|record| record.allocation.address == *address) {
            return Err(mismatch(format!("the store does not give {address} to {attachment}")));
        }
    }
    Ok(())
}

fn list(addresses: &BTreeSet<IpAddr>) -> String {
    shorten(&addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}

/// Looks at the pod's port, and says what its note has.
fn check_host(
    call: &Call<'_>,
    settings: &Settings,
    expected: &Expected,
) -> Result<Option<PodPort>, Error> {
    let mut host = Socket::open()?;
    let device = call.attachment.host_device();
    let Some(link) = host.link(&device)? else {
        return Err(mismatch(format!("host device {device} does not exist")));
    };
    if !link.up {
        return Err(mismatch(format!("host device {device} is down")));
    }
    let mut is_on_bridge = false;
    for name in &expected.host_devices {
        if *name != device && link.controller.is_some() {
            let bridge = host.link(name)?;
            is_on_bridge |= bridge.is_some_and(|bridge| Some(bridge.index) == link.controller);
        }
    }
    if !is_on_bridge {
        return Err(mismatch(format!("host device {device} is not a port of the bridge")));
    }
    let port = link.port.unwrap_or_default();
    let note = PodPort::from_note(&device, &link.alias);
    let is_checked = note.as_ref().is_some_and(|port| port.is_checked);
    for (option, found, wanted, key) in [
        ("hairpin mode", port.hairpin, settings.hairpin, "hairpinMode"),
        ("isolation", port.isolated, settings.isolated, "portIsolation"),
        ("source check", is_checked, settings.source_check, "macspoofchk"),
    ] {
        if found != wanted {
            return Err(mismatch(format!(
                "{option} of host device {device} is {found}, and config key {key} is {wanted}"
            )));
        }
    }
    Ok(note)
}

/// Runs on a thread inside the pod's namespace.
fn check_pod(
    attachment: &Attachment,
    settings: &Settings,
    expected: &Expected,
) -> Result<(), Error> {
    let mut pod = Socket::open()?;
    let ifname = attachment.ifname();
    let Some(link) = pod.link(ifname)? else {
        return Err(mismatch(format!("interface {ifname} does not exist")));
    };
    if !link.up {
        return Err(mismatch(format!("interface {ifname} is down")));
    }
    let mac = link.mac.map(|mac| mac.to_string());
    if let (Some(wanted), Some(found)) = (&expected.mac, &mac)
        && !wanted.eq_ignore_ascii_case(found)
    {
        let wanted = shorten(wanted);
        return Err(mismatch(format!("interface {ifname} has MAC address {found}, not {wanted}")));
    }
    let mut addresses = pod.addresses()?;
    addresses.retain(|address| address.link == link.index);
    for address in expected.addresses() {
        if !addresses.iter().any(|found| found.net == address) {
            return Err(mismatch(format!("interface {ifname} lacks address {address}")));
        }
    }
    let own_table = OwnTable::given(link.index, &addresses);
    if let Some(table) = own_table {
        check_own_table(&mut pod, ifname, table, &expected.addresses())?;
    }
    check_routes(&mut pod, settings, expected, link.index, own_table)
}

/// Compares the routes that were asked for, and those of the previous result that are not among
/// them.
///
/// Before 1.1.0 a result does not say a route's table or metric, so the configuration has to.
fn check_routes(
    pod: &mut Socket,
    settings: &Settings,
    expected: &Expected,
    device: u32,
    own_table: Option<OwnTable>,
) -> Result<(), Error> {
    let addresses: Vec<_> =
        expected.ips.iter().filter_map(|ip| Some((ip.address, ip.gateway?))).collect();
    let mut wanted = plan::routes(settings, &[], &addresses)?;
    for (dst, gateway) in &expected.routes {
        if !wanted.iter().any(|route| route.dst == *dst) {
            wanted.push(RouteSpec::new(*dst, *gateway));
        }
    }
    if let Some(table) = own_table {
        table.take(&mut wanted);
    }
    let found = pod.routes(RouteFilter::All)?;
    for spec in wanted {
        let route = Route::of(&spec, device);
        if !found.iter().any(|found| route.is(found)) {
            return Err(mismatch(format!("the {} is missing", route.describe())));
        }
    }
    Ok(())
}

/// Looks for the rules that choose the interface's own table, and for the routes in it that no
/// result names.
fn check_own_table(
    pod: &mut Socket,
    ifname: &str,
    table: OwnTable,
    addresses: &BTreeSet<IpNet>,
) -> Result<(), Error> {
    let addresses: Vec<_> = addresses.iter().copied().collect();
    let mut missing = table.rules(ifname, &addresses);
    pod.visit_rules(&mut |found| missing.retain(|rule| *rule != found))?;
    if let Some(rule) = missing.first() {
        return Err(mismatch(format!("the {} is missing", rule.describe())));
    }
    let routes = pod.routes(RouteFilter::All)?;
    for route in table.to_subnets(&addresses) {
        if !routes.iter().any(|found| route.is(found)) {
            return Err(mismatch(format!("the {} is missing", route.describe())));
        }
    }
    Ok(())
}

fn mismatch(what: String) -> Error {
    Error::Mismatch { what }
}
