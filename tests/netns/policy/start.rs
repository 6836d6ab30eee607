//! A pod's start: it is isolated before its first packet, or it does not start.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use culvert_lab::{Pod, wait_until};

use super::directory::Directory;
use super::talk::{Server, assert_never, eventually_connects};
use super::{rules, wait_for_rules};
use crate::harness::{CULVERT, SOON, lab, run};

/// Isolates every pod.
const NOBODY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: nobody, namespace: default }
spec: { podSelector: {}, policyTypes: [Ingress, Egress] }
";

#[test]
fn pod_is_isolated_before_its_first_packet() {
    let directory = Directory::new();
    directory.write("nobody.yaml", NOBODY);
    let lab = directory.lab("nt-policyfirst").pods(1).up().unwrap();
    let outside = lab.outside(overlay_proto::Family::V4);
    for _again in 0..5 {
        let pod = lab.node(1).add_pod().unwrap();
        assert_never(|| crate::harness::quick_ping(pod.netns(), outside).is_reply());
        assert_never(|| crate::harness::quick_ping(pod.netns(), lab.pod(2, 1).ipv4()).is_reply());
        lab.node(1).remove_pod(pod.index()).unwrap();
    }
}

#[test]
fn pod_that_nobody_knows_does_not_start_unless_told_to() {
    let directory = Directory::new();
    directory.write("nobody.yaml", NOBODY);
    let lab = directory.lab("nt-policyunk").pods(1).up().unwrap();
    let node = lab.node(1);
    let file = format!("lab-{}-node1-pod1.json", lab.plan().name);
    let object = directory.read(&file);
    let pod = lab.pod(1, 1);
    node.cni("DEL", &pod).unwrap();
    let known = || node.status().unwrap()["policy"]["pods"].as_u64().unwrap();
    let before = known();
    directory.remove(&file);
    wait_until(SOON, "the object to be forgotten", || known() < before).unwrap();
    let began = culvert_lab::clock::now();
    let refusal = format!("{:#}", node.cni("ADD", &pod).unwrap_err());
    assert!(refusal.contains("\"code\":11") || refusal.contains("\"code\": 11"), "{refusal}");
    assert!(refusal.contains("default/node1-pod1"), "{refusal}");
    assert!(began.elapsed() >= Duration::from_secs(3), "it was not waited for");
    let links = run(node.netns(), "ip", &["-o", "link", "show", "type", "veth"]);
    assert!(!links.contains("culv"), "undone: {links}");
    // The object comes while the plugin waits.
    let late = directory.path(&file);
    let writing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(1));
        std::fs::write(late, object).unwrap();
    });
    node.cni("ADD", &pod).unwrap();
    writing.join().unwrap();
    let outside = lab.outside(overlay_proto::Family::V4);
    assert_never(|| crate::harness::quick_ping(pod.netns(), outside).is_reply());
    node.cni("DEL", &pod).unwrap();
    directory.remove(&file);
    for (choice, answers) in [("closed", false), ("open", true)] {
        node.stop().unwrap();
        let config = format!(
            "[policy]\ndirectory = \"{}\"\nunknown_pods = \"{choice}\"",
            directory.path("").display()
        );
        node.write_config(&[&config]).unwrap();
        node.start().unwrap();
        node.cni("ADD", &pod).unwrap();
        let reaches = || crate::harness::quick_ping(pod.netns(), outside).is_reply();
        if answers {
            wait_until(SOON, "an answer from outside", reaches).unwrap();
        } else {
            assert_never(reaches);
        }
        node.cni("DEL", &pod).unwrap();
    }
}

#[test]
fn address_that_is_used_again_inherits_no_connection() {
    let directory = Directory::new();
    let lab = directory.lab("nt-policyreuse").pods(1).up().unwrap();
    let node = lab.node(1);
    let (pod, far) = (lab.pod(1, 1), lab.pod(2, 1));
    let _server = Server::start(pod.netns(), 80);
    eventually_connects(far.netns(), pod.ipv4(), 80);
    let tracked = || flows(node.netns(), &pod);
    assert!(tracked() > 0);
    node.cni("DEL", &pod).unwrap();
    wait_until(SOON, "its connections to be forgotten, as DEL has told", || tracked() == 0)
        .unwrap();
}

