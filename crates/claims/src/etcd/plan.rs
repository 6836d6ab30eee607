//! What a node must write to own its name, its address and its subnets.
//!
//! Pure. A claim is one transaction that holds only if every key is as it was when this node
//! looked, so that of two nodes that want the same one gets it, whatever the clocks and the network
//! do. etcd ends a claim when its lease runs out; nobody measures time for that but etcd.

use std::net::IpAddr;

use culvert_membership::NodeKeys;
use ipnet::IpNet;

use super::choose::{Occupied, choose};
use super::failure::{Refusal, Taker};
use super::keys::{Claim, Keys, Settings};
use super::memory::Memory;
use super::protocol::{Change, Compare, KeyValue, Transaction};
use super::store::{Held, Store, value};
use crate::{HeldAddress, PodsUnknown, Published};

/// What is known when a claim is made.
pub(super) struct Claimant<'a> {
    pub(super) keys: &'a Keys,
    pub(super) memory: &'a Memory,
    pub(super) store: &'a Store,
    /// What all nodes share, as far as this one goes by it, and the key that says it.
    pub(super) settings: &'a Settings,
    pub(super) settings_key: &'a KeyValue,
    pub(super) address: IpAddr,
    /// By what peers are to know this node.
    pub(super) public_keys: NodeKeys,
    pub(super) lease: i64,
    /// Subnets of nodes that a database which lost its data does not have yet.
    pub(super) retained: &'a [IpNet],
}

/// The keys that nobody follows, as they are.
#[derive(Clone, Debug, Default)]
pub(super) struct Unique {
    pub(super) name: Option<KeyValue>,
    pub(super) address: Option<KeyValue>,
    /// That of the address that this node had before.
    pub(super) old_address: Option<KeyValue>,
}

/// What to do.
#[derive(Debug)]
pub(super) enum Plan {
    /// Nothing: these subnets are this node's.
    Owned(Vec<IpNet>),
    /// This makes these subnets this node's.
    Claim(Transaction, Vec<IpNet>),
    /// Another has the address; this lets go of the one before, for which that one may wait.
    Release(Transaction),
    /// First look whether pods hold addresses in these, once no new one can get any.
    Lost(Vec<IpNet>, Refusal),
    /// They are another's.
    Refused(Refusal),
}

