//! Nodes that share an etcd claim their subnets and learn of one another.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use culvert::control::source::NodeKeys;
use culvert_node::Attachment;
use culvert_node::ipam::{Ports, Request, Store};
use ipnet::IpNet;
use tempfile::TempDir;

use crate::listener::Listener;
use source_servers::etcd::{Etcd, config};

fn state() -> TempDir {
    TempDir::with_prefix("culvert-state-").unwrap()
}

fn node(etcd: &Etcd, number: u8, state: &TempDir) -> Listener {
    let (name, address) = (format!("node{number}"), format!("192.168.1.{}", 10 + number));
    Listener::start(&config(etcd, &name, state.path(), &address))
}

#[test]
fn nodes_claim_subnets_of_their_own_and_learn_of_one_another() {
    let etcd = Etcd::start();
    let states: Vec<TempDir> = (0..3).map(|_| state()).collect();
    let nodes: Vec<Listener> =
        (1..=3_u8).zip(&states).map(|(number, state)| node(&etcd, number, state)).collect();
    let mut seen = BTreeSet::new();
    for node in &nodes {
        let heard = node.until_names(&["node1", "node2", "node3"]);
        assert_eq!(heard.contested, None);
        seen.insert(heard.names().iter().map(|name| heard.subnets(name)).collect::<Vec<_>>());
    }
    assert_eq!(seen.len(), 1, "all know the same: {seen:?}");
    let subnets: BTreeSet<IpNet> = seen.into_iter().flatten().flatten().collect();
    assert_eq!(subnets.len(), 3);
    let network: IpNet = "10.244.0.0/16".parse().unwrap();
    assert!(subnets.iter().all(|subnet| network.contains(subnet) && subnet.prefix_len() == 24));
    assert!(etcd.value("/culvert/config").contains("\"subnet_len\":24"));
}

/// Alice's and Bob's public keys in RFC 7748, 6.1.
const KEYS: [&str; 2] = [
    "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=",
    "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=",
];

#[test]
fn a_node_says_its_keys_with_its_claim_and_again_when_they_change() {
    let etcd = Etcd::start();
    let (one, two) = (state(), state());
    let (first, second) = (node(&etcd, 1, &one), node(&etcd, 2, &two));
    second.until_names(&["node1", "node2"]);
    for texts in [&KEYS[..1], &KEYS[..], &KEYS[1..], &[]] {
        let keys = NodeKeys::parse(texts.iter().copied()).unwrap();
        first.keys(keys);
        for listener in [&first, &second] {
            listener.until("the keys", |heard| heard.keys("node1") == keys);
        }
    }
    assert!(first.heard().contested.is_none());
    // What nobody understands costs that node its place, and nobody else anything.
    let value = r#"{"node":"peer","instance":"p","address":"192.168.1.77","public_keys":["x"]}"#;
    etcd.put("/culvert/subnets/10.244.77.0-24", value);
    let wrong = |heard: &crate::listener::Heard| {
        let why = heard.proposal.unreadable().get("/culvert/subnets/10.244.77.0-24").cloned();
        why.is_some_and(|why| why.starts_with("public_keys = \"x\": not 32 bytes in base64"))
    };
    let heard = second.until("what is wrong", wrong);
    assert_eq!(heard.names(), ["node1", "node2"]);
}

#[test]
fn settings_in_etcd_are_enough_and_dual_stack_is_claimed_together() {
    let etcd = Etcd::start();
    let settings = r#"{"cidrs":["10.100.0.0/16","fd00:10:100::/48"],"vni":7,"port":4791,
        "subnet_len":26}"#;
    etcd.put("/culvert/config", settings);
    let state = state();
    let text = config(&etcd, "node1", state.path(), "192.168.1.11");
    let listener = Listener::start(&text.replace("cidrs = [\"10.244.0.0/16\"]\n", ""));
    let heard = listener.until_names(&["node1"]);
    let lens: Vec<u8> = heard.subnets("node1").iter().map(IpNet::prefix_len).collect();
    assert_eq!(lens, [26, 64]);
    // Another that says something else is told so, and takes no part.
    let other = Listener::start(&config(&etcd, "node2", state.path(), "192.168.1.12"));
    let heard = other.until("the disagreement", |heard| heard.lost.is_some());
    assert!(heard.lost.unwrap().contains("make network and underlay.port the same"));
}

