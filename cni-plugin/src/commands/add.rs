//! ADD: plug a pod into the node's bridge.
//!
//! The order is: read and check everything, allocate the addresses, make the devices, configure
//! them. What a failed ADD has done it undoes, newest first; the first error is the one reported.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::thread;
use std::time::Duration;

use culvert_nft::Socket as Nftables;
use serde_json::Value;

use super::Call;
use super::del::unplug;
use crate::attachment::Fnv1a;
use crate::error::{Error, Failure};
use crate::ipam::{Allocation, Store};
use crate::netlink::{self, DefaultRoute, Detection, Link, MacAddress, PortChange, Socket, Veth};
use crate::netns::{Netns, Sysctl, kernel_has_ipv6};
use crate::node_file::NodeFile;
use crate::result::{CniResult, Interface, Plugged};
use crate::source_check::{self, PodPort};

/// First two bytes of a pod's MAC address: locally administered, unicast. The second tells the
/// family of the address that the rest comes from.
const MAC_PREFIX_V4: [u8; 2] = [0x0a, 0x58];
const MAC_PREFIX_V6: u8 = 0x0e;

/// How long to wait for the bridge port to carry frames, at most. The first look is enough on
/// kernels since 6.8, which bring a device's state up to date before they report it.
const PORT_ATTEMPTS: u32 = 50;
const PORT_PAUSE: Duration = Duration::from_millis(2);

/// How long to wait for duplicate address detection, at most. The kernel takes one to two seconds.
const DETECTION_ATTEMPTS: u32 = 500;
const DETECTION_PAUSE: Duration = Duration::from_millis(20);

pub(super) fn add(call: &Call) -> Result<Value, Failure> {
    let prev_result = call.config.prev_result.as_ref();
    let mut result = prev_result.map_or_else(|| Ok(CniResult::default()), CniResult::parse)?;
    let netns = Netns::open(call.netns()?)?;
    let node = read_node_file(call)?;
    let mut host = Socket::open()?;
    let Some(bridge) = host.link_by_name(&node.bridge)? else {
        return Err(Failure::from(Error::BridgeMissing {
            bridge: node.bridge,
            path: NodeFile::path(&call.config.run_dir),
        }));
    };
    // Like the other socket it belongs to the namespace that it is opened in.
    let nftables = if call.config.options.source_check {
        Some(Nftables::open().map_err(Error::source_check)?)
    } else {
        None
    };
    let plugged = netns.run(|| {
        let mut pod = Socket::open()?;
        let ifname = call.attachment.ifname();
        if pod.link_by_name(ifname)?.is_some() {
            return Err(Failure::from(Error::InterfaceTaken {
                ifname: ifname.to_owned(),
                netns: netns.path().to_owned(),
            }));
        }
        let mut plug = Plug {
            store: Store::open_or_create(&call.config.state_dir)?,
            host_device: call.attachment.host_device(),
            call,
            netns: &netns,
            node: &node,
            bridge: &bridge,
            host,
            nftables,
            pod,
            has_addresses: false,
            has_devices: false,
        };
        plug.run().map_err(|first| Failure { first: Box::new(first), later: plug.undo() })
    })?;
    result.append(call.config.version, plugged);
    result.set_dns(call.config.dns.as_ref());
    Ok(result.into_document())
}

fn read_node_file(call: &Call) -> Result<NodeFile, Error> {
    let run_dir = &call.config.run_dir;
    NodeFile::read(run_dir).map_err(|source| {
        let path = NodeFile::path(run_dir);
        if source.kind() == io::ErrorKind::NotFound {
            Error::NodeNotReady { path }
        } else {
            Error::NodeFile { path, source }
        }
    })
}

/// One pod being plugged in, and how far that has come.
struct Plug<'a> {
    call: &'a Call,
    netns: &'a Netns,
    node: &'a NodeFile,
    bridge: &'a Link,
    host: Socket,
    /// None for a pod that is not checked.
    nftables: Option<Nftables>,
    pod: Socket,
    store: Store,
    host_device: String,
    has_addresses: bool,
    has_devices: bool,
}

