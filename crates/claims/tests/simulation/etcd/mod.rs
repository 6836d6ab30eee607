//! Nodes that claim their subnets in one etcd.

mod checks;
mod marks;
mod node;
mod protocol;
mod store;
mod trouble;

use std::time::Duration;

use culvert_claims::Parameters;
use culvert_claims::etcd::Identity;
use overlay_proto::Vni;

use self::store::{Data, Store};
use self::trouble::Written;
use crate::random::Random;

const PREFIX: &str = "/c";

/// The key of what all nodes share.
fn config() -> String {
    format!("{PREFIX}/config")
}

/// The store, and what the run keeps of it.
pub(crate) struct Etcd {
    store: Store,
    backup: Option<Data>,
    /// What every node is told by its configuration.
    identity: Identity,
    written: Written,
    /// Counts the disks.
    disks: u64,
    /// Nodes with the name of another, and nodes with a copy of another's disk.
    twins: Vec<usize>,
    clones: Vec<usize>,
    /// Addresses that nodes moved to.
    moves: u64,
}

impl Etcd {
    fn draw(random: &mut Random) -> Self {
        let lease = Duration::from_secs(random.between(5, 60));
        let mut identity = Identity { prefix: PREFIX.into(), lease, parameters: None };
        let mut networks = vec!["10.244.0.0/20"];
        if random.percent(30) {
            networks.push("fd00:10:244::/48");
        }
        let written = Written { networks, vni: 1, len: 24 };
        let mut store = Store::new();
        if random.percent(50) {
            let cidrs = written.networks.iter().map(|net| net.parse().unwrap()).collect();
            identity.parameters = Some(Parameters { cidrs, vni: Vni::new(1).unwrap(), port: 4790 });
        } else {
            store.put(&config(), &written.text());
        }
        Self {
            store,
            backup: None,
            identity,
            written,
            disks: 0,
            twins: Vec::new(),
            clones: Vec::new(),
            moves: 0,
        }
    }
}
