//! What a node makes of the cluster's Nodes: the table, its own entry in it, and what it writes
//! into its own Node.
//!
//! Pure: no socket, no disk, no clock. The driver asks [`Follower::request`] what to do next, tells
//! the daemon every update that [`Follower::update`] has, does it, and brings the answer to the
//! method of the same name. Any failure ends a session; the next one begins by listing everything.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use culvert_membership::NodeKeys;
use ipnet::IpNet;
use overlay_proto::Family;
use serde_json::Value;

use super::failure::{Place, Refusal};
use super::flannel::Lease;
use super::node::{ADDRESS, Node, Sight};
use super::publish::Desired;
use crate::{Candidate, HeldAddress, PodsUnknown, Proposal, Update};

/// How often a node whose pods hold addresses of another subnet looks whether they still do: about
/// as long as a pod takes to end. A look asks this machine alone.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// What the API server tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched {
    /// A node is new or has changed.
    Put(Node),
    /// A node is gone; as it was last.
    Deleted(Node),
    /// Nothing has changed up to this version.
    Bookmark(String),
    /// The changes since the version that was asked for are forgotten.
    Gone,
    /// The watch is over; the server ends each from time to time.
    Ended,
}

/// A change of this node's own Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Patch {
    /// A merge patch of the object.
    Object(Value),
    /// A strategic merge patch of its status.
    Status(Value),
}

/// What is to be done next. Updates that the machine has ready are told first.
#[derive(Debug)]
pub enum Request {
    /// List every node.
    List,
    /// Wait until the daemon has heard every update so far.
    Heard,
    /// Look which addresses in these subnets pods hold.
    Pods(Vec<IpNet>),
    /// Change this node's own Node.
    Patch(Patch),
    /// Have the changes after this version told.
    Watch(String),
    /// Nothing: wait for the watch, for news of this machine, or, if there is one, for this moment.
    Wait(Option<Instant>),
    /// End the session: everything is to be read again, at once or after a while.
    End(Ended),
}

/// Why a session ended without a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Somebody asked for it, or what is known must be read in another way.
    Asked,
    /// The server has no changes from where we were.
    Gone,
}

/// What this node is, by its configuration.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// How it looks at Nodes.
    pub sight: Sight,
    /// What it should say of itself in its Node.
    pub desired: Desired,
}

/// The machine of one node. Outlives sessions.
#[derive(Debug)]
pub struct Follower {
    identity: Identity,
    /// This node as its own table has it.
    own: Option<Candidate>,
    contested: Option<String>,
    ready: bool,
    /// Whether pods ever could get addresses by this daemon. One that starts does not say that they
    /// cannot, unless it knows why: the daemon before it may have left the network working.
    was_ready: bool,
    /// Nodes that make no sense.
    wrong: BTreeSet<String>,
    step: Step,
    /// This node's object, and the version up to which everything is known.
    object: Option<Node>,
    version: String,
    /// What was listed, until it is told.
    listed: Option<Vec<Node>>,
    patches: VecDeque<Patch>,
    watching: bool,
    look_at: Option<Instant>,
    updates: VecDeque<Update>,
}

#[derive(Debug)]
enum Step {
    List,
    Heard(Vec<IpNet>),
    Pods(Vec<IpNet>),
    Follow,
    End(Ended),
}

impl Follower {
    /// The machine of a node whose earlier daemon knew the nodes `known`: what pods have of its own
    /// subnets is not to be given up by a restart.
    pub fn new(identity: Identity, known: Vec<Candidate>) -> Self {
        Self {
            own: known.into_iter().find(|node| node.entry.name == identity.name),
            identity,
            contested: None,
            ready: false,
            was_ready: false,
            wrong: BTreeSet::new(),
            step: Step::List,
            object: None,
            version: String::new(),
            listed: None,
            patches: VecDeque::new(),
            watching: false,
            look_at: None,
            updates: VecDeque::new(),
        }
    }

    /// Peers are to know this node by these public keys.
    pub fn set_keys(&mut self, keys: NodeKeys) {
        self.identity.desired.set_keys(keys);
        self.publish();
    }

    /// Begins a session; pods may get addresses of this node, or not.
    pub fn begin(&mut self, ready: bool) {
        self.set_ready(ready);
        self.step = Step::List;
        self.object = None;
        self.listed = None;
        self.patches.clear();
        self.watching = false;
        self.look_at = None;
    }

    /// What to tell the daemon, in this order.
    pub fn update(&mut self) -> Option<Update> {
        self.updates.pop_front()
    }

    /// What to do next. Nothing is asked twice: the answer must come before the next question.
    pub fn request(&mut self, now: Instant) -> Request {
        if matches!(self.step, Step::Follow) && self.look_at.is_some_and(|at| at <= now) {
            self.look_at = None;
            self.take_own(None);
        }
        match &self.step {
            Step::List => Request::List,
            Step::Heard(_) => Request::Heard,
            Step::Pods(subnets) => Request::Pods(subnets.clone()),
            Step::End(ended) => Request::End(*ended),
            Step::Follow => {
                if self.contested.is_some() && self.look_at.is_none() {
                    self.look_at = Some(now + LOOK_EVERY);
                }
                match self.patches.pop_front() {
                    Some(patch) => Request::Patch(patch),
                    None if self.watching => Request::Wait(self.look_at),
                    None => Request::Watch(self.version.clone()),
                }
            }
        }
    }