impl Plug<'_> {
    /// Does the work, on a thread inside the pod's namespace.
    fn run(&mut self) -> Result<Plugged, Error> {
        let attachment = &self.call.attachment;
        let allocations = self.store.allocate(attachment, self.netns.path(), &self.node.subnets)?;
        self.has_addresses = true;
        let pod_mac = mac_of(&allocations);
        self.create_devices(pod_mac, &allocations)?;
        self.configure_pod(&allocations)?;
        let port = self.wait_for_port()?;
        if self.call.config.options.duplicate_detection {
            self.wait_for_detection()?;
        }
        self.pod.execute(netlink::announce(attachment.ifname(), pod_mac))?;
        let host_interface = |link: &Link| Interface {
            name: link.name.clone(),
            mac: link.mac.map(|mac| mac.to_string()),
            ..Interface::default()
        };
        let pod_interface = Interface {
            name: attachment.ifname().to_owned(),
            mac: Some(pod_mac.to_string()),
            sandbox: Some(self.netns.path().to_string_lossy().into_owned()),
            ..Interface::default()
        };
        Ok(Plugged {
            interfaces: vec![host_interface(self.bridge), host_interface(&port), pod_interface],
            addresses: allocations
                .iter()
                .map(|allocation| (allocation.interface_address(), allocation.gateway()))
                .collect(),
        })
    }

    fn create_devices(
        &mut self,
        pod_mac: MacAddress,
        allocations: &[Allocation],
    ) -> Result<(), Error> {
        let veth = Veth {
            host_name: &self.host_device,
            bridge: self.bridge.index,
            pod_name: self.call.attachment.ifname(),
            pod_netns: self.netns.as_raw_fd(),
            pod_mac,
            mtu: self.node.mtu,
            gso_max_size: self.node.gso_max_size,
        };
        self.host.create_veth(&veth).map_err(|error| {
            if error.is_exists() {
                // The pod's name was free a moment ago, so it is the host's.
                Error::HostDeviceExists { device: self.host_device.clone() }
            } else {
                error.into()
            }
        })?;
        self.has_devices = true;
        let options = self.call.config.options;
        self.enter_source_check(pod_mac, allocations)?;
        self.host.start_port(&PortChange {
            name: &self.host_device,
            hairpin: options.hairpin,
            isolated: options.isolated,
            kernel_has_ipv6: kernel_has_ipv6(),
        })?;
        Ok(())
    }

    /// Notes on the port what the pod may send from, and has the kernel check that.
    ///
    /// The note comes first, so that whatever else keeps the table can only add to it; the port is
    /// still down, so that there is no frame that is not checked.
    fn enter_source_check(
        &mut self,
        pod_mac: MacAddress,
        allocations: &[Allocation],
    ) -> Result<(), Error> {
        let options = self.call.config.options;
        let port = PodPort {
            device: self.host_device.clone(),
            mac: pod_mac.0,
            addresses: allocations.iter().map(|allocation| allocation.address).collect(),
            is_checked: options.source_check,
            hairpin: options.hairpin,
            isolated: options.isolated,
        };
        let note =
            port.note().ok_or_else(|| Error::TooManyAddresses { device: port.device.clone() })?;
        self.host.set_alias(&port.device, &note)?;
        if let Some(nftables) = &mut self.nftables {
            source_check::enter(nftables, &port).map_err(Error::source_check)?;
        }
        Ok(())
    }

    /// Sets the pod's end up, with its addresses and default routes.
    fn configure_pod(&mut self, allocations: &[Allocation]) -> Result<(), Error> {
        let ifname = self.call.attachment.ifname();
        let has_v6 = allocations.iter().any(|allocation| allocation.address.is_ipv6());
        let duplicate_detection = self.call.config.options.duplicate_detection;
        for sysctl in sysctls(ifname, has_v6, duplicate_detection) {
            match sysctl.write() {
                // A kernel without IPv6 has nothing to switch off.
                Err(Error::Sysctl { source, .. })
                    if source.kind() == io::ErrorKind::NotFound && !has_v6 => {}
                result => result?,
            }
        }
        let device = self
            .pod
            .link_by_name(ifname)?
            .ok_or_else(|| Error::Vanished { device: ifname.to_owned() })?
            .index;
        let mut requests = vec![netlink::set_up("lo"), netlink::set_up(ifname)];
        for allocation in allocations {
            let address = allocation.interface_address();
            let gateway = allocation.gateway();
            requests.push(netlink::add_address(device, address, duplicate_detection));
            requests.push(netlink::add_default_route(DefaultRoute { gateway, device }));
        }
        Ok(self.pod.execute_all(requests)?)
    }

    /// Waits until the bridge forwards frames of the new port.
    ///
    /// kernel: the state of a device that has just been connected reaches the bridge a moment later.
    /// Until then the bridge drops what the pod sends, and its announcement would be lost.
    fn wait_for_port(&mut self) -> Result<Link, Error> {
        let mut attempts = 0;
        loop {
            let link = self
                .host
                .link_by_name(&self.host_device)?
                .ok_or_else(|| Error::Vanished { device: self.host_device.clone() })?;
            attempts += 1;
            // A bridge that is itself down connects nothing; the daemon will see to that.
            if link.is_running || attempts >= PORT_ATTEMPTS {
                return Ok(link);
            }
            thread::sleep(PORT_PAUSE);
        }
    }

    /// Waits until nobody has answered for the pod's IPv6 addresses.
    fn wait_for_detection(&mut self) -> Result<(), Error> {
        let ifname = self.call.attachment.ifname();
        let vanished = || Error::Vanished { device: ifname.to_owned() };
        let device = self.pod.link_by_name(ifname)?.ok_or_else(vanished)?.index;
        for _attempt in 0..DETECTION_ATTEMPTS {
            match self.pod.detection(device)? {
                Detection::Passed => return Ok(()),
                Detection::Duplicate(address) => return Err(Error::DuplicateAddress { address }),
                Detection::Pending => thread::sleep(DETECTION_PAUSE),
            }
        }
        Err(Error::UndecidedAddress { device: ifname.to_owned() })
    }

    /// Undoes what was done and gathers what goes wrong.
    fn undo(&mut self) -> Vec<Error> {
        let mut errors = Vec::new();
        if self.has_devices
            && let Err(error) = unplug(&mut self.host, self.nftables.as_mut(), &self.host_device)
        {
            errors.push(error);
        }
        if self.has_addresses
            && let Err(error) = self.store.release(&self.call.attachment)
        {
            errors.push(error.into());
        }
        errors
    }
}

