use super::*;
use crate::object::{Key, NetworkPolicy, Peer, Rule};
use crate::plan::Action;

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: web}}\nspec:\n{spec}"
    )
}

fn cluster(spec: &str) -> String {
    format!(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n\
         metadata: {{name: web}}\nspec:\n{spec}"
    )
}

fn findings(yaml: &str) -> Vec<String> {
    text(yaml).unwrap().findings.iter().map(ToString::to_string).collect()
}

fn network(yaml: &str) -> NetworkPolicy {
    let mut objects = text(yaml).unwrap().objects;
    match (objects.pop(), objects.is_empty()) {
        (Some(Object::NetworkPolicy(policy)), true) => policy,
        other => panic!("{other:?}"),
    }
}

fn ingress(yaml: &str) -> Vec<Rule> {
    network(yaml).ingress.unwrap()
}

#[test]
fn every_fault_is_named_with_object_field_value_and_remedy() {
    let rule = |rule: &str| policy(&format!("  ingress:\n  - {rule}\n"));
    let cases = [
        (
            rule("{ports: [{port: 70000}]}"),
            "NetworkPolicy default/web: spec.ingress[0].ports[0].port = 70000: not the number of a \
             port; write 1 to 65535",
        ),
        (
            rule("{ports: [{port: '80'}]}"),
            "NetworkPolicy default/web: spec.ingress[0].ports[0].port = \"80\": not the name of a \
             port; write the number without quotation marks",
        ),
        (
            rule("{ports: [{port: 80, endPort: 79}]}"),
            "NetworkPolicy default/web: spec.ingress[0].ports[0].endPort = 79: less than port; write \
             the last port of the range",
        ),
        (
            rule("{ports: [{endPort: 79}]}"),
            "NetworkPolicy default/web: spec.ingress[0].ports[0].endPort = 79: without port; write \
             the first port of the range as port",
        ),
        (
            rule("{ports: [{port: http, endPort: 79}]}"),
            "NetworkPolicy default/web: spec.ingress[0].ports[0].endPort = 79: beside the name of a \
             port; write the first port of the range as a number",
        ),
        (
            rule("{ports: [{protocol: ICMP}]}"),
            "NetworkPolicy default/web: spec.ingress[0].ports[0].protocol = \"ICMP\": not a protocol \
             that has ports; write TCP, UDP or SCTP",
        ),
        (
            rule("{from: [{}]}"),
            "NetworkPolicy default/web: spec.ingress[0].from[0] = {}: a peer that says nothing; \
             write podSelector, namespaceSelector or both, or ipBlock alone",
        ),
        (
            rule("{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}"),
            "NetworkPolicy default/web: spec.ingress[0].from[0].ipBlock.cidr = \"10.0.0.0/33\": not \
             a network; write a network and its length, such as 192.168.1.0/24 or fd00::/8",
        ),
        (
            rule("{from: [{ipBlock: {except: [10.0.0.0/8]}}]}"),
            "NetworkPolicy default/web: spec.ingress[0].from[0].ipBlock.cidr: missing; write a \
             network and its length, such as 192.168.1.0/24 or fd00::/8",
        ),
        (
            rule("{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}"),
            "NetworkPolicy default/web: spec.ingress[0].from[0].ipBlock.except[0] = \
             \"11.0.0.0/16\": not a part of 10.0.0.0/8; write a smaller network that lies within cidr",
        ),
        (
            rule("{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}"),
            "NetworkPolicy default/web: spec.ingress[0].from[0].ipBlock = \
             {\"cidr\":\"10.0.0.0/8\"}: beside a selector; write podSelector, namespaceSelector or \
             both, or ipBlock alone",
        ),
        (
            rule("{from: [{podSelector: {matchExpressions: [{key: a, operator: Near}]}}]}"),
            "NetworkPolicy default/web: \
             spec.ingress[0].from[0].podSelector.matchExpressions[0].operator = \"Near\": not an \
             operator; write In, NotIn, Exists or DoesNotExist",
        ),
        (
            rule("{from: [{podSelector: {matchExpressions: [{key: a, operator: In}]}}]}"),
            "NetworkPolicy default/web: \
             spec.ingress[0].from[0].podSelector.matchExpressions[0].values: missing; write at least \
             one value for this operator",
        ),
        (
            rule("{from: [{podSelector: {matchLabels: {a: 1}}}]}"),
            "NetworkPolicy default/web: spec.ingress[0].from[0].podSelector.matchLabels = \
             {\"a\":1}: not all values are texts; write values in quotation marks",
        ),
        (
            rule("{from: [{podSelector: {matchLabels: {'a b': c}}}]}"),
            "NetworkPolicy default/web: spec.ingress[0].from[0].podSelector.matchLabels = \
             {\"a b\":\"c\"}: \"a b\" cannot be the key of a label; write a label's key, such as app \
             or example.com/app",
        ),
        (
            policy("  policyTypes: [Both]\n"),
            "NetworkPolicy default/web: spec.policyTypes[0] = \"Both\": not a type; write [Ingress], \
             [Egress] or both",
        ),
        (
            policy("  ingress: {}\n"),
            "NetworkPolicy default/web: spec.ingress = {}: not a list; write its values with a dash \
             before each",
        ),
        (
            policy("  podSelctor: {}\n"),
            "NetworkPolicy default/web: spec.podSelctor = {}: not understood, and so allows nothing; \
             the fields known here are podSelector, ingress, egress, policyTypes",
        ),
        (
            "kind: NetworkPolicy\nmetadata: {name: web}\n".to_owned(),
            "NetworkPolicy default/web: apiVersion: not the version that is understood; write \
             networking.k8s.io/v1",
        ),
        (
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {namespace: a}\n"
                .to_owned(),
            "NetworkPolicy a/without a name: metadata.name: missing; write metadata.name: small \
             letters, digits, '-' and '.'",
        ),
        (
            cluster("  tier: Middle\n  priority: 1\n  subject: {namespaces: {}}\n"),
            "ClusterNetworkPolicy web: spec.tier = \"Middle\": not a tier; write Admin or Baseline",
        ),
        (
            cluster("  tier: Admin\n  priority: 1001\n  subject: {namespaces: {}}\n"),
            "ClusterNetworkPolicy web: spec.priority = 1001: not a priority; write 0 (asked first) \
             to 1000",
        ),
        (
            cluster("  tier: Admin\n  priority: 1\n  subject: {}\n"),
            "ClusterNetworkPolicy web: spec.subject = {}: a subject that says nothing; write either \
             namespaces or pods",
        ),
        (
            cluster(
                "  tier: Admin\n  priority: 1\n  subject: {namespaces: {}}\n  egress:\n  \
                 - {action: Accept, to: [{domainNames: [example.com]}]}\n",
            ),
            "ClusterNetworkPolicy web: spec.egress[0].to[0].domainNames = [\"example.com\"]: names \
             of domains are not supported, and so match nothing; write one of namespaces, pods, \
             nodes, networks",
        ),
        (
            cluster(
                "  tier: Admin\n  priority: 1\n  subject: {namespaces: {}}\n  ingress:\n  \
                 - {action: Allow, from: [{namespaces: {}}]}\n",
            ),
            "ClusterNetworkPolicy web: spec.ingress[0].action = \"Allow\": not an action; write \
             Accept, Deny or Pass",
        ),
    ];
    for (yaml, expected) in cases {
        assert_eq!(findings(&yaml), [expected], "{yaml}");
    }
}

