//! The claim protocol: how a node comes to own its subnets in etcd, and learns of the others'.
//!
//! Pure: no socket, no disk, no clock. The driver asks [`Claims::request`] what to do next, tells
//! the daemon every update that [`Claims::update`] has, does it, and brings the answer to the
//! method of the same name. Any failure ends a session; the next one begins by reading everything,
//! so that there is one way from etcd to the table and no state to repair.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use culvert_membership::{NodeEntry, NodeKeys, TunnelOptions};
use ipnet::IpNet;

use super::agreement::Agreement;
use super::database::Database;
use super::failure::Cause;
use super::keys::{Keys, Settings};
use super::memory::{Memory, Unwritten};
use super::peers::Peers;
use super::plan::{Claimant, Plan, Unique};
use super::protocol::{
    Change, Compare, Ended, Event, Found, KeyValue, Request, Transaction, Watched,
};
use super::store::Store;
use crate::{Candidate, HeldAddress, Parameters, PodsUnknown, Proposal, Update};

/// How often a claim that was refused is tried again, if nothing happens before.
const RECLAIM_EVERY: Duration = Duration::from_secs(10);

/// A lease is renewed three times in its life, but at least this often: a lease that is gone
/// although etcd was there all the time is to be noticed.
const RENEW_AT_LEAST_EVERY: Duration = Duration::from_secs(300);

/// What this node is, by its configuration.
#[derive(Clone, Debug)]
pub struct Identity {
    /// What all keys begin with.
    pub prefix: String,
    /// How long a claim outlives the last sign of life of its node.
    pub lease: Duration,
    /// What all nodes share, if the configuration leaves that not to etcd.
    pub parameters: Option<Parameters>,
}

/// The machine of one node. Outlives sessions.
#[derive(Debug)]
pub struct Claims {
    keys: Keys,
    lease_length: Duration,
    memory: Memory,
    lease: Option<i64>,
    address: Option<IpAddr>,
    /// By what peers are to know this node, and by what they do.
    public_keys: NodeKeys,
    claimed_keys: NodeKeys,
    agreement: Agreement,
    contested: Option<String>,
    /// The database that was seen last, and whether it is another than the daemon was told of.
    last: Option<Database>,
    another: bool,
    peers: Peers,
    session: Session,
    updates: VecDeque<Update>,
}

/// What belongs to one session.
#[derive(Debug)]
struct Session {
    step: Step,
    store: Store,
    /// What all nodes share, as this session told it.
    told: Option<Parameters>,
    unique: Unique,
    /// Everything was told, and the changes are followed.
    following: bool,
    claim_again: bool,
    renew_at: Option<Instant>,
    look_at: Option<Instant>,
}

/// What is asked, or is to be asked next.
#[derive(Debug)]
enum Step {
    Read,
    WriteSettings(Transaction),
    Renew,
    Grant,
    Look,
    LookAtOldAddress(String),
    /// With the subnets to look at then.
    Heard(Vec<IpNet>),
    Pods(Vec<IpNet>),
    Claim(Transaction, Vec<IpNet>),
    Release(Transaction),
    /// With why the claim was refused, if it was.
    Remember(Memory, Option<String>),
    Tell {
        owned: bool,
    },
    Watch,
    Follow,
    End(Option<Ended>),
}

impl Claims {
    /// The machine of a node that remembers `memory`, and whose earlier daemon knew the nodes
    /// `known`.
    pub fn new(identity: Identity, memory: Memory, known: Vec<Candidate>) -> Self {
        let keys = Keys::new(&identity.prefix);
        let own = known.iter().find(|node| node.entry.name == memory.node);
        let claimed_keys = own.map(|own| own.entry.tunnel_options.keys).unwrap_or_default();
        Self {
            lease_length: identity.lease,
            lease: None,
            address: None,
            public_keys: claimed_keys,
            claimed_keys,
            agreement: Agreement::new(identity.parameters),
            contested: None,
            last: memory.database,
            another: false,
            peers: Peers::new(&memory.node, known),
            session: Session::new(&keys, Step::End(None)),
            memory,
            keys,
            updates: VecDeque::new(),
        }
    }