/// The pod's MAC address follows from its first IPv4 address, or else from its first address.
///
/// So an address that goes to another pod keeps its MAC, and no neighbour's cache of it can be
/// wrong, whether or not the announcement arrives. IPv4 addresses are unique on the bridge and go
/// in whole. Of an IPv6 address 40 bits of a hash go in: two of 1000 pods on one bridge get the
/// same with a chance of one in two million.
fn mac_of(allocations: &[Allocation]) -> MacAddress {
    let v4 = allocations.iter().find_map(|allocation| {
        if let IpAddr::V4(address) = allocation.address { Some(address.octets()) } else { None }
    });
    let mut mac = [0; 6];
    if let Some(octets) = v4 {
        mac[..2].copy_from_slice(&MAC_PREFIX_V4);
        mac[2..].copy_from_slice(&octets);
    } else {
        let mut hash = Fnv1a::new();
        for allocation in allocations.iter().take(1) {
            hash.write(allocation.address.to_string().as_bytes());
        }
        mac[0] = MAC_PREFIX_V6;
        mac[1..].copy_from_slice(&hash.finish().to_be_bytes()[..5]);
    }
    MacAddress(mac)
}

/// The pod's sysctls, all before its device goes up.
///
/// - No duplicate address detection, unless asked for: the store hands out each address once, and a second of waiting
///   would be a second of every pod's start.
/// - No router advertisements: nothing on the bridge may give a pod another route.
/// - Announcements on: see [`netlink::announce`].
/// - Container runtimes switch IPv6 off in a new namespace; a pod that gets an address needs it on.
fn sysctls(ifname: &str, has_v6: bool, duplicate_detection: bool) -> Vec<Sysctl> {
    let one = |path: String, value| Sysctl { path, value };
    let mut sysctls = vec![
        one(format!("ipv4/conf/{ifname}/arp_notify"), "1"),
        one(format!("ipv6/conf/{ifname}/accept_dad"), if duplicate_detection { "1" } else { "0" }),
        one(format!("ipv6/conf/{ifname}/accept_ra"), "0"),
    ];
    if has_v6 {
        sysctls.push(one(format!("ipv6/conf/{ifname}/ndisc_notify"), "1"));
        sysctls.push(one(format!("ipv6/conf/{ifname}/disable_ipv6"), "0"));
        sysctls.push(one("ipv6/conf/lo/disable_ipv6".to_owned(), "0"));
    }
    sysctls
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(addresses: &[&str]) -> String {
        let allocations: Vec<_> = addresses
            .iter()
            .map(|address| {
                let address: IpAddr = address.parse().unwrap();
                Allocation { address, subnet: address.into() }
            })
            .collect();
        mac_of(&allocations).to_string()
    }

    #[test]
    fn mac_spells_the_ipv4_address() {
        assert_eq!(mac(&["10.244.1.2"]), "0a:58:0a:f4:01:02");
        assert_eq!(mac(&["fd00::2", "10.244.1.2"]), "0a:58:0a:f4:01:02");
    }

    #[test]
    fn macs_of_neighbouring_ipv6_addresses_differ() {
        assert_ne!(mac(&["fd00::2"]), mac(&["fd00::3"]));
        assert!(mac(&["fd00::2"]).starts_with("0e:"));
    }
}