    /// Every node there is, and the version of that.
    pub fn listed(&mut self, nodes: Vec<Node>, version: String) {
        let own = nodes.iter().find(|node| node.metadata.name == self.identity.name);
        self.object = own.cloned();
        self.version = version;
        self.listed = Some(nodes);
        self.take_own(None);
    }

    /// The daemon has heard everything, and takes new pods or not.
    pub fn heard(&mut self, ready: bool) {
        self.set_ready(ready);
        let Step::Heard(subnets) = &mut self.step else { return };
        if ready {
            // It will say when it does not any more.
            self.settle();
        } else {
            self.step = Step::Pods(std::mem::take(subnets));
        }
    }

    /// Which addresses pods hold in the subnets that were asked for.
    pub fn pods(&mut self, held: Result<Vec<HeldAddress>, PodsUnknown>) {
        self.take_own(Some(held));
    }

    /// The watch is open.
    pub fn watching(&mut self) {
        self.watching = true;
    }

    /// The watch has told something.
    pub fn watched(&mut self, watched: Watched) {
        let node = match watched {
            Watched::Put(node) => Ok(node),
            Watched::Deleted(node) => Err(node),
            Watched::Bookmark(version) => {
                self.version = version;
                return;
            }
            Watched::Gone => {
                self.step = Step::End(Ended::Gone);
                return;
            }
            Watched::Ended => {
                // Going on from where it was; what could not be written is tried again.
                self.watching = false;
                self.publish();
                return;
            }
        };
        let (Ok(current) | Err(current)) = &node;
        self.version.clone_from(&current.metadata.resource_version);
        if current.metadata.name == self.identity.name {
            self.object = node.ok();
            self.take_own(None);
        } else {
            self.tell(node);
        }
    }

    /// Pods may get addresses of this node from now on, or not.
    pub fn ready(&mut self, ready: bool) {
        self.set_ready(ready);
        if !ready && self.contested.is_some() {
            self.take_own(None);
        } else {
            self.publish();
        }
    }

    /// Everything is to be read again.
    pub fn reload(&mut self) {
        self.step = Step::End(Ended::Asked);
    }

    fn set_ready(&mut self, ready: bool) {
        self.ready = ready;
        self.was_ready |= ready;
    }

    /// The family of the underlay, which this node's own address tells.
    fn family(&self) -> Option<Family> {
        self.own.as_ref().map(family)
    }

    /// Takes this node's own object; without one that will do, what was stays, and the daemon is
    /// told.
    fn take_own(&mut self, held: Option<Result<Vec<HeldAddress>, PodsUnknown>>) {
        let refusal = match self.read_own() {
            Ok(found) => match (self.lost(&found), held) {
                (lost, _) if lost.is_empty() => return self.adopt(found),
                (lost, Some(Ok(held))) if held.is_empty() && self.is_closed() => {
                    let subnets: Vec<String> = lost.iter().map(ToString::to_string).collect();
                    let subnets = subnets.join(" ");
                    tracing::warn!(subnets, "giving up subnets that no pod uses");
                    return self.adopt(found);
                }
                (lost, Some(held)) if self.is_closed() => {
                    Refusal::lost(&self.identity.name, lost, held)
                }
                (lost, _) => {
                    // No pod may get an address in a subnet after it was looked at.
                    if self.contested.is_none() {
                        let name = self.identity.name.clone();
                        let refusal = Refusal::SubnetsLost { name, lost: lost.clone() };
                        self.contest(Some(refusal.to_string()));
                    }
                    self.step = Step::Heard(lost);
                    return;
                }
            },
            Err(refusal) => refusal,
        };
        self.contest(Some(refusal.to_string()));
        self.settle();
    }

    /// Whether the daemon attaches no pods, and will not before this node has its subnets.
    fn is_closed(&self) -> bool {
        self.contested.is_some() && !self.ready
    }

    fn read_own(&self) -> Result<Candidate, Refusal> {
        let name = || self.identity.name.clone();
        let node = self.object.as_ref().ok_or_else(|| match self.own {
            // It was there, for this daemon or for the one before it.
            Some(_) => Refusal::NodeDeleted { name: name() },
            None => Refusal::NoNode { name: name() },
        })?;
        node.own(self.identity.sight)
            .map_err(|problem| Refusal::Problem { place: Place(name()), problem })?
            .ok_or_else(|| Refusal::NoPodCidr { name: name() })
    }

    /// Subnets that this node has and `found` has not.
    fn lost(&self, found: &Candidate) -> Vec<IpNet> {
        let own = self.own.as_ref().map(|own| own.entry.subnets.as_slice()).unwrap_or_default();
        own.iter().filter(|subnet| !found.entry.subnets.contains(subnet)).copied().collect()
    }

