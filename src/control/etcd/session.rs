//! One connection's life: read everything, claim, tell, follow.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::bail;
use tokio::time::{MissedTickBehavior, interval_at};

use super::address::own_address;
use super::claim::{Claimant, Outcome, own_entry};
use super::client::{Client, failure, put};
use super::database::Database;
use super::keys::{Keys, Settings, default_len, default_len_v6};
use super::memory::Memory;
use super::rpc::{Compare, EventType, WatchResponse};
use super::store::Store;
use crate::config::{Config, Etcd};
use crate::control::source::{
    Backoff, Candidate, Link, Parameters, Proposal, Saved, Update, describe,
};
use crate::platform::clock;

/// How long nodes stay in the table that a database does not have which is not the one it was: after
/// a loss of all its data every node needs a moment to claim what it had.
const GRACE: Duration = Duration::from_secs(300);

/// How often a claim that was refused is tried again, if nothing happens before.
const RECLAIM_EVERY: Duration = Duration::from_secs(10);

/// A lease is renewed three times in its life, but no more seldom than this: a lease that is gone
/// although etcd was there all the time is to be noticed.
const RENEW_AT_LEAST_EVERY: Duration = Duration::from_secs(300);

/// Why a session ended without a failure.
pub(super) enum Ended {
    /// Everything is to be read again.
    Asked,
    /// Another node was faster; what is known is out of date.
    Raced,
}

/// What outlives a session.
pub(super) struct Follower {
    etcd: Etcd,
    config: Config,
    keys: Keys,
    memory: Memory,
    lease: Option<i64>,
    address: Option<IpAddr>,
    /// What all nodes share, as far as this one goes by it.
    parameters: Option<Parameters>,
    /// What of the settings it does not go by while it runs.
    differs: Option<String>,
    contested: Option<String>,
    /// The database that was seen last.
    last: Option<Database>,
    /// What was told of the other nodes.
    told: BTreeMap<String, Candidate>,
    /// Nodes that stay although the database does not have them, and until when.
    retained: BTreeMap<String, Candidate>,
    retained_until: Option<Instant>,
    /// Nodes that this one cannot speak to, and the key that says so.
    unspoken: BTreeMap<String, String>,
}

impl Follower {
    pub(super) fn open(etcd: &Etcd, config: &Config) -> anyhow::Result<Self> {
        let memory = Memory::open(&config.node.state_dir, &config.node.name)?;
        Ok(Self {
            keys: Keys::new(&etcd.prefix),
            etcd: etcd.clone(),
            config: config.clone(),
            lease: None,
            address: None,
            parameters: None,
            differs: None,
            contested: None,
            last: memory.database,
            told: told_before(config),
            memory,
            retained: BTreeMap::new(),
            retained_until: None,
            unspoken: BTreeMap::new(),
        })
    }

    /// The member for the attempt of that number, each in its turn.
    pub(super) fn endpoint(&self, attempt: usize) -> String {
        self.etcd.endpoints[attempt % self.etcd.endpoints.len()].clone()
    }

