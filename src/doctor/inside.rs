//! How to get into the network namespace of a pod: by a process in it, or else by its name.
//!
//! The kernel numbers the namespaces at the other ends of cables; a process's namespace, or one
//! that has a name, is asked for its number. That is done only for pods with which something is
//! wrong.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use culvert_netlink::{Link, Rtnetlink, Socket};

use super::facts::AskedPod;
use crate::platform::arp::Claim;

/// Where namespaces have names.
const NAMED: &str = "/run/netns";

/// Finds the way into those of `pods` that will be named with a remedy.
pub(super) fn find(pods: &mut [AskedPod], claims: &[Claim], links: &[Link]) {
    let is_ill = |pod: &AskedPod| {
        !pod.near || pod.far == Some(false) || claims.iter().any(|claim| claim.link == pod.link)
    };
    let mut wanted: Vec<(&mut AskedPod, i32)> = pods
        .iter_mut()
        .filter(|pod| is_ill(pod))
        .filter_map(|pod| {
            let link = links.iter().find(|link| link.index == pod.link)?;
            Some((pod, link.peer?.netns))
        })
        .collect();
    if wanted.is_empty() {
        return;
    }
    // Whoever cannot be asked leaves pods without.
    let Ok(mut socket) = Socket::<Rtnetlink>::open() else { return };
    let mut enter = |path: &Path, way: String| {
        let Ok(file) = File::open(path) else { return };
        let Ok(Some(number)) = socket.number_of(file.as_fd()) else { return };
        for (pod, netns) in &mut wanted {
            if *netns == number && pod.way_in.is_none() {
                pod.way_in = Some(way.clone());
            }
        }
    };
    let mut seen = BTreeSet::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let path = entry.path().join("ns/net");
        let Ok(namespace) = fs::metadata(&path) else { continue };
        if seen.insert((namespace.dev(), namespace.ino())) {
            enter(&path, format!("nsenter -n -t {pid}"));
        }
    }
    for entry in fs::read_dir(NAMED).into_iter().flatten().flatten() {
        let way = format!("ip netns exec {}", entry.file_name().to_string_lossy());
        enter(&entry.path(), way);
    }
}
