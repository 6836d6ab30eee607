//! Policies, and what they are about, as a node follows them at an API server.

use std::fs;
use std::path::Path;
use std::time::Duration;

use culvert::config::{Config, Overrides};
use culvert::control::policy::{PolicySource, PolicyUpdate};
use culvert_policy::object::{Kind, Object};
use culvert_policy::{World, read};
use serde_json::{Value, json};
use source_servers::api_server::{
    ApiServer, CLUSTER_POLICIES, NAMESPACES, NETWORK_POLICIES, PODS, node,
};
use tempfile::TempDir;

use crate::listener::LIMIT;

const KUBECONFIG: &str = "kubeconfig";

fn pod(name: &str, node: &str, address: &str) -> Value {
    json!({
        "metadata": {"namespace": "shop", "name": name, "uid": format!("uid-{name}")},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "registry/image:v1"}]},
        "status": {"phase": "Running", "podIPs": [{"ip": address}]},
    })
}

fn policy(name: &str) -> Value {
    json!({"metadata": {"namespace": "shop", "name": name}, "spec": {"podSelector": {}}})
}

fn cluster_policy(name: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "tier": "Admin", "priority": 1, "subject": {"namespaces": {}},
            "egress": [{"action": "Accept", "to": [{"domainNames": ["example.com"]}]}],
        },
    })
}

fn cluster() -> ApiServer {
    let server = ApiServer::start();
    server.put(node(1, "10.244.1.0/24"));
    server.put_other(NAMESPACES, json!({"metadata": {"name": "shop"}}));
    server.put_other(PODS, pod("web", "node1", "10.244.1.2"));
    server.put_other(PODS, pod("db", "node2", "10.244.2.2"));
    server.put_other(NETWORK_POLICIES, policy("deny"));
    server
}

/// A source of the node `node1`, and what it has told so far.
struct Follower {
    source: PolicySource,
    world: World,
    updates: Vec<PolicyUpdate>,
    directory: TempDir,
}

impl Follower {
    async fn start(server: &ApiServer) -> Self {
        Self::start_with(server, Vec::new()).await
    }

    /// Starts where these ClusterNetworkPolicies are in force.
    async fn start_with(server: &ApiServer, known: Vec<Object>) -> Self {
        let directory = TempDir::with_prefix("culvert-policies-").unwrap();
        let kubeconfig = directory.path().join(KUBECONFIG);
        fs::write(&kubeconfig, server.kubeconfig()).unwrap();
        let text = format!(
            "[network]\ncidrs = [\"10.244.0.0/16\"]\n[node]\nname = \"node1\"\n[table]\nsource = \
             \"kubernetes\"\n[kubernetes]\nkubeconfig = \"{}\"\n",
            kubeconfig.display()
        );
        let config = Config::parse(Path::new("test"), &text, &Overrides::default()).unwrap();
        let source = PolicySource::start(&config, known);
        let world = World::default();
        let mut follower = Self { source, world, updates: Vec::new(), directory };
        follower.until(|world| world.network_policies().count() > 0).await;
        follower
    }

    async fn until(&mut self, is_so: impl Fn(&World) -> bool) {
        while !is_so(&self.world) {
            self.hear().await;
        }
    }

    async fn hear(&mut self) {
        let updates = tokio::time::timeout(LIMIT, self.source.next()).await;
        let updates = updates.unwrap_or_else(|_| panic!("only told {:?}", self.updates));
        for update in updates {
            self.updates.push(update.clone());
            match update {
                PolicyUpdate::Everything { objects, .. } => self.world.replace(objects),
                PolicyUpdate::Kind { kind, objects, .. } => self.world.replace_kind(kind, objects),
                PolicyUpdate::Changes { changes, .. } => {
                    for change in changes {
                        self.world.apply(change);
                    }
                }
                PolicyUpdate::Refused(_) | PolicyUpdate::Lost { .. } => {}
            }
        }
    }
}

#[tokio::test]
async fn everything_is_told_at_once_and_then_what_changes() {
    let server = cluster();
    let mut follower = Follower::start(&server).await;
    let [PolicyUpdate::Everything { objects, findings }] = follower.updates.as_slice() else {
        panic!("{:?}", follower.updates)
    };
    assert_eq!((objects.len(), findings.len()), (5, 0));
    let uid = |name: &str| follower.world.pod("shop", name).unwrap().uid.clone();
    assert_eq!((uid("web").as_deref(), uid("db")), (Some("uid-web"), None));

    server.put_other(NETWORK_POLICIES, policy("other"));
    follower.until(|world| world.network_policies().count() == 2).await;
    server.delete_other(NETWORK_POLICIES, "shop/deny");
    follower.until(|world| world.network_policies().count() == 1).await;
    server.put_other(PODS, pod("db", "node2", "10.244.2.3"));
    let moved = "10.244.2.3".parse().ok();
    follower.until(|world| world.pod("shop", "db").unwrap().addresses.v4 == moved).await;
    server.delete_other(PODS, "shop/db");
    follower.until(|world| world.pods().count() == 1).await;
    let is_change = |update: &PolicyUpdate| matches!(update, PolicyUpdate::Changes { .. });
    assert!(follower.updates[1..].iter().all(is_change), "{:?}", follower.updates);
}

