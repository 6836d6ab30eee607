//! `deploy/kubernetes` is what a cluster takes: every key is one that its API has, and nobody is
//! given more than the daemon needs. No cluster is asked.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use culvert::config::{Config, Overrides, TableSource};
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Container, Namespace, PodSpec, ServiceAccount, Toleration};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes")
}

fn read(name: &str) -> String {
    fs::read_to_string(directory().join(name)).unwrap()
}

/// The documents of a file, as they are written.
fn documents(name: &str) -> Vec<Value> {
    let text = read(name);
    text.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

/// The one object of a kind in a file. Fails if the API does not know one of its keys, which a
/// cluster would drop with a warning at best.
fn object<T: DeserializeOwned + Serialize>(name: &str, kind: &str) -> T {
    let mut found = documents(name).into_iter().filter(|document| document["kind"] == kind);
    let written = found.next().unwrap_or_else(|| panic!("{name} has no {kind}"));
    assert!(found.next().is_none(), "{name} has more than one {kind}");
    let object: T = serde_json::from_value(written.clone()).unwrap();
    let unknown = lost(&written, &serde_json::to_value(&object).unwrap(), kind);
    assert!(unknown.is_empty(), "the API knows nothing of {unknown:?}");
    object
}

/// Keys and values of `written` that are not in `understood`.
fn lost(written: &Value, understood: &Value, place: &str) -> Vec<String> {
    match (written, understood) {
        (Value::Object(written), Value::Object(understood)) => written
            .iter()
            .flat_map(|(key, value)| {
                let place = format!("{place}.{key}");
                understood
                    .get(key)
                    .map_or_else(|| vec![place.clone()], |it| lost(value, it, &place))
            })
            .collect(),
        (Value::Array(written), Value::Array(understood)) if written.len() == understood.len() => {
            let pairs = written.iter().zip(understood).enumerate();
            pairs
                .flat_map(|(at, (one, other))| lost(one, other, &format!("{place}[{at}]")))
                .collect()
        }
        _ if written == understood => Vec::new(),
        _ => vec![place.to_owned()],
    }
}

fn daemon_set() -> DaemonSet {
    object("daemonset.yaml", "DaemonSet")
}

fn pod() -> PodSpec {
    daemon_set().spec.unwrap().template.spec.unwrap()
}

fn all_containers(pod: &PodSpec) -> Vec<&Container> {
    pod.init_containers.iter().flatten().chain(&pod.containers).collect()
}

#[test]
fn every_key_is_one_that_the_api_has() {
    let namespace: Namespace = object("namespace.yaml", "Namespace");
    let account: ServiceAccount = object("rbac.yaml", "ServiceAccount");
    let set = daemon_set();
    let _role: ClusterRole = object("rbac.yaml", "ClusterRole");
    let binding: ClusterRoleBinding = object("rbac.yaml", "ClusterRoleBinding");

    // What refers to something by its name finds it.
    let home = namespace.metadata.name;
    assert_eq!((&account.metadata.namespace, &set.metadata.namespace), (&home, &home));
    assert_eq!(pod().service_account_name, account.metadata.name);
    let subject = &binding.subjects.unwrap()[0];
    assert_eq!((Some(&subject.name), &subject.namespace), (account.metadata.name.as_ref(), &home));
    let spec = set.spec.unwrap();
    let labels = spec.template.metadata.unwrap().labels;
    assert_eq!(spec.selector.match_labels, labels);
}

#[test]
fn a_key_that_the_api_does_not_have_is_found() {
    let mut written = documents("daemonset.yaml").remove(0);
    written["spec"]["template"]["spec"]["hostNetwrok"] = Value::Bool(true);
    let set: DaemonSet = serde_json::from_value(written.clone()).unwrap();
    let unknown = lost(&written, &serde_json::to_value(set).unwrap(), "DaemonSet");
    assert_eq!(unknown, ["DaemonSet.spec.template.spec.hostNetwrok"]);
}

#[test]
fn the_daemon_has_one_capability_and_the_rest_none() {
    let pod = pod();
    assert_eq!(pod.security_context.unwrap().seccomp_profile.unwrap().type_, "RuntimeDefault");
    for container in pod.init_containers.iter().flatten().chain(&pod.containers) {
        let security = container.security_context.clone().unwrap();
        assert_eq!(security.privileged, Some(false), "{}", container.name);
        assert_eq!(security.allow_privilege_escalation, Some(false), "{}", container.name);
        assert_eq!(security.read_only_root_filesystem, Some(true), "{}", container.name);
        let capabilities = security.capabilities.unwrap();
        assert_eq!(capabilities.drop, Some(vec!["ALL".to_owned()]), "{}", container.name);
        let added = capabilities.add.unwrap_or_default();
        let expected: &[&str] = if container.name == "culvert" { &["NET_ADMIN"] } else { &[] };
        assert_eq!(added, expected, "{}", container.name);
    }
    assert!(pod.host_pid.is_none() && pod.host_ipc.is_none());
}

#[test]
fn only_what_is_needed_of_the_node_is_mounted() {
    let pod = pod();
    let paths: BTreeSet<String> = pod
        .volumes
        .iter()
        .flatten()
        .filter_map(|volume| volume.host_path.as_ref().map(|host| host.path.clone()))
        .collect();
    let expected = [
        "/dev/net/tun",
        "/etc/cni/net.d",
        "/opt/cni/bin",
        "/proc/sys/net",
        "/run/culvert",
        "/var/lib/culvert",
    ];
    assert!(paths.iter().eq(expected), "{paths:?}");

    let defined: BTreeSet<&str> = pod.volumes.iter().flatten().map(|it| it.name.as_str()).collect();
    let mounts = |container: &Container| -> BTreeSet<String> {
        container.volume_mounts.iter().flatten().map(|mount| mount.name.clone()).collect()
    };
    let used: BTreeSet<String> = all_containers(&pod).into_iter().flat_map(mounts).collect();
    assert!(used.iter().map(String::as_str).eq(defined), "{used:?}");
    // Whoever runs for long cannot change what the runtime executes.
    let daemon = mounts(&pod.containers[0]);
    assert!(daemon.iter().all(|name| !name.starts_with("cni")), "{daemon:?}");
}

#[test]
fn the_daemon_may_follow_nodes_and_say_what_it_is_and_nothing_else() {
    let role: ClusterRole = object("rbac.yaml", "ClusterRole");
    let rules: BTreeSet<(String, String, String)> = role
        .rules
        .unwrap()
        .into_iter()
        .flat_map(|rule| {
            assert!(rule.non_resource_urls.is_none() && rule.resource_names.is_none());
            let resources = rule.resources.unwrap();
            let (groups, verbs) = (rule.api_groups.unwrap(), rule.verbs);
            groups.into_iter().flat_map(move |group| {
                let (resources, verbs) = (resources.clone(), verbs.clone());
                resources.into_iter().flat_map(move |resource| {
                    let (group, verbs) = (group.clone(), verbs.clone());
                    verbs.into_iter().map(move |verb| (group.clone(), resource.clone(), verb))
                })
            })
        })
        .collect();
    let expected = [
        ("nodes", "get"),
        ("nodes", "list"),
        ("nodes", "patch"),
        ("nodes", "watch"),
        ("nodes/status", "patch"),
    ];
    let expected = expected.map(|(resource, verb)| (String::new(), resource.into(), verb.into()));
    assert_eq!(rules, BTreeSet::from(expected));
}

#[test]
fn each_daemon_changes_the_node_of_its_token_and_no_other() {
    let policy: ValidatingAdmissionPolicy = object("own-node.yaml", "ValidatingAdmissionPolicy");
    let binding: ValidatingAdmissionPolicyBinding =
        object("own-node.yaml", "ValidatingAdmissionPolicyBinding");
    let bound = binding.spec.unwrap();
    assert_eq!(bound.policy_name, policy.metadata.name);
    assert_eq!(bound.validation_actions, Some(vec!["Deny".to_owned()]));
    assert!(bound.match_resources.is_none() && bound.param_ref.is_none(), "it is for everybody");

    let spec = policy.spec.unwrap();
    assert_eq!(spec.failure_policy.as_deref(), Some("Fail"));
    // It is about whoever has the daemon's account, and whatever that account may change.
    let account: ServiceAccount = object("rbac.yaml", "ServiceAccount");
    let name = |it: Option<String>| it.unwrap();
    let user = format!(
        "\"system:serviceaccount:{}:{}\"",
        name(account.metadata.namespace),
        name(account.metadata.name)
    );
    let conditions = spec.match_conditions.unwrap();
    assert_eq!(conditions.len(), 1);
    assert_eq!(conditions[0].expression, format!("request.userInfo.username == {user}"));
    let rules = spec.match_constraints.unwrap().resource_rules.unwrap();
    assert_eq!(rules.len(), 1);
    let resources = rules[0].resources.clone().unwrap();
    assert_eq!(resources, ["nodes", "nodes/*"]);
    assert!(rules[0].operations.as_ref().unwrap().contains(&"UPDATE".to_owned()));
    assert!(rules[0].resource_names.is_none());

    let variables = spec.variables.unwrap();
    let token =
        "request.userInfo.extra[?\"authentication.kubernetes.io/node-name\"][0].orValue(\"\")";
    assert_eq!((variables[0].name.as_str(), variables[0].expression.as_str()), ("from", token));
    let validations = spec.validations.unwrap();
    assert_eq!(validations.len(), 1);
    let expected = "variables.from != \"\" && variables.from == request.name";
    assert_eq!(validations[0].expression, expected);
}

#[test]
fn it_comes_first_on_every_node_and_stays() {
    let pod = pod();
    assert_eq!(pod.host_network, Some(true));
    assert_eq!(pod.priority_class_name.as_deref(), Some("system-node-critical"));
    let everything = Toleration { operator: Some("Exists".into()), ..Toleration::default() };
    assert_eq!(pod.tolerations, Some(vec![everything]));
}

#[test]
fn the_old_daemon_goes_only_when_the_new_one_stands_by() {
    let strategy = daemon_set().spec.unwrap().update_strategy.unwrap();
    assert_eq!(strategy.type_.as_deref(), Some("RollingUpdate"));
    let rolling = strategy.rolling_update.unwrap();
    assert_eq!(rolling.max_surge, Some(IntOrString::Int(1)));
    assert_eq!(rolling.max_unavailable, Some(IntOrString::Int(0)));
    assert!(config().node.stand_by);

    let pod = pod();
    // A port that is declared on the node's network could be had by one of the two only.
    assert!(all_containers(&pod).iter().all(|container| container.ports.is_none()));
    // Both ask the node's own address, where the old daemon answers until the new one does.
    let observed = config().observe.address.unwrap();
    for probe in [&pod.containers[0].readiness_probe, &pod.containers[0].liveness_probe] {
        let http = probe.as_ref().unwrap().http_get.as_ref().unwrap();
        assert_eq!(http.host, Some(observed.ip().to_string()));
        assert_eq!(http.port, IntOrString::Int(observed.port().into()));
    }
}

#[test]
fn the_configuration_is_one_that_the_daemon_takes_where_the_pod_has_it() {
    let config = config();
    let mounts = pod().containers[0].volume_mounts.clone().unwrap();
    let has = |path: &Path| mounts.iter().any(|mount| Path::new(&mount.mount_path) == path);
    assert!(has(&config.node.sysctl_dir.join("net")));
    assert!(has(&config.node.run_dir) && has(&config.node.state_dir));
}

#[test]
fn kustomize_finds_every_file() {
    let kustomization = documents("kustomization.yaml").remove(0);
    let names = |list: &Value| -> BTreeSet<String> {
        list.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    let mut listed = names(&kustomization["resources"]);
    let maps = &kustomization["configMapGenerator"][0];
    listed.extend(names(&maps["files"]));
    listed.insert("kustomization.yaml".to_owned());
    let there = fs::read_dir(directory()).unwrap();
    let there: BTreeSet<String> =
        there.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(listed, there);

    // kustomize appends a digest to the name wherever the name is used.
    let pod = pod();
    let volume = pod.volumes.iter().flatten().find(|volume| volume.config_map.is_some()).unwrap();
    assert_eq!(volume.config_map.as_ref().unwrap().name, maps["name"].as_str().unwrap());
    let image = kustomization["images"][0]["name"].as_str();
    assert!(all_containers(&pod).iter().all(|container| container.image.as_deref() == image));
}

/// The configuration in the ConfigMap, as the daemon reads it.
fn config() -> Config {
    let text = read("config.toml");
    let config = Config::parse(Path::new("config.toml"), &text, &Overrides::default()).unwrap();
    assert!(matches!(config.table, TableSource::Kubernetes(_)), "{:?}", config.table);
    config
}
