//! What goes wrong in etcd, and with machines that share a name, an address or a disk.

use std::time::Duration;

use super::marks;
use super::node::address;
use super::{Etcd, PREFIX, config};
use crate::harness::{Fault, Happening, Held, Trouble as Any, World};

/// A thing that goes wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trouble {
    /// A backup is made.
    Backup,
    /// The backup becomes the database.
    Restore,
    /// The database begins anew.
    Empty,
    /// Every key is deleted.
    DeleteAll,
    /// Changes that nodes were not told yet are forgotten.
    Compact,
    /// A machine gets a new disk.
    Reinstall,
    /// Another machine has the name of a node.
    Twin,
    /// Another machine has a copy of a node's disk.
    Clone,
    /// A node gets another address.
    Move,
    /// Two nodes exchange their addresses.
    Swap,
    /// A lease is revoked.
    Revoke,
    /// A claim is deleted.
    DeleteClaim,
    /// A claim is written over.
    Thief,
    /// Half a claim is written.
    Garbage,
    /// A subnet is reserved.
    Reserve,
    /// The operator wants subnets of another length,
    SubnetLen,
    /// wider pod networks,
    Widen,
    /// another network identifier.
    Vni,
}

pub(super) const TROUBLES: &[Any<Trouble>] = &[
    Any::Fault(Fault::Cut),
    Any::Fault(Fault::Down),
    Any::Own(Trouble::Backup),
    Any::Own(Trouble::Restore),
    Any::Own(Trouble::Empty),
    Any::Own(Trouble::DeleteAll),
    Any::Own(Trouble::Compact),
    Any::Fault(Fault::Restart),
    Any::Fault(Fault::Away),
    Any::Own(Trouble::Reinstall),
    Any::Own(Trouble::Twin),
    Any::Own(Trouble::Clone),
    Any::Own(Trouble::Move),
    Any::Own(Trouble::Swap),
    Any::Fault(Fault::Jump),
    Any::Fault(Fault::Freeze),
    Any::Own(Trouble::Revoke),
    Any::Own(Trouble::DeleteClaim),
    Any::Own(Trouble::Thief),
    Any::Own(Trouble::Garbage),
    Any::Own(Trouble::Reserve),
    Any::Own(Trouble::SubnetLen),
    Any::Own(Trouble::Widen),
    Any::Own(Trouble::Vni),
    Any::Fault(Fault::Reload),
];

/// What the operator wrote for all nodes.
#[derive(Clone)]
pub(super) struct Written {
    pub(super) networks: Vec<&'static str>,
    pub(super) vni: u32,
    pub(super) len: u8,
}

impl Written {
    pub(super) fn text(&self) -> String {
        format!(
            r#"{{"cidrs":["{}"],"vni":{},"port":4790,"subnet_len":{}}}"#,
            self.networks.join("\",\""),
            self.vni,
            self.len
        )
    }
}

