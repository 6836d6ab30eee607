//! Claiming this node's name, address and subnets, all in one step or not at all.
//!
//! A claim is one transaction that holds only if every key is as it was when this node looked, so
//! that of two nodes that want the same one gets it, whatever the clocks and the network do. etcd
//! ends a claim when its lease runs out; nobody measures time for that but etcd.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;

use super::choose::choose;
use super::client::{Client, delete, put};
use super::keys::{Claim, Keys, Settings};
use super::memory::Memory;
use super::rpc::{Compare, KeyValue};
use super::store::Store;
use crate::control::source::{Published, pods_in};
use crate::engine::{NodeEntry, Speech};

/// What came of asking.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The subnets are this node's.
    Owned,
    /// They are not, for this reason, which time or an operator may change.
    Refused(String),
    /// Somebody was faster; look again.
    Raced,
}

/// What a claim is made of.
pub(super) struct Claimant<'a> {
    pub(super) keys: &'a Keys,
    pub(super) memory: &'a mut Memory,
    pub(super) state_dir: &'a Path,
    pub(super) address: IpAddr,
    pub(super) lease: i64,
}

impl Claimant<'_> {
    /// Makes the claim good, or finds that it is.
    pub(super) async fn claim(
        &mut self,
        client: &mut Client,
        store: &Store,
    ) -> anyhow::Result<Outcome> {
        let Some((settings, settings_revision)) = &store.settings else {
            return Ok(Outcome::Refused("the settings are gone".to_owned()));
        };
        let name_key = self.keys.name(&self.memory.node);
        let address_key = self.keys.address(self.address);
        let name = client.read(&name_key).await?;
        let address = client.read(&address_key).await?;
        if let Some(reason) = self.rival(name.as_ref(), address.as_ref()) {
            return Ok(Outcome::Refused(reason));
        }
        let wanted = match self.wanted(settings, store) {
            Ok(wanted) => wanted,
            Err(reason) => return Ok(Outcome::Refused(reason)),
        };

        let claim = Claim {
            node: self.memory.node.clone(),
            instance: self.memory.instance.clone(),
            published: Published::local(self.address, settings.parameters.port),
        };
        let value = serde_json::to_vec(&claim)?;
        let good = |found: Option<&KeyValue>| {
            found.is_some_and(|found| found.value == value && found.lease == self.lease)
        };
        let held = |subnet: &IpNet| store.claims.get(subnet);
        let in_force = wanted.iter().all(|subnet| {
            held(subnet).is_some_and(|held| held.claim == claim && held.lease == self.lease)
        });
        if in_force && good(name.as_ref()) && good(address.as_ref()) {
            self.memory.remember(&wanted)?;
            return Ok(Outcome::Owned);
        }

        let seen = |found: &Option<KeyValue>| found.as_ref().map(|found| found.mod_revision);
        let mut compare = vec![
            Compare::unchanged(self.keys.settings(), Some(*settings_revision)),
            Compare::unchanged(name_key.clone(), seen(&name)),
            Compare::unchanged(address_key.clone(), seen(&address)),
        ];
        let mut change = vec![
            put(name_key, value.clone(), self.lease),
            put(address_key.clone(), value.clone(), self.lease),
        ];
        for subnet in &wanted {
            let key = self.keys.subnet(subnet);
            compare.push(Compare::unchanged(key.clone(), held(subnet).map(|held| held.modified)));
            change.push(put(key, value.clone(), self.lease));
        }
        // What this node had before and does not want any more.
        for (subnet, held) in store.claims.iter().filter(|(subnet, _)| !wanted.contains(subnet)) {
            if self.memory.owns(&held.claim, self.address) {
                let key = self.keys.subnet(subnet);
                compare.push(Compare::unchanged(key.clone(), Some(held.modified)));
                change.push(delete(key));
            }
        }
        if let Some(old) = self.old_address(client, name.as_ref()).await?
            && old.key != address_key.as_bytes()
        {
            let key = String::from_utf8_lossy(&old.key).into_owned();
            compare.push(Compare::unchanged(key.clone(), Some(old.mod_revision)));
            change.push(delete(key));
        }
        if !client.transact(compare, change).await? {
            return Ok(Outcome::Raced);
        }
        self.memory.remember(&wanted)?;
        tracing::info!(subnets = ?wanted, address = %self.address, "claimed this node's subnets");
        Ok(Outcome::Owned)
    }

    /// Who else has the name or the address, in words for an operator.
    fn rival(&self, name: Option<&KeyValue>, address: Option<&KeyValue>) -> Option<String> {
        let node = &self.memory.node;
        let read = |found: &KeyValue| {
            let key = String::from_utf8_lossy(&found.key).into_owned();
            serde_json::from_slice::<Claim>(&found.value)
                .map_err(|error| format!("{key} is not what belongs there ({error}); delete it"))
        };
        match name.map(read) {
            Some(Ok(claim)) if !self.memory.owns(&claim, self.address) => {
                return Some(format!(
                    "another machine, with the address {}, runs under the name \"{node}\"; give each \
                     node.name of its own, or if that machine is gone wait for its lease to run out \
                     (or delete {})",
                    claim.published.address,
                    self.keys.name(node)
                ));
            }
            Some(Err(reason)) => return Some(reason),
            Some(Ok(_)) | None => {}
        }
        match address.map(read) {
            Some(Ok(claim)) if claim.node != *node && claim.instance != self.memory.instance => {
                Some(format!(
                    "node \"{}\" has the address {} too; give each machine its own, or set \
                     node.address, or if that node is gone wait for its lease to run out (or delete \
                     {})",
                    claim.node,
                    self.address,
                    self.keys.address(self.address)
                ))
            }
            Some(Err(reason)) => Some(reason),
            Some(Ok(_)) | None => None,
        }
    }

    /// The subnets to ask for: those that this node had, and others only where it had none, or lost
    /// them while no pod held an address in them.
    fn wanted(&self, settings: &Settings, store: &Store) -> Result<Vec<IpNet>, String> {
        let ours = |claim: &Claim| self.memory.owns(claim, self.address);
        let mut occupied = store.occupied(&self.memory.node, ours);
        let claimed = store.claims.iter().filter(|(_, held)| ours(&held.claim));
        let mut had = self.memory.subnets.clone();
        for (subnet, _) in claimed {
            if !had.contains(subnet) {
                had.push(*subnet);
            }
        }
        let mut wanted: Vec<IpNet> = Vec::new();
        for network in &settings.parameters.cidrs {
            let in_network = || had.iter().filter(|subnet| network.contains(*subnet));
            let before = wanted.len();
            for subnet in in_network() {
                if occupied.is_free(subnet) {
                    occupied.add(*subnet);
                    wanted.push(*subnet);
                } else {
                    self.give_up(subnet, store)?;
                }
            }
            if wanted.len() == before {
                let reserved = store.reservations.iter().find(|(subnet, node)| {
                    node.as_deref() == Some(&self.memory.node)
                        && network.contains(*subnet)
                        && occupied.is_free(subnet)
                });
                let subnet = match reserved {
                    Some((subnet, _)) => *subnet,
                    None => choose(network, settings, &occupied, &self.memory.node)?,
                };
                occupied.add(subnet);
                wanted.push(subnet);
            }
        }
        Ok(wanted)
    }

    /// Whether this node can do without a subnet that another has taken.
    fn give_up(&self, subnet: &IpNet, store: &Store) -> Result<(), String> {
        let taken = store.claims.iter().find(|(other, held)| {
            !self.memory.owns(&held.claim, self.address)
                && (other.contains(subnet) || subnet.contains(*other))
        });
        let by = match taken {
            Some((_, held)) => format!("node \"{}\" has claimed it", held.claim.node),
            None => "it is reserved, or its key cannot be understood".to_owned(),
        };
        match pods_in(self.state_dir, std::slice::from_ref(subnet)) {
            Ok(0) => {
                tracing::warn!(%subnet, reason = by, "giving up a subnet that no pod uses");
                Ok(())
            }
            Ok(pods) => Err(format!(
                "{subnet} is not this node's any more ({by}), and {pods} of its pods hold addresses \
                 in it; drain this node, or delete the other claim"
            )),
            Err(error) => Err(format!(
                "{subnet} is not this node's any more ({by}), and whether pods hold addresses in it \
                 cannot be known: {error:#}"
            )),
        }
    }

    /// The key of the address that this node had before, if it still is its own.
    async fn old_address(
        &self,
        client: &mut Client,
        name: Option<&KeyValue>,
    ) -> anyhow::Result<Option<KeyValue>> {
        let before = name.and_then(|found| serde_json::from_slice::<Claim>(&found.value).ok());
        let Some(before) = before.filter(|claim| claim.published.address != self.address) else {
            return Ok(None);
        };
        let found = client.read(&self.keys.address(before.published.address)).await?;
        Ok(found.filter(|found| {
            serde_json::from_slice::<Claim>(&found.value)
                .is_ok_and(|claim| claim.instance == self.memory.instance)
        }))
    }
}

/// This node as its own table has it.
pub(super) fn own_entry(memory: &Memory, address: IpAddr) -> Option<NodeEntry> {
    (!memory.subnets.is_empty()).then(|| NodeEntry {
        name: memory.node.clone(),
        address,
        subnets: memory.subnets.clone(),
        speech: Speech::default(),
    })
}
