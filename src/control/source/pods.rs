//! Which of this node's addresses pods hold: a subnet with such addresses is not given up.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use culvert_node::ipam::{self, Survey, Surveyor};
use ipnet::IpNet;
use thiserror::Error;
use tokio::task::JoinError;

/// Pods that a message names; more are counted.
const NAMED: usize = 5;

/// An address that a pod holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldAddress {
    /// The address.
    pub address: IpAddr,
    /// Id of the pod's container, as the container runtime knows it.
    pub container: String,
}

/// Whether pods hold addresses cannot be known; whoever asks must then expect that they do.
#[derive(Debug, Error)]
pub enum PodsUnknown {
    /// The plugin's store cannot be read.
    #[error(transparent)]
    Store(#[from] ipam::Error),
    /// The look-up has ended without an answer.
    #[error("looking into the address store: {0}")]
    Stopped(#[from] JoinError),
}

/// The addresses in `subnets` that pods hold, by the notes on their ports and by the plugin's store under
/// `state_dir`. Waits for kernel and disk on a thread of its own.
pub(in crate::control) async fn held_addresses(
    state_dir: PathBuf,
    subnets: Vec<IpNet>,
) -> Result<Vec<HeldAddress>, PodsUnknown> {
    let look =
        tokio::task::spawn_blocking(move || read(&state_dir, &subnets, &mut Surveyor::open()?));
    Ok(look.await??)
}

fn read(
    state_dir: &Path,
    subnets: &[IpNet],
    survey: &mut dyn Survey,
) -> Result<Vec<HeldAddress>, ipam::Error> {
    let mut held: BTreeMap<IpAddr, String> = BTreeMap::new();
    if let Some(mut store) = ipam::Store::open(state_dir)? {
        let records = store.records()?.into_iter();
        held.extend(
            records.map(|record| {
                (record.allocation.address, record.attachment.container().to_owned())
            }),
        );
    }
    // A store that was lost says nothing of the pods that run.
    for (pod, net) in survey.look()?.addresses() {
        held.entry(net.addr()).or_insert_with(|| pod.owner().container().to_owned());
    }
    let held = held.into_iter().map(|(address, container)| HeldAddress { address, container });
    Ok(held.filter(|held| subnets.iter().any(|subnet| subnet.contains(&held.address))).collect())
}

/// The pods in words for an operator: each address with the beginning of its container's id.
pub(in crate::control) fn list_pods(held: &[HeldAddress]) -> String {
    let mut text = String::new();
    for HeldAddress { address, container } in held.iter().take(NAMED) {
        let separator = if text.is_empty() { "" } else { ", " };
        let id: String = container.chars().take(13).collect();
        // Writing to a string cannot fail.
        let _ = write!(text, "{separator}{address} of container {id}");
    }
    match held.len().saturating_sub(NAMED) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use culvert_node::Attachment;
    use culvert_node::ipam::{Ports, Request};
    use culvert_node::pod_port::PodPort;

    use super::*;

    #[test]
    fn pods_are_found_in_the_plugins_store_and_named() {
        let state = tempfile::tempdir().unwrap();
        let subnets: Vec<IpNet> = vec!["10.244.1.0/24".parse().unwrap()];
        let found = |subnets: &[IpNet]| read(state.path(), subnets, &mut Ports::default()).unwrap();
        assert_eq!(found(&subnets), []);
        let mut no_ports = Ports::default();
        let mut store = ipam::Store::open_or_create(state.path(), &mut no_ports).unwrap();
        let request = Request::one_of_each_family(&subnets);
        let netns = Path::new("/proc/self/ns/net");
        for number in 0..7 {
            let attachment = Attachment::new("pods", &format!("c{number}"), "eth0").unwrap();
            store.allocate(&attachment, netns, &request, &mut no_ports).unwrap();
        }
        let held = found(&subnets);
        assert_eq!(held.len(), 7);
        assert_eq!(list_pods(&held[..1]), format!("{} of container c0", held[0].address));
        assert!(list_pods(&held).ends_with("of container c4 and 2 more"), "{}", list_pods(&held));
        assert_eq!(found(&["10.244.2.0/24".parse().unwrap()]), []);
    }

    #[test]
    fn pods_are_found_by_their_ports_when_the_store_is_lost() {
        let state = tempfile::tempdir().unwrap();
        let note = "culvert pod 0a:58:0a:f4:01:02 checked 10.244.1.2/24 pods/c1/eth0";
        let pods = PodPort::from_note("culv0", note).into_iter().collect();
        let mut ports = Ports { pods, ..Ports::default() };
        let held = read(state.path(), &["10.244.1.0/24".parse().unwrap()], &mut ports).unwrap();
        assert_eq!(list_pods(&held), "10.244.1.2 of container c1");
    }
}