#[tokio::test]
async fn versions_that_are_forgotten_are_followed_by_new_lists() {
    let server = cluster();
    let mut follower = Follower::start(&server).await;
    server.delete_other(PODS, "shop/db");
    server.forget();
    follower.until(|world| world.pods().count() == 1).await;
    server.put_other(PODS, pod("new", "node3", "10.244.3.2"));
    follower.until(|world| world.pods().count() == 2).await;
    let lists = follower
        .updates
        .iter()
        .filter(|update| matches!(update, PolicyUpdate::Kind { kind: Kind::Pod, .. }));
    assert!(lists.count() <= 1, "{:?}", follower.updates);
}

#[tokio::test]
async fn a_list_without_an_end_is_said_to_have_none_and_asked_for_again() {
    let server = cluster();
    let mut follower = Follower::start(&server).await;
    server.endless(Some(PODS));
    follower.source.reload();
    let is_said = |update: &PolicyUpdate| {
        let PolicyUpdate::Lost { kind: Some(Kind::Pod), why } = update else { return false };
        why.contains("listing pods: no end")
    };
    while !follower.updates.iter().any(is_said) {
        follower.hear().await;
    }
    server.put_other(PODS, pod("new", "node3", "10.244.3.2"));
    server.endless(None);
    follower.until(|world| world.pods().count() == 3).await;
}

#[tokio::test]
async fn watches_that_break_are_taken_up_again() {
    let server = cluster();
    let mut follower = Follower::start(&server).await;
    server.drop_watches();
    server.put_other(NETWORK_POLICIES, policy("other"));
    follower.until(|world| world.network_policies().count() == 2).await;
}

#[tokio::test]
async fn what_is_new_after_a_backup_was_restored_is_told() {
    let server = cluster();
    let mut follower = Follower::start(&server).await;
    for number in 0..100 {
        server.put_other(NETWORK_POLICIES, policy(&format!("later-{number}")));
    }
    follower.until(|world| world.network_policies().count() == 101).await;
    server.restore(|_, object| {
        object["metadata"]["name"].as_str().is_some_and(|name| !name.starts_with("later"))
    });
    server.put_other(NETWORK_POLICIES, policy("new"));
    // The server ends each watch from time to time, also the one from a version to come.
    let ending = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            server.drop_watches();
        }
    };
    tokio::select! {
        () = ending => {}
        () = follower.until(|world| world.network_policies().count() == 2) => {}
    }
}

#[tokio::test]
async fn another_server_is_followed_once_the_kubeconfig_names_it() {
    let server = cluster();
    let mut follower = Follower::start(&server).await;
    let other = cluster();
    other.put_other(NETWORK_POLICIES, policy("other"));
    fs::write(follower.directory.path().join(KUBECONFIG), other.kubeconfig()).unwrap();
    drop(server);
    // That the former one is away is told again and again.
    let followed = follower.until(|world| world.network_policies().count() == 2);
    tokio::time::timeout(LIMIT, followed).await.unwrap();
}

#[tokio::test]
async fn a_pod_that_nobody_has_told_of_is_looked_up() {
    let server = cluster();
    let mut follower = Follower::start(&server).await;
    server.hide_other(PODS, pod("late", "node1", "10.244.1.9"));
    follower.source.ask_pod("shop", "late");
    follower.until(|world| world.pod("shop", "late").is_some()).await;
    // One that is not there, or has no name that a pod can have, is not told of.
    follower.source.ask_pod("shop", "nobody");
    follower.source.ask_pod("shop", "../../nodes/node1");
    server.put_other(NETWORK_POLICIES, policy("last"));
    follower.until(|world| world.network_policies().count() == 2).await;
    assert_eq!(follower.world.pods().count(), 3);
}

#[tokio::test]
async fn policies_of_the_cluster_are_followed_where_it_has_them() {
    let server = cluster();
    server.put_other(CLUSTER_POLICIES, cluster_policy("admin"));
    let follower = Follower::start(&server).await;
    assert_eq!(follower.world.cluster_policies().count(), 1);
    let Some(PolicyUpdate::Everything { findings, .. }) = follower.updates.first() else {
        panic!("{:?}", follower.updates)
    };
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].to_string().contains("names of domains are not supported"));
}

#[tokio::test]
async fn a_server_that_does_not_know_a_kind_is_not_the_only_one_that_is_asked() {
    let (behind, other) = (cluster(), cluster());
    let known = read::item(Kind::ClusterNetworkPolicy, &cluster_policy("admin")).objects;
    let mut follower = Follower::start_with(&behind, known).await;
    assert_eq!(follower.world.cluster_policies().count(), 1);
    // What leads to several servers leads to another one with the next connection.
    other.put_other(CLUSTER_POLICIES, cluster_policy("admin"));
    other.put_other(CLUSTER_POLICIES, cluster_policy("second"));
    fs::write(follower.directory.path().join(KUBECONFIG), other.kubeconfig()).unwrap();
    // Before a watch that the other kinds have is over: what goes on is no reason to turn
    // elsewhere.
    let turned = follower.until(|world| world.cluster_policies().count() == 2);
    tokio::time::timeout(LIMIT / 2, turned).await.unwrap();
}