impl Claimant<'_> {
    /// The key of the address that this node had before, where its name's key tells of one.
    pub(super) fn old_address(&self, name: Option<&KeyValue>) -> Option<String> {
        let before = value::<Claim>(name?).ok()?;
        let moved = self.owns(&before) && before.published.address != self.address;
        moved.then(|| self.keys.address(before.published.address))
    }

    /// Plans with what is known of the keys, and of pods' addresses in subnets that are lost.
    pub(super) fn plan(
        &self,
        unique: &Unique,
        held: Option<Result<Vec<HeldAddress>, PodsUnknown>>,
    ) -> Plan {
        if let Some(refusal) = self.rival(unique) {
            let old = unique.old_address.as_ref().filter(|old| self.is_own(old));
            return match (&refusal, old) {
                (Refusal::AddressTaken { .. }, Some(old)) => {
                    let mut transaction = Transaction::default();
                    self.remove(old, &mut transaction);
                    Plan::Release(transaction)
                }
                _ => Plan::Refused(refusal),
            };
        }
        let (mut wanted, lost, mut occupied) = self.kept();
        if !lost.is_empty() {
            let Some(held) = held else {
                let (subnet, by) = lost[0].clone();
                let refusal = Refusal::SubnetLost { subnet, by };
                return Plan::Lost(lost.into_iter().map(|(subnet, _)| subnet).collect(), refusal);
            };
            if let Err(refusal) = give_up(lost, held) {
                return Plan::Refused(refusal);
            }
        }
        if let Err(refusal) = self.complete(&mut wanted, &mut occupied) {
            return Plan::Refused(refusal);
        }
        self.claim(unique, wanted)
    }

    fn owns(&self, claim: &Claim) -> bool {
        self.memory.owns(claim, self.address)
    }

    fn is_own(&self, found: &KeyValue) -> bool {
        value::<Claim>(found).is_ok_and(|claim| self.owns(&claim))
    }

    /// Who else has the name or the address.
    fn rival(&self, unique: &Unique) -> Option<Refusal> {
        let node = &self.memory.node;
        let read = |found: &KeyValue| {
            let key = String::from_utf8_lossy(&found.key).into_owned();
            value::<Claim>(found).map_err(|problem| Refusal::Unreadable { key, problem })
        };
        match unique.name.as_ref().map(read) {
            Some(Ok(claim)) if !self.owns(&claim) => {
                return Some(Refusal::NameTaken {
                    node: node.clone(),
                    address: claim.published.address,
                    key: self.keys.name(node),
                });
            }
            Some(Err(refusal)) => return Some(refusal),
            Some(Ok(_)) | None => {}
        }
        match unique.address.as_ref().map(read) {
            Some(Ok(claim)) if claim.node != *node && claim.instance != self.memory.instance => {
                Some(Refusal::AddressTaken {
                    node: claim.node,
                    address: self.address,
                    key: self.keys.address(self.address),
                })
            }
            Some(Err(refusal)) => Some(refusal),
            Some(Ok(_)) | None => None,
        }
    }

    /// Of the subnets that this node had, those that it can go on with and those that it cannot;
    /// and what is nobody else's.
    fn kept(&self) -> (Vec<IpNet>, Vec<(IpNet, Taker)>, Occupied) {
        let mut occupied = self.store.occupied(&self.memory.node, |claim| self.owns(claim));
        let claimed = self.store.claims.iter().filter(|(_, held)| self.owns(&held.claim));
        let mut had = self.memory.subnets.clone();
        for (subnet, _) in claimed {
            if !had.contains(subnet) {
                had.push(*subnet);
            }
        }
        let (mut kept, mut lost) = (Vec::new(), Vec::new());
        let networks = &self.settings.parameters.cidrs;
        for subnet in had {
            if !networks.iter().any(|network| network.contains(&subnet)) {
                lost.push((subnet, Taker::NoNetwork(self.keys.settings())));
            } else if occupied.is_free(&subnet) {
                occupied.add(subnet);
                kept.push(subnet);
            } else {
                lost.push((subnet, self.taker(&subnet)));
            }
        }
        // What this node only claimed, and never had in force, no pod can use.
        lost.retain(|(subnet, _)| self.memory.subnets.contains(subnet));
        (kept, lost, occupied)
    }

    fn taker(&self, subnet: &IpNet) -> Taker {
        let overlaps = |other: &IpNet| other.contains(subnet) || subnet.contains(other);
        let others = self.store.claims.iter().filter(|(_, held)| !self.owns(&held.claim));
        let taken = others.into_iter().find(|(other, _)| overlaps(other));
        taken.map_or(Taker::Reserved, |(_, held)| Taker::Node(held.claim.node.clone()))
    }

    /// Adds a subnet of each network that has none.
    fn complete(&self, wanted: &mut Vec<IpNet>, occupied: &mut Occupied) -> Result<(), Refusal> {
        for subnet in self.retained {
            occupied.add(*subnet);
        }
        for network in &self.settings.parameters.cidrs {
            if wanted.iter().any(|subnet| network.contains(subnet)) {
                continue;
            }
            let reserved = self.store.reservations.iter().find(|(subnet, node)| {
                node.as_deref() == Some(&self.memory.node)
                    && network.contains(*subnet)
                    && occupied.is_free(subnet)
            });
            let subnet = match reserved {
                Some((subnet, _)) => *subnet,
                None => choose(network, self.settings, occupied, &self.memory.node)?,
            };
            occupied.add(subnet);
            wanted.push(subnet);
        }
        // By network, whatever this node had first.
        let place = |subnet: &IpNet| {
            self.settings.parameters.cidrs.iter().position(|network| network.contains(subnet))
        };
        wanted.sort_by_key(place);
        Ok(())
    }

    fn claim(&self, unique: &Unique, wanted: Vec<IpNet>) -> Plan {
        let claim = Claim {
            node: self.memory.node.clone(),
            instance: self.memory.instance.clone(),
            published: Published::local(
                self.address,
                self.settings.parameters.port,
                self.public_keys,
            ),
        };
        let text = claim.encode();
        let good = |found: &Option<KeyValue>| {
            found.as_ref().is_some_and(|found| found.value == text && found.lease == self.lease)
        };
        let claims = &self.store.claims;
        let surplus: Vec<&IpNet> = claims
            .iter()
            .filter(|(subnet, held)| self.owns(&held.claim) && !wanted.contains(subnet))
            .map(|(subnet, _)| subnet)
            .collect();
        let in_force = wanted.iter().all(|subnet| {
            let held = claims.get(subnet);
            held.is_some_and(|held| held.claim == claim && held.lease == self.lease)
        });
        if in_force && surplus.is_empty() && good(&unique.name) && good(&unique.address) {
            return Plan::Owned(wanted);
        }

        let mut transaction = Transaction::default();
        transaction
            .compare
            .push(Compare::Written(self.keys.settings(), self.settings_key.mod_revision));
        let mut put = |key: String, known: Option<Vec<u8>>| {
            transaction.compare.push(match known {
                Some(value) => Compare::Value(key.clone(), value),
                None => Compare::Absent(key.clone()),
            });
            transaction.changes.push(Change::Put { key, value: text.clone(), lease: self.lease });
        };
        let seen = |found: &Option<KeyValue>| found.as_ref().map(|found| found.value.clone());
        put(self.keys.name(&self.memory.node), seen(&unique.name));
        put(self.keys.address(self.address), seen(&unique.address));
        for subnet in &wanted {
            let known = claims.get(subnet).map(Held::value);
            put(self.keys.subnet(subnet), known);
        }
        for subnet in surplus {
            let key = self.keys.subnet(subnet);
            if let Some(held) = claims.get(subnet) {
                transaction.compare.push(Compare::Value(key.clone(), held.value()));
            }
            transaction.changes.push(Change::Delete(key));
        }
        if let Some(old) = unique.old_address.as_ref().filter(|old| self.is_own(old)) {
            self.remove(old, &mut transaction);
        }
        if wanted.iter().any(|subnet| self.is_odd(subnet)) {
            self.guard_overlaps(&mut transaction);
        }
        Plan::Claim(transaction, wanted)
    }

    fn remove(&self, found: &KeyValue, transaction: &mut Transaction) {
        let key = String::from_utf8_lossy(&found.key).into_owned();
        transaction.compare.push(Compare::Value(key.clone(), found.value.clone()));
        transaction.changes.push(Change::Delete(key));
    }

    /// Whether a subnet that etcd does not have as this node's is of another length than those that
    /// are chosen at present, so that it can overlap one with another key.
    fn is_odd(&self, subnet: &IpNet) -> bool {
        let held = self.store.claims.contains_key(subnet);
        let networks = &self.settings.parameters.cidrs;
        let network = networks.iter().find(|network| network.contains(subnet));
        !held && network.is_some_and(|network| self.settings.len(network) != subnet.prefix_len())
    }

    /// Makes sure that nobody claims a prefix that overlaps an odd one at the same time: nobody did
    /// since this node looked, and who looked before this node writes must look again, because the
    /// settings, which every claim compares, are written anew.
    fn guard_overlaps(&self, transaction: &mut Transaction) {
        let (first, end) = self.keys.subnets();
        let revision = self.store.revision;
        transaction.compare.push(Compare::NotWrittenSince { first, end, revision });
        let KeyValue { value, lease, .. } = self.settings_key.clone();
        transaction.changes.push(Change::Put { key: self.keys.settings(), value, lease });
    }
}

/// Whether this node can do without subnets that another has taken.
fn give_up(
    lost: Vec<(IpNet, Taker)>,
    held: Result<Vec<HeldAddress>, PodsUnknown>,
) -> Result<(), Refusal> {
    let held = match (held, lost.first()) {
        (Err(error), Some((subnet, by))) => {
            let error = error.into();
            return Err(Refusal::PodsUnknown { subnet: *subnet, by: by.clone(), error });
        }
        (held, _) => held.unwrap_or_default(),
    };
    for (subnet, by) in lost {
        let held = held.iter().filter(|held| subnet.contains(&held.address));
        let held: Vec<HeldAddress> = held.cloned().collect();
        if !held.is_empty() {
            return Err(Refusal::SubnetHeld { subnet, by, held });
        }
        tracing::warn!(%subnet, reason = %by, "giving up a subnet that no pod uses");
    }
    Ok(())
}
