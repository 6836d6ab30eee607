//! The policies of this node: everything that is known of them, the plan made of that, and the
//! kernel that enforces it.
//!
//! One value on a thread of its own, because making a plan of ten thousand pods takes a while, and
//! the kernel may keep its caller waiting. Never waits for a source: it is handed what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use culvert_nft::Counted;
use culvert_node::pod_admission::PodName;
use culvert_policy::judge::Packet;
use culvert_policy::object::{Change, Key, Kind, Object};
use culvert_policy::plan::Direction;
use culvert_policy::{Compiler, Judge, Member, Plan, Site, World};
use ipnet::IpNet;

use super::attachments::{Attached, Attachments};
use super::enforcer::{Enforcer, Holding, Settled, Wanted};
use super::memory::{self, Memory, Remembered};
use super::trial;
use crate::config::UnknownPods;

/// What a source has told.
#[derive(Debug)]
pub(crate) enum News {
    /// Everything that there is.
    All(Vec<Object>),
    /// Everything that there is of one kind.
    Kind(Kind, Vec<Object>),
    /// What has changed since.
    Changed(Vec<Change>),
}

/// What is known of the nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nodes {
    /// This node's pod subnets.
    pub(crate) subnets: Vec<IpNet>,
    /// All nodes, by their names.
    pub(crate) members: BTreeMap<Arc<str>, Member>,
}

/// A pod that waits for its port to go up.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    /// Which pod; none, if the runtime does not tell.
    pub(crate) pod: Option<PodName>,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// Whether it cannot wait for its object any longer.
    pub(crate) is_last_chance: bool,
}

/// What becomes of a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// The rules are for it.
    Admitted,
    /// No object of it is known yet.
    Unknown,
    /// It must not start.
    Refused(String),
}

/// What a round came to.
#[derive(Debug)]
pub(crate) struct Round {
    /// One for each candidate.
    pub(crate) admissions: Vec<Admission>,
    /// What the kernel has.
    pub(crate) settled: anyhow::Result<Settled>,
    /// The plan that should be in force.
    pub(crate) plan: Arc<Plan>,
    /// What there is.
    pub(crate) size: Size,
    /// Why the rules are not what they would be if everything was known.
    pub(crate) lack: Option<String>,
    /// What has become of what is known since the round before.
    pub(crate) outdated: Outdated,
}

/// How much of a copy of what is known is of before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outdated {
    /// Nothing.
    #[default]
    Nothing,
    /// Pods of other nodes, which this node's rules do not ask for.
    Elsewhere,
    /// What this node's rules or pods are made of.
    Here,
}

/// What the policies of one end say of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Judged {
    pub(crate) direction: Direction,
    /// Who isolates the pod, and which rule decides.
    pub(crate) found: String,
    /// Rules that almost allowed it.
    pub(crate) near_misses: Vec<String>,
    pub(crate) is_allowed: bool,
    /// Whether the pod is on this node.
    pub(crate) is_here: bool,
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    /// NetworkPolicies and ClusterNetworkPolicies.
    pub(crate) policies: usize,
    /// Pods that are known.
    pub(crate) pods: usize,
}

/// What rules are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Footing {
    /// Nothing so far.
    None,
    /// What the source told an earlier daemon, if the kernel has no other rules.
    Remembered {
        /// Whether it has.
        is_older: bool,
    },
    /// What the source told an earlier daemon.
    Adopted,
    /// Nothing, although something was kept, for this reason.
    Damaged(String),
    /// Nothing, and nor has the kernel: all pods are closed, because some may have been.
    Closed(String),
    /// Everything that the source has told.
    Told,
}

/// Why there are no rules yet, although nothing has failed: the source has not told.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Awaited(&'static str);

impl Footing {
    fn lack(&self) -> Option<String> {
        let Self::Closed(why) = self else { return None };
        Some(format!("all pods are closed until the source tells of policies: {why}"))
    }
}

/// What is known, and what is made of it.
pub(crate) struct Policies {
    bridge: String,
    unknown_pods: UnknownPods,
    world: World,
    compiler: Compiler,
    site: Site,
    attachments: Attachments,
    /// Addresses of ports, as they were when last looked at.
    ports: BTreeSet<IpAddr>,
    enforcer: Enforcer,
    plan: Arc<Plan>,
    /// The kinds of which the source has told everything once.
    told: BTreeSet<Kind>,
    /// What the rules are made of until it has.
    footing: Footing,
    /// Where that is kept.
    place: memory::Place,
    /// Whether the plan may be another than what is known says.
    is_stale: bool,
    /// What a copy of what is known lacks since the last round.
    outdated: Outdated,
}

