//! One case for each thing that policies mean, after the published lists: the specifications of
//! Kubernetes' own end-to-end tests, the groups of cyclonus, and the conformance tests of
//! ClusterNetworkPolicy. As there, the cluster has the namespaces x, y and z, each with the pods a,
//! b and c.
//!
//! Every question is answered thrice: by the judge, by the plans of the nodes, and by the evaluator
//! that reads the documents; a case fails as well where they differ.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod blocks;
mod cluster;
mod cluster_policies;
mod directions;
#[path = "../oracle/interpreter.rs"]
mod interpreter;
mod near;
mod objects;
mod peers;
mod ports;
#[path = "../oracle/reference.rs"]
mod reference;
mod table;
