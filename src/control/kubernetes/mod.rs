//! The subnet table of a Kubernetes cluster: each Node's podCIDRs and addresses.
//!
//! Owns following the Nodes, and what this node says of itself in its own: annotations for its peers,
//! the condition that schedulers go by, and the end of the startup taint. Never takes anything away
//! from the daemon because the API server is away. Runs on the control runtime; while the daemon is
//! slow the watch waits, and one that is left behind (410 Gone) is followed by a new list.

mod client;
mod node;
mod publish;
mod session;

use client::wait_of;
use session::{Ended, Follower};

use super::source::{Backoff, Link, Update};
use crate::config::{Config, Kubernetes};

/// Follows the API server for ever.
pub(super) async fn follow(kubernetes: Kubernetes, config: Config, mut link: Link) {
    let mut backoff = Backoff::new();
    let mut follower = Follower::new(kubernetes, &config);
    loop {
        let mut wait = backoff.wait();
        match follower.session(&mut link, &mut backoff).await {
            Ok(Ended::Asked) => continue,
            Ok(Ended::Gone) => tracing::info!("the API server has forgotten changes; listing anew"),
            Err(error) => {
                wait = wait.max(wait_of(&error));
                link.say(Update::Lost(format!("{error:#}"))).await;
            }
        }
        tokio::time::sleep(wait).await;
    }
}
