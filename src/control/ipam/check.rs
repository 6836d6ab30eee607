//! `culvert ipam check`: does the store say what the node is like?

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use culvert_cni::ipam::{LivePod, Pulse, Pulses, Record, live_pods};
use ipnet::IpNet;
use serde::Serialize;

use super::{open, subnets};

/// What was looked at and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// How many addresses are held.
    pub addresses: usize,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The address that it is about, if it is about one.
    pub address: Option<IpAddr>,
    /// What is wrong, and the way out.
    pub what: String,
}

/// Compares the store under `state_dir` with the namespaces and devices of this node, and with its
/// subnets: those that are `named`, or else those of the node file.
///
/// # Errors
///
/// An unusable store, no node file, or a kernel that does not answer.
pub fn check(state_dir: &Path, run_dir: &Path, named: &[IpNet]) -> anyhow::Result<Check> {
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
    let pulses = Pulses::open()?.of_all(&mut store)?;
    let pods = live_pods()?;
    findings.extend(compare(&pulses, &pods, &subnets));
    Ok(Check { addresses: pulses.len(), findings })
}

/// The differences, by address, and then by device.
fn compare(pulses: &[(Record, Pulse)], pods: &[LivePod], subnets: &[IpNet]) -> Vec<Finding> {
    let by_device: BTreeMap<&str, &LivePod> =
        pods.iter().map(|pod| (pod.host_device.as_str(), pod)).collect();
    let mut findings = Vec::new();
    for (record, pulse) in pulses {
        let (address, holder) = (record.allocation.address, &record.attachment);
        let mut find = |what: String| findings.push(Finding { address: Some(address), what });
        let netns = record.netns.path.display();
        match (pulse, by_device.get(record.host_device.as_str())) {
            (Pulse::Gone, _) => find(format!(
                "held by {holder}, whose namespace {netns} and device {} are gone: the daemon frees \
                 it soon, `culvert ipam free {address}` at once",
                record.host_device
            )),
            (Pulse::Unknown, _) => find(format!(
                "held by {holder}, of which neither namespace nor device is known: `culvert ipam \
                 free {address}` if it is gone",
            )),
            (Pulse::Alive, None) => find(format!(
                "held by {holder}, whose namespace {netns} is there but not its device {}: delete \
                 the pod",
                record.host_device
            )),
            (Pulse::Alive, Some(pod)) => {
                if !pod.addresses.iter().any(|net| net.addr() == address) {
                    find(format!(
                        "held by {holder}, but its interface does not have it: delete the pod"
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
    let held: BTreeSet<(&str, IpAddr)> = pulses
        .iter()
        .map(|(record, _)| (record.host_device.as_str(), record.allocation.address))
        .collect();
    for pod in pods {
        // What does not say whose it is belongs to somebody else.
        let Some(attachment) = &pod.attachment else {
            continue;
        };
        for address in pod.addresses.iter().map(IpNet::addr) {
            let ours = subnets.iter().any(|subnet| subnet.contains(&address));
            if ours && !held.contains(&(pod.host_device.as_str(), address)) {
                findings.push(Finding {
                    address: Some(address),
                    what: format!(
                        "used by {attachment}, but the store does not hold it for that pod: delete \
                         the pod, or see `culvert ipam rebuild`"
                    ),
                });
            }
        }
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
        match self.findings.len() {
            0 => write!(f, "good: {} addresses, each with its pod", self.addresses),
            count => write!(f, "{count} findings about {} addresses", self.addresses),
        }
    }
}
