//! Policies, pods, namespaces and nodes of a Kubernetes cluster.
//!
//! Each kind is listed and then watched by a task of its own, over one client; the first lists are
//! told together, so that nothing is thought of a cluster of which only a part is known. An API
//! server without ClusterNetworkPolicies has none. Of what it answers only what policies ask for is
//! kept, at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use culvert_policy::object::{Change, Kind, Object};
use culvert_policy::read::{self, Finding, Read};
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Link, PolicyUpdate, Question};
use crate::config::Kubernetes;
use crate::control::kubernetes::client::{Api, CallError, MISSING, ObjectEvent, Resource};
use crate::control::source::Backoff;

/// How long until an API server that does not know a kind is asked again.
const UNKNOWN_KIND: Duration = Duration::from_secs(60);

/// What the tasks of kinds have to tell that waits at most.
const QUEUE: usize = 256;

/// What the task of one kind tells.
enum Told {
    Listed(Kind, Read),
    Changed(Vec<Change>, Vec<Finding>),
    Lost(String),
}

const fn resource(kind: Kind) -> Resource {
    let (path, listing, watching) = match kind {
        Kind::Namespace => ("/api/v1/namespaces", "listing namespaces", "watching namespaces"),
        Kind::Pod => ("/api/v1/pods", "listing pods", "watching pods"),
        Kind::Node => ("/api/v1/nodes", "listing nodes", "watching nodes"),
        Kind::NetworkPolicy => (
            "/apis/networking.k8s.io/v1/networkpolicies",
            "listing networkpolicies",
            "watching networkpolicies",
        ),
        Kind::ClusterNetworkPolicy => (
            "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies",
            "listing clusternetworkpolicies",
            "watching clusternetworkpolicies",
        ),
    };
    Resource { path, listing, watching }
}

/// Follows the API server for ever.
pub(super) async fn follow(kubernetes: Kubernetes, node: String, mut link: Link) {
    let mut backoff = Backoff::new();
    loop {
        let api = match Api::connect(kubernetes.kubeconfig.as_deref()).await {
            Ok(api) => Arc::new(api),
            Err(error) => {
                link.say(PolicyUpdate::Lost(error.to_string())).await;
                tokio::time::sleep(backoff.wait().max(error.wait())).await;
                continue;
            }
        };
        if session(&api, &node, &mut link).await.is_none() {
            return;
        }
    }
}

/// Follows every kind until somebody asks for everything anew; none if nobody listens.
async fn session(api: &Arc<Api>, node: &str, link: &mut Link) -> Option<()> {
    let (sender, mut told) = mpsc::channel(QUEUE);
    let mut tasks = JoinSet::new();
    for kind in Kind::ALL {
        let follower =
            Follower { api: api.clone(), kind, node: node.to_owned(), told: sender.clone() };
        tasks.spawn(follower.follow());
    }
    let mut first: Option<BTreeMap<Kind, Read>> = Some(BTreeMap::new());
    loop {
        tokio::select! {
            told = told.recv() => match told? {
                Told::Lost(why) => link.say(PolicyUpdate::Lost(why)).await,
                Told::Changed(changes, findings) => {
                    let update = PolicyUpdate::Changes { changes, findings };
                    // What a kind tells before all are known is in its list when that is told.
                    match &mut first {
                        Some(lists) => merge(lists, update),
                        None => link.say(update).await,
                    }
                }
                Told::Listed(kind, read) => match &mut first {
                    Some(lists) => {
                        lists.insert(kind, read);
                        if lists.len() == Kind::ALL.len() {
                            let lists = first.take().unwrap_or_default();
                            link.say(everything(lists)).await;
                        }
                    }
                    None => {
                        let Read { objects, findings } = read;
                        link.say(PolicyUpdate::Kind { kind, objects, findings }).await;
                    }
                }
            },
            question = link.questions.recv() => match question? {
                Question::Reload => return Some(()),
                Question::Pod(namespace, name) => {
                    if let Some(update) = look_up(api, &namespace, &name).await {
                        link.say(update).await;
                    }
                }
            }
        }
    }
}

/// Puts what changed into the lists that wait for the others.
fn merge(lists: &mut BTreeMap<Kind, Read>, update: PolicyUpdate) {
    let PolicyUpdate::Changes { changes, findings } = update else { return };
    for change in changes {
        let key = match &change {
            Change::Put(object) => object.key(),
            Change::Delete(key) => key.clone(),
        };
        let Some(list) = lists.get_mut(&key.kind()) else { continue };
        list.objects.retain(|object| object.key() != key);
        let name = key.to_string();
        list.findings.retain(|finding| finding.object != name);
        if let Change::Put(object) = change {
            list.findings.extend(findings.iter().filter(|it| it.object == name).cloned());
            list.objects.push(object);
        }
    }
}

