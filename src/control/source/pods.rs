//! Which of this node's addresses pods hold: a subnet with such addresses is not given up.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use culvert_claims::{HeldAddress, PodsUnknown};
use culvert_node::ipam::{self, Survey, Surveyor};
use ipnet::IpNet;
use thiserror::Error;
use tokio::task::JoinError;

/// Why the look-up has no answer.
#[derive(Debug, Error)]
enum LookError {
    /// The plugin's store cannot be read.
    #[error(transparent)]
    Store(#[from] ipam::Error),
    /// The look-up has ended without an answer.
    #[error("looking into the address store: {0}")]
    Stopped(#[from] JoinError),
}

/// The addresses in `subnets` that pods hold, by the notes on their ports and by the plugin's store
/// under `state_dir`. Waits for kernel and disk on a thread of its own.
pub(in crate::control) async fn held_addresses(
    state_dir: PathBuf,
    subnets: Vec<IpNet>,
) -> Result<Vec<HeldAddress>, PodsUnknown> {
    let look =
        tokio::task::spawn_blocking(move || read(&state_dir, &subnets, &mut Surveyor::open()?));
    let found = look.await.map_err(LookError::from);
    found.and_then(|held| Ok(held?)).map_err(PodsUnknown::new)
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
    let held = held.into_iter();
    let held = held.map(|(address, container)| HeldAddress::of_container(address, container));
    Ok(held.filter(|held| subnets.iter().any(|subnet| subnet.contains(&held.address))).collect())
}

#[cfg(test)]
mod tests {
    use culvert_node::Attachment;
    use culvert_node::ipam::{Ports, Request};
    use culvert_node::pod_port::PodPort;

    use super::*;

    #[test]
    fn pods_are_found_in_the_plugins_store() {
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
        assert_eq!(held[0].container, "c0");
        assert_eq!(found(&["10.244.2.0/24".parse().unwrap()]), []);
    }

    #[test]
    fn pods_are_found_by_their_ports_when_the_store_is_lost() {
        let state = tempfile::tempdir().unwrap();
        let note = "culvert pod 0a:58:0a:f4:01:02 checked 10.244.1.2/24 pods/c1/eth0";
        let pods = PodPort::from_note("culv0", note).into_iter().collect();
        let mut ports = Ports { pods, ..Ports::default() };
        let held = read(state.path(), &["10.244.1.0/24".parse().unwrap()], &mut ports).unwrap();
        let pod = HeldAddress::of_container([10, 244, 1, 2].into(), "c1".into());
        assert_eq!(held, [pod]);
    }
}