    /// Begins a session; peers reach this node by `address`.
    pub fn begin(&mut self, address: IpAddr) {
        self.address = Some(address);
        self.session = Session::new(&self.keys, Step::Read);
    }

    /// Peers are to know this node by other public keys.
    pub fn set_keys(&mut self, keys: NodeKeys) {
        self.session.claim_again |= std::mem::replace(&mut self.public_keys, keys) != keys;
    }

    /// The address that this node told its peers last.
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// What this node remembers.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// What to tell the daemon, in this order.
    pub fn update(&mut self) -> Option<Update> {
        self.updates.pop_front()
    }

    /// What to do next. Nothing is asked twice: the answer must come before the next question.
    pub fn request(&mut self, now: Instant) -> Request {
        if matches!(self.session.step, Step::Follow) {
            self.session.step = self.next_step(now);
        }
        if let Step::Tell { owned } = self.session.step {
            self.tell_everything(now);
            if owned {
                self.contest(None);
            }
            self.session.step = Step::Watch;
        }
        let (first, end) = self.keys.followed();
        match &mut self.session.step {
            Step::Read => Request::Read { first, end },
            Step::WriteSettings(transaction)
            | Step::Claim(transaction, _)
            | Step::Release(transaction) => Request::Transact(transaction.clone()),
            Step::Renew => match self.lease {
                Some(lease) => Request::KeepAlive(lease),
                None => Request::Grant(self.lease_length),
            },
            Step::Grant => Request::Grant(self.lease_length),
            Step::Look => {
                let address = self.address.map(|address| self.keys.address(address));
                let name = self.keys.name(&self.memory.node);
                Request::Keys([name].into_iter().chain(address).collect())
            }
            Step::LookAtOldAddress(key) => Request::Keys(vec![key.clone()]),
            Step::Heard(_) => Request::Heard,
            Step::Pods(subnets) => Request::Pods(subnets.clone()),
            Step::Remember(memory, _) => Request::Remember(memory.clone()),
            Step::Tell { .. } | Step::Watch => {
                Request::Watch { first, end, revision: self.session.store.revision + 1 }
            }
            Step::Follow => {
                let moments = [self.session.renew_at, self.session.look_at];
                let latest = now + RENEW_AT_LEAST_EVERY;
                Request::Wait(moments.into_iter().flatten().min().unwrap_or(latest))
            }
            Step::End(ended) => Request::End(ended.take().unwrap_or(Ended::Asked)),
        }
    }

    /// Everything was read.
    pub fn read(&mut self, found: &Found) {
        let mut store = Store::load(self.keys.clone(), found.revision, &found.keys);
        let key = self.keys.settings();
        let Some((settings, kv)) = &store.settings else {
            self.session.step = match self.first_settings(&store) {
                Ok(transaction) => Step::WriteSettings(transaction),
                Err(cause) => failed(cause),
            };
            return;
        };
        let seen = Database {
            cluster: found.cluster,
            revision: found.revision,
            settings: kv.mod_revision,
        };
        self.another |= self.last.is_some_and(|last| !last.is_older_than(seen));
        self.last = Some(seen);
        if let Err(cause) = self.agreement.take(&key, settings) {
            self.session.step = failed(cause);
            return;
        }
        self.session.told = self.agreement.in_force().cloned();
        store.set_port(self.session.told.as_ref().map_or(0, |parameters| parameters.port));
        self.session.store = store;
        self.session.step = Step::Renew;
    }

    /// A lease was renewed, or has run out.
    pub fn kept(&mut self, alive: bool) {
        if !alive {
            tracing::warn!("this node's lease has run out; claiming its subnets anew");
            self.lease = None;
            self.session.step = Step::Grant;
        } else if self.session.following && !self.session.claim_again {
            self.session.step = Step::Follow;
        } else {
            self.session.step = Step::Look;
        }
    }

    /// There is a new lease.
    pub fn granted(&mut self, lease: i64) {
        self.lease = Some(lease);
        self.session.step = Step::Look;
    }

