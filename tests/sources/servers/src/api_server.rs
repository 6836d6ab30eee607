//! A stand-in for the Kubernetes API server: Nodes, listed, watched and patched over HTTP, and what
//! policies are made of, listed and watched.
//!
//! Serves the protocol as clients meet it: pages with `continue`, a watch from a version on as JSON
//! lines in chunks, bookmarks, 410 for a version that is forgotten, merge patches that are refused
//! with 409 when they name an older version. And it misbehaves when told to.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::ops::Bound;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, patch, post};
use axum::{Json, Router};
use culvert_lab::Netns;
use serde_json::{Value, json};
use tokio::sync::{broadcast, oneshot};

#[derive(Default)]
struct Cluster {
    version: u64,
    nodes: BTreeMap<String, Value>,
    /// Objects of other kinds, by the path of their list and by their names.
    others: BTreeMap<String, BTreeMap<String, Value>>,
    /// Events, each with its version and the path of the list that it is of.
    log: VecDeque<(u64, String, Value)>,
    /// The newest version that is forgotten.
    forgotten: u64,
    /// Requests that are answered with 429 from now on.
    refuse: usize,
    /// Whether watches are told byte by byte.
    slow: bool,
    /// The list of which there is always another page.
    endless: Option<&'static str>,
    /// Who asked for nodes (`User-Agent`).
    agents: BTreeSet<String>,
    lists: usize,
    watches: usize,
    /// Events that were written.
    events: Vec<Value>,
}

/// Where nodes are listed.
const NODES: &str = "/api/v1/nodes";

/// Where pods, namespaces and policies are listed.
pub const PODS: &str = "/api/v1/pods";
pub const NAMESPACES: &str = "/api/v1/namespaces";
pub const NETWORK_POLICIES: &str = "/apis/networking.k8s.io/v1/networkpolicies";
/// A cluster knows of these only once there is one.
pub const CLUSTER_POLICIES: &str = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies";

struct Shared {
    cluster: Mutex<Cluster>,
    changed: broadcast::Sender<()>,
    /// Ends every connection that watches.
    drop_watches: broadcast::Sender<()>,
}