impl Policies {
    /// Begins with the pods that were attached before, and what `source` had told before.
    pub(crate) fn new(
        node: &str,
        bridge: &str,
        state_dir: &Path,
        source: &str,
        unknown_pods: UnknownPods,
        enforcer: Enforcer,
    ) -> Self {
        let place = memory::Place::new(state_dir, node, source);
        let (objects, footing) = match place.read() {
            Remembered::Nothing => (Vec::new(), Footing::None),
            Remembered::Objects(objects) => (objects, Footing::Remembered { is_older: false }),
            Remembered::Damaged(why) => {
                tracing::warn!(why, "what was kept of the policies is of no use");
                (Vec::new(), Footing::Damaged(why))
            }
        };
        let mut policies = Self {
            bridge: bridge.to_owned(),
            unknown_pods,
            world: World::new(objects),
            compiler: Compiler::default(),
            site: Site { node: node.into(), ..Site::default() },
            attachments: Attachments::read(state_dir),
            ports: BTreeSet::new(),
            enforcer,
            plan: Arc::default(),
            told: BTreeSet::new(),
            footing,
            place,
            is_stale: true,
            outdated: Outdated::Nothing,
        };
        for attached in policies.attachments.iter() {
            attach(&mut policies.world, attached);
        }
        policies
    }

    /// The ClusterNetworkPolicies that are known, for the source that may have none.
    pub(crate) fn cluster_policies(&self) -> Vec<Object> {
        let policies = self.world.cluster_policies();
        policies.map(|policy| Object::ClusterNetworkPolicy((**policy).clone())).collect()
    }

    /// Takes what a source tells.
    pub(crate) fn take(&mut self, news: Vec<News>) {
        for news in news {
            match news {
                News::All(objects) => {
                    self.world.replace(objects);
                    self.told.extend(Kind::ALL);
                    (self.is_stale, self.outdated) = (true, Outdated::Here);
                }
                News::Kind(kind, objects) => {
                    self.world.replace_kind(kind, objects);
                    self.told.insert(kind);
                    (self.is_stale, self.outdated) = (true, Outdated::Here);
                }
                News::Changed(changes) => {
                    for change in changes {
                        self.change(change);
                    }
                }
            }
        }
        if self.told.len() == Kind::ALL.len() {
            self.footing = Footing::Told;
        }
    }

    fn change(&mut self, change: Change) {
        let key = match &change {
            Change::Put(object) => object.key(),
            Change::Delete(key) => key.clone(),
        };
        let is_here = |world: &World| {
            let Key::Pod(namespace, name) = &key else { return true };
            world.pod(namespace, name).is_some_and(|pod| self.site.has(world, pod))
        };
        let was_here = is_here(&self.world);
        if self.world.apply(change) {
            let is_here = was_here || is_here(&self.world);
            let outdated = if is_here { Outdated::Here } else { Outdated::Elsewhere };
            (self.is_stale, self.outdated) = (true, self.outdated.max(outdated));
        }
    }

    /// Takes what is known of the nodes.
    pub(crate) fn set_nodes(&mut self, nodes: Nodes) {
        self.world.set_members(nodes.members);
        self.site.subnets = nodes.subnets;
        self.is_stale = true;
    }

    /// Lets candidates in, and makes the kernel enforce what is known now. Before anything is known
    /// the kernel goes on with what it has. A pod must not inherit the connections of another that
    /// had its address: who was let in may start once these are forgotten.
    pub(crate) fn round(&mut self, candidates: &[Candidate]) -> Round {
        let mut admissions: Vec<_> =
            candidates.iter().map(|candidate| self.consider(candidate)).collect();
        let settled = self.enforce();
        let prepared = match &settled {
            Ok(_) if !admissions.contains(&Admission::Admitted) => Ok(()),
            Ok(_) => self.keep_attachments().map(|()| trial::reached("attached")),
            Err(error) => Err(anyhow::anyhow!("{error:#}")),
        };
        if let Err(error) = prepared {
            for admission in &mut admissions {
                if *admission == Admission::Admitted {
                    *admission = Admission::Refused(format!("{error:#}"));
                }
            }
        }
        let (plan, outdated) = (Arc::clone(&self.plan), std::mem::take(&mut self.outdated));
        Round { admissions, settled, plan, size: self.size(), lack: self.footing.lack(), outdated }
    }

    /// Has the next round say what the last one said to nobody: that there is something to be cut,
    /// and to be kept.
    pub(crate) fn say_again(&mut self) {
        self.enforcer.owe_cut();
        self.outdated = Outdated::Here;
    }

    /// What the source has told, to be kept; none before it has.
    pub(crate) fn memory(&self) -> Option<Memory> {
        (self.footing == Footing::Told).then(|| self.place.memory(self.world.objects()))
    }