    /// The keys that were asked for.
    pub fn keys(&mut self, found: Vec<Option<KeyValue>>) {
        let mut found = found.into_iter();
        if let Step::LookAtOldAddress(_) = self.session.step {
            self.session.unique.old_address = found.next().flatten();
            return self.plan(None);
        }
        let (name, address) = (found.next().flatten(), found.next().flatten());
        self.session.unique = Unique { name, address, old_address: None };
        let name = self.session.unique.name.clone();
        match self.claimant(&self.settings()).and_then(|it| it.old_address(name.as_ref())) {
            Some(key) => self.session.step = Step::LookAtOldAddress(key),
            None => self.plan(None),
        }
    }

    /// The daemon has heard everything, and takes new pods or not.
    pub fn heard(&mut self, ready: bool) {
        let Step::Heard(subnets) = &mut self.session.step else { return };
        let subnets = std::mem::take(subnets);
        self.session.step = Step::Follow;
        if ready {
            // It will say when it does not any more.
            let memory = self.with_database(self.memory.clone());
            self.remember(memory, self.contested.clone());
        } else {
            self.session.step = Step::Pods(subnets);
        }
    }

    /// Which addresses pods hold in the subnets that were asked for.
    pub fn pods(&mut self, held: Result<Vec<HeldAddress>, PodsUnknown>) {
        self.plan(Some(held));
    }

    /// A transaction was made, or what it compared did not hold.
    pub fn transacted(&mut self, done: bool) {
        let step = std::mem::replace(&mut self.session.step, Step::Look);
        if let Step::WriteSettings(_) = step {
            if done {
                tracing::info!(key = self.keys.settings(), "wrote what all nodes share");
            }
            self.session.step = Step::End(Some(Ended::Asked));
        } else if !done {
            self.session.step = Step::End(Some(Ended::Raced));
        } else if let Step::Claim(_, wanted) = step {
            let subnets: Vec<String> = wanted.iter().map(ToString::to_string).collect();
            let address = self.address.map(|address| address.to_string());
            tracing::info!(subnets = subnets.join(" "), address, "claimed this node's subnets");
            self.owned(wanted);
        }
    }

    /// The memory is on the disk, or is not.
    pub fn remembered(&mut self, written: Result<(), Unwritten>) {
        let step = std::mem::replace(&mut self.session.step, Step::Follow);
        let Step::Remember(memory, refused) = step else { return };
        match written {
            // Without it this node would not come back to what it claimed.
            Err(error) if memory.subnets != self.memory.subnets => {
                self.session.step = failed(error.into());
                return;
            }
            // What is lost is patience with a database that lost its data.
            Err(error) => tracing::warn!(%error, "the state of etcd is not kept"),
            Ok(()) => {}
        }
        self.memory = memory;
        self.settle(refused);
    }

    /// The watch is open.
    pub fn watching(&mut self, now: Instant) {
        self.session.following = true;
        self.session.step = Step::Follow;
        self.session.renew_at = Some(now + self.renewal());
        self.session.look_at = Some(now + RECLAIM_EVERY);
    }

    /// The watch has told something.
    pub fn watched(&mut self, watched: &Watched) {
        let (revision, events) = match watched {
            Watched::Events { revision, events } => (*revision, events),
            Watched::Compacted => return self.session.step = failed(Cause::Compacted),
            Watched::Canceled(reason) => {
                return self.session.step = failed(Cause::Canceled(reason.clone()));
            }
        };
        if let Some(last) = &mut self.last {
            last.revision = revision.max(last.revision);
        }
        let mut may_be_free = false;
        for event in events {
            let (Event::Put(KeyValue { key, .. }) | Event::Delete { key, .. }) = event;
            let store = &mut self.session.store;
            let settings_before = store.settings_revision();
            let (_, problem_before) = store.problem(key);
            let concerned = store.take(event);
            let (key, problem) = store.problem(key);
            let settings = store.settings_revision();
            if problem != problem_before {
                self.updates.push_back(Update::Unreadable { key, problem });
            }
            if settings_before != settings
                && let Err(cause) = self.agree_again()
            {
                self.session.step = failed(cause);
                return;
            }
            let own = &self.memory.node;
            may_be_free |= matches!(event, Event::Delete { .. });
            may_be_free |= concerned.contains(own);
            for name in concerned.iter().filter(|name| *name != own) {
                self.updates.extend(self.peers.change(name, &self.session.store));
            }
        }
        if self.agreement.in_force() != self.session.told.as_ref() {
            self.session.step = Step::End(Some(Ended::Asked));
        }
        self.session.claim_again |= !self.holds() || (may_be_free && self.contested.is_some());
    }