fn everything(lists: BTreeMap<Kind, Read>) -> PolicyUpdate {
    let (mut objects, mut findings) = (Vec::new(), Vec::new());
    for list in lists.into_values() {
        objects.extend(list.objects);
        findings.extend(list.findings);
    }
    PolicyUpdate::Everything { objects, findings }
}

/// One pod as it is now.
async fn look_up(api: &Api, namespace: &str, name: &str) -> Option<PolicyUpdate> {
    // Whoever asks got the names from a runtime: they must not lead to another place.
    let is_name = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
            && !text.starts_with('.')
    };
    if !is_name(namespace) || !is_name(name) {
        return None;
    }
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
    match api.object(&path).await {
        Ok(object) => {
            let Read { objects, findings } = read::item(Kind::Pod, &object?);
            let changes = objects.into_iter().map(Change::Put).collect();
            Some(PolicyUpdate::Changes { changes, findings })
        }
        Err(error) => {
            tracing::debug!(%error, "looking up a pod failed");
            None
        }
    }
}

/// Follows one kind.
struct Follower {
    api: Arc<Api>,
    kind: Kind,
    node: String,
    told: mpsc::Sender<Told>,
}

impl Follower {
    /// Lists, watches, and starts over when the watch is left behind or fails.
    async fn follow(self) {
        let mut backoff = Backoff::new();
        let mut is_missing = false;
        loop {
            let wait = match self.session(&mut backoff).await {
                Ok(()) => continue,
                Err(error)
                    if error.code() == Some(MISSING) && self.kind == Kind::ClusterNetworkPolicy =>
                {
                    // Once is enough for the daemon; afterwards there still are none.
                    if !std::mem::replace(&mut is_missing, true) {
                        self.say(Told::Listed(self.kind, Read::default())).await;
                    }
                    tokio::time::sleep(UNKNOWN_KIND).await;
                    continue;
                }
                Err(error) => {
                    let wait = error.wait();
                    self.say(Told::Lost(error.to_string())).await;
                    wait
                }
            };
            is_missing = false;
            tokio::time::sleep(backoff.wait().max(wait)).await;
        }
    }

    /// Follows until a list is needed again.
    async fn session(&self, backoff: &mut Backoff) -> Result<(), CallError> {
        let resource = resource(self.kind);
        let mut all = Read::default();
        let take = |object| {
            let Read { objects, findings } = self.read(&object);
            all.objects.extend(objects);
            all.findings.extend(findings);
        };
        let mut version = self.api.list_objects(resource, take).await?;
        self.say(Told::Listed(self.kind, all)).await;
        loop {
            let mut watch = self.api.watch_objects(resource, &version).await?;
            backoff.reset();
            while let Some(event) = watch.next().await {
                match event? {
                    ObjectEvent::Put(object) => {
                        version_of(&object, &mut version);
                        let Read { objects, findings } = self.read(&object);
                        let changes = objects.into_iter().map(Change::Put).collect();
                        self.say(Told::Changed(changes, findings)).await;
                    }
                    ObjectEvent::Deleted(object) => {
                        version_of(&object, &mut version);
                        let objects = self.read(&object).objects.into_iter();
                        let changes = objects.map(|object| Change::Delete(object.key())).collect();
                        self.say(Told::Changed(changes, Vec::new())).await;
                    }
                    ObjectEvent::Bookmark(now) => version = now,
                    ObjectEvent::Gone => {
                        tracing::info!(
                            kind = self.kind.as_str(),
                            "the API server has forgotten changes; listing anew"
                        );
                        return Ok(());
                    }
                }
            }
        }
    }

    /// What is kept of an object.
    fn read(&self, object: &Value) -> Read {
        let mut read = read::item(self.kind, object);
        for object in &mut read.objects {
            if let Object::Pod(pod) = object {
                // Only pods that start here are told apart by it.
                if pod.node.as_deref() != Some(&self.node) {
                    pod.uid = None;
                }
            }
        }
        read
    }

    async fn say(&self, told: Told) {
        let _ = self.told.send(told).await;
    }
}

fn version_of(object: &Value, version: &mut String) {
    if let Some(now) = object["metadata"]["resourceVersion"].as_str() {
        now.clone_into(version);
    }
}
