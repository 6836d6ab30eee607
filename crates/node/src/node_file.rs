//! The node file: what the daemon tells the plugin about this node.
//!
//! Owns the file's shape, its place under the run directory, and reading and writing it. Never
//! talks to the daemon: the file is the whole contract but for policies, so that DEL works while
//! the daemon is stopped. The daemon writes it whole and atomically, and only when the node can
//! carry packets; a missing file therefore means "not ready yet".

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use overlay_proto::Protocol;
use serde::{Deserialize, Serialize};

use crate::{bounded_file, whole_file};

/// Name of the node file under the run directory.
pub const FILE_NAME: &str = "node.json";

/// Name of the daemon's admin socket under the run directory: somebody listens there while it runs.
pub const SOCKET_NAME: &str = "culvert.sock";

/// Run directory of a node that is alone on its machine.
pub const DEFAULT_RUN_DIR: &str = "/run/culvert";

/// State directory of a node that is alone on its machine.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/culvert";

/// What the plugin needs to attach a pod to this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeFile {
    /// Name of this node in the subnet table.
    pub node: String,
    /// Bridge that pods are plugged into; its address is the first host address of each subnet.
    pub bridge: String,
    /// MTU of the bridge and of every pod interface, in bytes.
    pub mtu: u16,
    /// Longest super-packet that a pod may hand down, in bytes; the kernel's own limit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gso_max_size: Option<u32>,
    /// Pod subnets of this node, in the order of the subnet table.
    pub subnets: Vec<IpNet>,
    /// Networks that span the cluster, one per family.
    pub cluster_networks: Vec<IpNet>,
    /// Whether the daemon masquerades what pods send out of the cluster; unknown if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masquerade: Option<bool>,
    /// Whether network policies are enforced: the plugin then asks the daemon before a pod's port
    /// goes up ([`crate::pod_admission`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub policy: bool,
    /// Ports on which the daemon listens, whatever it listens for: no pod gets one of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub own_ports: Vec<OwnPort>,
}

/// A port of the node on which the daemon listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnPort {
    /// Its protocol.
    #[serde(with = "crate::protocol")]
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

impl NodeFile {
    /// Path of the node file under `run_dir`.
    #[must_use]
    pub fn path(run_dir: &Path) -> PathBuf {
        run_dir.join(FILE_NAME)
    }

    /// Reads the node file under `run_dir`.
    ///
    /// # Errors
    ///
    /// `NotFound` while the daemon has not been ready yet, `InvalidData` for a file that is not
    /// ours.
    pub fn read(run_dir: &Path) -> io::Result<Self> {
        let text = bounded_file::read(&Self::path(run_dir), bounded_file::SMALL)?;
        serde_json::from_slice(&text)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Writes the node file under `run_dir`, replacing an older one in one step.
    ///
    /// # Errors
    ///
    /// Whatever the file system says.
    pub fn write(&self, run_dir: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        whole_file::write(&Self::path(run_dir), |file| file.write_all(&text))
    }

    /// Removes the node file; one that is already gone is no error.
    ///
    /// # Errors
    ///
    /// Whatever the file system says, except that there is no such file.
    pub fn remove(run_dir: &Path) -> io::Result<()> {
        match fs::remove_file(Self::path(run_dir)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// The bridge's address in `subnet`, and so the default gateway of its pods: the first host
/// address.
#[must_use]
pub fn gateway(subnet: &IpNet) -> IpNet {
    let address: std::net::IpAddr = match subnet {
        IpNet::V4(net) => (u32::from(net.network()).wrapping_add(1)).to_be_bytes().into(),
        IpNet::V6(net) => (u128::from(net.network()).wrapping_add(1)).to_be_bytes().into(),
    };
    IpNet::new_assert(address, subnet.prefix_len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_of_a_daemon_that_named_no_ports_of_its_own_is_read() {
        let older = r#"{"node":"n","bridge":"b","mtu":1400,"subnets":[],"clusterNetworks":[]}"#;
        let mut file: NodeFile = serde_json::from_str(older).unwrap();
        assert_eq!(file.own_ports, []);
        file.own_ports = vec![OwnPort { protocol: Protocol::Udp, port: 4790 }];
        let text = serde_json::to_string(&file).unwrap();
        assert!(text.contains(r#""ownPorts":[{"protocol":"udp","port":4790}]"#), "{text}");
        assert_eq!(serde_json::from_str::<NodeFile>(&text).unwrap(), file);
    }
}