    /// Peers reach this node by another address.
    pub fn moved(&mut self, address: IpAddr) {
        self.session.claim_again |= self.address.replace(address) != Some(address);
    }

    /// Pods may get addresses of this node from now on, or not.
    pub fn ready(&mut self, ready: bool) {
        self.session.claim_again |= !ready && self.contested.is_some();
    }

    /// Everything is to be read again.
    pub fn reload(&mut self) {
        self.session.step = Step::End(Some(Ended::Asked));
    }

    /// What follows in a session that follows, at this moment.
    fn next_step(&mut self, now: Instant) -> Step {
        let is_due = |moment: Option<Instant>| moment.is_some_and(|moment| moment <= now);
        if is_due(self.session.look_at) {
            self.session.look_at = Some(now + RECLAIM_EVERY);
            self.updates.extend(self.peers.forget(now, &self.session.store));
            self.session.claim_again |= self.contested.is_some();
            let memory = self.with_database(self.memory.clone());
            if memory != self.memory {
                return Step::Remember(memory, self.contested.clone());
            }
        }
        if is_due(self.session.renew_at) || self.session.claim_again {
            self.session.renew_at = Some(now + self.renewal());
            return Step::Renew;
        }
        Step::Follow
    }

    fn renewal(&self) -> Duration {
        (self.lease_length / 3).min(RENEW_AT_LEAST_EVERY).max(Duration::from_secs(1))
    }

    fn first_settings(&self, store: &Store) -> Result<Transaction, Cause> {
        let key = self.keys.settings();
        if let Some(problem) = store.foreign.get(&key).cloned() {
            return Err(Cause::SettingsUnreadable { key, problem });
        }
        let value = self.agreement.first_settings(&key)?.encode();
        Ok(Transaction {
            compare: vec![Compare::Absent(key.clone())],
            changes: vec![Change::Put { key, value, lease: 0 }],
        })
    }

    /// Takes settings that have changed.
    fn agree_again(&mut self) -> Result<(), Cause> {
        let key = self.keys.settings();
        let Some((settings, kv)) = &self.session.store.settings else {
            return Err(Cause::SettingsGone { key });
        };
        if let Some(last) = &mut self.last {
            last.settings = kv.mod_revision;
        }
        let before = self.agreement.differs();
        self.agreement.take(&key, settings)?;
        let differs = self.agreement.differs();
        if before != differs {
            self.updates.push_back(Update::Differs(differs));
        }
        Ok(())
    }

    /// What all nodes share, as far as this one goes by it.
    fn settings(&self) -> Option<Settings> {
        let (settings, _) = self.session.store.settings.as_ref()?;
        Some(self.agreement.apply(settings))
    }

    fn claimant<'a>(&'a self, settings: &'a Option<Settings>) -> Option<Claimant<'a>> {
        let (_, settings_key) = self.session.store.settings.as_ref()?;
        Some(Claimant {
            keys: &self.keys,
            memory: &self.memory,
            store: &self.session.store,
            settings: settings.as_ref()?,
            settings_key,
            address: self.address?,
            public_keys: self.public_keys,
            lease: self.lease?,
            retained: &[],
        })
    }