/// The server; ends with this value.
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ApiServer {
    pub fn start() -> Self {
        Self::serve(None, "127.0.0.1:0".parse().unwrap())
    }

    /// Serves in a namespace of a lab.
    pub fn start_in(netns: &Netns, address: IpAddr) -> Self {
        Self::serve(Some(netns), SocketAddr::new(address, 6443))
    }

    fn serve(netns: Option<&Netns>, address: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            cluster: Mutex::default(),
            changed: broadcast::channel(1024).0,
            drop_watches: broadcast::channel(16).0,
        });
        let bind = || std::net::TcpListener::bind(address).unwrap();
        let listener = match netns {
            Some(netns) => netns.run(bind).unwrap(),
            None => bind(),
        };
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (end, ended) = oneshot::channel::<()>();
        let routes = Router::new()
            .route("/api/v1/nodes", get(list_or_watch))
            .route("/api/v1/nodes/{name}", patch(patch_node))
            .route("/api/v1/nodes/{name}/status", patch(patch_status))
            .route(PODS, get(list_or_watch_others))
            .route(NAMESPACES, get(list_or_watch_others))
            .route(NETWORK_POLICIES, get(list_or_watch_others))
            .route(CLUSTER_POLICIES, get(list_or_watch_others))
            .route("/api/v1/namespaces/{namespace}/pods/{name}", get(read_pod))
            .route("/api/v1/namespaces/{namespace}/events", post(write_event))
            .with_state(Arc::clone(&shared));
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    _ = ended => {}
                    result = async { axum::serve(listener, routes).await } => result.unwrap(),
                }
            });
        });
        Self { shared, address, end: Some(end), thread: Some(thread) }
    }

    /// A kubeconfig that leads here.
    pub fn kubeconfig(&self) -> String {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        })
        .to_string()
    }

    /// Creates or replaces a node.
    pub fn put(&self, node: Value) {
        let name = node["metadata"]["name"].as_str().unwrap().to_owned();
        self.change(|cluster| {
            cluster.version += 1;
            let kind = if cluster.nodes.contains_key(&name) { "MODIFIED" } else { "ADDED" };
            record(cluster, kind, &name, node);
        });
    }

    pub fn delete(&self, name: &str) {
        self.change(|cluster| {
            cluster.version += 1;
            let mut node = cluster.nodes.remove(name).unwrap();
            let version = cluster.version;
            node["metadata"]["resourceVersion"] = json!(version.to_string());
            let event = json!({"type": "DELETED", "object": node});
            cluster.log.push_back((version, NODES.to_owned(), event));
        });
    }

    /// Creates or replaces an object of another kind, by the path of its list.
    pub fn put_other(&self, list: &str, mut object: Value) {
        self.change(|cluster| {
            cluster.version += 1;
            object["metadata"]["resourceVersion"] = json!(cluster.version.to_string());
            let known = cluster.others.entry(list.to_owned()).or_default();
            let is_new = known.insert(name_of(&object), object.clone()).is_none();
            let kind = if is_new { "ADDED" } else { "MODIFIED" };
            let event = json!({"type": kind, "object": object});
            cluster.log.push_back((cluster.version, list.to_owned(), event));
        });
    }

    /// Deletes an object of another kind, by its name as `NAMESPACE/NAME` or `/NAME`.
    pub fn delete_other(&self, list: &str, name: &str) {
        self.change(|cluster| {
            cluster.version += 1;
            let mut object = cluster.others.get_mut(list).unwrap().remove(name).unwrap();
            object["metadata"]["resourceVersion"] = json!(cluster.version.to_string());
            let event = json!({"type": "DELETED", "object": object});
            cluster.log.push_back((cluster.version, list.to_owned(), event));
        });
    }

    /// Has an object of another kind without telling anybody who watches.
    pub fn hide_other(&self, list: &str, object: Value) {
        let mut cluster = self.shared.cluster.lock().unwrap();
        let known = cluster.others.entry(list.to_owned()).or_default();
        known.insert(name_of(&object), object);
    }

    pub fn node(&self, name: &str) -> Value {
        self.shared.cluster.lock().unwrap().nodes[name].clone()
    }

    /// Every node, by its name.
    pub fn nodes(&self) -> BTreeMap<String, Value> {
        self.shared.cluster.lock().unwrap().nodes.clone()
    }

    /// Writes annotations of the node `name`, or takes them away.
    pub fn annotate(
        &self,
        name: &str,
        annotations: impl IntoIterator<Item = (String, Option<String>)>,
    ) {
        self.change(|cluster| {
            let mut node = cluster.nodes[name].clone();
            let written: serde_json::Map<String, Value> =
                annotations.into_iter().map(|(key, value)| (key, json!(value))).collect();
            merge(&mut node, &json!({"metadata": {"annotations": written}}));
            cluster.version += 1;
            record(cluster, "MODIFIED", name, node);
        });
    }

    /// Events that were written, in their order.
    pub fn events(&self) -> Vec<Value> {
        self.shared.cluster.lock().unwrap().events.clone()
    }

    /// Forgets what happened so far: every watch is from before, and is told 410.
    pub fn forget(&self) {
        self.change(|cluster| {
            cluster.version += 1;
            cluster.forgotten = cluster.version;
            cluster.log.clear();
        });
    }

    /// Only the version moves on, which only a bookmark tells.
    pub fn bookmark(&self) {
        self.change(|cluster| {
            cluster.version += 1;
            let object = json!({"kind": "Node", "apiVersion": "v1", "metadata":
                {"resourceVersion": cluster.version.to_string()}});
            let event = json!({"type": "BOOKMARK", "object": object});
            cluster.log.push_back((cluster.version, NODES.to_owned(), event));
        });
    }

    /// Becomes what a backup of long ago holds: `keep` says which objects of a list are there.
    pub fn restore(&self, keep: impl Fn(&str, &Value) -> bool) {
        self.change(|cluster| {
            cluster.version = 1;
            cluster.log.clear();
            cluster.nodes.retain(|_, node| keep(NODES, node));
            for (list, objects) in &mut cluster.others {
                objects.retain(|_, object| keep(list, object));
            }
        });
        self.drop_watches();
    }

    /// Ends every watch.
    pub fn drop_watches(&self) {
        let _ = self.shared.drop_watches.send(());
    }

    /// Refuses the next requests with 429.
    pub fn refuse(&self, requests: usize) {
        self.change(|cluster| cluster.refuse = requests);
    }

    pub fn slow(&self, slow: bool) {
        self.change(|cluster| cluster.slow = slow);
    }

    /// Has there always be another page of `list`.
    pub fn endless(&self, list: Option<&'static str>) {
        self.change(|cluster| cluster.endless = list);
    }

    /// How often nodes were listed and watched.
    pub fn asked(&self) -> (usize, usize) {
        let cluster = self.shared.cluster.lock().unwrap();
        (cluster.lists, cluster.watches)
    }

    /// Who has asked for nodes.
    pub fn agents(&self) -> Vec<String> {
        self.shared.cluster.lock().unwrap().agents.iter().cloned().collect()
    }

    fn change(&self, change: impl FnOnce(&mut Cluster)) {
        change(&mut self.shared.cluster.lock().unwrap());
        let _ = self.shared.changed.send(());
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        drop(self.end.take());
        self.drop_watches();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A node as a cluster has it, with much that nobody here reads.
pub fn node(number: u32, subnet: &str) -> Value {
    let [_, _, high, low] = (10 + number).to_be_bytes();
    json!({
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {
            "name": format!("node{number}"),
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "labels": {"kubernetes.io/os": "linux"},
            "annotations": {"node.alpha.kubernetes.io/ttl": "0"},
        },
        "spec": {"podCIDR": subnet, "podCIDRs": [subnet]},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": format!("192.168.{}.{low}", high + 1)},
                {"type": "Hostname", "address": format!("node{number}")},
            ],
            "conditions": [{"type": "Ready", "status": "True"}],
            "images": [{"names": ["registry/image:v1"], "sizeBytes": 1}],
        },
    })
}

