//! The work of ADD, from the addresses to the announcement, and undoing it.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::thread;
use std::time::Duration;

use culvert_nft::Socket as Nftables;

use super::del::unplug;
use super::own_table::{self, OwnTable};
use super::{Call, reception};
use crate::config::{RouteSpec, Settings};
use crate::error::Error;
use crate::fault::Step;
use crate::netlink::{self, Address, Detection, Link, PortChange, Route, Socket, Veth};
use crate::plan::{self, MIN_MTU_V6, Plan};
use crate::result::{Interface, Plugged};
use crate::sysctl::{Sysctl, kernel_has_ipv6};
use culvert_node::ipam::{Allocation, Grant, Store, Surveyor};
use culvert_node::living;
use culvert_node::netns::{Netns, OwnNetns};
use culvert_node::node_file::NodeFile;
use culvert_node::pod_port::PodPort;
use culvert_node::source_check;
use overlay_proto::Mac;

/// How long to wait for the bridge port to carry frames, at most. The first look is enough on
/// kernels since 6.8, which bring a device's state up to date before they report it.
const PORT_ATTEMPTS: u32 = 50;
const PORT_PAUSE: Duration = Duration::from_millis(2);

/// How long to wait for duplicate address detection, at most. The kernel takes one to two seconds.
const DETECTION_ATTEMPTS: u32 = 500;
const DETECTION_PAUSE: Duration = Duration::from_millis(20);

/// One pod being plugged in, and how far that has come.
pub(super) struct Plug<'a> {
    pub(super) call: &'a Call<'a>,
    pub(super) settings: &'a Settings,
    pub(super) plan: &'a Plan,
    pub(super) netns: &'a Netns,
    pub(super) node: &'a NodeFile,
    pub(super) bridge: &'a Link,
    pub(super) host: Socket,
    pub(super) host_netns: OwnNetns,
    /// None for a pod that is not checked, on a kernel without nftables.
    pub(super) nftables: Option<Nftables>,
    pub(super) pod: Socket,
    pub(super) store: Store,
    pub(super) surveyor: Surveyor,
    pub(super) host_device: String,
    pub(super) has_addresses: bool,
    pub(super) has_devices: bool,
    /// Addresses that the daemon has made rules for.
    pub(super) admitted: Vec<IpAddr>,
}

