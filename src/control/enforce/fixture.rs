//! A node with two pods, for tests: one that a policy isolates, and one that it allows.

use culvert_policy::object::Object;
use culvert_policy::{Compiler, Plan, Site, World, read};

const OBJECTS: &str = "
apiVersion: v1
kind: Pod
metadata: { name: server, namespace: default, labels: { app: server } }
spec: { nodeName: node1, containers: [] }
status: { phase: Running, podIPs: [{ ip: 10.244.1.2 }, { ip: 'fd00:10:244:1::2' }] }
---
apiVersion: v1
kind: Pod
metadata: { name: client, namespace: default, labels: { app: client } }
spec: { nodeName: node1, containers: [] }
status: { phase: Running, podIPs: [{ ip: 10.244.1.3 }] }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: server, namespace: default }
spec:
  podSelector: { matchLabels: { app: server } }
  ingress:
  - from: [{ podSelector: { matchLabels: { app: client } } }]
    ports: [{ port: 80 }]
  - from: [{ ipBlock: { cidr: 192.0.2.0/24, except: [192.0.2.128/25] } }]
";

/// What there is.
pub(super) fn objects() -> Vec<Object> {
    let read = read::text(OBJECTS).unwrap();
    assert!(read.findings.is_empty(), "{:?}", read.findings);
    read.objects
}

/// The plan of the node.
pub(super) fn plan() -> Plan {
    let mut world = World::new(objects());
    let site = Site { node: "node1".into(), ..Site::default() };
    Plan::clone(&Compiler::default().compile(&mut world, &site))
}
