//! The subnet table of a Kubernetes cluster: each Node's podCIDRs and addresses.
//!
//! [`Follower`] decides, and is pure: a simulation runs many nodes of it against an API in memory.
//! The driver here does what it asks, on the control runtime: following the Nodes, and writing what
//! this node says of itself in its own (annotations for its peers, the condition that schedulers go
//! by, and the end of the startup taint). It never takes anything away from the daemon because the
//! API server is away. While the daemon is slow the watch waits, and one that is left behind (410
//! Gone) is followed by a new list.

pub(super) mod client;
mod connection;
mod events;
mod names;

use std::path::PathBuf;
use std::time::Instant;

use culvert_claims::kubernetes::{
    Desired, Ended, Follower, Identity, Patch, Request, Sight, Watched,
};
use culvert_dataplane::platform::clock;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use k8s_openapi::jiff::Timestamp;

use self::client::{Api, CONFLICT, CallError};
use self::names::Names;
use super::source::{Backoff, Link, Saved, SourceRequests, Update, describe, held_addresses};
use crate::config::{Config, Kubernetes};

/// Follows the API server for ever, and tells it of this node.
pub(super) async fn follow(kubernetes: Kubernetes, config: Config, link: Link) {
    let (kubeconfig, name) = (kubernetes.kubeconfig.clone(), config.node.name.clone());
    let telling = events::tell(kubeconfig, name, link.requests.clone());
    tokio::join!(follow_nodes(kubernetes, config, link), telling);
}

async fn follow_nodes(kubernetes: Kubernetes, config: Config, mut link: Link) {
    let mut backoff = Backoff::new();
    let (name, port) = (config.node.name.clone(), config.underlay.port);
    let desired = Desired::new(config.node.address, port, &kubernetes.startup_taint);
    let flannel = kubernetes.from_flannel.then_some(config.network.vxlan_vni);
    let identity = Identity { name: name.clone(), sight: Sight { port, flannel }, desired };
    let known = {
        let (state_dir, name) = (config.node.state_dir.clone(), name.clone());
        let source = describe(&config.table);
        // The copy of the table that an earlier daemon left; without one nothing is known.
        let read = move || Saved::read(&state_dir, &name, &source).ok().flatten();
        let saved = tokio::task::spawn_blocking(read).await.ok().flatten();
        saved.map(|saved| saved.proposal().nodes().cloned().collect()).unwrap_or_default()
    };
    let mut driver = Driver {
        kubeconfig: kubernetes.kubeconfig,
        state_dir: config.node.state_dir,
        name,
        follower: Follower::new(identity, known),
        names: Names::default(),
    };
    loop {
        let mut wait = backoff.wait();
        match driver.session(&mut link, &mut backoff).await {
            Ok(Ended::Asked) => continue,
            Ok(Ended::Gone) => tracing::info!("the API server has forgotten changes; listing anew"),
            Err(error) => {
                wait = wait.max(error.wait());
                link.say(Update::Lost(error.to_string())).await;
            }
        }
        tokio::time::sleep(wait).await;
    }
}

/// Does what the machine asks.
struct Driver {
    kubeconfig: Option<PathBuf>,
    state_dir: PathBuf,
    name: String,
    follower: Follower,
    names: Names,
}

impl Driver {
    /// Connects, and does what the machine asks until the session ends.
    async fn session(
        &mut self,
        link: &mut Link,
        backoff: &mut Backoff,
    ) -> Result<Ended, CallError> {
        let mut requests = link.requests.borrow_and_update().clone();
        let api = Api::connect(self.kubeconfig.as_deref()).await?;
        let follower = &mut self.follower;
        follower.begin(requests.ready);
        follower.set_keys(requests.keys);
        let mut watch = None;
        loop {
            let request = follower.request(clock::now());
            while let Some(update) = follower.update() {
                link.say(update).await;
            }
            match request {
                Request::List => {
                    let (nodes, version) = api.list().await?;
                    follower.listed(nodes, version);
                }
                Request::Heard => {
                    link.heard().await;
                    requests.ready = link.requests.borrow().ready;
                    follower.heard(requests.ready);
                }
                Request::Pods(subnets) => {
                    let held = held_addresses(self.state_dir.clone(), subnets).await;
                    let held = match held {
                        Ok(held) => Ok(self.names.put(&api, &self.name, held).await),
                        unknown => unknown,
                    };
                    follower.pods(held);
                }
                Request::Patch(patch) => change(&api, &self.name, patch).await,
                Request::Watch(version) => {
                    backoff.reset();
                    watch = Some(api.watch(&version).await?);
                    follower.watching();
                }
                Request::Wait(until) => tokio::select! {
                    watched = next(&mut watch) => follower.watched(watched?),
                    () = sleep_until(until) => {}
                    changed = link.requests.changed() => {
                        // The daemon is gone, and this task goes with it.
                        if changed.is_err() { return Ok(Ended::Gone) }
                        let now = link.requests.borrow_and_update().clone();
                        wish(follower, &requests, &now);
                        requests = now;
                    }
                },
                Request::End(ended) => return Ok(ended),
            }
        }
    }
}

/// Takes what the daemon has to say.
fn wish(follower: &mut Follower, before: &SourceRequests, now: &SourceRequests) {
    if before.keys != now.keys {
        follower.set_keys(now.keys);
    }
    if before.ready != now.ready {
        follower.ready(now.ready);
    }
    if before.reloads != now.reloads {
        follower.reload();
    }
}

/// Changes this node's own Node. A failure is tried again with the next occasion.
async fn change(api: &Api, name: &str, patch: Patch) {
    let seconds = i64::try_from(clock::unix_nanos() / 1_000_000_000).unwrap_or_default();
    let now = Timestamp::from_second(seconds).unwrap_or_default().to_string();
    match api.patch(name, patch, &now).await {
        Ok(()) => {}
        // Somebody changed the node meanwhile, of which the watch tells next.
        Err(error) if error.code() == Some(CONFLICT) => {
            tracing::debug!("this node has changed; trying again");
        }
        Err(error) => tracing::warn!(%error, "changing this node failed"),
    }
}

/// What the watch tells next.
async fn next(
    watch: &mut Option<BoxStream<'static, Result<Watched, CallError>>>,
) -> Result<Watched, CallError> {
    match watch {
        Some(watch) => watch.next().await.unwrap_or(Ok(Watched::Ended)),
        None => Ok(Watched::Ended),
    }
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}