impl Plug<'_> {
    /// Does the work, inside the pod's namespace.
    pub(super) fn run(&mut self) -> Result<Plugged, Error> {
        let (call, plan) = (self.call, self.plan);
        let attachment = &call.attachment;
        let netns = self.netns.path();
        let grant = self.store.allocate(attachment, netns, &plan.request, &mut self.surveyor)?;
        let Grant { allocations, mac: pod_mac } = grant;
        self.has_addresses = true;
        call.reached(Step::AddressesAllocated);
        let addresses = plan::pairs(&allocations);
        let mut routes = plan::routes(self.settings, &self.node.cluster_networks, &addresses)?;
        self.create_devices(pod_mac, &allocations)?;
        let device = self.pod_device()?;
        let own_table = OwnTable::needed(&mut self.pod, device, &self.node.subnets)?;
        if let Some(table) = own_table {
            table.take(&mut routes);
        }
        self.configure_pod(device, &allocations, &routes, own_table)?;
        call.reached(Step::PodConfigured);
        let port = self.wait_for_port()?;
        if self.settings.duplicate_detection {
            self.wait_for_detection()?;
        }
        let given = allocations.iter().map(|allocation| allocation.address);
        if !reception::wait(&mut self.pod, given)? {
            call.warnings.add(format_args!(
                "{attachment} may not hear its neighbours for a second: the kernel has not finished \
                 with its IPv6 addresses"
            ));
        }
        call.reached(Step::PortRunning);
        self.pod.execute(netlink::announce(attachment.ifname(), pod_mac))?;
        call.reached(Step::Announced);
        let host_interface = |link: &Link| Interface {
            name: link.name.clone(),
            mac: link.mac.map(|mac| mac.to_string()),
            mtu: Some(link.mtu),
            ..Interface::default()
        };
        let pod_interface = Interface {
            name: attachment.ifname().to_owned(),
            mac: Some(pod_mac.to_string()),
            mtu: Some(plan.mtu.into()),
            sandbox: Some(netns.to_string_lossy().into_owned()),
            ..Interface::default()
        };
        Ok(Plugged {
            interfaces: vec![host_interface(self.bridge), host_interface(&port), pod_interface],
            addresses,
            routes,
        })
    }

    fn create_devices(&mut self, pod_mac: Mac, allocations: &[Allocation]) -> Result<(), Error> {
        let veth = Veth {
            host_name: &self.host_device,
            bridge: self.bridge.index,
            pod_name: self.call.attachment.ifname(),
            pod_netns: self.netns.as_raw_fd(),
            pod_mac,
            mtu: self.plan.mtu,
            host_mtu: self.node.mtu,
            gso_max_size: self.node.gso_max_size,
        };
        self.host.execute(netlink::create_veth(&veth)).map_err(|error| {
            if error.is_exists() {
                // The pod's name was free a moment ago, so it is the host's.
                Error::HostDeviceExists { device: self.host_device.clone() }
            } else {
                error.into()
            }
        })?;
        self.has_devices = true;
        self.call.reached(Step::VethCreated);
        self.enter_source_check(pod_mac, allocations)?;
        self.call.reached(Step::SourceChecked);
        let addresses: Vec<_> = allocations.iter().map(|given| given.address).collect();
        if self.node.policy {
            self.call.admit(&addresses)?;
            self.admitted.clone_from(&addresses);
        }
        self.open_host_ports(&addresses)?;
        let device_has_ipv6 = kernel_has_ipv6() && u64::from(self.node.mtu) >= MIN_MTU_V6;
        if device_has_ipv6 {
            // What a pod advertises configures nothing of the node, should it ever get there.
            let path = format!("ipv6/conf/{}/accept_ra", self.host_device);
            let accept_ra = Sysctl { path, value: "0" };
            match self.netns.leave_for(&self.host_netns, || accept_ra.write()) {
                // Somebody removed the device; the next request says so.
                Err(Error::Sysctl { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        }
        self.host.execute(netlink::start_port(&PortChange {
            name: &self.host_device,
            hairpin: self.settings.hairpin,
            isolated: self.settings.isolated,
            device_has_ipv6,
        }))?;
        self.call.reached(Step::PortStarted);
        Ok(())
    }

    /// Records owner and allowed source addresses in the port's alias, then installs the nftables
    /// check.
    ///
    /// The note comes first, so that whatever else keeps the table can only add to it; the port is
    /// still down, so that there is no frame that is not checked.
    fn enter_source_check(
        &mut self,
        pod_mac: Mac,
        allocations: &[Allocation],
    ) -> Result<(), Error> {
        let port = PodPort {
            device: self.host_device.clone(),
            attachment: Some(self.call.attachment.clone()),
            mac: pod_mac,
            addresses: allocations.iter().map(Allocation::interface_address).collect(),
            is_checked: self.settings.source_check,
            hairpin: self.settings.hairpin,
            isolated: self.settings.isolated,
        };
        let note =
            port.note().ok_or_else(|| Error::TooManyAddresses { device: port.device.clone() })?;
        self.host.execute(netlink::set_alias(&port.device, &note))?;
        self.store.confirm(&self.call.attachment, allocations)?;
        if let Some(nftables) = &mut self.nftables {
            source_check::enter(nftables, &port).map_err(Error::source_check)?;
            living::enter(nftables, &port)?;
        }
        Ok(())
    }

    /// Sets the pod's end up, with its addresses and routes.
    fn configure_pod(
        &mut self,
        device: u32,
        allocations: &[Allocation],
        routes: &[RouteSpec],
        own_table: Option<OwnTable>,
    ) -> Result<(), Error> {
        let ifname = self.call.attachment.ifname();
        let addresses: Vec<_> = allocations.iter().map(Allocation::interface_address).collect();
        let has_v6 = addresses.iter().any(|address| address.addr().is_ipv6());
        let duplicate_detection = self.settings.duplicate_detection;
        let mut sysctls = sysctls(ifname, has_v6, duplicate_detection);
        if own_table.is_some() {
            sysctls.extend(sysctls_beside_another(ifname));
        }
        for sysctl in sysctls {
            match sysctl.write() {
                // A kernel without IPv6, or a device whose MTU is too small for it, has nothing to
                // switch off.
                Err(Error::Sysctl { source, .. })
                    if source.kind() == io::ErrorKind::NotFound && !has_v6 => {}
                result => result?,
            }
        }
        black_holes().write_over("0")?;
        let mut requests = vec![netlink::set_up("lo"), netlink::set_up(ifname)];
        requests.extend(addresses.iter().map(|address| {
            netlink::add_address(device, *address, duplicate_detection, own_table.is_none())
        }));
        if let Some(table) = own_table {
            // Before the routes through gateways, which the kernel looks for in the same table.
            requests.extend(table.to_subnets(&addresses).iter().map(netlink::add_route));
            requests.extend(table.rules(ifname, &addresses).iter().map(netlink::add_rule));
        }
        requests.extend(routes.iter().map(|spec| netlink::add_route(&Route::of(spec, device))));
        Ok(self.pod.execute_all(&requests)?)
    }

    /// Index of the pod's end.
    fn pod_device(&self) -> Result<u32, Error> {
        let ifname = self.call.attachment.ifname();
        netlink::index_of(&self.pod, ifname)?
            .ok_or_else(|| Error::Vanished { device: ifname.to_owned() })
    }

    /// Waits until the bridge forwards frames of the new port.
    ///
    /// kernel: the state of a device that has just been connected reaches the bridge a moment
    /// later. Until then the bridge drops what the pod sends, and its announcement would be lost.
    fn wait_for_port(&mut self) -> Result<Link, Error> {
        let mut attempts = 0;
        loop {
            let link = self
                .host
                .link(&self.host_device)?
                .ok_or_else(|| Error::Vanished { device: self.host_device.clone() })?;
            attempts += 1;
            // A bridge that is itself down connects nothing; the daemon will see to that.
            if link.running || attempts >= PORT_ATTEMPTS {
                return Ok(link);
            }
            thread::sleep(PORT_PAUSE);
        }
    }

    /// Waits until nobody has answered for the pod's IPv6 addresses.
    fn wait_for_detection(&mut self) -> Result<(), Error> {
        let ifname = self.call.attachment.ifname();
        let device = self.pod_device()?;
        for _attempt in 0..DETECTION_ATTEMPTS {
            let mut addresses = self.pod.addresses()?;
            addresses.retain(|address| address.link == device);
            let is = |state| move |address: &&Address| address.detection == state;
            if let Some(taken) = addresses.iter().find(is(Detection::Duplicate)) {
                return Err(Error::DuplicateAddress { address: taken.net });
            }
            if !addresses.iter().any(|address| is(Detection::Pending)(&address)) {
                return Ok(());
            }
            thread::sleep(DETECTION_PAUSE);
        }
        Err(Error::UndecidedAddress { device: ifname.to_owned() })
    }

    /// Undoes what was done and gathers what goes wrong.
    pub(super) fn undo(&mut self) -> Vec<Error> {
        let mut errors = Vec::new();
        if self.has_devices {
            let (nftables, reached) = (self.nftables.as_mut(), |step| self.call.reached(step));
            let outcome = unplug(&mut self.host, nftables, &self.host_device, &reached);
            errors.extend(outcome.err());
            let closed = self.call.close_host_ports(self.nftables.as_mut(), &self.host_device);
            errors.extend(closed.err());
            errors.extend(own_table::sweep(&mut self.pod).err().map(Error::from));
        }
        self.call.reached(Step::DevicesUndone);
        self.call.tell_of_leaving(&self.admitted);
        if self.has_addresses {
            // Opened anew: it may have been replaced meanwhile.
            let config = &self.call.config;
            let released = Store::open(&config.state_dir).and_then(|store| {
                let Some(mut store) = store else { return Ok(0) };
                store.follow(&config.run_dir);
                store.release(&self.call.attachment)
            });
            errors.extend(released.err().map(Error::from));
        }
        errors
    }
}

/// The pod's sysctls, all before its device goes up.
///
/// - No duplicate address detection, unless asked for: the store hands out each address once, and a
///   second of waiting would be a second of every pod's start.
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

/// Has TCP try shorter segments where long ones are lost without a word (RFC 4821). What a path to
/// a peer carries is known only after there has been traffic, and of some peers never. Another
/// value is somebody's wish.
fn black_holes() -> Sysctl {
    Sysctl { path: "ipv4/tcp_mtu_probing".to_owned(), value: "1" }
}

/// The sysctls of an interface beside another one in the same subnet: neither answers for the
/// other's address in ARP, nor asks in its name.
fn sysctls_beside_another(ifname: &str) -> [Sysctl; 2] {
    [("arp_ignore", "1"), ("arp_announce", "2")]
        .map(|(name, value)| Sysctl { path: format!("ipv4/conf/{ifname}/{name}"), value })
}
