//! Ports of the node that lead to a pod: opened by ADD, looked at by CHECK, closed with the pod.
//!
//! The file comes before the rules and goes after them, so that whoever unplugs the pod knows by
//! the file that there may be rules.

use std::collections::BTreeSet;
use std::net::IpAddr;

use culvert_netlink::Address;
use culvert_nft::{Flow, Socket as Nftables};
use culvert_node::host_ports::{self, HostPort, PodPorts, Taken};
use culvert_node::node_file::OwnPort;
use ipnet::IpNet;
use overlay_proto::Protocol;
use serde_json::Value;

use super::Call;
use super::plug::Plug;
use crate::config::{Settings, bad};
use crate::error::Error;
use crate::fault::Step;
use crate::sysctl::Sysctl;

/// What the pod behind `device` wants of the node's ports, with the first address of each family
/// among its `addresses`; none, if nothing.
pub(super) fn wanted(
    settings: &Settings,
    device: &str,
    addresses: impl Iterator<Item = IpAddr> + Clone,
) -> Result<Option<PodPorts>, Error> {
    if settings.ports.is_empty() {
        return Ok(None);
    }
    let first = |is_ipv4| addresses.clone().find(|address| address.is_ipv4() == is_ipv4);
    let own: Vec<IpAddr> = [true, false].into_iter().filter_map(first).collect();
    for port in &settings.ports {
        if let Some(host) = port.host_ip
            && !own.iter().any(|address| address.is_ipv4() == host.is_ipv4())
        {
            let remedy = "the pod gets no address of this family; remove it";
            let key = "runtimeConfig.portMappings[].hostIP";
            return Err(bad(key, &Value::from(host.to_string()), remedy));
        }
    }
    Ok(Some(PodPorts { device: device.to_owned(), addresses: own, ports: settings.ports.clone() }))
}

/// Refuses what the daemon listens on itself. An address changes nothing about that: the daemon's
/// own may change.
fn refuse_own(pod: &PodPorts, own: &[OwnPort]) -> Result<(), Error> {
    let is_own =
        |port: &&HostPort| own.contains(&OwnPort { protocol: port.protocol, port: port.host_port });
    pod.ports.iter().find(is_own).map_or(Ok(()), |port| {
        let key = "runtimeConfig.portMappings[].hostPort";
        let remedy = "the daemon of this node listens on it; ask for another port";
        Err(bad(key, &Value::from(port.to_string()), remedy))
    })
}

impl Plug<'_> {
    /// Has the ports of the node lead to the pod that gets `addresses`.
    pub(super) fn open_host_ports(&mut self, addresses: &[IpAddr]) -> Result<(), Error> {
        let addresses = addresses.iter().copied();
        let Some(pod) = wanted(self.settings, &self.host_device, addresses)? else {
            return Ok(());
        };
        refuse_own(&pod, &self.node.own_ports)?;
        let Some(nftables) = &mut self.nftables else { return Err(Error::HostPortsUnsupported) };
        let run_dir = &self.call.config.run_dir;
        host_ports::remember(run_dir, &pod)
            .map_err(|source| Error::HostPortsFile { path: run_dir.clone(), source })?;
        self.call.reached(Step::HostPortsNoted);
        let (host, place) = (&mut self.host, (&self.node.bridge[..], &self.node.subnets[..]));
        // What cannot be looked for counts as there.
        let mut is_there = |device: &str| !matches!(host.link(device), Ok(None));
        match host_ports::enter(nftables, &pod, place, &mut is_there) {
            Ok(None) => {}
            Ok(Some(Taken { port, device })) => {
                return Err(Error::HostPortTaken { port: port.to_string(), device });
            }
            // kernel: an expression that it does not have is "not found".
            Err(error) if error.is_unsupported() || error.is_not_found() => {
                return Err(Error::HostPortsUnsupported);
            }
            Err(error) => return Err(error.into()),
        }
        if pod.are_at_localhost() {
            // The daemon keeps it so. The table, which is there, lets no pod make use of it.
            let path = format!("ipv4/conf/{}/route_localnet", self.node.bridge);
            let route_localnet = Sysctl { path, value: "1" };
            self.netns.leave_for(&self.host_netns, || route_localnet.write())?;
        }
        let here: BTreeSet<IpAddr> =
            host.addresses()?.iter().map(|address: &Address| address.net.addr()).collect();
        forget_stale(nftables, &pod, &here)?;
        self.call.reached(Step::HostPortsOpened);
        Ok(())
    }
}

/// Forgets what was sent to one of the ports before it led to the pod: the kernel has decided not
/// to translate it, and whoever sends without a break would never reach the pod. TCP begins anew
/// anyway.
fn forget_stale(
    nftables: &mut Nftables,
    pod: &PodPorts,
    here: &BTreeSet<IpAddr>,
) -> Result<(), Error> {
    let ports: BTreeSet<u16> = udp(pod).map(|port| port.host_port).collect();
    if ports.is_empty() {
        return Ok(());
    }
    nftables.forget_flows(|flow: &Flow| {
        flow.protocol == Protocol::Udp.number()
            && flow.destination == flow.answers_from
            && here.contains(&flow.destination)
            && flow.answers_from_port.is_some_and(|port| ports.contains(&port))
    })?;
    Ok(())
}

