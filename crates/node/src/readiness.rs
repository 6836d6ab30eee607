//! Whether this node can take pods: what STATUS answers, and what an installer waits for.
//!
//! Looks at the node file, the daemon's socket and the bridge, in this order, and opens no store: a
//! runtime asks every few seconds, so the answer must cost next to nothing.

use std::io;
use std::path::Path;
use std::time::Duration;

use thiserror::Error;

use crate::ipam::{DATABASE, DIRECTORY, Survey as _, Surveyor};
use crate::node_file::{NodeFile, SOCKET_NAME};
use crate::{Socket, private_socket};

/// How long a daemon may take to give a place in its queue. It takes one only when it is stopped,
/// and a runtime that waits for an answer asks for nothing else meanwhile.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why a node cannot take pods.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotReady {
    /// No pod can be added, and there was none before.
    #[error("{0}")]
    Unavailable(String),
    /// No pod can be added, and those that there are may not reach others.
    #[error("{0}")]
    Limited(String),
}

/// Says why the node whose daemon uses `run_dir`, and whose plugin uses `state_dir`, is not ready.
///
/// # Errors
///
/// It is not ready.
pub fn check(run_dir: &Path, state_dir: &Path) -> Result<(), NotReady> {
    let path = NodeFile::path(run_dir);
    let node = NodeFile::read(run_dir).map_err(|error| {
        let reason = if error.kind() == io::ErrorKind::NotFound {
            format!("{} does not exist. Start the daemon (`culvert run`)", path.display())
        } else {
            format!(
                "the node file {} cannot be read ({error}). Restart the daemon (`culvert run`)",
                path.display()
            )
        };
        if had_pods(state_dir) { NotReady::Limited(reason) } else { NotReady::Unavailable(reason) }
    })?;
    let socket = run_dir.join(SOCKET_NAME);
    private_socket::connect(&socket, PATIENCE).map_err(|error| {
        NotReady::Limited(if error.kind() == io::ErrorKind::WouldBlock {
            format!(
                "the daemon has not taken a connection at {} for {PATIENCE:?}: it is stopped. Let \
                 it go on (SIGCONT), or restart it (`culvert run`)",
                socket.display()
            )
        } else {
            format!(
                "nobody answers at {} ({error}). Start the daemon again (`culvert run`)",
                socket.display()
            )
        })
    })?;
    let bridge = Socket::open()
        .and_then(|mut socket| socket.link(&node.bridge))
        .map_err(|error| NotReady::Unavailable(error.to_string()))?;
    match bridge {
        Some(bridge) if bridge.up => Ok(()),
        Some(_) => Err(NotReady::Limited(format!(
            "bridge {} is down. Set it up, or restart the daemon (`culvert run`)",
            node.bridge
        ))),
        None => Err(NotReady::Limited(format!(
            "bridge {} does not exist. Restart the daemon (`culvert run`), which makes it",
            node.bridge
        ))),
    }
}

/// Whether there was a pod: the store appears with the first, and each running one has its port.
fn had_pods(state_dir: &Path) -> bool {
    let has_ports = || Surveyor::open()?.look().map(|ports| !ports.pods.is_empty());
    state_dir.join(DIRECTORY).join(DATABASE).exists() || has_ports().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stopped_daemon_is_said_to_be_stopped_and_keeps_nobody_waiting() {
        let directory = tempfile::tempdir().unwrap();
        let node = NodeFile {
            node: "node1".to_owned(),
            bridge: "culvert0".to_owned(),
            mtu: 1450,
            gso_max_size: None,
            subnets: Vec::new(),
            cluster_networks: Vec::new(),
            masquerade: None,
            policy: false,
            own_ports: Vec::new(),
        };
        node.write(directory.path()).unwrap();
        let _stopped = private_socket::listen_stopped(&directory.path().join(SOCKET_NAME));
        let error = check(directory.path(), directory.path()).unwrap_err();
        let NotReady::Limited(why) = error else { panic!("{error:?}") };
        assert!(why.contains("has not taken a connection"), "{why}");
    }
}
