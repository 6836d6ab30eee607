//! The daemon ends, is killed or starts again while the plugin is at work.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use culvert_cni::fault::{self, Step};
use culvert_lab::{Lab, Netns, Node, wait_until};
use culvert_node::ipam::Store;
use serde_json::Value;

use crate::harness::{CULVERT, FAMILIES, SOON, assert_reaches_within, lab, run};

/// What becomes of the daemon meanwhile.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Stopped,
    Killed,
    KilledAndStarted,
}

impl Fate {
    const ALL: [Self; 3] = [Self::Stopped, Self::Killed, Self::KilledAndStarted];

    fn befall(self, node: &Node) {
        match self {
            Self::Stopped => drop(node.stop().unwrap()),
            Self::Killed => node.kill9().unwrap(),
            Self::KilledAndStarted => {
                node.kill9().unwrap();
                node.start().unwrap();
            }
        }
    }

    fn make_good(self, node: &Node) {
        match self {
            Self::Stopped | Self::Killed => node.start().unwrap(),
            Self::KilledAndStarted => {}
        }
    }
}

/// A pod of node 1 that the test attaches itself.
struct Pod<'a> {
    node: &'a Node,
    netns: Netns,
    held: PathBuf,
}

impl<'a> Pod<'a> {
    fn new(lab: &'a Lab) -> Self {
        let node = lab.node(1);
        let netns = Netns::create(format!("{}-p", lab.plan().name)).unwrap();
        Self { node, netns, held: node.state_dir().join("held") }
    }

    /// Runs a verb and lets `fate` befall the daemon after `step` of it.
    fn call(&self, verb: &str, step: Step, fate: Fate) -> Value {
        let fault = format!("hold:{}:{}", step.as_str(), self.held.display());
        let mut child = self.start(verb, &fault);
        let is_held = || self.held.exists() || child.try_wait().unwrap().is_some();
        wait_until(SOON, "the plugin to hold", is_held).unwrap();
        assert!(self.held.exists(), "{verb} ended before {step:?}");
        fate.befall(self.node);
        fs::remove_file(&self.held).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{verb}, {fate:?} after {step:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    fn start(&self, verb: &str, fault: &str) -> Child {
        let mut child = self
            .node
            .netns()
            .command(PathBuf::from(CULVERT).with_file_name("culvert-cni"))
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", self.netns.name())
            .env("CNI_NETNS", self.netns.path())
            .env("CNI_IFNAME", "eth0")
            .env(fault::VARIABLE, fault)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let config = self.node.cni_config().to_string();
        child.stdin.take().unwrap().write_all(config.as_bytes()).unwrap();
        child
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        let _ = self.netns.delete();
    }
}

fn devices(node: &Node) -> Vec<String> {
    let listed = run(node.netns(), "ip", &["-brief", "link", "show", "type", "veth"]);
    listed.lines().filter_map(|line| line.split(['@', ' ']).next()).map(str::to_owned).collect()
}

fn held_addresses(node: &Node) -> usize {
    Store::open(&node.state_dir()).unwrap().unwrap().records().unwrap().len()
}

#[test]
fn daemon_that_ends_during_an_add_or_a_del_changes_neither() {
    let lab = lab("nt-midway").up().unwrap();
    let node = lab.node(1);
    let far = lab.pod(2, 1);
    let pod = Pod::new(&lab);
    let (devices_before, addresses_before) = (devices(node), held_addresses(node));
    let steps = [Step::Checked, Step::VethCreated, Step::PortStarted, Step::Announced];
    for (step, fate) in steps.into_iter().flat_map(|step| Fate::ALL.map(|fate| (step, fate))) {
        let result = pod.call("ADD", step, fate);
        fate.make_good(node);
        assert_eq!(result["ips"].as_array().unwrap().len(), 2, "{result}");
        for family in FAMILIES {
            assert_reaches_within(SOON, &pod.netns, far.address(family));
        }
        pod.call("DEL", Step::DevicesRemoved, fate);
        fate.make_good(node);
        assert_eq!(devices(node), devices_before, "{fate:?} after {step:?}");
        assert_eq!(held_addresses(node), addresses_before, "{fate:?} after {step:?}");
    }
    assert_eq!(node.status().unwrap()["ready"], true);
}