fn record(cluster: &mut Cluster, kind: &str, name: &str, mut node: Value) {
    let version = cluster.version;
    node["metadata"]["resourceVersion"] = json!(version.to_string());
    cluster.nodes.insert(name.to_owned(), node.clone());
    let event = json!({"type": kind, "object": node});
    cluster.log.push_back((version, NODES.to_owned(), event));
}

fn name_of(object: &Value) -> String {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
    format!("{}/{}", text("namespace"), text("name"))
}

fn refusal(code: StatusCode, reason: &str) -> Response {
    let details = json!({"retryAfterSeconds": u8::from(code == StatusCode::TOO_MANY_REQUESTS)});
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
        "message": reason, "reason": reason, "details": details, "code": code.as_u16()});
    (code, [(header::CONTENT_TYPE, "application/json")], status.to_string()).into_response()
}

async fn list_or_watch(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    // Names of nodes and numbers: nothing in them is escaped.
    let query: HashMap<&str, String> = query
        .iter()
        .flat_map(|query| query.split('&'))
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key, value.to_owned()))
        .collect();
    let mut cluster = shared.cluster.lock().unwrap();
    let agent = headers.get(header::USER_AGENT).map(|agent| agent.to_str().unwrap());
    cluster.agents.insert(agent.unwrap_or_default().to_owned());
    if cluster.refuse > 0 {
        cluster.refuse -= 1;
        return refusal(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests");
    }
    if query.contains_key("watch") {
        cluster.watches += 1;
        let from: u64 = query["resourceVersion"].parse().unwrap();
        if from < cluster.forgotten {
            return refusal(StatusCode::GONE, "Expired");
        }
        drop(cluster);
        return watch(shared, from, NODES.to_owned());
    }
    if query.get("resourceVersion").is_some_and(|version| is_ahead(version, &cluster)) {
        return refusal(StatusCode::GATEWAY_TIMEOUT, "Timeout");
    }
    cluster.lists += 1;
    let limit: usize = query.get("limit").map_or(usize::MAX, |limit| limit.parse().unwrap());
    let after = query.get("continue").cloned().unwrap_or_default();
    let items: Vec<&Value> = cluster
        .nodes
        .iter()
        .filter(|(name, _)| after.is_empty() || **name > after)
        .map(|(_, node)| node)
        .take(limit)
        .collect();
    let mut metadata = json!({"resourceVersion": cluster.version.to_string()});
    if let (true, Some(last)) = (items.len() == limit, items.last()) {
        metadata["continue"] = last["metadata"]["name"].clone();
    }
    Json(json!({"kind": "NodeList", "apiVersion": "v1", "metadata": metadata, "items": items}))
        .into_response()
}

async fn list_or_watch_others(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    RawQuery(query): RawQuery,
) -> Response {
    let list = uri.path().to_owned();
    let query = query.unwrap_or_default();
    let value = |key: &str| {
        query
            .split('&')
            .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
            .map(str::to_owned)
    };
    let cluster = shared.cluster.lock().unwrap();
    if list == CLUSTER_POLICIES && !cluster.others.contains_key(CLUSTER_POLICIES) {
        return refusal(StatusCode::NOT_FOUND, "NotFound");
    }
    if value("watch").is_some() {
        let from: u64 = value("resourceVersion").unwrap().parse().unwrap();
        if from < cluster.forgotten {
            return refusal(StatusCode::GONE, "Expired");
        }
        drop(cluster);
        return watch(shared, from, list);
    }
    if value("resourceVersion").is_some_and(|version| is_ahead(&version, &cluster)) {
        return refusal(StatusCode::GATEWAY_TIMEOUT, "Timeout");
    }
    let limit: usize = value("limit").map_or(usize::MAX, |limit| limit.parse().unwrap());
    // A name has nothing else that is escaped.
    let after = value("continue").map(|after| after.replace("%2F", "/"));
    let after = after.map_or(Bound::Unbounded, Bound::Excluded);
    let known = cluster.others.get(&list).into_iter();
    let mut rest = known.flat_map(|known| known.range((after.clone(), Bound::Unbounded)));
    let items: Vec<(&String, &Value)> = rest.by_ref().take(limit).collect();
    let mut metadata = json!({"resourceVersion": cluster.version.to_string()});
    if let (Some(_more), Some((last, _))) = (rest.next(), items.last()) {
        metadata["continue"] = json!(last);
    }
    if cluster.endless == Some(&*list) {
        metadata["continue"] = json!("more");
    }
    let items: Vec<&Value> = items.into_iter().map(|(_, item)| item).collect();
    Json(json!({"metadata": metadata, "items": items})).into_response()
}

