//! The plugin as real container runtimes call it, on two nodes of a lab.
//!
//! Needs root, containerd, ctr, runc, the CNI plugin `loopback`, and the programs of this
//! workspace: `make test-root SUITES=runtimes` builds and installs them. Every containerd is
//! private to its test: it has directories, mounts and processes of its own, which end with it.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod containerd;
mod cri;
mod image;
mod node;

use std::process::Command;

use containerd::Containerd;
use node::{Footprint, PORT, guest, lab, plugin};

/// Name of the only interface of a container.
const INTERFACE: &str = "eth0";

#[test]
fn ctr_run_with_cni_attaches_and_detaches() {
    let lab = lab("rt-ctr");
    let before = Footprint::of(&lab);
    let runtimes: Vec<_> = lab.nodes().iter().map(Containerd::start).collect();
    let containers: Vec<_> =
        runtimes.iter().map(|runtime| runtime.run(&format!("{}-c", runtime.name()))).collect();
    talk(&runtimes, &containers.iter().map(|container| container.pid).collect::<Vec<_>>());
    for (runtime, container) in runtimes.iter().zip(containers) {
        runtime.end(container);
        runtime.assert_no_results();
    }
    before.assert_restored(&lab);
}

#[test]
fn kubelets_calls_make_and_remove_sandboxes() {
    let lab = lab("rt-cri");
    let before = Footprint::of(&lab);
    let runtimes: Vec<_> = lab.nodes().iter().map(Containerd::start).collect();
    let mut clients: Vec<_> = runtimes.iter().map(cri::Client::connect).collect();
    // Twice, so that something of the first round would be in the way of the second.
    for round in 0..2 {
        let mut sandboxes = Vec::new();
        for (client, runtime) in clients.iter_mut().zip(&runtimes) {
            let sandbox = client.run(&format!("{}-pod", runtime.name()), round);
            let address = runtime.address(runtime.pid("k8s.io", &sandbox));
            assert_eq!(client.address(&sandbox), address, "kubelet is told the pod's address");
            sandboxes.push(sandbox);
        }
        let pids: Vec<_> = runtimes
            .iter()
            .zip(&sandboxes)
            .map(|(runtime, sandbox)| runtime.pid("k8s.io", sandbox))
            .collect();
        talk(&runtimes, &pids);
        for ((client, runtime), sandbox) in clients.iter_mut().zip(&runtimes).zip(&sandboxes) {
            client.stop(sandbox);
            // Kubelet repeats what it is not sure of.
            client.stop(sandbox);
            client.remove(sandbox);
            runtime.assert_no_results();
        }
        before.assert_restored(&lab);
    }
}

#[test]
fn the_specifications_protocol_works_step_by_step() {
    let lab = lab("rt-spec");
    let before = Footprint::of(&lab);
    let [first, second] = lab.nodes() else { panic!("two nodes") };
    let output = Command::new("bash")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/runtimes/protocol.sh"))
        .args([first, second].map(|node| node.netns().path()))
        .args([first, second].map(|node| node.run_dir()))
        .args([first, second].map(|node| node.state_dir()))
        .env("PLUGIN", plugin())
        .env("GUEST", guest())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    before.assert_restored(&lab);
}

/// Demands that the containers with these processes reach each other across the nodes.
fn talk(runtimes: &[Containerd], pids: &[u32]) {
    let [first, second] = runtimes else { panic!("two nodes") };
    let [one, other] = *pids else { panic!("a container on each") };
    first.ask(one, second.address(other), PORT);
    second.ask(other, first.address(one), PORT);
}
