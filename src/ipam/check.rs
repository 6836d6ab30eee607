//! `culvert ipam check`: does the store say what the node is like?

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use culvert_node::ipam::{Ports, Pulse, Record, Survey as _, Surveyor};
use culvert_node::words::counted;
use ipnet::IpNet;
use serde::Serialize;

use super::{elsewhere, open, subnets};

/// What was looked at and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// How many addresses are held.
    pub addresses: usize,
    /// Why nothing was compared, if nothing was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_compared: Option<String>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Something that is not as it should be, or could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// The address that it is about, if it is about one.
    pub address: Option<IpAddr>,
    /// What is wrong, and the way out.
    pub what: String,
}

/// Compares the store under `state_dir` with the notes on pods' ports, and with the node's subnets:
/// those that are `named`, or else those of the node file.
///
/// # Errors
///
/// An unusable store, no node file, or a kernel that does not answer.
pub(crate) fn check(state_dir: &Path, run_dir: &Path, named: &[IpNet]) -> anyhow::Result<Check> {
    let mut store = open(state_dir)?;
    let subnets = subnets(named, run_dir)?;
    let mut findings: Vec<Finding> = store
        .faults()?
        .into_iter()
        .map(|fault| Finding {
            address: None,
            what: format!("the store is damaged: {fault}; see `culvert ipam rebuild`"),
        })
        .collect();
    let records = store.records()?;
    let ports = Surveyor::open()?.look()?;
    let pulses: Vec<(&Record, Pulse)> =
        records.iter().map(|record| (record, Pulse::of(record, &ports))).collect();
    let not_compared = match pulses.first() {
        Some((record, _)) if pulses.iter().all(|(_, pulse)| *pulse == Pulse::Elsewhere) => {
            Some(elsewhere(record))
        }
        _ => None,
    };
    if not_compared.is_none() {
        findings.extend(compare(&pulses, &ports, &subnets));
    }
    Ok(Check { addresses: records.len(), not_compared, findings })
}

/// The differences, by address.
fn compare(pulses: &[(&Record, Pulse)], ports: &Ports, subnets: &[IpNet]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (record, pulse) in pulses {
        let (address, holder) = (record.allocation.address, &record.attachment);
        let device = &record.host_device;
        let mut find = |what: String| findings.push(Finding { address: Some(address), what });
        match pulse {
            Pulse::Gone => find(format!(
                "held by {holder}, whose device {device} is gone: the daemon frees it within minutes, \
                 `culvert ipam free {address}` at once"
            )),
            Pulse::Unknown => find(format!(
                "held by {holder}, of which neither namespace nor device is known: `culvert ipam \
                 free {address}` if it is gone",
            )),
            Pulse::Elsewhere => {
                find(format!("held by {holder}, not compared: {}", elsewhere(record)))
            }
            Pulse::Alive if !ports.devices.contains_key(device) => find(format!(
                "held by {holder}, whose namespace {} is there but not its device {device}: delete \
                 the pod",
                record.netns.path.display()
            )),
            Pulse::Alive => {
                let note = ports.pods.iter().find(|pod| pod.device == *device);
                if note.is_some_and(|pod| pod.addresses.iter().all(|net| net.addr() != address)) {
                    find(format!(
                        "held by {holder}, but the note on its device {device} does not have it: \
                         delete the pod"
                    ));
                }
            }
        }
        if !subnets.iter().any(|subnet| subnet.contains(&address)) {
            find(format!(
                "held by {holder}, but in none of this node's subnets: other nodes do not send it \
                 here. Delete the pod, or give the node the subnet {} back",
                record.allocation.subnet
            ));
        }
    }
    for (pod, net) in ports.addresses() {
        let (address, owner) = (net.addr(), pod.owner());
        let holder = pulses.iter().find(|(record, _)| record.allocation.address == address);
        let what = match holder {
            Some((record, _)) if record.host_device == pod.device => continue,
            Some((record, _)) => format!(
                "used by {owner} (device {}), but held by {}: delete one of them",
                pod.device, record.attachment
            ),
            None => format!(
                "used by {owner}, but the store does not hold it: the daemon writes it down within a \
                 minute, `culvert ipam rebuild` at once"
            ),
        };
        findings.push(Finding { address: Some(address), what });
    }
    findings
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            match finding.address {
                Some(address) => writeln!(f, "{address}: {}", finding.what)?,
                None => writeln!(f, "{}", finding.what)?,
            }
        }
        if let Some(reason) = &self.not_compared {
            return write!(f, "nothing was compared, because {reason}");
        }
        match self.findings.len() {
            0 => write!(f, "good: {}, each with its pod", counted(self.addresses, "address")),
            count => {
                let addresses = counted(self.addresses, "address");
                write!(f, "{} about {addresses}", counted(count, "finding"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use culvert_node::Attachment;
    use culvert_node::ipam::{Request, Store};
    use culvert_node::pod_port::PodPort;

    use super::*;

    fn pod(container: &str, address: &str) -> PodPort {
        let attachment = Attachment::new("pods", container, "eth0").unwrap();
        let device = attachment.host_device();
        let note = format!("culvert pod 0a:58:00:00:00:01 checked {address} pods/{container}/eth0");
        PodPort::from_note(&device, &note).unwrap()
    }

    fn node(pods: &[PodPort]) -> Ports {
        Ports {
            devices: pods.iter().map(|pod| (pod.device.clone(), None)).collect(),
            pods: pods.to_vec(),
            netns: 7,
            boot: "this".to_owned(),
        }
    }

    /// The findings about a store that has pod c1 with 10.0.0.2, on a node with these ports.
    fn found(ports: &Ports) -> Vec<String> {
        let state = tempfile::tempdir().unwrap();
        let mut store = Store::open_or_create(state.path(), &mut node(&[])).unwrap();
        let subnets: Vec<IpNet> = vec!["10.0.0.0/24".parse().unwrap()];
        let request = Request::one_of_each_family(&subnets);
        let attachment = Attachment::new("pods", "c1", "eth0").unwrap();
        // The namespace cannot be seen from here, as in a container.
        let netns = Path::new("/nonexistent/netns");
        store.allocate(&attachment, netns, &request, &mut node(&[])).unwrap();
        let records = store.records().unwrap();
        let pulses: Vec<_> =
            records.iter().map(|record| (record, Pulse::of(record, ports))).collect();
        let findings = compare(&pulses, ports, &subnets);
        findings.into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn pods_whose_namespaces_cannot_be_seen_are_healthy_by_their_notes() {
        assert_eq!(found(&node(&[pod("c1", "10.0.0.2/24")])), Vec::<String>::new());
    }

    #[test]
    fn each_difference_is_named_with_its_remedy() {
        let healthy = pod("c1", "10.0.0.2/24");
        for (pods, part) in [
            (vec![], "is gone: the daemon frees it"),
            (vec![pod("c1", "10.0.0.9/24")], "does not have it: delete the pod"),
            (vec![healthy.clone(), pod("c2", "10.0.0.3/24")], "the store does not hold it"),
            (vec![healthy, pod("c2", "10.0.0.2/24")], "delete one of them"),
        ] {
            let found = found(&node(&pods));
            assert!(found.iter().any(|what| what.contains(part)), "{part:?}: {found:?}");
        }
    }

    #[test]
    fn ports_of_another_network_namespace_are_not_called_gone() {
        let found = found(&Ports { netns: 8, ..node(&[]) });
        assert!(found[0].contains("not compared") && found[0].contains("network namespace 7"));
    }
}