    /// Connects, and follows until something fails.
    pub(super) async fn session(
        &mut self,
        url: &str,
        link: &mut Link,
        backoff: &mut Backoff,
    ) -> anyhow::Result<Ended> {
        let wishes = link.wishes.borrow_and_update().clone();
        let mut client = Client::connect(url, &self.etcd).await?;
        self.address = Some(own_address(&self.config, self.address, url).await?);

        let (first, end) = self.keys.followed();
        let found = client.range(&first, &end).await?;
        let mut store = Store::load(self.keys.clone(), &found.keys);
        let Some((_, settings)) = store.settings else {
            self.write_settings(&mut client, &store).await?;
            return Ok(Ended::Asked);
        };
        let seen = Database { cluster: found.cluster, revision: found.revision, settings };
        let parameters = self.agree(&mut store)?;
        store.set_port(parameters.port);
        let another = self.last.is_some_and(|last| !last.is_older_than(seen));
        self.last = Some(seen);

        self.renew(&mut client).await?;
        if !self.claim(&mut client, &store, link).await? {
            return Ok(Ended::Raced);
        }
        self.tell_everything(&store, parameters.clone(), another, link).await;
        link.say(Update::Differs(self.differs.clone())).await;
        self.remember_database();
        backoff.reset();

        let mut watch = client.watch(&first, &end, found.revision + 1).await?;
        let renewal = (self.etcd.lease / 3).min(RENEW_AT_LEAST_EVERY).max(Duration::from_secs(1));
        let mut renewals = interval_at(tokio::time::Instant::now() + renewal, renewal);
        let mut reclaims = interval_at(tokio::time::Instant::now() + RECLAIM_EVERY, RECLAIM_EVERY);
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        reclaims.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let claim_again = tokio::select! {
                response = watch.message() => match response {
                    Ok(Some(response)) => self.take(&mut store, &response, link).await?,
                    Ok(None) => bail!("{url} ended the watch"),
                    Err(status) => return Err(failure(&status).context("watching")),
                },
                _ = renewals.tick() => self.renew(&mut client).await?,
                _ = reclaims.tick() => {
                    self.forget_retained(&store, link).await;
                    self.remember_database();
                    self.contested.is_some()
                }
                changed = link.wishes.changed() => {
                    changed?;
                    let now = link.wishes.borrow_and_update().clone();
                    if now.reloads != wishes.reloads {
                        return Ok(Ended::Asked);
                    }
                    let address = own_address(&self.config, self.address, url).await?;
                    self.address.replace(address) != Some(address)
                }
            };
            if self.parameters.as_ref() != Some(&parameters) {
                return Ok(Ended::Asked);
            }
            if claim_again {
                self.renew(&mut client).await?;
                if !self.claim(&mut client, &store, link).await? {
                    return Ok(Ended::Raced);
                }
                if let Some(own) = self.own() {
                    link.say(Update::Put(own)).await;
                }
            }
        }
    }

    /// Writes what all nodes share, if this node's configuration says it and nobody was faster.
    async fn write_settings(&self, client: &mut Client, store: &Store) -> anyhow::Result<()> {
        let key = self.keys.settings();
        if let Some(problem) = store.foreign.get(&key) {
            bail!("{key}: {problem}");
        }
        let configured = Parameters::configured(&self.config);
        let Some(parameters) = self.parameters.clone().or(configured) else {
            bail!(
                "{key} is missing: write there what all nodes share, such as \
                 {{\"cidrs\":[\"10.244.0.0/16\"],\"vni\":1,\"port\":4790}}, or set network.cidrs"
            );
        };
        let settings =
            Settings { parameters, subnet_len: default_len(), subnet_len_v6: default_len_v6() };
        if let Some(fault) = settings.fault() {
            bail!("network.cidrs does not fit: {fault}; write {key} with another subnet_len");
        }
        let value = serde_json::to_vec(&settings)?;
        let written = client
            .transact(vec![Compare::unchanged(key.clone(), None)], vec![put(key.clone(), value, 0)])
            .await?;
        if written {
            tracing::info!(key, "wrote what all nodes share");
        }
        Ok(())
    }

    /// What all nodes share, if this node can go by it. One that runs goes by wider pod networks, and
    /// otherwise by what it began with, which then is what `store` says too.
    fn agree(&mut self, store: &mut Store) -> anyhow::Result<Parameters> {
        let key = self.keys.settings();
        let Some((settings, _)) = &mut store.settings else { bail!("{key} is gone") };
        let found = settings.parameters.clone();
        let own = Parameters::configured(&self.config);
        let mismatch = match own {
            Some(own) if own != found => Some(format!(
                "{key} says {}, but this node's configuration {}; make network and underlay.port the \
                 same, or leave network.cidrs out to go by the key",
                serde_json::to_string(&found)?,
                serde_json::to_string(&own)?
            )),
            _ => None,
        };
        let Some(began) = &self.parameters else {
            if let Some(mismatch) = mismatch {
                bail!(mismatch);
            }
            self.parameters = Some(found.clone());
            return Ok(found);
        };
        self.differs = match mismatch {
            None if found.widens(began) => {
                self.parameters = Some(found.clone());
                self.differs = None;
                return Ok(found);
            }
            None => Some(format!(
                "{key} now says {}, which this daemon cannot go by while it runs; restart it, or \
                 change {key} back",
                serde_json::to_string(&found)?
            )),
            mismatch => mismatch,
        };
        settings.parameters.clone_from(began);
        Ok(began.clone())
    }

    /// Remembers the present database, once no node is missed there.
    fn remember_database(&mut self) {
        if let (Some(last), true) = (self.last, self.retained.is_empty()) {
            self.memory.saw(last);
        }
    }

    /// Sees to it that there is a lease; says whether it is another than before.
    async fn renew(&mut self, client: &mut Client) -> anyhow::Result<bool> {
        if let Some(lease) = self.lease {
            if client.keep_alive(lease).await? {
                return Ok(false);
            }
            tracing::warn!("this node's lease has run out; claiming its subnets anew");
        }
        self.lease = Some(client.grant(self.etcd.lease).await?);
        Ok(true)
    }

    /// Claims, and tells what came of it; says whether what is known was up to date.
    async fn claim(
        &mut self,
        client: &mut Client,
        store: &Store,
        link: &Link,
    ) -> anyhow::Result<bool> {
        let (Some(address), Some(lease)) = (self.address, self.lease) else {
            bail!("no address or lease to claim with");
        };
        let mut claimant = Claimant {
            keys: &self.keys,
            memory: &mut self.memory,
            state_dir: &self.config.node.state_dir,
            address,
            lease,
        };
        let contested = match claimant.claim(client, store).await? {
            Outcome::Owned => None,
            Outcome::Refused(reason) => Some(reason),
            Outcome::Raced => return Ok(false),
        };
        if self.contested != contested || contested.is_some() {
            self.contested.clone_from(&contested);
            link.say(Update::Contested(contested)).await;
        }
        Ok(true)
    }

    async fn tell_everything(
        &mut self,
        store: &Store,
        parameters: Parameters,
        another: bool,
        link: &Link,
    ) {
        let own = &self.memory.node;
        let known: BTreeMap<String, Candidate> = store
            .names()
            .filter(|name| *name != own)
            .filter_map(|name| Some((name.clone(), store.candidate(name)?.ok()?)))
            .collect();
        if another {
            self.retained = std::mem::take(&mut self.told);
            self.retained_until = Some(clock::now() + GRACE);
            tracing::warn!(
                nodes = self.retained.len(),
                "etcd is not the database it was; nodes that it lacks stay for {GRACE:?}"
            );
        }
        self.retained.retain(|name, _| !known.contains_key(name));
        self.told = known;
        let unspoken = store.names().filter_map(|name| {
            let (key, _) = store.candidate(name)?.err()?;
            Some((name.clone(), key))
        });
        self.unspoken = unspoken.collect();
        let others = self.told.values().chain(self.retained.values()).cloned();
        let nodes = others.chain(self.own());
        let proposal =
            Proposal::of_nodes(nodes).with_parameters(parameters).with_unreadable(store.problems());
        link.say(Update::Everything(proposal)).await;
    }

    /// This node as its own table has it: what it claimed stays its own until it has claimed something
    /// else, whoever says otherwise.
    fn own(&self) -> Option<Candidate> {
        let entry = own_entry(&self.memory, self.address?)?;
        Some(Candidate { since: 0, entry: entry.into() })
    }

    /// Takes what the watch tells; says whether this node's claim has to be looked at.
    async fn take(
        &mut self,
        store: &mut Store,
        response: &WatchResponse,
        link: &Link,
    ) -> anyhow::Result<bool> {
        if response.compact_revision > 0 {
            bail!("etcd has forgotten changes that were not told yet; reading everything again");
        }
        if response.canceled {
            bail!("etcd has ended the watch: {}", response.cancel_reason);
        }
        if let (Some(header), Some(last)) = (&response.header, &mut self.last) {
            last.revision = header.revision.max(last.revision);
        }
        let mut changed_hands = false;
        for event in &response.events {
            let Some(kv) = &event.kv else { continue };
            let deleted = event.r#type == i32::from(EventType::Delete);
            let revision = |store: &Store| store.settings.as_ref().map(|(_, revision)| *revision);
            let settings_before = revision(store);
            let (_, problem_before) = store.problem(&kv.key);
            let concerned = if deleted { store.delete(&kv.key) } else { store.put(kv) };
            let (key, problem) = store.problem(&kv.key);
            if problem != problem_before {
                link.say(Update::Unreadable { key, problem }).await;
            }
            if settings_before != revision(store) {
                self.agree(store)?;
                link.say(Update::Differs(self.differs.clone())).await;
                if let (Some(last), Some(settings)) = (&mut self.last, revision(store)) {
                    last.settings = settings;
                }
            }
            // What this node waits for may have become free.
            changed_hands |= deleted || concerned.contains(&self.memory.node);
            for name in concerned.into_iter().filter(|name| *name != self.memory.node) {
                if let Some(key) = self.unspoken.remove(&name) {
                    link.say(Update::Unreadable { key, problem: None }).await;
                }
                if let Some(Err((key, problem))) = store.candidate(&name) {
                    self.unspoken.insert(name.clone(), key.clone());
                    link.say(Update::Unreadable { key, problem: Some(problem) }).await;
                }
                let update = store.update(&name);
                if let Update::Put(candidate) = &update {
                    self.told.insert(name.clone(), candidate.clone());
                } else {
                    self.told.remove(&name);
                }
                self.retained.remove(&name);
                link.say(update).await;
            }
        }
        Ok(!self.holds(store) || (changed_hands && self.contested.is_some()))
    }

    /// Whether all of this node's subnets are its own, by what is known.
    fn holds(&self, store: &Store) -> bool {
        self.address.is_some_and(|address| {
            self.memory.subnets.iter().all(|subnet| {
                store.claims.get(subnet).is_some_and(|held| self.memory.owns(&held.claim, address))
            })
        })
    }

    /// Lets go of nodes that have not come back to a database that is not the one it was.
    async fn forget_retained(&mut self, store: &Store, link: &Link) {
        if self.retained_until.is_none_or(|until| clock::now() < until) {
            return;
        }
        self.retained_until = None;
        for (name, _) in std::mem::take(&mut self.retained) {
            link.say(store.update(&name)).await;
        }
    }
}