impl World<Etcd> {
    pub(super) fn trouble_in_etcd(&mut self, what: Trouble, node: usize, time: Duration) -> Held {
        match what {
            Trouble::Backup => self.protocol.backup = Some(self.protocol.store.data.clone()),
            Trouble::Restore | Trouble::Empty => self.replace_database(what, time),
            Trouble::DeleteAll => self.protocol.store.delete_prefix(PREFIX),
            Trouble::Compact => {
                for other in 0..self.nodes.len() {
                    if self.random.percent(50) {
                        self.cut(other, Duration::from_secs(5));
                    }
                }
                self.protocol.store.put("/elsewhere", "x");
                self.protocol.store.compact();
            }
            Trouble::Reinstall => {
                self.stop(node);
                self.renew_disk(node);
                self.clock.after(time / 4, Happening::Start { node });
            }
            Trouble::Twin if self.protocol.twins.is_empty() => {
                let name = self.nodes[node].name.clone();
                let twin = self.add_claimant(&name, address(50));
                self.start(twin);
                self.protocol.twins.push(twin);
            }
            Trouble::Clone if self.nodes.len() < 6 => {
                let number = self.nodes.len() as u64;
                let name = format!("clone{number}");
                let clone = self.add_claimant(&name, address(60 + number));
                let copy = self.nodes[node].own.memory.clone().renamed(&name);
                self.nodes[clone].own.memory = copy;
                self.start(clone);
                self.protocol.clones.extend([node, clone]);
            }
            Trouble::Move => {
                self.protocol.moves += 1;
                self.nodes[node].own.address = address(100 + self.protocol.moves);
                self.nodes[node].moved = true;
                return self.go_on(node);
            }
            Trouble::Swap => {
                if !self.swap(node)? {
                    return Ok(());
                }
            }
            Trouble::Revoke => {
                let leases: Vec<i64> = self.protocol.store.data.leases.keys().copied().collect();
                if !leases.is_empty() {
                    self.protocol.store.revoke(self.random.pick(&leases));
                }
            }
            Trouble::DeleteClaim => {
                if let Some(key) = self.any_claim() {
                    self.protocol.store.delete(&key);
                }
            }
            Trouble::Thief => {
                if let Some(key) = self.any_claim() {
                    let thief = r#"{"node":"thief","instance":"thief","address":"192.0.2.9"}"#;
                    self.protocol.store.put(&key, thief);
                }
            }
            Trouble::Garbage => {
                let key = format!("{PREFIX}/subnets/10.244.{}.0-24", self.random.between(1, 15));
                if !self.protocol.store.data.keys.contains_key(&key) {
                    self.protocol.store.put(&key, "{\"node\":\"half");
                }
            }
            Trouble::Reserve => {
                let subnet = self.random.between(1, 15);
                let value = if self.random.percent(50) {
                    "{}".to_owned()
                } else {
                    format!(r#"{{"node":"{}"}}"#, self.nodes[node].name)
                };
                let key = format!("{PREFIX}/reservations/10.244.{subnet}.0-24");
                self.protocol.store.put(&key, &value);
            }
            Trouble::SubnetLen => {
                self.protocol.written.len = self.random.pick(&[23, 24, 25]);
                self.protocol.write();
            }
            Trouble::Widen if self.protocol.identity.parameters.is_none() => {
                self.protocol.written.networks[0] = "10.240.0.0/12";
                self.protocol.write();
            }
            Trouble::Vni => {
                let text = Written { vni: 2, ..self.protocol.written.clone() }.text();
                self.protocol.store.put(&config(), &text);
            }
            Trouble::Twin | Trouble::Clone | Trouble::Widen => {}
        }
        self.tell_watches();
        Ok(())
    }

    /// Another database stands in the place of this one.
    fn replace_database(&mut self, what: Trouble, time: Duration) {
        let backup = match what {
            Trouble::Restore => self.protocol.backup.clone(),
            _ => None,
        };
        let cluster = if self.random.percent(50) { 1 } else { self.random.next() };
        let now = self.clock.now();
        self.protocol.store.restore(backup, cluster, now);
        let leases: Vec<i64> = self.protocol.store.data.leases.keys().copied().collect();
        for lease in leases {
            self.expires(lease, now + Duration::from_secs(60));
        }
        self.break_connections();
        if self.random.percent(50) {
            self.up = false;
            self.clock.after(time / 10, Happening::Up);
        }
        self.count("a database was restored or emptied");
        if self.protocol.identity.parameters.is_none() && self.random.percent(50) {
            self.protocol.write();
        }
    }

    /// Exchanges the addresses of a node and some other, unless one of them is the other to
    /// everybody then: having its name or its disk already.
    fn swap(&mut self, node: usize) -> Result<bool, crate::report::Violation> {
        let other = self.random.below(self.nodes.len());
        let mut doubles = self.protocol.twins.iter().chain(&self.protocol.clones);
        if doubles.any(|double| [node, other].contains(double)) {
            return Ok(false);
        }
        let swapped = self.nodes[other].own.address;
        self.nodes[other].own.address =
            std::mem::replace(&mut self.nodes[node].own.address, swapped);
        for moved in [node, other] {
            self.nodes[moved].moved = true;
            self.go_on(moved)?;
        }
        Ok(true)
    }

    /// The key of a subnet that is claimed.
    fn any_claim(&mut self) -> Option<String> {
        let keys = self.protocol.store.data.keys.keys();
        let keys: Vec<&String> = keys.filter(|key| marks::subnet(key).is_some()).collect();
        (!keys.is_empty()).then(|| (*self.random.pick(&keys)).clone())
    }

    /// Ends all trouble in etcd: twins are gone, and the operator removes what is nobody's.
    pub(super) fn heal_etcd(&mut self) {
        for twin in std::mem::take(&mut self.protocol.twins) {
            self.stop(twin);
            self.nodes[twin].retired = true;
        }
        // Whoever took a subnet may keep it, if there are enough.
        let stays = self.protocol.written.len > 23 && self.random.percent(70);
        let foreign = |key: &String, value: &[u8]| {
            key.starts_with(&format!("{PREFIX}/reservations/"))
                || (!stays && value.windows(5).any(|text| text == b"thief"))
                || serde_json::from_slice::<serde_json::Value>(value).is_err()
        };
        let keys = self.protocol.store.data.keys.iter();
        let foreign: Vec<String> =
            keys.filter(|(key, kv)| foreign(key, &kv.value)).map(|(key, _)| key.clone()).collect();
        for key in foreign {
            self.protocol.store.delete(&key);
        }
        self.protocol.write();
    }
}

impl Etcd {
    /// Writes what the operator wants.
    fn write(&mut self) {
        self.store.put(&config(), &self.written.text());
    }
}
