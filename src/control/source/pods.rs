//! Which of this node's addresses pods hold: a subnet with such addresses is not given up.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use culvert_cni::ipam::{self, Survey, Surveyor};
use ipnet::IpNet;

/// How many addresses in `subnets` pods hold, by the notes on their ports and by the plugin's store
/// under `state_dir`.
///
/// # Errors
///
/// The kernel does not answer, or the store cannot be read; whoever asks must then expect that there
/// are some.
pub(in crate::control) fn pods_in(state_dir: &Path, subnets: &[IpNet]) -> anyhow::Result<usize> {
    Ok(count(state_dir, subnets, &mut Surveyor::open()?)?)
}

fn count(
    state_dir: &Path,
    subnets: &[IpNet],
    survey: &mut dyn Survey,
) -> Result<usize, ipam::Error> {
    let ports = survey.look()?;
    let mut held: BTreeSet<IpAddr> = ports.addresses().map(|(_, net)| net.addr()).collect();
    if let Some(mut store) = ipam::Store::open(state_dir)? {
        held.extend(store.records()?.into_iter().map(|record| record.allocation.address));
    }
    let is_ours = |address: &&IpAddr| subnets.iter().any(|subnet| subnet.contains(*address));
    Ok(held.iter().filter(is_ours).count())
}

#[cfg(test)]
mod tests {
    use culvert_cni::Attachment;
    use culvert_cni::ipam::{Ports, Request};
    use culvert_cni::pod_port::PodPort;

    use super::*;

    #[test]
    fn pods_are_found_in_the_plugins_store_and_on_their_ports() {
        let state = tempfile::tempdir().unwrap();
        let subnets: Vec<IpNet> = vec!["10.244.1.0/24".parse().unwrap()];
        let mut no_ports = Ports::default();
        assert_eq!(count(state.path(), &subnets, &mut no_ports).unwrap(), 0);
        // The store is lost, and a pod runs.
        let note = "culvert pod 0a:58:0a:f4:01:02 checked 10.244.1.2/24 pods/c1/eth0";
        let pods = PodPort::from_note("culv0", note).into_iter().collect();
        let mut ports = Ports { pods, ..Ports::default() };
        assert_eq!(count(state.path(), &subnets, &mut ports).unwrap(), 1);

        let mut store = ipam::Store::open_or_create(state.path(), &mut no_ports).unwrap();
        let attachment = Attachment::new("pods", "c1", "eth0").unwrap();
        let netns = Path::new("/proc/self/ns/net");
        let request = Request::one_of_each_family(&subnets);
        store.allocate(&attachment, netns, &request, &mut no_ports).unwrap();
        assert_eq!(count(state.path(), &subnets, &mut no_ports).unwrap(), 1);
        assert_eq!(count(state.path(), &subnets, &mut ports).unwrap(), 1, "the same address");
        let others = ["10.244.2.0/24".parse().unwrap()];
        assert_eq!(count(state.path(), &others, &mut ports).unwrap(), 0);
    }
}
