//! Policies, pods, namespaces and nodes of a Kubernetes cluster.
//!
//! Each kind is listed and then watched by a task of its own, over one client, which is made anew
//! once it has failed; the first lists are told together, so that nothing is thought of a cluster
//! of which only a part is known. An API server without ClusterNetworkPolicies has none, which is
//! believed late where there were some (`missing`). Of what it answers only what policies ask for
//! is kept, at once.

mod missing;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use culvert_dataplane::platform::clock;
use culvert_policy::Shared;
use culvert_policy::object::{Change, Key, Kind, Object};
use culvert_policy::read::{self, Finding, Page, Part, Read, Whole};
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use self::missing::Missing;
use super::{Link, PolicyUpdate, Question};
use crate::config::Kubernetes;
use crate::control::kubernetes::client::{
    Api, CallError, MISSING, ObjectEvent, PageMeta, Resource,
};
use crate::control::source::Backoff;

/// How long one pod is asked about: whoever waits for it does not wait much longer, and policies
/// wait as well.
const LOOK_UP: Duration = Duration::from_secs(1);

/// What the tasks of kinds have to tell that waits at most.
const QUEUE: usize = 256;

/// What the task of one kind tells.
#[derive(Debug)]
enum Told {
    Listed(Kind, Read),
    Changed(Vec<Change>, Vec<Finding>),
    Lost(Kind, String),
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
pub(super) async fn follow(
    kubernetes: Kubernetes,
    node: String,
    known: Vec<Object>,
    mut link: Link,
) {
    let missing = Arc::new(Mutex::new(Missing::new(known)));
    loop {
        let kubeconfig = kubernetes.kubeconfig.clone();
        let connection = Arc::new(Connection { kubeconfig, api: Mutex::default() });
        if session(&connection, &missing, &node, &mut link).await.is_none() {
            return;
        }
    }
}

/// The client that all kinds share.
struct Connection {
    kubeconfig: Option<PathBuf>,
    api: Mutex<Option<Arc<Api>>>,
}

impl Connection {
    /// The one there is, or else one that is made by what kubeconfig and certificates are now.
    async fn api(&self) -> Result<Arc<Api>, CallError> {
        let mut known = self.api.lock().await;
        if let Some(api) = &*known {
            return Ok(api.clone());
        }
        let api = Arc::new(Api::connect(self.kubeconfig.as_deref()).await?);
        Ok(known.insert(api).clone())
    }

    /// Whoever asks next gets another than `api`: server, authority or identity may have changed.
    async fn forget(&self, api: &Arc<Api>) {
        self.api.lock().await.take_if(|known| Arc::ptr_eq(known, api));
    }