/// The other nodes that an earlier daemon of this node knew, by the copy that it left.
fn told_before(config: &Config) -> BTreeMap<String, Candidate> {
    let Config { node, table, .. } = config;
    let saved = Saved::read(&node.state_dir, &node.name, &describe(table)).ok().flatten();
    let nodes = saved.map(|saved| saved.proposal()).unwrap_or_default();
    let others = nodes.nodes().cloned().filter(|found| found.entry.name != node.name);
    others.map(|found| (found.entry.name.clone(), found)).collect()
}

#[cfg(test)]
mod tests {
    use tokio::sync::{mpsc, watch};

    use super::*;
    use crate::config::{Overrides, TableSource};

    #[tokio::test]
    async fn a_watch_that_was_left_behind_ends_the_session() {
        let directory = tempfile::tempdir().unwrap();
        let text = format!(
            "[network]\ncidrs = [\"10.244.0.0/16\"]\n[node]\nname = \"node1\"\nstate_dir = \"{}\"\n\
             [table]\nsource = \"etcd\"\n[etcd]\nendpoints = [\"http://127.0.0.1:1\"]\n",
            directory.path().display()
        );
        let path = std::path::Path::new("c.toml");
        let config = Config::parse(path, &text, &Overrides::default()).unwrap();
        let TableSource::Etcd(etcd) = &config.table else { panic!() };
        let mut follower = Follower::open(etcd, &config).unwrap();
        let mut store = Store::load(follower.keys.clone(), &[]);
        let (updates, _told) = mpsc::channel(1);
        let (_wish, wishes) = watch::channel(Default::default());
        let link = Link { updates, wishes };
        for (response, part) in [
            (
                WatchResponse { compact_revision: 7, canceled: true, ..Default::default() },
                "forgotten",
            ),
            (WatchResponse { canceled: true, ..Default::default() }, "ended the watch"),
        ] {
            let error = follower.take(&mut store, &response, &link).await.unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