#[test]
fn pod_networks_may_widen_while_nodes_run_and_what_else_changes_is_reported() {
    let etcd = Etcd::start();
    let settings = |cidr: &str, vni: u32| {
        let value = format!(r#"{{"cidrs":["{cidr}"],"vni":{vni},"port":4790}}"#);
        etcd.put("/culvert/config", &value);
    };
    settings("10.244.0.0/16", 1);
    let state = state();
    let text = config(&etcd, "node1", state.path(), "192.168.1.11");
    let listener = Listener::start(&text.replace("cidrs = [\"10.244.0.0/16\"]\n", ""));
    let had = listener.until_names(&["node1"]).subnets("node1");

    settings("10.244.0.0/16", 2);
    let heard = listener.until("the difference", |heard| heard.differs.is_some());
    assert!(heard.differs.unwrap().contains("restart it, or change /culvert/config back"));
    etcd.put(
        "/culvert/subnets/10.244.77.0-24",
        r#"{"node":"peer","instance":"p","address":"192.168.1.77"}"#,
    );
    listener.until_names(&["node1", "peer"]);
    listener.reload();
    let heard = listener.until("another reading", |heard| heard.snapshots > 1);
    assert!(heard.losses == 0 && heard.contested.is_none(), "it is followed all the same");
    settings("10.244.0.0/16", 1);
    listener.until("the end of it", |heard| heard.differs.is_none());

    settings("10.240.0.0/12", 1);
    let wide: Vec<IpNet> = vec!["10.240.0.0/12".parse().unwrap()];
    let heard = listener.until("the wider network", |heard| heard.networks == wide);
    assert_eq!((heard.subnets("node1"), heard.losses), (had, 0));
    settings("10.244.0.0/16", 1);
    let heard = listener.until("the difference", |heard| heard.differs.is_some());
    assert_eq!(heard.networks, wide);
}

#[test]
fn a_node_comes_back_to_its_subnet_after_a_restart_and_after_its_lease() {
    let etcd = Etcd::start();
    let (one, two) = (state(), state());
    let first = node(&etcd, 1, &one);
    let had = first.until_names(&["node1"]).subnets("node1");
    drop(first);
    // Nothing of it is left, as after a lease that ran out while the machine was away.
    for key in ["/culvert/subnets/", "/culvert/unique/"] {
        etcd.ctl(&["del", "--prefix", key]);
    }
    let other = node(&etcd, 2, &two);
    assert_ne!(other.until_names(&["node2"]).subnets("node2"), had);
    let again = node(&etcd, 1, &one);
    assert_eq!(again.until_names(&["node1", "node2"]).subnets("node1"), had);
    // And with its claim still there, but its own memory lost.
    drop(again);
    fs::remove_file(one.path().join("claim.json")).unwrap();
    let again = node(&etcd, 1, &one);
    assert_eq!(again.until_names(&["node1", "node2"]).subnets("node1"), had);
}

#[test]
fn a_second_machine_with_the_name_or_the_address_is_refused_by_name() {
    let etcd = Etcd::start();
    let states: Vec<TempDir> = (0..3).map(|_| state()).collect();
    let first = node(&etcd, 1, &states[0]);
    let had = first.until_names(&["node1"]).subnets("node1");

    let text = config(&etcd, "node1", states[1].path(), "192.168.1.99");
    let same_name = Listener::start(&text);
    let heard = same_name.until("a refusal", |heard| heard.contested.is_some());
    let reason = heard.contested.unwrap();
    assert!(reason.contains("another machine, with the address 192.168.1.11"), "{reason}");

    let text = config(&etcd, "node9", states[2].path(), "192.168.1.11");
    let same_address = Listener::start(&text);
    let heard = same_address.until("a refusal", |heard| heard.contested.is_some());
    let reason = heard.contested.unwrap();
    assert!(reason.contains("node \"node1\" has the address 192.168.1.11 too"), "{reason}");

    assert_eq!(first.heard().subnets("node1"), had);
    assert_eq!(first.heard().names(), ["node1"]);
}

#[test]
fn a_subnet_that_another_took_is_kept_while_pods_use_it_and_left_when_none_does() {
    let etcd = Etcd::start();
    let state = state();
    let listener = node(&etcd, 1, &state);
    let had = listener.until_names(&["node1"]).subnets("node1");
    let pod = Attachment::new("pods", "pod1", "eth0").unwrap();
    let mut no_ports = Ports::default();
    let mut store = Store::open_or_create(state.path(), &mut no_ports).unwrap();
    let (netns, request) = (Path::new("/proc/self/ns/net"), Request::one_of_each_family(&had));
    store.allocate(&pod, netns, &request, &mut no_ports).unwrap();

    let key = format!("/culvert/subnets/{}-24", had[0].network());
    etcd.put(&key, r#"{"node":"thief","instance":"x","address":"192.168.1.66"}"#);
    // First it takes no more pods, then it looks which there are.
    let heard = listener.until("the loss and what pods hold", |heard| {
        heard.contested.as_ref().is_some_and(|reason| reason.contains("of its pods"))
    });
    let reason = heard.contested.unwrap();
    for part in ["node \"thief\" has claimed it", "1 of its pods", "drain this node"] {
        assert!(reason.contains(part), "{reason}");
    }
    assert_eq!(listener.heard().subnets("node1"), had, "it stays what the pods have");

    store.release(&pod).unwrap();
    listener.reload();
    let heard = listener.until("another subnet", |heard| {
        heard.contested.is_none() && heard.subnets("node1") != had
    });
    assert_eq!(heard.subnets("thief"), had);
}

#[test]
fn reservations_are_kept_and_exhaustion_names_the_knob() {
    let etcd = Etcd::start();
    etcd.put("/culvert/config", r#"{"cidrs":["10.244.0.0/22"],"vni":1,"port":4790}"#);
    etcd.put("/culvert/reservations/10.244.3.0-24", r#"{"node":"node1"}"#);
    etcd.put("/culvert/reservations/10.244.2.0-24", "{}");
    let states: Vec<TempDir> = (0..3).map(|_| state()).collect();
    let start = |number: u8| {
        let index = usize::from(number) - 1;
        let (name, address) = (format!("node{number}"), format!("192.168.1.{}", 10 + number));
        let text = config(&etcd, &name, states[index].path(), &address);
        Listener::start(&text.replace("cidrs = [\"10.244.0.0/16\"]\n", ""))
    };
    let two = start(2);
    let only: Vec<IpNet> = vec!["10.244.1.0/24".parse().unwrap()];
    assert_eq!(two.until_names(&["node2"]).subnets("node2"), only);
    let three = start(3);
    let heard = three.until("the end of subnets", |heard| heard.contested.is_some());
    let reason = heard.contested.unwrap();
    for part in ["no free /24 is left of 10.244.0.0/22", "cidrs", "subnet_len", "reservations"] {
        assert!(reason.contains(part), "{reason}");
    }
    let one = start(1);
    let reserved: Vec<IpNet> = vec!["10.244.3.0/24".parse().unwrap()];
    assert_eq!(one.until_names(&["node1", "node2"]).subnets("node1"), reserved);
    // Room is made; whoever waits takes it.
    etcd.ctl(&["del", "/culvert/reservations/10.244.2.0-24"]);
    three.until("a subnet for the third", |heard| !heard.subnets("node3").is_empty());
}

#[test]
fn a_password_is_needed_where_etcd_asks_for_one() {
    let etcd = Etcd::start();
    etcd.ctl(&["user", "add", "root:secret"]);
    etcd.ctl(&["auth", "enable"]);
    let state = state();
    let text = config(&etcd, "node1", state.path(), "192.168.1.11");
    let without = Listener::start(&text);
    let heard = without.until("a refusal", |heard| heard.lost.is_some());
    assert!(heard.lost.as_ref().unwrap().contains("user name is empty"), "{heard:?}");
    drop(without);
    let password = state.path().join("password");
    let with = |secret: &str| {
        fs::write(&password, format!("{secret}\n")).unwrap();
        let file = password.display();
        Listener::start(&format!("{text}user = \"root\"\npassword_file = \"{file}\"\n"))
    };
    let wrong = with("guess");
    let heard = wrong.until("a refusal", |heard| heard.lost.is_some());
    assert!(heard.lost.as_ref().unwrap().contains("as etcd.user root"), "{heard:?}");
    drop(wrong);
    with("secret").until_names(&["node1"]);
}

#[test]
fn certificates_are_checked_both_ways() {
    let directory = TempDir::with_prefix("culvert-tls-").unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let openssl = |arguments: &str| {
        let done = std::process::Command::new("openssl")
            .args(arguments.split(' '))
            .stderr(std::process::Stdio::null())
            .status()
            .expect("openssl starts: install the package openssl");
        assert!(done.success(), "openssl {arguments}");
    };
    for authority in ["ca", "other"] {
        openssl(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={authority} \
             -keyout {} -out {}",
            path(&format!("{authority}.key")),
            path(&format!("{authority}.pem"))
        ));
    }
    fs::write(path("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(&format!(
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=etcd -keyout {} -out {}",
        path("node.key"),
        path("node.csr")
    ));
    openssl(&format!(
        "x509 -req -in {} -CA {} -CAkey {} -CAcreateserial -days 2 -extfile {} -out {}",
        path("node.csr"),
        path("ca.pem"),
        path("ca.key"),
        path("names"),
        path("node.pem")
    ));
    let arguments = [
        "--cert-file",
        &path("node.pem"),
        "--key-file",
        &path("node.key"),
        "--trusted-ca-file",
        &path("ca.pem"),
        "--client-cert-auth",
    ];
    let etcd = Etcd::with_arguments(arguments.map(str::to_owned).to_vec());
    let state = state();
    let with = |more: &str| {
        let text = config(&etcd, "node1", state.path(), "192.168.1.11");
        Listener::start(&format!("{text}{more}"))
    };
    let (cert, key) = (path("node.pem"), path("node.key"));
    let identity = format!("cert_file = \"{cert}\"\nkey_file = \"{key}\"\n");
    let ca = |name: &str| format!("ca_file = \"{}\"\n", path(name));
    for (more, part) in [
        (identity.clone(), "need etcd.ca_file"),
        (format!("{identity}{}", ca("other.pem")), "certificate"),
        (ca("ca.pem"), ""),
    ] {
        let refused = with(&more).until("a refusal", |heard| heard.lost.is_some());
        assert!(refused.lost.as_ref().unwrap().contains(part), "{refused:?}");
    }
    with(&format!("{identity}{}", ca("ca.pem"))).until_names(&["node1"]);
}
