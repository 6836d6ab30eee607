//! What somebody breaks under a running daemon is whole again within two seconds.

use culvert_lab::probe::{self, Transfer};
use culvert_lab::{Lab, wait_until};

use crate::harness::{
    FAMILIES, REPAIR_LIMIT, assert_reaches, assert_reaches_within, device_mtu, lab, run, sysctl,
};

#[test]
fn devices_addresses_and_routes_come_back() {
    let lab = lab("nt-repair").up().unwrap();
    let node = lab.node(1);
    let whole = summary(&lab);
    for damage in [
        "link del culvert0",
        "link set culvert0 down",
        "link set culvert0 mtu 1300",
        "address del 10.244.1.0/32 dev culvert0",
        "address del fd00:10:244:1::/128 dev culvert0",
        "address flush dev culvert0",
        "route del 10.244.0.0/16",
        "-6 route del fd00:10:244::/48",
        "route replace 10.244.0.0/16 dev lo proto 207",
        "address del 10.244.1.1/24 dev v-net-0",
        "address del fd00:10:244:1::1/64 dev v-net-0",
        "link set v-net-0 down",
        "link del v-net-0",
    ] {
        let repairs = || node.status().unwrap()["repairs"].as_u64().unwrap();
        let before = repairs();
        run(node.netns(), "ip", &damage.split(' ').collect::<Vec<_>>());
        let what = format!("a repair after `ip {damage}`");
        wait_until(REPAIR_LIMIT, &what, || repairs() > before).unwrap();
        for family in FAMILIES {
            let (one, two) = (lab.pod(1, 1), lab.pod(2, 1));
            assert_reaches_within(REPAIR_LIMIT, one.netns(), two.address(family));
            assert_reaches_within(REPAIR_LIMIT, two.netns(), one.address(family));
            assert_reaches_within(REPAIR_LIMIT, node.netns(), two.address(family));
        }
        let same = || summary(&lab) == whole;
        if wait_until(REPAIR_LIMIT, &what, same).is_err() {
            panic!("after `ip {damage}`: {:#?} is not {whole:#?}", summary(&lab));
        }
    }
    // Whoever watches for warnings hears of it.
    let log = node.log();
    let warned = |line: &str| line.contains("WARN put back what this node's set-up lacked");
    assert!(log.lines().any(warned), "{log}");
}

#[test]
fn a_table_that_somebody_switched_off_is_made_anew() {
    let lab = lab("nt-dormant").up().unwrap();
    let node = lab.node(1);
    for table in ["inet culvert", "inet culvert-pods", "bridge culvert"] {
        let nft = |command: &str| run(node.netns(), "nft", &command.split(' ').collect::<Vec<_>>());
        nft(&format!("add table {table} {{ flags dormant; }}"));
        let is_on = || !nft(&format!("list table {table}")).contains("dormant");
        wait_until(REPAIR_LIMIT, &format!("table {table} to be on"), is_on).unwrap();
    }
}

#[test]
fn the_nftables_table_comes_back_and_translates() {
    let lab = lab("nt-nft").up().unwrap();
    let node = lab.node(1);
    let table = || {
        let output =
            node.netns().command("nft").args(["list", "table", "inet", "culvert"]).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let whole = table();
    assert!(whole.contains("masquerade"), "{whole}");
    for damage in [
        "delete table inet culvert",
        "flush ruleset",
        "flush chain inet culvert postrouting",
        "delete element inet culvert local_v4 { 10.244.1.0/24 }",
    ] {
        run(node.netns(), "nft", &damage.split(' ').collect::<Vec<_>>());
        let what = format!("the table after `nft {damage}`");
        wait_until(REPAIR_LIMIT, &what, || table() == whole).unwrap();
        for family in FAMILIES {
            let (pod, outside) = (lab.pod(1, 1), lab.outside(family));
            let small = Transfer::of(100_000);
            let report = probe::transfer(pod.netns(), lab.switch(), outside, &small).unwrap();
            assert_eq!(report.seen.ip(), node.address_in(family), "after `nft {damage}`");
        }
    }
}

#[test]
fn forwarding_is_switched_on_again() {
    let lab = lab("nt-sysctl").up().unwrap();
    let node = lab.node(1);
    for (key, value) in [
        ("ipv4/ip_forward", "0"),
        ("ipv6/conf/all/forwarding", "0"),
        ("ipv4/conf/v-net-0/forwarding", "0"),
        ("ipv4/conf/culvert0/rp_filter", "1"),
    ] {
        let right = sysctl(node.netns(), key);
        assert_ne!(right, value, "{key}");
        node.netns().set_sysctl(key, value).unwrap();
        let what = format!("{key} to be {right} again");
        wait_until(REPAIR_LIMIT, &what, || sysctl(node.netns(), key) == right).unwrap();
        for family in FAMILIES {
            assert_reaches_within(
                REPAIR_LIMIT,
                lab.pod(1, 1).netns(),
                lab.pod(2, 1).address(family),
            );
        }
    }
}

#[test]
fn foreign_devices_addresses_and_routes_stay() {
    let lab = lab("nt-foreign").up().unwrap();
    let node = lab.node(1);
    node.netns()
        .ip("link add other type bridge\naddress add 10.99.0.1/24 dev other\n\
             link set other up\nroute add 10.98.0.0/16 dev other\n")
        .unwrap();
    node.netns().ip("link del culvert0\n").unwrap();
    assert_reaches_within(REPAIR_LIMIT, lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
    let routes = node.netns().ip_output(&["route"]).unwrap();
    assert!(routes.contains("10.98.0.0/16 dev other"), "{routes}");
    assert!(routes.contains("10.99.0.0/24 dev other"), "{routes}");
}

#[test]
fn traffic_survives_a_device_that_is_deleted_again_and_again() {
    let lab = lab("nt-again").up().unwrap();
    for _ in 0..5 {
        lab.node(1).netns().ip("link del culvert0\n").unwrap();
        assert_reaches_within(REPAIR_LIMIT, lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
    }
    assert_reaches(lab.pod(2, 1).netns(), lab.pod(1, 1).ipv6());
}

/// What `ip` shows of our devices' addresses and routes, without what changes from one device to
/// the next of the same name.
fn summary(lab: &Lab) -> Vec<String> {
    let netns = lab.node(1).netns();
    let ip = |arguments: &[&str]| netns.ip_output(arguments).unwrap();
    let text = [
        ip(&["-brief", "address", "show", "dev", "culvert0"]),
        ip(&["-brief", "address", "show", "dev", "v-net-0"]),
        ip(&["route"]),
        ip(&["-6", "route", "show", "proto", "207"]),
        format!("mtu {}", device_mtu(netns, "culvert0")),
    ]
    .join("\n");
    let mut lines: Vec<String> = text.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.sort();
    lines
}
