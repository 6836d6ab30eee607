//! From one list of all nodes to the moment at which the next is needed.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{anyhow, bail};
use futures_util::StreamExt as _;
use kube::api::WatchEvent;

use super::client::{Api, code_of};
use super::node::Node;
use super::publish::Desired;
use crate::config::{Config, Kubernetes};
use crate::control::source::{Backoff, Candidate, Link, Proposal, Update, pods_in};

/// HTTP's word for a version that the server does not have any more.
const GONE: u16 = 410;

/// HTTP's word for a change that was made from an older version.
const CONFLICT: u16 = 409;

/// Why a session ended without a failure.
pub(super) enum Ended {
    /// Everything is to be read again.
    Asked,
    /// The server has no changes from where we were.
    Gone,
}

/// What outlives a session.
pub(super) struct Follower {
    kubernetes: Kubernetes,
    config: Config,
    desired: Desired,
    /// This node as its own table has it.
    own: Option<Candidate>,
    contested: Option<String>,
    /// Whether the condition was ever written by this daemon: one that starts says nothing before it
    /// is ready, because the daemon before it may have left the network working.
    was_ready: bool,
    /// Nodes that make no sense.
    wrong: BTreeSet<String>,
}

impl Follower {
    pub(super) fn new(kubernetes: Kubernetes, config: &Config) -> Self {
        Self {
            desired: Desired::new(config, &kubernetes.startup_taint),
            kubernetes,
            config: config.clone(),
            own: None,
            contested: None,
            was_ready: false,
            wrong: BTreeSet::new(),
        }
    }

    /// Lists, and follows until something fails.
    pub(super) async fn session(
        &mut self,
        link: &mut Link,
        backoff: &mut Backoff,
    ) -> anyhow::Result<Ended> {
        let reloads = link.wishes.borrow_and_update().reloads;
        let api = Api::connect(self.kubernetes.kubeconfig.as_deref()).await?;
        let (nodes, mut version) = api.list().await?;
        let name = self.config.node.name.clone();
        let mut own = nodes.iter().find(|node| node.metadata.name == name).cloned();
        self.take_own(own.as_ref(), link).await;
        let proposal = self.proposal(&nodes);
        drop(nodes);
        link.say(Update::Everything(proposal)).await;
        backoff.reset();

        loop {
            self.publish(&api, own.as_ref(), link).await;
            let mut watch = match api.watch(&version).await {
                Err(error) if code_of(&error) == Some(GONE) => return Ok(Ended::Gone),
                watch => watch?,
            };
            loop {
                let event = tokio::select! {
                    event = watch.next() => event,
                    changed = link.wishes.changed() => {
                        changed?;
                        if link.wishes.borrow_and_update().reloads != reloads {
                            return Ok(Ended::Asked);
                        }
                        self.publish(&api, own.as_ref(), link).await;
                        continue;
                    }
                };
                let node = match event {
                    // The server closes a watch from time to time; go on from where it was.
                    None => break,
                    Some(event) => match event? {
                        WatchEvent::Added(node) | WatchEvent::Modified(node) => Ok(node.slim()),
                        WatchEvent::Deleted(node) => Err(node),
                        WatchEvent::Bookmark(bookmark) => {
                            version = bookmark.metadata.resource_version;
                            continue;
                        }
                        WatchEvent::Error(status) if status.code == GONE => return Ok(Ended::Gone),
                        WatchEvent::Error(status) => {
                            return Err(anyhow!(kube::Error::Api(status)).context("watching nodes"));
                        }
                    },
                };
                let (Ok(current) | Err(current)) = &node;
                version.clone_from(&current.metadata.resource_version);
                if version.is_empty() {
                    bail!("the API server sent a node without a version");
                }
                if current.metadata.name == name {
                    own = node.ok();
                    let was = self.own.clone();
                    self.take_own(own.as_ref(), link).await;
                    if let Some(now) = self.own.clone().filter(|now| was.as_ref() != Some(now)) {
                        if was.is_none_or(|was| family(&was) != family(&now)) {
                            // The addresses of all others follow this one's family.
                            return Ok(Ended::Asked);
                        }
                        link.say(Update::Put(now)).await;
                    }
                    self.publish(&api, own.as_ref(), link).await;
                } else {
                    self.tell(node, link).await;
                }
            }
        }
    }

    fn ipv4(&self) -> Option<bool> {
        self.own.as_ref().map(family)
    }

    fn proposal(&mut self, nodes: &[Node]) -> Proposal {
        let mut unreadable = BTreeMap::new();
        let mut known = Vec::with_capacity(nodes.len());
        for node in nodes.iter().filter(|node| node.metadata.name != self.config.node.name) {
            match node.candidate(self.ipv4(), self.config.underlay.port) {
                Ok(candidate) => known.extend(candidate),
                Err(problem) => drop(unreadable.insert(place(&node.metadata.name), problem)),
            }
        }
        known.extend(self.own.clone());
        self.wrong = unreadable.keys().cloned().collect();
        Proposal::of_nodes(known).with_unreadable(unreadable)
    }

