//! Whom the task is to ask, on the way to it from the daemon's main loop.
//!
//! Owns what has changed since the task last looked, of each peer the newest. So whoever tells
//! never waits, ten thousand peers that stay cost nothing, and there is never more here than peers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use culvert_dataplane::engine::NodeEntry;
use foldhash::fast::RandomState;
use tokio::sync::Notify;

use crate::app::view::locked;

/// A peer of the table in force.
#[derive(Clone, Debug)]
pub(super) struct Aim {
    pub(super) node: Arc<NodeEntry>,
    /// What its route promises.
    pub(super) route_mtu: u16,
}

/// What has changed, as long as the task has not looked.
#[derive(Debug, Default)]
pub(super) struct News {
    /// This node, if its entry changed.
    pub(super) local: Option<Arc<NodeEntry>>,
    /// The peers that changed, by address; none for one that left.
    pub(super) peers: HashMap<IpAddr, Option<Aim>, RandomState>,
}

/// Shared by the daemon's main loop and the task.
#[derive(Debug, Default)]
pub(super) struct Aims {
    news: Mutex<News>,
    bell: Notify,
}

impl Aims {
    /// Adds to what the task is told.
    pub(super) fn tell(&self, add: impl FnOnce(&mut News)) {
        add(&mut locked(&self.news));
        self.bell.notify_one();
    }

    /// Waits until there is news.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn changed(&self) {
        self.bell.notified().await;
    }

    /// Takes the news.
    pub(super) fn take(&self) -> News {
        std::mem::take(&mut *locked(&self.news))
    }
}
