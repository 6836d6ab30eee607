//! What commands print as JSON on a node that runs is as docs/schemas says.

use crate::harness::{CULVERT, assert_reaches, lab};
use crate::validator::assert_valid;

#[test]
fn what_a_running_node_says_is_as_the_schemas_say() {
    let lab = lab("nt-schemas").up().unwrap();
    let node = lab.node(1);
    let (own, far) = (lab.pod(1, 1).ipv4(), lab.pod(2, 1).ipv4());
    assert_reaches(lab.pod(1, 1).netns(), far);
    assert_valid("status", &node.culvert(&["status", "--json"]).unwrap());
    for (from, to) in [(own, far), (far, own)] {
        let asked = ["explain", &from.to_string(), &to.to_string(), "--json"];
        assert_valid("explain", &node.culvert(&asked).unwrap());
    }
    let peer = lab.node(2).name();
    assert_valid("ping", &node.culvert(&["ping", peer, "--count", "1", "--json"]).unwrap());
    let traced = ["trace", &own.to_string(), &far.to_string(), "--json"];
    assert_valid("trace", &node.culvert(&traced).unwrap());
    assert_valid("doctor", &node.culvert(&["doctor", "--peers", "--json"]).unwrap());
    let state_dir = node.state_dir();
    let ipam = |arguments: &[&str]| {
        let output = node
            .netns()
            .command(CULVERT)
            .arg("ipam")
            .args(arguments)
            .args(["--json", "--state-dir"])
            .arg(&state_dir)
            .arg("--run-dir")
            .arg(node.run_dir())
            .output()
            .unwrap();
        assert!(!output.stdout.is_empty(), "ipam {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_valid("ipam-list", &ipam(&["list"]));
    assert_valid("ipam-check", &ipam(&["check"]));
    assert_valid("ipam-rebuild", &ipam(&["rebuild", "--force"]));
    assert_valid("ipam-free", &ipam(&["free", &own.to_string(), "--force"]));
    let host_local = tempfile::tempdir().unwrap();
    std::fs::write(host_local.path().join("10.244.1.77"), "c9\r\neth0").unwrap();
    let directory = host_local.path().to_str().unwrap();
    assert_valid("ipam-import", &ipam(&["import", directory, "--network", "pods"]));

    let status = std::process::Command::new(CULVERT)
        .args(["lab", "--name", "nt-schemas", "status", "--json"])
        .output()
        .unwrap();
    assert_valid("lab-status", &String::from_utf8(status.stdout).unwrap());
}