#[test]
fn what_is_not_understood_allows_nothing_and_nothing_else_is_lost() {
    let rules = ingress(&policy(
        "  ingress:\n  - {from: [{newSelector: {}}, {podSelector: {}}]}\n  \
         - {ports: [{port: 80, flags: SYN}, {port: 81}]}\n  - {when: never}\n",
    ));
    assert_eq!(rules[0].peers.len(), 1);
    assert_eq!(rules[1].ports.as_ref().unwrap().len(), 1);
    assert!(!rules[2].can_match());
    let closed = network(&policy("  mode: strict\n  ingress: [{}]\n"));
    assert_eq!((closed.ingress, closed.egress), (Some(vec![]), Some(vec![])));
    let anybody = network(&policy("  podSelector: {matchNames: [a]}\n"));
    assert!(anybody.subjects.is_everything());
}

#[test]
fn a_rule_of_a_cluster_that_is_not_understood_denies_unless_it_accepts() {
    let one = |action: &str| {
        let yaml = cluster(&format!(
            "  tier: Admin\n  priority: 1\n  subject: {{namespaces: {{}}}}\n  ingress:\n  \
             - {{action: {action}, from: [{{galaxies: {{}}}}]}}\n"
        ));
        let objects = text(&yaml).unwrap().objects;
        let [Object::ClusterNetworkPolicy(policy)] = objects.as_slice() else { panic!() };
        policy.ingress[0].clone()
    };
    assert!(!one("Accept").can_match());
    let deny = Rule { action: Action::Deny, peers: vec![Peer::Anybody], ports: None };
    assert_eq!((one("Deny"), one("Pass")), (deny.clone(), deny));
}