/// Whether a version is one that the database has not come to.
fn is_ahead(version: &str, cluster: &Cluster) -> bool {
    version.parse::<u64>().unwrap() > cluster.version
}

async fn read_pod(
    State(shared): State<Arc<Shared>>,
    Path((namespace, name)): Path<(String, String)>,
) -> Response {
    let cluster = shared.cluster.lock().unwrap();
    let pods = cluster.others.get(PODS);
    match pods.and_then(|pods| pods.get(&format!("{namespace}/{name}"))) {
        Some(pod) => Json(pod.clone()).into_response(),
        None => refusal(StatusCode::NOT_FOUND, "NotFound"),
    }
}

/// An event goes into its own namespace, and its name is new.
async fn write_event(
    State(shared): State<Arc<Shared>>,
    Path(namespace): Path<String>,
    Json(event): Json<Value>,
) -> Response {
    let mut cluster = shared.cluster.lock().unwrap();
    if cluster.refuse > 0 {
        cluster.refuse -= 1;
        return refusal(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests");
    }
    if event["metadata"]["namespace"] != *namespace {
        return refusal(StatusCode::BAD_REQUEST, "BadRequest");
    }
    if cluster.events.iter().any(|known| name_of(known) == name_of(&event)) {
        return refusal(StatusCode::CONFLICT, "AlreadyExists");
    }
    cluster.events.push(event.clone());
    (StatusCode::CREATED, Json(event)).into_response()
}

fn watch(shared: Arc<Shared>, from: u64, list: String) -> Response {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(16);
    let mut changed = shared.changed.subscribe();
    let mut dropped = shared.drop_watches.subscribe();
    tokio::spawn(async move {
        let mut told = from;
        loop {
            let (lines, slow, gone) = {
                let cluster = shared.cluster.lock().unwrap();
                let new = cluster.log.iter();
                let new = new.filter(|(version, of, _)| *version > told && *of == list);
                let lines: Vec<(u64, String)> =
                    new.map(|(version, _, event)| (*version, format!("{event}\n"))).collect();
                (lines, cluster.slow, told < cluster.forgotten)
            };
            if gone {
                let status = json!({"type": "ERROR", "object": {"kind": "Status", "code": 410,
                    "status": "Failure", "reason": "Expired", "message": "too old"}});
                let _ = sender.send(format!("{status}\n").into()).await;
                return;
            }
            for (version, line) in lines {
                told = version;
                let pieces = line.as_bytes().chunks(if slow { 7 } else { usize::MAX });
                for piece in pieces {
                    if sender.send(Bytes::copy_from_slice(piece)).await.is_err() {
                        return;
                    }
                    if slow {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
            }
            tokio::select! {
                _ = changed.recv() => {}
                _ = dropped.recv() => return,
                () = sender.closed() => return,
            }
        }
    });
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let bytes = receiver.recv().await?;
        Some((Ok::<_, Infallible>(bytes), receiver))
    });
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(stream)).into_response()
}

async fn patch_node(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    body: Bytes,
) -> Response {
    apply(&shared, &name, &body, merge)
}

/// The strategic merge of the status, as far as conditions go: by their type.
async fn patch_status(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    body: Bytes,
) -> Response {
    apply(&shared, &name, &body, |node, patch| {
        let conditions = node["status"]["conditions"].as_array_mut().unwrap();
        for condition in patch["status"]["conditions"].as_array().unwrap() {
            conditions.retain(|known| known["type"] != condition["type"]);
            conditions.push(condition.clone());
        }
    })
}

fn apply(shared: &Shared, name: &str, body: &[u8], how: impl Fn(&mut Value, &Value)) -> Response {
    let patch: Value = serde_json::from_slice(body).unwrap();
    let mut cluster = shared.cluster.lock().unwrap();
    let Some(mut node) = cluster.nodes.get(name).cloned() else {
        return refusal(StatusCode::NOT_FOUND, "NotFound");
    };
    let version = &patch["metadata"]["resourceVersion"];
    if !version.is_null() && *version != node["metadata"]["resourceVersion"] {
        return refusal(StatusCode::CONFLICT, "Conflict");
    }
    how(&mut node, &patch);
    cluster.version += 1;
    record(&mut cluster, "MODIFIED", name, node.clone());
    drop(cluster);
    let _ = shared.changed.send(());
    Json(node).into_response()
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key.as_str()], value);
        }
    }
}