    fn adopt(&mut self, found: Candidate) {
        let before = self.own.replace(found.clone());
        let moved = before.as_ref().is_none_or(|before| family(before) != family(&found));
        let listed = self.listed.is_some();
        if !listed && before.as_ref() != Some(&found) {
            self.updates.push_back(Update::Put(found));
        }
        self.settle();
        // Only now that the daemon knows the subnets of which pods may get addresses.
        self.contest(None);
        if !listed && moved {
            // The addresses of all others follow this one's family.
            self.step = Step::End(Ended::Asked);
        }
    }

    fn contest(&mut self, contested: Option<String>) {
        if self.contested != contested {
            self.look_at = None;
            self.contested.clone_from(&contested);
            self.updates.push_back(Update::Contested(contested));
        }
    }

    /// Goes on once this node's own entry is known, or is known not to be its own.
    fn settle(&mut self) {
        if let Some(nodes) = self.listed.take() {
            let proposal = self.proposal(&nodes);
            self.updates.push_back(Update::Everything(proposal));
        }
        self.step = Step::Follow;
        self.publish();
    }

    fn proposal(&mut self, nodes: &[Node]) -> Proposal {
        let mut unreadable = BTreeMap::new();
        let mut known = Vec::with_capacity(nodes.len());
        for node in nodes.iter().filter(|node| node.metadata.name != self.identity.name) {
            match node.candidate(self.family(), self.identity.sight) {
                Ok(candidate) => known.extend(candidate),
                Err(problem) => {
                    unreadable.insert(place(&node.metadata.name), problem.to_string());
                }
            }
        }
        known.extend(self.own.clone());
        self.wrong = unreadable.keys().cloned().collect();
        Proposal::of_nodes(known).with_unreadable(unreadable)
    }

    /// Tells of another node: as it is, or (`Err`) as it was when it was deleted.
    fn tell(&mut self, node: Result<Node, Node>) {
        let name = match &node {
            Ok(node) | Err(node) => node.metadata.name.clone(),
        };
        let candidate = match &node {
            Ok(node) => node.candidate(self.family(), self.identity.sight),
            Err(_deleted) => Ok(None),
        };
        let key = place(&name);
        let problem = candidate.as_ref().err().map(ToString::to_string);
        let was_wrong = match problem {
            Some(_) => !self.wrong.insert(key.clone()),
            None => self.wrong.remove(&key),
        };
        if problem.is_some() || was_wrong {
            self.updates.push_back(Update::Unreadable { key, problem });
        }
        self.updates.push_back(match candidate {
            Ok(Some(candidate)) => Update::Put(candidate),
            Ok(None) | Err(_) => Update::Remove(name),
        });
    }

    /// Makes this node's object say what it should. A failure is tried again with the next
    /// occasion, at the latest when the watch is renewed.
    fn publish(&mut self) {
        self.patches.clear();
        let Some(node) = &self.object else { return };
        let desired = &self.identity.desired;
        let taints = if self.ready { desired.taints(node) } else { None };
        let annotations = match self.lease_to_say(node) {
            Some(lease) => desired.annotations(node, &lease),
            None => None,
        };
        let objects = annotations.into_iter().chain(taints).map(Patch::Object);
        self.patches.extend(objects);
        // That no pod is to come here is known, whatever the daemon before this one left.
        // Of a node that goes back flannel says it.
        let is_ours = !node.goes_back(self.identity.sight);
        if is_ours && (self.was_ready || self.is_closed()) {
            self.patches.extend(desired.condition(node, self.ready).map(Patch::Status));
        }
    }

    /// What this node says to flannel's nodes beside what it says to ours; none while it says
    /// nothing to anybody.
    ///
    /// While the cluster changes over, all others go on speaking with this node as before until
    /// packets flow here, and again from when it is annotated to go back.
    fn lease_to_say(&self, node: &Node) -> Option<Vec<(&'static str, String)>> {
        let Some(vni) = self.identity.sight.flannel else { return Some(Vec::new()) };
        if !self.was_ready || node.goes_back(self.identity.sight) {
            return None;
        }
        let own = || self.own.as_ref().map(|own| &own.entry);
        Some(match node.lease(self.identity.sight) {
            // What flannel has said of this node stays: its nodes need not notice anything.
            Ok(Some(lease)) => {
                let address = node.address_to_say(lease);
                address.map(|it| (ADDRESS, it.to_string())).into_iter().collect()
            }
            Ok(None) => own()
                .and_then(|own| Lease::of(own.address, own.tunnel_options.mac_at(own.address)))
                .map(|lease| lease.annotations(vni).into())
                .unwrap_or_default(),
            Err(_) => Vec::new(),
        })
    }
}

/// Whether a node is reached by IPv4.
fn family(candidate: &Candidate) -> Family {
    Family::of(candidate.entry.address)
}

/// Where a value of a node stands.
fn place(name: &str) -> String {
    Place(name.to_owned()).to_string()
}