#[test]
fn a_policy_of_a_cluster_without_a_place_accepts_nothing() {
    let yaml = cluster(
        "  tier: Middle\n  priority: 1\n  subject: {namespaces: {matchLabels: {a: b}}}\n  ingress:\n  \
         - {action: Accept, from: [{namespaces: {}}]}\n  - {action: Pass, from: [{namespaces: {}}]}\n",
    );
    let objects = text(&yaml).unwrap().objects;
    let [Object::ClusterNetworkPolicy(policy)] = objects.as_slice() else { panic!() };
    assert!(!policy.ingress[0].can_match());
    assert_eq!(policy.ingress[1].action, Action::Deny);
}

#[test]
fn lists_are_taken_apart_and_other_kinds_passed_over() {
    let yaml = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: \
                {name: a}}\n- {apiVersion: v1, kind: Secret, metadata: {name: b}}\n---\nkind: \
                NodeList\napiVersion: v1\nitems: [{metadata: {name: n}}]\n---\napiVersion: \
                projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: other}\n---\n";
    let read = text(yaml).unwrap();
    let keys: Vec<Key> = read.objects.iter().map(Object::key).collect();
    assert_eq!(keys, [Key::Namespace("a".into()), Key::Node("n".into())]);
    assert_eq!(read.findings, []);
}

#[test]
fn a_text_that_is_no_yaml_is_told_by_its_line() {
    let unreadable = text("kind: Pod\nmetadata: {name: [}\n").unwrap_err();
    assert_eq!(unreadable.line(), Some(2), "{unreadable}");
}

#[test]
fn a_pod_is_read_with_what_policies_ask_for() {
    let yaml = "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, uid: u-1, labels: {app: web}, creationTimestamp: '2026-01-01T00:00:00Z'}
spec:
  nodeName: node1
  containers:
  - {name: main, image: x, ports: [{name: http, containerPort: 8080}, {containerPort: 9}]}
  initContainers:
  - {name: once, ports: [{name: once, containerPort: 1}]}
  - {name: stays, restartPolicy: Always, ports: [{name: dns, containerPort: 53, protocol: UDP}]}
status: {phase: Running, podIP: 10.244.1.2, podIPs: [{ip: 10.244.1.2}, {ip: 'fd00::2'}]}
";
    let objects = text(yaml).unwrap().objects;
    let [Object::Pod(pod)] = objects.as_slice() else { panic!() };
    let ports: Vec<(&str, u16)> = pod.ports.iter().map(|port| (&*port.name, port.port)).collect();
    assert_eq!(ports, [("dns", 53), ("http", 8080)]);
    assert_eq!(pod.addresses.iter().count(), 2);
    assert_eq!((pod.uid.as_deref(), pod.node.as_deref()), (Some("u-1"), Some("node1")));
    assert!(pod.is_selectable() && !pod.is_terminating && pod.created > 0);
}

#[test]
fn a_static_pod_has_the_uid_that_its_kubelet_gave_it() {
    let yaml = "
apiVersion: v1
kind: Pod
metadata:
  {name: web-node1, uid: u-1, annotations: {kubernetes.io/config.mirror: u-2, kubernetes.io/config.hash: u-2}}
";
    let objects = text(yaml).unwrap().objects;
    let [Object::Pod(pod)] = objects.as_slice() else { panic!() };
    assert_eq!(pod.uid.as_deref(), Some("u-2"));
}

#[test]
fn pairs_of_peers_and_named_ports_are_bounded() {
    let rule = |peers: usize, ports: usize| {
        let peers = (0..peers).map(|it| format!("{{podSelector: {{matchLabels: {{a: v{it}}}}}}}"));
        let ports = (0..ports).map(|it| format!("{{port: p{it}}}"));
        let [peers, ports] =
            [peers.collect::<Vec<_>>(), ports.collect()].map(|it: Vec<String>| it.join(", "));
        format!("  - {{from: [{peers}], ports: [{ports}]}}\n")
    };
    let ingress = |rules: &[(usize, usize)]| {
        let rules: String = rules.iter().map(|(peers, ports)| rule(*peers, *ports)).collect();
        text(&policy(&format!("  ingress:\n{rules}"))).unwrap()
    };
    // As much as was written is as much as there is.
    for good in [&[(100, 100)][..], &[(3000, 1), (1, 3000)], &[(50, 100), (50, 100)]] {
        assert_eq!(ingress(good).findings, []);
    }
    let mut read = ingress(&[(2, 1), (100, 100), (2, 2), (1, 9)]);
    let [finding] = &read.findings[..] else { panic!("{read:?}") };
    assert_eq!((finding.field.as_str(), finding.gravity), ("spec.ingress[2]", Gravity::Closes));
    assert!(finding.problem.contains("more than 10000 pairs"), "{finding}");
    let Some(Object::NetworkPolicy(policy)) = read.objects.pop() else { panic!("{read:?}") };
    let matching: Vec<bool> = policy.ingress.unwrap().iter().map(Rule::can_match).collect();
    assert_eq!(matching, [true, true, false, true]);
}