#[test]
fn daemon_that_does_not_answer_starts_no_pod() {
    let directory = Directory::new();
    let lab = directory.lab("nt-policystop").pods(1).up().unwrap();
    let (node, pod) = (lab.node(1), lab.pod(1, 1));
    node.cni("DEL", &pod).unwrap();
    let file = std::fs::read(node.run_dir().join("node.json")).unwrap();
    node.kill9().unwrap();
    std::fs::write(node.run_dir().join("node.json"), file).unwrap();
    let refusal = format!("{:#}", node.cni("ADD", &pod).unwrap_err());
    assert!(refusal.contains("policy.sock"), "{refusal}");
    node.start().unwrap();
    node.cni("ADD", &pod).unwrap();
}

/// Gives the pod a second interface, as another runtime of its networks does, and says the address.
fn add_interface(node: &culvert_lab::Node, pod: &Pod) -> String {
    let mut child = node
        .netns()
        .command(PathBuf::from(CULVERT).with_file_name("culvert-cni"))
        .env("CNI_COMMAND", "ADD")
        .env("CNI_CONTAINERID", pod.netns().name())
        .env("CNI_NETNS", pod.netns().path())
        .env("CNI_IFNAME", "net1")
        .env("CNI_ARGS", format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={}", pod.name()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let config = node.cni_config().to_string();
    child.stdin.take().unwrap().write_all(config.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let address = answer["ips"][0]["address"].as_str().unwrap();
    address.split('/').next().unwrap().to_owned()
}

#[test]
fn pod_stays_isolated_with_a_second_interface_and_without_its_object() {
    let directory = Directory::new();
    directory.isolate("node1-pod1", "[]");
    let lab = directory.lab("nt-policyheld").pods(1).up().unwrap();
    let (node, pod, far) = (lab.node(1), lab.pod(1, 1), lab.pod(2, 1));
    let answers = || crate::harness::quick_ping(far.netns(), pod.ipv4()).is_reply();
    assert_never(answers);
    let second = add_interface(node, &pod);
    wait_for_rules(&lab, &second);
    assert_never(answers);
    let file = format!("lab-{}-node1-pod1.json", lab.plan().name);
    let object = directory.read(&file);
    directory.write(&file, &object.replace("Running", "Failed"));
    assert_never(answers);
    let known = || node.status().unwrap()["policy"]["pods"].as_u64().unwrap();
    let before = known();
    directory.remove(&file);
    wait_until(SOON, "the object to be forgotten", || known() < before).unwrap();
    assert_never(answers);
    assert!(rules(&lab, 1).contains(&second));
    // Nor is a pod let go because nobody knows of it any more.
    node.stop().unwrap();
    std::fs::remove_file(node.state_dir().join("policy-pods.json")).unwrap();
    directory.release("node1-pod1");
    node.start().unwrap();
    assert_never(answers);
    directory.write(&file, &object);
    wait_until(SOON, "the pod to be known again", answers).unwrap();
}

#[test]
fn nobody_is_asked_where_policies_are_off() {
    let lab = lab("nt-policynone").up().unwrap();
    assert!(!lab.node(1).run_dir().join("policy.sock").exists());
    let listed = run(lab.node(1).netns(), "nft", &["list", "ruleset"]);
    assert!(!listed.contains("culvert-policy"), "{listed}");
}

/// Tracked connections that have the pod's address.
fn flows(node: &culvert_lab::Netns, pod: &Pod) -> usize {
    let path = "/proc/thread-self/net/nf_conntrack";
    let text = node.run(|| std::fs::read_to_string(path)).unwrap().unwrap();
    let address = format!("={} ", pod.ipv4());
    text.lines().filter(|line| line.contains(&address)).count()
}
