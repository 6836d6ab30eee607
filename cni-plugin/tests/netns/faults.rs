//! Faults between two steps: the plugin killed, the pod's namespace deleted, the daemon gone.

use std::fs;

use culvert_cni::fault::{Step, VARIABLE};
use culvert_node::node_file::NodeFile;

use crate::harness::{BRIDGE, DUAL_STACK, Node, delete_netns};
use crate::host_ports;

/// The steps of an ADD that succeeds.
const ADD: [Step; 10] = [
    Step::Checked,
    Step::AddressesAllocated,
    Step::VethCreated,
    Step::SourceChecked,
    Step::HostPortsNoted,
    Step::HostPortsOpened,
    Step::PortStarted,
    Step::PodConfigured,
    Step::PortRunning,
    Step::Announced,
];

/// The steps of a DEL.
const DEL: [Step; 2] = [Step::DevicesRemoved, Step::AddressesReleased];

#[test]
fn every_step_belongs_to_a_test() {
    let others = [Step::DevicesUndone, Step::LeftBehind, Step::Lingered];
    let mut steps: Vec<_> = ADD.into_iter().chain(others).chain(DEL).collect();
    steps.dedup();
    assert_eq!(steps, Step::ALL);
}

#[test]
fn add_killed_after_any_step_leaves_nothing_that_del_does_not_remove() {
    let node = Node::new("killadd", &DUAL_STACK);
    let mut pod = node.pod("p1");
    pod.keys = host_ports::some();
    for step in ADD {
        pod.killed_after("ADD", step);
        pod.del().expect("DEL succeeds");
        node.assert_clean();
        assert!(!pod.has_link("eth0"), "after {step:?}");
    }
    let result = pod.add().expect("ADD succeeds after all that");
    pod.check(&result).expect("and CHECK finds nothing");
}

#[test]
fn add_killed_while_it_undoes_leaves_nothing_that_del_does_not_remove() {
    let node = Node::new("killundo", &DUAL_STACK);
    let mut pod = node.pod("p1");
    // Another default route stands in the way of ours.
    pod.ip(&["link", "add", "other0", "type", "bridge"]);
    pod.ip(&["addr", "add", "192.0.2.2/24", "dev", "other0"]);
    pod.ip(&["link", "set", "other0", "up"]);
    pod.ip(&["route", "add", "default", "via", "192.0.2.1"]);
    pod.killed_after("ADD", Step::DevicesUndone);
    assert_eq!(node.held_addresses(), 2, "it was killed before it freed them");
    pod.del().expect("DEL succeeds");
    node.assert_clean();
    pod.ip(&["link", "del", "other0"]);
    pod.add().expect("ADD succeeds");
}

#[test]
fn del_killed_after_any_step_is_finished_by_the_next() {
    let node = Node::new("killdel", &DUAL_STACK);
    let mut pod = node.pod("p1");
    pod.keys = host_ports::some();
    for step in DEL {
        pod.add().expect("ADD succeeds");
        pod.killed_after("DEL", step);
        assert!(!pod.has_link("eth0"));
        pod.del().expect("DEL succeeds");
        node.assert_clean();
    }
    pod.add().expect("ADD succeeds after all that");
}

#[test]
fn del_answers_while_another_process_waits_for_the_kernel() {
    let node = Node::new("linger", &DUAL_STACK);
    let mut pod = node.pod("p1");
    pod.add().expect("ADD succeeds");
    let held = pod.left_behind("DEL", Step::Lingered);
    assert!(!pod.has_link("eth0"));
    node.assert_clean();
    let result = pod.add().expect("the names are free");
    pod.check(&result).expect("and CHECK finds nothing");
    held.release();
}

#[test]
fn del_does_not_need_the_process_that_it_leaves_behind_but_for_the_request() {
    let node = Node::new("killleft", &DUAL_STACK);
    let mut pod = node.pod("p1");
    pod.add().expect("ADD succeeds");
    pod.environment = vec![(VARIABLE, format!("kill:{}", Step::LeftBehind.as_str()))];
    let error = pod.del().expect_err("nobody has asked the kernel");
    assert_eq!(error["code"], 100, "{error}");
    assert!(error["msg"].to_string().contains("killed"), "{error}");
    assert!(pod.has_link("eth0"));
    assert_eq!(node.held_addresses(), 2, "a device carries them");
    pod.environment = vec![(VARIABLE, format!("kill:{}", Step::Lingered.as_str()))];
    pod.del().expect("the kernel has done it");
    assert!(!pod.has_link("eth0"));
    node.assert_clean();
}

#[test]
fn second_add_after_a_killed_one_says_to_call_del_first() {
    let node = Node::new("killtwice", &DUAL_STACK);
    let mut pod = node.pod("p1");
    pod.killed_after("ADD", Step::VethCreated);
    let error = pod.add().expect_err("half a pod is in the way");
    assert_eq!(error["code"], 102, "{error}");
    pod.del().expect("DEL succeeds");
    pod.add().expect("ADD succeeds");
}

#[test]
fn namespace_deleted_under_an_add_is_cleaned_up_by_del() {
    let node = Node::new("nsgone", &DUAL_STACK);
    for step in ADD {
        let mut pod = node.pod("p1");
        pod.keys = host_ports::some();
        let running = pod.held_after("ADD", step);
        delete_netns(&pod.netns);
        // The plugin holds the namespace until it ends, so this may well succeed.
        let _either = running.go_on();
        pod.del().expect("DEL succeeds");
        node.assert_clean();
    }
}

#[test]
fn daemon_gone_during_an_add_or_a_del_changes_neither() {
    let node = Node::new("daemongone", &DUAL_STACK);
    for step in ADD {
        let mut pod = node.pod("p1");
        pod.keys = host_ports::some();
        let running = pod.held_after("ADD", step);
        NodeFile::remove(&node.run_dir()).expect("the node file is removed");
        let result = running.go_on().expect("ADD has read what it needs");
        pod.check(&result).expect("CHECK needs no daemon");
        let running = pod.held_after("DEL", Step::DevicesRemoved);
        fs::remove_dir_all(node.run_dir()).expect("the run directory is removed");
        running.go_on().expect("DEL needs no daemon");
        node.assert_clean();
        node.write_node_file();
    }
}

#[test]
fn bridge_removed_under_an_add_fails_it_and_leaves_nothing() {
    let node = Node::new("bridgegone", &DUAL_STACK);
    let mut pod = node.pod("p1");
    let running = pod.held_after("ADD", Step::AddressesAllocated);
    node.ip(&["link", "del", BRIDGE]);
    let error = running.go_on().expect_err("there is nothing to plug the pod into");
    assert_eq!(error["code"], 100, "{error}");
    node.assert_clean();
    assert!(!pod.has_link("eth0"));
}

#[test]
fn host_device_removed_under_an_add_fails_it_and_leaves_nothing() {
    let node = Node::new("vethgone", &DUAL_STACK);
    let mut pod = node.pod("p1");
    pod.keys = host_ports::some();
    for step in [
        Step::VethCreated,
        Step::SourceChecked,
        Step::HostPortsNoted,
        Step::HostPortsOpened,
        Step::PortStarted,
        Step::PodConfigured,
        Step::PortRunning,
    ] {
        let running = pod.held_after("ADD", step);
        node.ip(&["link", "del", &pod.host_device()]);
        let error = running.go_on().expect_err("the pod has no interface any more");
        assert_eq!(error["code"], 100, "{step:?}: {error}");
        node.assert_clean();
    }
}
