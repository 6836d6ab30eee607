//! What every test starts from: its lab, and small questions to nodes and pods.

use std::env;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use culvert_lab::probe::{self, Answer, Ping};
use culvert_lab::{Families, Lab, LabBuilder, Netns, Node, wait_for, wait_until};
use overlay_proto::Family;

/// Both families, IPv4 first.
pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// The daemon's and every other command's program.
pub(crate) const CULVERT: &str = env!("CARGO_BIN_EXE_culvert");

/// How long something may take that happens at once on an idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// How long a repair may take. On an idle machine it takes a tenth of a second.
pub(crate) const REPAIR_LIMIT: Duration = Duration::from_secs(10);

/// How long a change of the table may take to be in effect. On an idle machine it takes a few
/// hundredths of a second.
pub(crate) const TABLE_LIMIT: Duration = Duration::from_secs(10);

/// Set to `off`, it takes every offload away from every daemon.
const OFFLOAD_VARIABLE: &str = "CULVERT_TEST_OFFLOAD";

/// Starts a dual-stack lab of two nodes with a pod each.
pub(crate) fn lab(name: &str) -> LabBuilder {
    let lab =
        Lab::builder(name).culvert(CULVERT).nodes(2).pods(1).families(Families::Dual).replace();
    match env::var(OFFLOAD_VARIABLE).as_deref() {
        Err(_) | Ok("on") => lab,
        Ok("off") => lab.config("[tun]\noffload = false"),
        Ok(other) => panic!("{OFFLOAD_VARIABLE} is `{other}`: set it to `on` or `off`"),
    }
}

/// Whether daemons may use offloads.
pub(crate) fn offload() -> bool {
    env::var(OFFLOAD_VARIABLE).as_deref() != Ok("off")
}

/// One echo request of the usual size.
pub(crate) fn ping(from: &Netns, to: IpAddr) -> Answer {
    probe::ping(from, to, &Ping::default()).unwrap()
}

/// One echo request that gives up soon, to be repeated.
pub(crate) fn quick_ping(from: &Netns, to: IpAddr) -> Answer {
    probe::ping(from, to, &Ping::default().timeout(Duration::from_millis(100))).unwrap()
}

/// Demands that `to` answers.
#[track_caller]
pub(crate) fn assert_reaches(from: &Netns, to: IpAddr) {
    let answer = ping(from, to);
    assert!(answer.is_reply(), "{} pings {to}: {answer:?}", from.name());
}

/// Demands that `to` answers before `limit` is over.
#[track_caller]
pub(crate) fn assert_reaches_within(limit: Duration, from: &Netns, to: IpAddr) {
    let what = format!("{to} to answer {}", from.name());
    wait_until(limit, &what, || quick_ping(from, to).is_reply()).unwrap();
}

/// What `program` prints inside; it must succeed.
#[track_caller]
pub(crate) fn run(netns: &Netns, program: &str, arguments: &[&str]) -> String {
    let output = netns.command(program).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "`{program} {}` in {}: {}, {text}{complaint}",
        arguments.join(" "),
        netns.name(),
        output.status
    );
    text
}

/// Demands that two listings have the same lines, and shows those that differ.
#[track_caller]
pub(crate) fn assert_same_lines(found: &[String], expected: &[String]) {
    let without = |some: &[String], others: &[String]| -> Vec<String> {
        some.iter().filter(|line| !others.contains(line)).cloned().collect()
    };
    let (more, missing) = (without(found, expected), without(expected, found));
    assert!(more.is_empty() && missing.is_empty(), "more: {more:#?}, missing: {missing:#?}");
    assert_eq!(found.len(), expected.len(), "a line is there twice");
}

/// MTU of a device.
#[track_caller]
pub(crate) fn device_mtu(netns: &Netns, device: &str) -> u64 {
    let text = netns.ip_output(&["-json", "link", "show", device]).unwrap();
    let links: serde_json::Value = serde_json::from_str(&text).unwrap();
    links[0]["mtu"].as_u64().unwrap()
}

/// A kernel setting of the namespace, its key written with slashes.
#[track_caller]
pub(crate) fn sysctl(netns: &Netns, key: &str) -> String {
    let path = format!("/proc/sys/net/{key}");
    netns.run(|| std::fs::read_to_string(&path)).unwrap().unwrap().trim().to_owned()
}

/// The counter `name` of the kernel's IP statistics: `Ip FragCreates` as `FragCreates`, those of
/// IPv6 as `Ip6FragCreates`.
#[track_caller]
pub(crate) fn snmp(netns: &Netns, name: &str) -> u64 {
    let read = |file: &str| {
        let path = format!("/proc/thread-self/net/{file}");
        netns.run(|| std::fs::read_to_string(&path)).unwrap().unwrap()
    };
    if name.starts_with("Ip6") {
        let text = read("snmp6");
        let mut lines = text.lines().filter_map(|line| line.split_once(char::is_whitespace));
        let (_, value) = lines.find(|(key, _)| *key == name).unwrap();
        return value.trim().parse().unwrap();
    }
    let text = read("snmp");
    let mut lines = text.lines().filter(|line| line.starts_with("Ip: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let place = names.split(' ').position(|found| found == name).unwrap();
    values.split(' ').nth(place).unwrap().parse().unwrap()
}

/// Runs a second daemon with the node's configuration, which is expected to refuse: its exit code
/// and what it said.
#[track_caller]
pub(crate) fn refused_start(node: &Node) -> (Option<i32>, String) {
    let mut command = node.netns().command(CULVERT);
    command.args(["run", "--config"]).arg(node.config_path());
    let output = output_soon(&mut command);
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

/// What became of a program that is expected to end soon, which is killed if it does not.
#[track_caller]
fn output_soon(command: &mut Command) -> Output {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let ended = wait_for(SOON, "the program to end", || Ok(child.try_wait()?));
    if ended.is_err() {
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    assert!(ended.is_ok(), "it goes on: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Leads a service to `target`, for pods and for processes of the node, as kube-proxy would.
pub(crate) fn lead_service(node: &Node, service: SocketAddr, target: SocketAddr) {
    let (address, port) = (service.ip(), service.port());
    let rule = format!("ip daddr {address} udp dport {port} dnat to {target}");
    let table = format!(
        "table ip services {{\n\
         chain pods {{ type nat hook prerouting priority dstnat; {rule}; }}\n\
         chain processes {{ type nat hook output priority -100; {rule}; }}\n\
         }}"
    );
    run(node.netns(), "nft", &[&table]);
}
