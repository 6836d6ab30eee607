//! Which of this node's addresses pods hold: a subnet with such addresses is not given up.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use culvert_cni::ipam;
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

/// The addresses in `subnets` that pods hold, by the plugin's store under `state_dir`. Waits for the
/// disk on a thread of its own.
pub(in crate::control) async fn held_addresses(
    state_dir: PathBuf,
    subnets: Vec<IpNet>,
) -> Result<Vec<HeldAddress>, PodsUnknown> {
    Ok(tokio::task::spawn_blocking(move || read(&state_dir, &subnets)).await??)
}

fn read(state_dir: &Path, subnets: &[IpNet]) -> Result<Vec<HeldAddress>, ipam::Error> {
    let Some(mut store) = ipam::Store::open(state_dir)? else { return Ok(Vec::new()) };
    let held = store.records()?.into_iter().map(|record| HeldAddress {
        address: record.allocation.address,
        container: record.attachment.container().to_owned(),
    });
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
    use culvert_cni::Attachment;

    use super::*;

    #[tokio::test]
    async fn pods_are_found_in_the_plugins_store_and_named() {
        let state = tempfile::tempdir().unwrap();
        let subnets: Vec<IpNet> = vec!["10.244.1.0/24".parse().unwrap()];
        let found = |subnets| held_addresses(state.path().to_owned(), subnets);
        assert_eq!(found(subnets.clone()).await.unwrap(), []);
        let mut store = ipam::Store::open_or_create(state.path()).unwrap();
        for number in 0..7 {
            let attachment = Attachment::new("pods", &format!("c{number}"), "eth0").unwrap();
            store.allocate(&attachment, Path::new("/proc/self/ns/net"), &subnets).unwrap();
        }
        let held = found(subnets).await.unwrap();
        assert_eq!(held.len(), 7);
        assert_eq!(list_pods(&held[..1]), format!("{} of container c0", held[0].address));
        assert!(list_pods(&held).ends_with("of container c4 and 2 more"), "{}", list_pods(&held));
        assert_eq!(found(vec!["10.244.2.0/24".parse().unwrap()]).await.unwrap(), []);
    }
}
