//! `culvert cleanup` leaves a node as the daemon found it.

use culvert_lab::Netns;

use crate::harness::{CULVERT, assert_reaches, assert_same_lines, lab, run};

#[test]
fn nothing_of_the_daemon_stays() {
    let lab = lab("nt-cleanup").nodes(1).without_daemons().up().unwrap();
    let node = lab.node(1);
    forward(node.netns());
    let before = kernel_state(node.netns());
    node.start().unwrap();
    assert_ne!(kernel_state(node.netns()), before);
    node.stop().unwrap();

    let removed = run(node.netns(), CULVERT, &["cleanup"]);
    for part in ["nft table", "delete link culvert0", "delete link v-net-0"] {
        assert!(removed.contains(part), "{part:?} is not in {removed}");
    }
    assert_same_lines(&kernel_state(node.netns()), &before);
    assert_eq!(run(node.netns(), CULVERT, &["cleanup"]), "nothing to remove\n");
}

#[test]
fn what_a_killed_daemon_left_goes_too() {
    let lab = lab("nt-clean9").nodes(1).without_daemons().up().unwrap();
    let node = lab.node(1);
    node.netns()
        .ip("link add keep type bridge\nlink set keep addrgenmode none\naddress add 10.99.0.1/24 dev keep\nlink set keep up\n")
        .unwrap();
    run(node.netns(), "nft", &["add", "table", "inet", "keep"]);
    forward(node.netns());
    let before = kernel_state(node.netns());
    node.start().unwrap();
    node.kill9().unwrap();
    run(node.netns(), CULVERT, &["cleanup"]);
    assert_same_lines(&kernel_state(node.netns()), &before);
}

#[test]
fn nothing_is_removed_beside_a_daemon_that_runs() {
    let lab = lab("nt-cleanrun").up().unwrap();
    let node = lab.node(1);
    let before = kernel_state(node.netns());
    let output = node.netns().command(CULVERT).arg("cleanup").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let process = format!("process {}", node.pid().unwrap());
    for part in ["a daemon serves this network namespace", &process, "Nothing was removed"] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    assert!(output.stdout.is_empty());
    assert_same_lines(&kernel_state(node.netns()), &before);
    assert_reaches(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
}

/// Switches forwarding on, which cleanup leaves on: others may have come to depend on it. With it
/// the kernel has more multicast and anycast addresses.
fn forward(netns: &Netns) {
    netns.set_sysctl("ipv4/ip_forward", "1").unwrap();
    netns.set_sysctl("ipv6/conf/all/forwarding", "1").unwrap();
}

/// Devices with their addresses, routes, rules and tables.
fn kernel_state(netns: &Netns) -> Vec<String> {
    let ip = |arguments: &[&str]| netns.ip_output(arguments).unwrap();
    let text = [
        ip(&["-oneline", "link"]),
        ip(&["-brief", "address"]),
        ip(&["-4", "route", "show", "table", "all"]),
        ip(&["-6", "route", "show", "table", "all"]),
        ip(&["-4", "rule"]),
        ip(&["-6", "rule"]),
        run(netns, "nft", &["list", "ruleset"]),
        run(netns, "bridge", &["fdb"]),
    ]
    .join("\n");
    let mut lines: Vec<String> = text.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.sort();
    lines
}
