//! The subnet table in etcd: every node claims its part, and follows the others'.
//!
//! Owns the connection, the lease and the claim of this node, and tells the daemon what the other
//! nodes' claims say. Never takes anything away from the daemon because etcd is away. Any failure
//! ends a session; the next one, with another member, reads everything anew, so that there is one way
//! from etcd to the table and no state to repair. Runs on the control runtime; while the daemon is
//! slow the watch waits, and one that is left behind (a compaction) is a failure like any other.

mod address;
mod choose;
mod claim;
mod client;
mod database;
mod keys;
mod memory;
mod rpc;
mod session;
mod store;

use session::{Ended, Follower};

use super::source::{Backoff, Link, Update};
use crate::config::{Config, Etcd};

/// Follows etcd for ever.
pub(super) async fn follow(etcd: Etcd, config: Config, link: Link) {
    let mut backoff = Backoff::new();
    let mut follower = loop {
        match Follower::open(&etcd, &config) {
            Ok(follower) => break follower,
            Err(error) => link.say(Update::Lost(format!("{error:#}"))).await,
        }
        tokio::time::sleep(backoff.wait()).await;
    };
    follower.run(link, backoff).await;
}

impl Follower {
    async fn run(&mut self, mut link: Link, mut backoff: Backoff) {
        for attempt in 0.. {
            let url = self.endpoint(attempt);
            match self.session(&url, &mut link, &mut backoff).await {
                Ok(Ended::Asked) => continue,
                Ok(Ended::Raced) => {}
                Err(error) => link.say(Update::Lost(format!("{error:#}"))).await,
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.wait()) => {}
                // Whoever asks for a reading has reason to believe that it works now.
                changed = link.wishes.changed() => if changed.is_err() { return },
            }
        }
    }
}