    fn plan(&mut self, held: Option<Result<Vec<HeldAddress>, PodsUnknown>>) {
        let (settings, retained) =
            (self.settings(), self.peers.missing_subnets(&self.session.store, self.another));
        let Some(claimant) = self.claimant(&settings) else {
            self.session.step = failed(Cause::SettingsGone { key: self.keys.settings() });
            return;
        };
        let plan = Claimant { retained: &retained, ..claimant }.plan(&self.session.unique, held);
        self.session.step = match plan {
            Plan::Owned(wanted) => return self.owned(wanted),
            Plan::Refused(refusal) => {
                let memory = self.with_database(self.memory.clone());
                return self.remember(memory, Some(refusal.to_string()));
            }
            Plan::Lost(subnets, refusal) => {
                // No pod may get an address in a subnet after it was looked at.
                if self.contested.is_none() {
                    self.contest(Some(refusal.to_string()));
                }
                Step::Heard(subnets)
            }
            Plan::Claim(transaction, wanted) => Step::Claim(transaction, wanted),
            Plan::Release(transaction) => Step::Release(transaction),
        };
    }

    fn owned(&mut self, subnets: Vec<IpNet>) {
        self.claimed_keys = self.public_keys;
        let memory = self.with_database(Memory { subnets, ..self.memory.clone() });
        self.remember(memory, None);
    }

    /// `memory` with the present database, once no node is missed there.
    fn with_database(&self, memory: Memory) -> Memory {
        let patient = self.another || self.peers.is_patient();
        let database = if patient { memory.database } else { self.last };
        Memory { database, ..memory }
    }

    fn remember(&mut self, memory: Memory, refused: Option<String>) {
        if self.memory == memory {
            self.settle(refused);
        } else {
            self.session.step = Step::Remember(memory, refused);
        }
    }

    fn contest(&mut self, refused: Option<String>) {
        if self.contested != refused {
            self.contested.clone_from(&refused);
            self.updates.push_back(Update::Contested(refused));
        }
    }

    /// Tells what came of a claim. That a node has its subnets is told after them, so that no pod
    /// gets an address of those before.
    fn settle(&mut self, refused: Option<String>) {
        let owned = refused.is_none();
        if !owned {
            self.contest(refused);
        }
        self.session.claim_again = false;
        if !self.session.following {
            self.session.step = Step::Tell { owned };
            return;
        }
        self.updates.extend(self.own().map(Update::Put));
        if owned {
            self.contest(None);
        }
        self.session.step = Step::Follow;
    }

    fn tell_everything(&mut self, now: Instant) {
        let another = std::mem::take(&mut self.another);
        self.peers.read(&self.memory.node, &self.session.store, another, now);
        let mut proposal = Proposal::of_nodes(self.peers.all().chain(self.own()));
        proposal.parameters.clone_from(&self.session.told);
        let unreadable = self.session.store.problems();
        self.updates.push_back(Update::Everything(proposal.with_unreadable(unreadable)));
        self.updates.push_back(Update::Differs(self.agreement.differs()));
    }

    /// This node as its own table has it: what it claimed stays its own until it has claimed
    /// something else, whoever says otherwise.
    fn own(&self) -> Option<Candidate> {
        let entry = NodeEntry {
            name: self.memory.node.clone(),
            address: self.address?,
            subnets: self.memory.subnets.clone(),
            tunnel_options: TunnelOptions { keys: self.claimed_keys, ..TunnelOptions::default() },
        };
        (!entry.subnets.is_empty()).then(|| Candidate { since: 0, entry: entry.into() })
    }

    /// Whether all of this node's subnets are its own, by what is known.
    fn holds(&self) -> bool {
        self.address.is_some_and(|address| {
            self.memory.subnets.iter().all(|subnet| {
                let held = self.session.store.claims.get(subnet);
                held.is_some_and(|held| self.memory.owns(&held.claim, address))
            })
        })
    }
}

impl Session {
    fn new(keys: &Keys, step: Step) -> Self {
        Self {
            step,
            store: Store::load(keys.clone(), 0, &[]),
            told: None,
            unique: Unique::default(),
            following: false,
            claim_again: false,
            renew_at: None,
            look_at: None,
        }
    }
}

fn failed(cause: Cause) -> Step {
    Step::End(Some(Ended::Failed(cause.into())))
}