/// Forgets what was sent to the pod by one of its ports, for the next who gets one of them.
fn forget_translated(nftables: &mut Nftables, pod: &PodPorts) -> Result<(), Error> {
    let ports: BTreeSet<u16> = udp(pod).map(|port| port.container_port).collect();
    if ports.is_empty() {
        return Ok(());
    }
    nftables.forget_flows(|flow: &Flow| {
        flow.protocol == Protocol::Udp.number()
            && flow.destination != flow.answers_from
            && pod.addresses.contains(&flow.answers_from)
            && flow.answers_from_port.is_some_and(|port| ports.contains(&port))
    })?;
    Ok(())
}

fn udp(pod: &PodPorts) -> impl Iterator<Item = &HostPort> {
    pod.ports.iter().filter(|port| port.protocol == Protocol::Udp)
}

impl Call<'_> {
    /// Closes the ports of the pod behind `device`, whose device is gone. Costs one look for a file
    /// where there are none.
    pub(super) fn close_host_ports(
        &self,
        nftables: Option<&mut Nftables>,
        device: &str,
    ) -> Result<(), Error> {
        close(&self.config.run_dir, nftables, device, self.config.names_ports())
    }

    /// Whether the node's ports lead to the pod as `settings` has it; says what is missing.
    pub(super) fn check_host_ports(
        &self,
        settings: &Settings,
        ips: &[IpNet],
    ) -> Result<Option<String>, Error> {
        let device = self.attachment.host_device();
        let Some(pod) = wanted(settings, &device, ips.iter().map(IpNet::addr))? else {
            return Ok(None);
        };
        let run_dir = &self.config.run_dir;
        let noted = host_ports::remembered(run_dir, &device)
            .map_err(|source| Error::HostPortsFile { path: run_dir.clone(), source })?;
        // A file that is lost changes nothing for the pod.
        if noted.is_some_and(|noted| noted != pod) {
            return Ok(Some(
                "other ports of the node lead to the pod than were asked for".to_owned(),
            ));
        }
        let mut nftables = Nftables::open()?;
        let is_right = host_ports::is_right(&mut nftables, &pod)?;
        Ok((!is_right).then(|| {
            let (family, table) = (host_ports::FAMILY.as_str(), host_ports::TABLE);
            format!("nft table {family} {table} does not lead the node's ports to the pod")
        }))
    }
}

/// As [`Call::close_host_ports`]; `are_there` has the rules looked for though no file says so.
pub(super) fn close(
    run_dir: &std::path::Path,
    nftables: Option<&mut Nftables>,
    device: &str,
    are_there: bool,
) -> Result<(), Error> {
    let file = |source| Error::HostPortsFile { path: run_dir.to_owned(), source };
    // One that cannot be read is removed all the same.
    let noted = host_ports::remembered(run_dir, device).unwrap_or_else(|_| {
        Some(PodPorts { device: device.to_owned(), addresses: Vec::new(), ports: Vec::new() })
    });
    if let Some(nftables) = nftables.filter(|_| are_there || noted.is_some()) {
        host_ports::leave(nftables, device)?;
        if let Some(pod) = &noted {
            forget_translated(nftables, pod)?;
        }
    }
    if noted.is_some() {
        host_ports::forget(run_dir, device).map_err(file)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_of_the_daemon_is_refused_by_protocol_and_number_whatever_the_address() {
        let own = [(Protocol::Tcp, 4791), (Protocol::Udp, 4790)]
            .map(|(protocol, port)| OwnPort { protocol, port });
        let asks = |protocol, host_port, host_ip: Option<&str>| {
            let host_ip = host_ip.map(|address| address.parse().expect("an address"));
            let port = HostPort { protocol, host_ip, host_port, container_port: 80 };
            let pod =
                PodPorts { device: "culv0".to_owned(), addresses: Vec::new(), ports: vec![port] };
            refuse_own(&pod, &own).map_err(|error| error.to_string())
        };
        for host_ip in [None, Some("127.0.0.1"), Some("192.0.2.1")] {
            for (protocol, port) in [(Protocol::Tcp, 4791), (Protocol::Udp, 4790)] {
                let error = asks(protocol, port, host_ip).expect_err("it is the daemon's");
                assert!(error.contains("portMappings[].hostPort"), "{error}");
                assert!(error.contains(&port.to_string()), "{error}");
                assert!(error.contains("ask for another port"), "{error}");
            }
            assert!(asks(Protocol::Udp, 4791, host_ip).is_ok());
            assert!(asks(Protocol::Tcp, 4790, host_ip).is_ok());
        }
    }
}