    /// Tells of another node: as it is, or (`Err`) as it was when it was deleted.
    async fn tell(&mut self, node: Result<Node, Node>, link: &Link) {
        let name = match &node {
            Ok(node) | Err(node) => node.metadata.name.clone(),
        };
        let candidate = match &node {
            Ok(node) => node.candidate(self.ipv4(), self.config.underlay.port),
            Err(_deleted) => Ok(None),
        };
        let key = place(&name);
        let problem = candidate.as_ref().err().cloned();
        let was_wrong = match problem {
            Some(_) => !self.wrong.insert(key.clone()),
            None => self.wrong.remove(&key),
        };
        if problem.is_some() || was_wrong {
            link.say(Update::Unreadable { key, problem }).await;
        }
        link.say(match candidate {
            Ok(Some(candidate)) => Update::Put(candidate),
            Ok(None) | Err(_) => Update::Remove(name),
        })
        .await;
    }

    /// Takes this node's own object; without one that will do, what was stays, and the daemon is told.
    async fn take_own(&mut self, node: Option<&Node>, link: &Link) {
        let contested = match self.read_own(node) {
            Ok(own) => {
                self.own = Some(own);
                None
            }
            Err(reason) => Some(reason),
        };
        if contested.is_some() || contested != self.contested {
            self.contested.clone_from(&contested);
            link.say(Update::Contested(contested)).await;
        }
    }

    fn read_own(&self, node: Option<&Node>) -> Result<Candidate, String> {
        let name = &self.config.node.name;
        let Some(node) = node else {
            return Err(format!(
                "the cluster has no node \"{name}\"; set node.name to the name that kubectl get nodes \
                 shows"
            ));
        };
        let found = node
            .candidate(None, self.config.underlay.port)
            .map_err(|problem| format!("{}: {problem}", place(name)))?
            .ok_or_else(|| {
                format!(
                    "node \"{name}\" has no podCIDR: run kube-controller-manager with \
                     --allocate-node-cidrs=true and --cluster-cidr, or set the node's spec.podCIDR"
                )
            })?;
        let Some(own) = &self.own else { return Ok(found) };
        let lost: Vec<_> = own
            .entry
            .subnets
            .iter()
            .filter(|subnet| !found.entry.subnets.contains(subnet))
            .copied()
            .collect();
        if lost.is_empty() {
            return Ok(found);
        }
        match pods_in(&self.config.node.state_dir, &lost) {
            Ok(0) => Ok(found),
            Ok(pods) => Err(format!(
                "node \"{name}\" got another podCIDR while {pods} pods hold addresses of {lost:?}; \
                 drain it"
            )),
            Err(error) => Err(format!(
                "node \"{name}\" got another podCIDR, and whether pods hold addresses of {lost:?} \
                 cannot be known: {error:#}"
            )),
        }
    }

    /// Makes this node's object say what it should. A failure is tried again with the next occasion,
    /// at the latest when the watch is renewed.
    async fn publish(&mut self, api: &Api, own: Option<&Node>, link: &Link) {
        let Some(node) = own else { return };
        let ready = link.wishes.borrow().ready;
        self.was_ready |= ready;
        let name = &self.config.node.name;
        let now = k8s_openapi::jiff::Timestamp::now().as_second();
        let now = k8s_openapi::jiff::Timestamp::from_second(now).unwrap_or_default().to_string();
        let condition =
            if self.was_ready { self.desired.condition(node, ready, &now) } else { None };
        let taints = if ready { self.desired.taints(node) } else { None };
        for (what, patch) in [("annotations", self.desired.annotations(node)), ("taint", taints)] {
            let Some(patch) = patch else { continue };
            let Err(error) = api.patch(name, &patch).await else { continue };
            if code_of(&error) == Some(CONFLICT) {
                // Somebody changed the node meanwhile, of which the watch tells next.
                tracing::debug!(what, "this node has changed; trying again");
            } else {
                tracing::warn!(what, error = format!("{error:#}"), "changing this node failed");
            }
        }
        if let Some(patch) = condition
            && let Err(error) = api.patch_status(name, &patch).await
        {
            tracing::warn!(error = format!("{error:#}"), "writing this node's condition failed");
        }
    }
}

/// Whether a node is reached by IPv4.
fn family(candidate: &Candidate) -> bool {
    candidate.entry.address.is_ipv4()
}

/// Where a value of a node stands.
fn place(name: &str) -> String {
    format!("node \"{name}\" of the cluster")
}
