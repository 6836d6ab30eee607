use super::*;
use crate::read;

/// What is read of the documents of what was read.
fn again(yaml: &str) {
    let objects = read::text(yaml).unwrap().objects;
    assert!(!objects.is_empty(), "{yaml}");
    for object in objects {
        let written = value(&object);
        assert_eq!(read::value(&written).objects, [object], "{written:#}");
    }
}

#[test]
fn pods_namespaces_and_nodes_are_read_as_they_were() {
    again(
        "
apiVersion: v1
kind: Pod
metadata:
  {name: web, namespace: shop, uid: '17', labels: {app: web, tier: front},
   creationTimestamp: '2026-11-27T01:39:36Z', deletionTimestamp: '2026-11-27T02:00:00Z'}
spec:
  nodeName: node1
  containers: [{ports: [{name: http, containerPort: 80}, {name: dns, containerPort: 53, protocol: UDP}]}]
status: {phase: Running, podIPs: [{ip: 10.244.1.2}, {ip: 'fd00::2'}]}
---
{apiVersion: v1, kind: Pod, metadata: {name: old}, spec: {hostNetwork: true}, status: {phase: Succeeded}}
---
{apiVersion: v1, kind: Pod, metadata: {name: bare}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: a}}}
---
apiVersion: v1
kind: Node
metadata: {name: node1, labels: {zone: a}}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}, {type: ExternalIP, address: 198.51.100.1}]}
",
    );
}

#[test]
fn policies_are_read_as_they_were() {
    again(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: all, namespace: shop, annotations: {culvert.dev/audit: 'true'}}
spec:
  podSelector: {matchLabels: {app: web}, matchExpressions: [{key: a, operator: Exists}]}
  policyTypes: [Ingress, Egress]
  ingress:
  - {}
  - from: []
    ports: []
  - from:
    - podSelector: {matchExpressions: [{key: b, operator: NotIn, values: [x, y]}]}
    - namespaceSelector: {matchExpressions: [{key: c, operator: DoesNotExist}]}
      podSelector: {}
    - ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16, 10.2.0.0/16]}
    ports: [{}, {port: http}, {port: 80, protocol: UDP}, {port: 1, endPort: 9, protocol: SCTP}]
  egress: []
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: one}, spec: {podSelector: {}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out}
spec: {policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: '::/0'}}]}]}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: admin}
spec:
  tier: Baseline
  priority: 7
  subject: {namespaces: {matchLabels: {team: a}}}
  ingress:
  - action: Pass
    from: [{namespaces: {}}, {pods: {podSelector: {matchLabels: {app: a}}}}]
    protocols:
    - tcp: {}
    - udp: {destinationPort: {number: 53}}
    - sctp: {destinationPort: {range: {start: 1, end: 9}}}
    - destinationNamedPort: http
  egress:
  - {action: Deny, to: [{nodes: {matchLabels: {zone: a}}}, {networks: [10.0.0.0/8, '::/0']}]}
  - {action: Accept, to: [{namespaces: {}}]}
",
    );
}

#[test]
fn what_was_not_understood_stays_so() {
    for spec in [
        "{future: 1, ingress: [{}]}",
        "{podSelector: {future: 1}}",
        "{ingress: [{from: [{future: 1}]}, {ports: [{protocol: ICMP}]}, {from: 7}, {ports: 7}]}",
        "{ingress: 7, policyTypes: [Future]}",
        "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]}",
    ] {
        again(&format!(
            "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: a}}, spec: {spec}}}"
        ));
    }
    for spec in [
        "{}",
        "{tier: Future, ingress: [{action: Pass, from: [{namespaces: {}}]}]}",
        "{ingress: 7, egress: [{action: Future}, {action: Accept}, {action: Deny}, {action: Pass}]}",
        "{egress: [{action: Accept, to: [{domainNames: [example.com]}]}]}",
        "{ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{future: 1}]}]}",
    ] {
        again(&format!(
            "{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, \
             metadata: {{name: a}}, spec: {spec}}}"
        ));
    }
}

#[test]
fn times_are_those_that_an_api_server_writes() {
    assert_eq!(time(0), "1970-01-01T00:00:00Z");
    assert_eq!(time(951_827_696), "2000-02-29T12:34:56Z");
    assert_eq!(time(1_795_743_576), "2026-11-27T01:39:36Z");
    assert_eq!(time(1_709_164_800), "2024-02-29T00:00:00Z");
    assert_eq!(time(u32::MAX), "2106-02-07T06:28:15Z");
}