    fn size(&self) -> Size {
        Size {
            policies: self.world.network_policies().count() + self.world.cluster_policies().count(),
            pods: self.world.pod_count(),
        }
    }

    fn enforce(&mut self) -> anyhow::Result<Settled> {
        self.find_footing()?;
        let wanted = self.wanted()?;
        self.enforcer.settle(&wanted)
    }

    /// What the kernel should enforce by what is known.
    fn wanted(&mut self) -> anyhow::Result<Wanted> {
        if self.is_stale || matches!(self.footing, Footing::Closed(_)) {
            if self.ports.is_empty() {
                // Before the first rules: a port must not be let go until somebody looks around.
                self.look_at_ports()?;
            }
            self.site.closed = self.closed()?;
            let plan = self.compiler.compile(&mut self.world, &self.site);
            // What is the same stays the value that the kernel is known to have.
            if *plan != *self.plan {
                self.plan = plan;
                self.outdated = Outdated::Here;
            }
            self.is_stale = false;
        }
        let plan = Arc::clone(&self.plan);
        Ok(Wanted { plan, bridge: self.bridge.clone() })
    }

    /// Makes sure that something is known by which rules can be made. The source may not have told
    /// yet; then what it told an earlier daemon counts, but in place of no other rules: those that
    /// the kernel has may be newer, and must not be opened.
    fn find_footing(&mut self) -> anyhow::Result<()> {
        match &self.footing {
            Footing::Told | Footing::Adopted | Footing::Closed(_) => return Ok(()),
            Footing::None => return Err(Awaited("no policies are known yet").into()),
            Footing::Remembered { is_older: false } => {
                let wanted = self.wanted()?;
                if self.enforcer.holding(&wanted)? == Holding::Other {
                    self.footing = Footing::Remembered { is_older: true };
                }
            }
            Footing::Remembered { is_older: true } | Footing::Damaged(_) => {}
        }
        let has_rules = self.enforcer.has_tables(&self.bridge)?;
        match &self.footing {
            Footing::Damaged(why) if !has_rules => self.footing = Footing::Closed(why.clone()),
            Footing::Remembered { is_older } if !(*is_older && has_rules) => {
                tracing::info!("going on with the policies that were known last");
                self.footing = Footing::Adopted;
            }
            Footing::Damaged(why) => anyhow::bail!(
                "the rules of before stay: the source has told nothing yet, and of what was kept of \
                 the policies, {why}"
            ),
            Footing::Told
            | Footing::Adopted
            | Footing::Closed(_)
            | Footing::None
            | Footing::Remembered { .. } => {
                return Err(Awaited(
                    "the rules of before stay: the source has told nothing yet, and they are not \
                     what was kept of the policies",
                )
                .into());
            }
        }
        Ok(())
    }

    /// Addresses of pods of which nothing is known, and that are closed for it.
    fn closed(&mut self) -> anyhow::Result<BTreeSet<IpAddr>> {
        if matches!(self.footing, Footing::Closed(_)) {
            return self.enforcer.pod_addresses();
        }
        let is_strict = self.unknown_pods != UnknownPods::Open;
        let attached = self
            .attachments
            .iter()
            .filter(|attached| is_strict || attached.closed_while_unknown)
            .flat_map(|attached| attached.addresses.iter().copied());
        let mut closed: BTreeSet<IpAddr> =
            attached.filter(|address| self.world.holder(*address).is_none()).collect();
        // Nobody has told of these: what was kept of pods is lost, or they are older.
        let strangers = self.ports.iter().filter(|address| !self.attachments.has(address));
        let is_said_here = |address: &IpAddr| {
            let mut claiming = self.world.claiming(*address);
            claiming.any(|pod| self.site.has(&self.world, pod))
        };
        if is_strict {
            closed.extend(strangers.filter(|address| !is_said_here(address)));
        }
        Ok(closed)
    }

    /// Why nothing is known of the pod that the runtime names; none if it is known.
    fn unknown(&self, name: Option<&PodName>) -> Option<String> {
        let Some(PodName { namespace, name, uid }) = name else {
            let why = "the runtime does not say which pod it is (K8S_POD_NAMESPACE and \
                       K8S_POD_NAME in CNI_ARGS); set policy.unknown_pods to start such pods";
            return Some(why.to_owned());
        };
        let remedy = "wait for it, or write one, or set policy.unknown_pods";
        let Some(pod) = self.world.pod(namespace, name) else {
            return Some(format!(
                "there is no pod {namespace}/{name} among the objects that this node knows; {remedy}"
            ));
        };
        if pod.host_network {
            return Some(format!(
                "the pod {namespace}/{name} that this node knows uses the network of its node; {remedy}"
            ));
        }
        match (&pod.uid, uid) {
            (Some(known), Some(told)) if **known != **told => Some(format!(
                "the pod {namespace}/{name} that this node knows has the uid {known}, and the one \
                 that the runtime starts has {told}; {remedy}"
            )),
            // Whoever writes objects by hand gives them no number.
            _ => None,
        }
    }

