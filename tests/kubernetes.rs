//! `deploy/kubernetes` is what a cluster takes: every key is one that its API has, and nobody is
//! given more than the daemon needs. No cluster is asked.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cel::{Context, Env};
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
use serde_json::{Value, json};

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
fn the_daemon_may_follow_nodes_and_policies_and_say_what_it_is_and_nothing_else() {
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
    let followed = [
        ("", "nodes"),
        ("", "pods"),
        ("", "namespaces"),
        ("networking.k8s.io", "networkpolicies"),
        ("policy.networking.k8s.io", "clusternetworkpolicies"),
    ];
    let followed = followed
        .into_iter()
        .flat_map(|(group, resource)| ["list", "watch"].map(|verb| (group, resource, verb)));
    let changed = [("", "nodes", "patch"), ("", "nodes/status", "patch"), ("", "events", "create")];
    let expected = followed
        .chain(changed)
        // One that starts before the watch has told of it.
        .chain([("", "pods", "get")])
        .map(|(group, resource, verb)| (group.to_owned(), resource.to_owned(), verb.to_owned()));
    assert_eq!(rules, expected.collect());
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

/// What the policy comes to for a request: nothing if it does not concern it, else whether it may
/// pass, or what whoever asked is told.
#[expect(clippy::unwrap_in_result, reason = "a test fails by panicking")]
fn verdict(file: &str, request: &Value, written: &Value) -> Option<Result<(), String>> {
    let policy: ValidatingAdmissionPolicy = object(file, "ValidatingAdmissionPolicy");
    let spec = policy.spec.unwrap();
    let env = Arc::new(Env::stdlib().with_optional_support(true));
    let mut context = Context::with_env(Arc::clone(&env));
    context.add_variable("request", cel::to_value(request).unwrap()).unwrap();
    context.add_variable("object", cel::to_value(written).unwrap()).unwrap();
    let evaluate = |expression: &str, context: &Context<'_, '_>| {
        let program = env.compile(expression).unwrap_or_else(|error| panic!("{error}"));
        program.execute(context)
    };
    let is_true = |expression: &str, context: &Context<'_, '_>| {
        matches!(evaluate(expression, context), Ok(cel::Value::Bool(true)))
    };
    for condition in spec.match_conditions.unwrap() {
        if !is_true(&condition.expression, &context) {
            return None;
        }
    }
    let mut variables = HashMap::new();
    for variable in spec.variables.unwrap() {
        let Ok(value) = evaluate(&variable.expression, &context) else {
            // As `failurePolicy: Fail` has it.
            return Some(Err("an expression cannot be evaluated".to_owned()));
        };
        variables.insert(variable.name, value);
    }
    context.add_variable_from_value("variables", variables);
    let validation = spec.validations.unwrap().remove(0);
    if is_true(&validation.expression, &context) {
        return Some(Ok(()));
    }
    match evaluate(&validation.message_expression.unwrap(), &context) {
        Ok(cel::Value::String(message)) => Some(Err(message.to_string())),
        other => panic!("{other:?} is no message"),
    }
}

fn own_node(request: &Value) -> Option<Result<(), String>> {
    verdict("own-node.yaml", request, &Value::Null)
}

#[test]
fn a_daemon_writes_events_of_its_own_node_and_of_nothing_else() {
    const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
    let write = |user: &str, from: Value, of: Value| {
        let user_info = json!({ "username": user, "groups": [], "extra": from });
        let request = json!({ "operation": "CREATE", "name": "", "userInfo": user_info });
        verdict("own-events.yaml", &request, &json!({ "involvedObject": of }))
    };
    const DAEMON: &str = "system:serviceaccount:culvert:culvert";
    let from = |node: &str| json!({ NODE_NAME: [node] });
    let node = |name: &str| json!({ "kind": "Node", "name": name, "uid": name });
    assert_eq!(write(DAEMON, from("node1"), node("node1")), Some(Ok(())));
    for (from, of) in [
        (from("node1"), node("node2")),
        (from("node1"), json!({ "kind": "Pod", "name": "node1" })),
        (from("node1"), json!({})),
        (from(""), node("")),
        (json!({}), node("node1")),
    ] {
        let said = write(DAEMON, from, of).expect("it is a daemon").expect_err("not its own");
        assert!(said.starts_with("a daemon of Culvert writes events"), "{said}");
    }
    assert_eq!(write("system:node:node2", json!({}), node("node1")), None);

    // It is about the account, and about what the role allows.
    let (own, other) = ["own-events.yaml", "own-node.yaml"]
        .map(|file| object::<ValidatingAdmissionPolicy>(file, "ValidatingAdmissionPolicy"))
        .map(|policy| policy.spec.unwrap())
        .into();
    assert_eq!(own.match_conditions, other.match_conditions);
    assert_eq!(own.variables, other.variables);
    assert_eq!(own.failure_policy.as_deref(), Some("Fail"));
    let binding: ValidatingAdmissionPolicyBinding =
        object("own-events.yaml", "ValidatingAdmissionPolicyBinding");
    assert_eq!(binding.spec.unwrap().policy_name.as_deref(), Some("culvert-own-events"));
    let rules = own.match_constraints.unwrap().resource_rules.unwrap();
    assert_eq!(rules[0].resources, Some(vec!["events".to_owned()]));
}

#[test]
fn the_policy_lets_a_daemon_change_its_own_node_and_refuses_all_else() {
    const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
    const DAEMON: &str = "system:serviceaccount:culvert:culvert";
    let request = |user: &str, extra: Value, name: &str| {
        let user_info = json!({ "username": user, "groups": ["system:authenticated"] });
        let mut request = json!({ "operation": "UPDATE", "name": name, "userInfo": user_info });
        if !extra.is_null() {
            request["userInfo"]["extra"] = extra;
        }
        request
    };
    let of =
        |node: &str| json!({ NODE_NAME: [node], "authentication.kubernetes.io/pod-name": ["p"] });
    assert_eq!(own_node(&request(DAEMON, of("node1"), "node1")), Some(Ok(())));

    let refused = |extra: Value, name: &str| {
        let verdict = own_node(&request(DAEMON, extra, name));
        verdict.expect("it is a daemon").expect_err("it is another's node")
    };
    let message = refused(of("node1"), "node2");
    assert_eq!(
        message,
        "a daemon of Culvert changes its own Node only; this one is on \"node1\" and would change \
         \"node2\""
    );
    for (extra, name) in [
        (of("node1"), "node10"),
        (of("node10"), "node1"),
        (of("NODE1"), "node1"),
        // A token without a node: of no pod, or of a server that does not write it.
        (Value::Null, "node1"),
        (json!({}), "node1"),
        (json!({ NODE_NAME: [] }), "node1"),
        (json!({ NODE_NAME: [""] }), ""),
        (json!({}), ""),
        // A second value counts for nothing.
        (json!({ NODE_NAME: ["node1", "node2"] }), "node2"),
        (json!({ "node-name": ["node2"] }), "node2"),
    ] {
        refused(extra, name);
    }
    // Nobody else is concerned, whatever they say of themselves.
    for user in ["system:node:node2", "system:serviceaccount:culvert:other", "admin"] {
        assert_eq!(own_node(&request(user, of("node1"), "node2")), None, "{user}");
    }
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
    // What a cluster takes on top, and what it takes to be rid of all.
    listed.extend(["components", "remove"].map(str::to_owned));
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

/// Carries out the operations of a JSON patch that components use.
fn patch(object: &mut Value, operations: &Value) {
    for operation in operations.as_array().unwrap() {
        let path = operation["path"].as_str().unwrap();
        let is = object.pointer_mut(path).unwrap_or_else(|| panic!("there is no {path}"));
        match operation["op"].as_str().unwrap() {
            "replace" => *is = operation["value"].clone(),
            "remove" => {
                let (parent, key) = path.rsplit_once('/').unwrap();
                object.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key).unwrap();
            }
            other => panic!("{other}: {path}"),
        }
    }
}

/// The DaemonSet with a component.
fn with_component(name: &str) -> DaemonSet {
    let component = documents(&format!("components/{name}/kustomization.yaml")).remove(0);
    assert_eq!(component["kind"], "Component");
    let mut set = documents("daemonset.yaml").remove(0);
    for change in component["patches"].as_array().unwrap() {
        assert_eq!(change["target"], json!({"kind": "DaemonSet", "name": "culvert"}), "{name}");
        let operations = serde_saphyr::from_str(change["patch"].as_str().unwrap()).unwrap();
        patch(&mut set, &operations);
    }
    serde_json::from_value(set).unwrap()
}

#[test]
fn components_of_distributions_change_where_the_plugin_is_put_and_nothing_else() {
    for (name, bin_dir, conf_dir) in [
        ("k3s", "/var/lib/rancher/k3s/data/cni", "/var/lib/rancher/k3s/agent/etc/cni/net.d"),
        (
            "microk8s",
            "/var/snap/microk8s/current/opt/cni/bin",
            "/var/snap/microk8s/current/args/cni-network",
        ),
        ("debian", "/usr/lib/cni", "/etc/cni/net.d"),
    ] {
        let mut set = with_component(name);
        let pod = set.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
        for (volume, path, usual) in
            [("cni-bin", bin_dir, "/opt/cni/bin"), ("cni-conf", conf_dir, "/etc/cni/net.d")]
        {
            let mut volumes = pod.volumes.iter_mut().flatten();
            let found = volumes.find(|it| it.name == volume).unwrap().host_path.as_mut().unwrap();
            assert_eq!(found.path, path, "{name}");
            usual.clone_into(&mut found.path);
        }
        assert_eq!(set, daemon_set(), "{name}");
    }
}

#[test]
fn without_surge_the_old_daemon_goes_first() {
    let mut set = with_component("without-surge");
    let rolling = set.spec.as_mut().unwrap().update_strategy.as_mut().unwrap();
    let rolling = rolling.rolling_update.as_mut().unwrap();
    // What knows no `maxSurge` reads this; what does takes 0 for it.
    assert_eq!((&rolling.max_surge, &rolling.max_unavailable), (&None, &Some(IntOrString::Int(1))));
    *rolling = daemon_set().spec.unwrap().update_strategy.unwrap().rolling_update.unwrap();
    assert_eq!(set, daemon_set());
}

#[test]
fn without_own_node_all_its_policies_are_left_out() {
    let component = documents("components/without-own-node/kustomization.yaml").remove(0);
    let mut removed = BTreeSet::new();
    for change in component["patches"].as_array().unwrap() {
        let object: Value = serde_saphyr::from_str(change["patch"].as_str().unwrap()).unwrap();
        assert_eq!(object["$patch"], "delete");
        assert_eq!(object["kind"], change["target"]["kind"]);
        removed
            .insert((object["kind"].clone().to_string(), object["metadata"]["name"].to_string()));
    }
    let all = ["own-node.yaml", "own-events.yaml"].into_iter().flat_map(documents);
    let all = all.map(|it| (it["kind"].to_string(), it["metadata"]["name"].to_string()));
    assert_eq!(removed, all.collect());
}

#[test]
fn probes_have_time_to_answer() {
    let pod = pod();
    for probe in [&pod.containers[0].readiness_probe, &pod.containers[0].liveness_probe] {
        assert!(probe.as_ref().unwrap().timeout_seconds >= Some(5));
    }
}

#[test]
fn what_removes_all_has_no_more_rights_and_other_places_than_what_installs() {
    let set: DaemonSet = object("remove/daemonset.yaml", "DaemonSet");
    let pod_spec = set.spec.unwrap().template.spec.unwrap();
    let install = pod();
    assert_eq!(pod_spec.automount_service_account_token, Some(false));
    let (uninstall, cleanup) = (&pod_spec.init_containers.unwrap()[0], &pod_spec.containers[0]);
    let installer = &install.init_containers.as_ref().unwrap()[0];
    assert_eq!(uninstall.security_context, installer.security_context);
    assert_eq!(uninstall.volume_mounts, installer.volume_mounts);
    assert_eq!(cleanup.security_context, install.containers[0].security_context);
    // By the runtime's system calls alone, and with SELinux as whoever deals with the node.
    assert_eq!(pod_spec.security_context, install.security_context);
    assert_eq!(
        install.security_context.unwrap().se_linux_options.unwrap().type_.as_deref(),
        Some("spc_t")
    );
    assert_eq!(pod_spec.priority_class_name, install.priority_class_name);
    for volume in pod_spec.volumes.iter().flatten() {
        assert!(install.volumes.as_ref().unwrap().contains(volume), "{}", volume.name);
    }
    assert_eq!(uninstall.args, Some(["cni", "uninstall", "--force"].map(str::to_owned).into()));
    assert_eq!(cleanup.args, Some(["cleanup", "--stay"].map(str::to_owned).into()));
}
