//! Which of this node's addresses pods hold: a subnet with such addresses is not given up.

use std::path::Path;

use culvert_cni::ipam;
use ipnet::IpNet;

/// How many addresses in `subnets` pods hold, by the plugin's store under `state_dir`.
///
/// # Errors
///
/// The store cannot be read; whoever asks must then expect that there are some.
pub(in crate::control) fn pods_in(state_dir: &Path, subnets: &[IpNet]) -> anyhow::Result<usize> {
    let Some(mut store) = ipam::Store::open(state_dir)? else { return Ok(0) };
    let held = store.records()?.into_iter().map(|record| record.allocation.address);
    Ok(held.filter(|address| subnets.iter().any(|subnet| subnet.contains(address))).count())
}

#[cfg(test)]
mod tests {
    use culvert_cni::Attachment;

    use super::*;

    #[test]
    fn pods_are_found_in_the_plugins_store() {
        let state = tempfile::tempdir().unwrap();
        let subnets: Vec<IpNet> = vec!["10.244.1.0/24".parse().unwrap()];
        assert_eq!(pods_in(state.path(), &subnets).unwrap(), 0);
        let mut store = ipam::Store::open_or_create(state.path()).unwrap();
        let attachment = Attachment::new("pods", "c1", "eth0").unwrap();
        store.allocate(&attachment, Path::new("/proc/self/ns/net"), &subnets).unwrap();
        assert_eq!(pods_in(state.path(), &subnets).unwrap(), 1);
        assert_eq!(pods_in(state.path(), &["10.244.2.0/24".parse().unwrap()]).unwrap(), 0);
    }
}