    fn consider(&mut self, candidate: &Candidate) -> Admission {
        if !matches!(self.footing, Footing::Told | Footing::Adopted) {
            let why = "the policies are not known yet; `culvert status` says what is missing";
            return Admission::Refused(why.to_owned());
        }
        let unknown = self.unknown(candidate.pod.as_ref());
        let is_known = unknown.is_none();
        match unknown {
            Some(_) if !candidate.is_last_chance => return Admission::Unknown,
            Some(why) if self.unknown_pods == UnknownPods::Refuse => {
                return Admission::Refused(why);
            }
            _ => {}
        }
        let attached = Attached {
            pod: candidate.pod.clone(),
            addresses: candidate.addresses.clone(),
            // What was held by policies once is not let go because its object is.
            closed_while_unknown: is_known || self.unknown_pods == UnknownPods::Closed,
        };
        self.leave(&candidate.addresses);
        attach(&mut self.world, &attached);
        self.attachments.insert(attached);
        self.is_stale = true;
        Admission::Admitted
    }

    /// Forgets whoever had these addresses.
    fn leave(&mut self, addresses: &[IpAddr]) -> bool {
        let gone = self.attachments.remove(addresses);
        self.world.detach(gone.iter().flat_map(|attached| attached.addresses.iter().copied()));
        self.is_stale |= !gone.is_empty();
        !gone.is_empty()
    }

    /// Forgets pods that are gone.
    pub(crate) fn left(&mut self, addresses: &[IpAddr]) -> anyhow::Result<()> {
        if self.leave(addresses) {
            trial::reached("leaving");
            self.keep_attachments()?;
        }
        Ok(())
    }

    /// Looks at what no source tells: which pods are gone without a word, and which addresses are
    /// this machine's. Returns the addresses of the former.
    pub(crate) fn look_around(&mut self) -> anyhow::Result<Vec<IpAddr>> {
        self.world.set_local(self.enforcer.own_addresses()?);
        let there = self.look_at_ports()?.clone();
        let gone: Vec<IpAddr> = self
            .attachments
            .iter()
            .flat_map(|attached| &attached.addresses)
            .filter(|address| !there.contains(address))
            .copied()
            .collect();
        self.left(&gone)?;
        Ok(gone)
    }

    fn look_at_ports(&mut self) -> anyhow::Result<&BTreeSet<IpAddr>> {
        let ports = self.enforcer.pod_addresses()?;
        self.is_stale |= ports != self.ports;
        self.ports = ports;
        Ok(&self.ports)
    }

    fn keep_attachments(&self) -> anyhow::Result<()> {
        self.attachments.write().context("keeping which pods have which addresses")
    }

    /// The addresses of a pod of any node, as its object says; none if no object is known.
    pub(crate) fn addresses_of(&self, namespace: &str, name: &str) -> Option<Vec<IpAddr>> {
        self.world.pod(namespace, name).map(|pod| pod.addresses.iter().collect())
    }

    /// What the policies of both ends say of a packet that begins a connection; nothing of an end
    /// that is no pod.
    pub(crate) fn judge(&self, packet: Packet) -> Vec<Judged> {
        let judge = Judge::new(&self.world);
        let mut judged = Vec::new();
        for direction in Direction::ALL {
            let opinion = judge.opinion(packet, direction);
            let own = match direction {
                Direction::Egress => packet.source,
                Direction::Ingress => packet.destination,
            };
            let Some(pod) = judge.subject_at(own) else { continue };
            let is_allowed = opinion.is_allowed();
            let near_misses = if is_allowed {
                Vec::new()
            } else {
                let near_misses = judge.near_misses(packet, direction);
                near_misses.iter().map(ToString::to_string).collect()
            };
            judged.push(Judged {
                direction,
                found: opinion.to_string(),
                near_misses,
                is_allowed,
                is_here: self.site.has(&self.world, pod),
            });
        }
        judged
    }

    /// How often rules have matched.
    pub(crate) fn counted(&mut self) -> anyhow::Result<Vec<Counted>> {
        self.enforcer.counted()
    }
}

fn attach(world: &mut World, attached: &Attached) {
    if let Some(pod) = &attached.pod {
        let addresses = attached.addresses.iter().copied();
        world.attach(&pod.namespace, &pod.name, pod.uid.as_deref(), addresses);
    }
}

#[cfg(test)]
mod tests;