    /// Whoever asks next may get another server: of several, a connection stays with one.
    async fn turn_elsewhere(&self) {
        *self.api.lock().await = None;
    }
}

/// Follows every kind until somebody asks for everything anew; none if nobody listens.
async fn session(
    connection: &Arc<Connection>,
    missing: &Arc<Mutex<Missing>>,
    node: &str,
    link: &mut Link,
) -> Option<()> {
    let (sender, mut told) = mpsc::channel(QUEUE);
    let mut tasks = JoinSet::new();
    for kind in Kind::ALL {
        let (connection, told) = (connection.clone(), sender.clone());
        let missing = (kind == Kind::ClusterNetworkPolicy).then(|| missing.clone());
        let follower = Follower { connection, kind, missing, node: node.to_owned(), told };
        tasks.spawn(follower.follow());
    }
    let mut first = Some(First::default());
    loop {
        tokio::select! {
            told = told.recv() => match told? {
                Told::Lost(kind, why) => {
                    link.say(PolicyUpdate::Lost { kind: Some(kind), why }).await;
                }
                Told::Changed(changes, findings) => {
                    match &mut first {
                        Some(first) => first.change(changes, &findings),
                        None => link.say(PolicyUpdate::Changes { changes, findings }).await,
                    }
                }
                Told::Listed(kind, read) => match &mut first {
                    Some(lists) => {
                        lists.list(kind, read);
                        if lists.is_complete() {
                            let lists = first.take().unwrap_or_default();
                            link.say(lists.everything()).await;
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
                    // Nothing else is told meanwhile: what a watch has told must not be undone by
                    // an answer from before.
                    let asked = look_up(connection, &namespace, &name);
                    if let Ok(Some(update)) = tokio::time::timeout(LOOK_UP, asked).await {
                        link.say(update).await;
                    }
                }
            }
        }
    }
}

/// The first list of each kind, until all are there.
#[derive(Default)]
struct First {
    lists: BTreeMap<Kind, Read>,
    /// What has changed since its kind was listed: as it is, or that it is gone.
    since: BTreeMap<Key, Read>,
}

impl First {
    /// Takes a list, which has all that changed before.
    fn list(&mut self, kind: Kind, read: Read) {
        self.since.retain(|key, _| key.kind() != kind);
        self.lists.insert(kind, read);
    }

    /// Takes what a kind tells that was listed.
    fn change(&mut self, changes: Vec<Change>, findings: &[Finding]) {
        for change in changes {
            let (key, object) = match change {
                Change::Put(object) => (object.key(), Some(object)),
                Change::Delete(key) => (key, None),
            };
            let name = key.to_string();
            let of_it =
                findings.iter().filter(|finding| object.is_some() && finding.object == name);
            let findings = of_it.cloned().collect();
            self.since.insert(key, Read { objects: object.into_iter().collect(), findings });
        }
    }

    fn is_complete(&self) -> bool {
        self.lists.len() == Kind::ALL.len()
    }

    fn everything(self) -> PolicyUpdate {
        let Self { mut lists, since } = self;
        // Nearly everything is pods, which stay where they are.
        let Read { mut objects, mut findings } = lists.remove(&Kind::Pod).unwrap_or_default();
        for list in lists.into_values() {
            objects.extend(list.objects);
            findings.extend(list.findings);
        }
        objects.retain(|object| !since.contains_key(&object.key()));
        let names: BTreeSet<String> = since.keys().map(ToString::to_string).collect();
        findings.retain(|finding| !names.contains(&finding.object));
        for changed in since.into_values() {
            objects.extend(changed.objects);
            findings.extend(changed.findings);
        }
        PolicyUpdate::Everything { objects, findings }
    }
}

/// One pod as it is now.
async fn look_up(connection: &Connection, namespace: &str, name: &str) -> Option<PolicyUpdate> {
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
    let object = match connection.api().await {
        Ok(api) => api.object(&path).await,
        Err(error) => Err(error),
    };
    match object {
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
    connection: Arc<Connection>,
    kind: Kind,
    /// For a kind without which a cluster may be.
    missing: Option<Arc<Mutex<Missing>>>,
    node: String,
    told: mpsc::Sender<Told>,
}

impl Follower {
    /// Lists, watches, and starts over when the watch is left behind or fails.
    async fn follow(self) {
        let mut backoff = Backoff::new();
        let mut is_listed = false;
        loop {
            let wait = match self.session(&mut backoff).await {
                Ok(()) => continue,
                Err(error) => match &self.missing {
                    Some(missing) if error.code() == Some(MISSING) => {
                        let (told, wait) = missing.lock().await.answer(clock::now(), is_listed);
                        is_listed = true;
                        if wait == missing::DOUBTED {
                            self.connection.turn_elsewhere().await;
                        }
                        for told in told {
                            let _ = self.told.send(told).await;
                        }
                        tokio::time::sleep(wait).await;
                        continue;
                    }
                    _ => {
                        let wait = error.wait();
                        self.say(Told::Lost(self.kind, error.to_string())).await;
                        wait
                    }
                },
            };
            tokio::time::sleep(backoff.wait().max(wait)).await;
        }
    }

    /// Follows until a list is needed again.
    async fn session(&self, backoff: &mut Backoff) -> Result<(), CallError> {
        let api = self.connection.api().await?;
        let ended = match self.kind {
            Kind::Namespace | Kind::Pod | Kind::Node => {
                self.session_with::<Part>(&api, backoff).await
            }
            Kind::NetworkPolicy | Kind::ClusterNetworkPolicy => {
                self.session_with::<Whole>(&api, backoff).await
            }
        };
        // That a kind is missing is an answer as good as any.
        if ended.as_ref().is_err_and(|error| error.code() != Some(MISSING)) {
            self.connection.forget(&api).await;
        }
        ended
    }

    /// The same with `api`, where of what changes `T` is read.
    async fn session_with<T>(&self, api: &Api, backoff: &mut Backoff) -> Result<(), CallError>
    where
        T: Clone + DeserializeOwned + Into<Part> + Send + 'static,
    {
        let resource = resource(self.kind);
        // Pods of one kind differ in little but their names, and a large cluster has many of each.
        let (mut all, mut shared) = (Read::default(), Shared::default());
        let mut take = |read: Read| {
            let Read { objects, findings } = self.kept(read);
            all.objects.extend(objects.into_iter().map(|object| shared.object(object)));
            all.findings.extend(findings);
        };
        let read = |text: &[u8]| {
            let Page { resource_version, r#continue } = read::page(self.kind, text, &mut take)?;
            Ok(PageMeta { resource_version, r#continue })
        };
        let mut version = api.list_objects(resource, read).await?;
        self.say(Told::Listed(self.kind, all)).await;
        drop(shared);
        loop {
            let mut watch = api.watch_objects::<T>(resource, &version).await?;
            backoff.reset();
            while let Some(event) = watch.next().await {
                match event? {
                    ObjectEvent::Put(object) => {
                        let object = object.into();
                        version_of(&object, &mut version);
                        let Read { objects, findings } = self.kept(read::part(self.kind, &object));
                        let changes = objects.into_iter().map(Change::Put).collect();
                        self.say(Told::Changed(changes, findings)).await;
                    }
                    ObjectEvent::Deleted(object) => {
                        let object = object.into();
                        version_of(&object, &mut version);
                        let objects = read::part(self.kind, &object).objects.into_iter();
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

    /// What is kept of what was read.
    fn kept(&self, mut read: Read) -> Read {
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
        if let Some(missing) = &self.missing {
            missing.lock().await.note(&told);
        }
        let _ = self.told.send(told).await;
    }
}

fn version_of(object: &Part, version: &mut String) {
    if let Some(now) = object.version() {
        now.clone_into(version);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn namespace(name: &str, team: &str) -> Read {
        let labels =
            json!({ "team": team, "number": if team.is_empty() { json!(1) } else { json!("1") } });
        read::item(Kind::Namespace, &json!({ "metadata": { "name": name, "labels": labels } }))
    }

    fn put(first: &mut First, read: Read) {
        let Read { objects, findings } = read;
        first.change(objects.into_iter().map(Change::Put).collect(), &findings);
    }

    #[test]
    fn what_changes_before_all_lists_are_there_is_in_what_is_told() {
        let mut first = First::default();
        let list = |parts: &[Read]| Read {
            objects: parts.iter().flat_map(|read| read.objects.clone()).collect(),
            findings: parts.iter().flat_map(|read| read.findings.clone()).collect(),
        };
        first.list(Kind::Namespace, list(&[namespace("a", ""), namespace("b", "")]));
        put(&mut first, namespace("a", "red"));
        put(&mut first, namespace("b", "red"));
        // A list has everything of before.
        first.list(Kind::Namespace, list(&[namespace("a", ""), namespace("b", "")]));
        put(&mut first, namespace("b", "red"));
        put(&mut first, namespace("b", "blue"));
        put(&mut first, namespace("c", ""));
        put(&mut first, namespace("d", ""));
        first.change(vec![Change::Delete(Key::Namespace("d".into()))], &[]);
        assert!(!first.is_complete());
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Namespace) {
            first.list(kind, Read::default());
        }
        assert!(first.is_complete());
        let PolicyUpdate::Everything { objects, findings } = first.everything() else {
            panic!("not everything")
        };
        let expected = list(&[namespace("a", ""), namespace("b", "blue"), namespace("c", "")]);
        assert_eq!(objects, expected.objects);
        assert_eq!(findings, expected.findings);
        assert_eq!(findings.len(), 2, "of a and c, and of none that is another or gone");
    }
}
