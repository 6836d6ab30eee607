//! Whoever is named in a filter and is not there: their packets would be waited for in silence.

use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::Path;

use culvert_node::node_file::gateway;

use crate::observe::{self, PodStatus, Status};

/// Says on standard error who of those that are named is not there. A daemon that does not answer
/// is complained of by whoever asks it next.
pub(super) fn say(run_dir: &Path, pods: &[&str], peer: Option<&str>) {
    if pods.is_empty() && peer.is_none() {
        return;
    }
    let (Ok(status), Ok(known)) = (observe::query(run_dir), observe::pods(run_dir)) else { return };
    for absent in absent(&status, &known, pods, peer) {
        // Where standard error is gone there is nobody left to tell.
        let _ = writeln!(io::stderr().lock(), "{absent}; waiting all the same");
    }
}

fn absent(status: &Status, known: &[PodStatus], pods: &[&str], peer: Option<&str>) -> Vec<String> {
    let mut absent = Vec::new();
    if let Some(peer) = peer.filter(|name| status.peers.iter().all(|it| it.name != *name)) {
        absent.push(format!("no peer is called \"{peer}\" (`culvert status --all` lists them)"));
    }
    for pod in pods {
        let is_known = match pod.parse::<IpAddr>() {
            Ok(address) => is_somebodys(status, known, address),
            Err(_) => known.iter().any(|it| it.name().starts_with(pod)),
        };
        if !is_known {
            absent.push(format!(
                "no pod of this node is {pod}, and none of another that it knows of \
                 (`culvert ipam list` lists its own)"
            ));
        }
    }
    absent
}

/// Whether a pod of this node has the address, or the node itself, or it is of another node, of
/// whose pods nothing is known here.
fn is_somebodys(status: &Status, known: &[PodStatus], address: IpAddr) -> bool {
    let is_remote = || {
        let mut subnets = status.peers.iter().flat_map(|peer| &peer.subnets);
        subnets.any(|subnet| subnet.contains(&address))
    };
    let own = status.subnets.iter().find(|subnet| subnet.contains(&address));
    match own {
        Some(own) => {
            address == gateway(own).addr()
                || address == own.network()
                || known.iter().any(|pod| pod.addresses.contains(&address))
        }
        None => is_remote(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_not_there_is_named() {
        let peer = serde_json::json!({
            "name": "node2", "address": "192.168.1.12", "subnets": ["10.244.2.0/24"],
            "codec": "vxlan-gpe", "port": 4790, "mtu": 1464, "last_heard_seconds": null,
            "egress": { "packets": 0, "bytes": 0 }, "ingress": { "packets": 0, "bytes": 0 },
        });
        let status = Status {
            subnets: vec!["10.244.1.0/24".parse().unwrap()],
            peers: vec![serde_json::from_value(peer).unwrap()],
            ..Status::default()
        };
        let known = [PodStatus {
            network: "pods".to_owned(),
            container: "4f1d2c".to_owned(),
            interface: "eth0".to_owned(),
            device: "culv1a2b3c4d".to_owned(),
            addresses: vec!["10.244.1.2".parse().unwrap()],
        }];
        let named = |pods: &[&str], peer| absent(&status, &known, pods, peer);
        let there = ["10.244.1.2", "10.244.1.1", "10.244.1.0", "10.244.2.77", "4f1d"];
        assert_eq!(named(&there, Some("node2")), Vec::<String>::new());
        assert!(named(&[], Some("node9"))[0].contains("no peer is called \"node9\""));
        for nobody in ["10.244.1.99", "10.9.9.9", "web"] {
            let said = named(&[nobody], None);
            assert!(said[0].starts_with(&format!("no pod of this node is {nobody},")), "{said:?}");
        }
    }
}
