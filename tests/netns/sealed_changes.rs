//! Keys come and change under traffic, by the steps of docs/sealed.md, and no packet is lost.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use culvert_lab::{Lab, Node, TableFile, wait_until};
use overlay_proto::Family;

use crate::eavesdrop::Eavesdropper;
use crate::harness::{FAMILIES, SOON, assert_reaches_within, lab, quick_ping, run};
use crate::stream::{MARKER, Stream};

/// Two secrets of a cluster.
const SECRETS: [&str; 2] = [
    "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=",
];

/// Where a node listens for what is plain, and for what is sealed.
const PLAIN_PORT: u16 = 4790;
const SEALED_PORT: u16 = 4500;

/// Traffic between the first pods of two nodes, both ways.
struct Traffic(Vec<Stream>);

impl Traffic {
    fn start(lab: &Lab) -> Self {
        let (one, two) = (lab.pod(1, 1), lab.pod(2, 1));
        for family in FAMILIES {
            // The first packets between two pods may wait for their neighbours' addresses.
            assert_reaches_within(SOON, one.netns(), two.address(family));
        }
        let ways = [(&one, &two), (&two, &one)];
        Self(ways.map(|(from, to)| Stream::start(from, to, Family::V4)).into())
    }

    /// Waits until some more have arrived.
    fn flow(&self) {
        for stream in &self.0 {
            let before = stream.arrived();
            wait_until(SOON, "packets", || stream.arrived() > before + 300).unwrap();
        }
    }

    fn stop(self) -> Vec<(u64, BTreeSet<u64>)> {
        self.0.into_iter().map(Stream::stop).collect()
    }

    /// Stops it.
    #[track_caller]
    fn lost_nothing(self, what: &str, lab: &Lab) {
        for (way, (sent, missing)) in self.stop().into_iter().enumerate() {
            assert!(sent > 0);
            let drops = || lab.nodes().iter().map(|node| node.status().unwrap()["drops"].clone());
            assert!(
                missing.is_empty(),
                "{what}, way {way}: {missing:?} of {sent} were lost: {:?}",
                drops().collect::<Vec<_>>()
            );
        }
    }
}

fn generation(node: &Node) -> u64 {
    node.status().unwrap()["table"]["generation"].as_u64().unwrap()
}

/// Writes the table and waits until each node has it.
#[track_caller]
fn put(lab: &Lab, table: &TableFile) {
    let before: Vec<u64> = lab.nodes().iter().map(generation).collect();
    lab.write_table(&table.to_toml()).unwrap();
    let taken = || lab.nodes().iter().zip(&before).all(|(node, before)| generation(node) > *before);
    if let Err(late) = wait_until(SOON, "the table to be taken", taken) {
        let tables = lab.nodes().iter().map(|node| node.status().unwrap()["table"].clone());
        panic!("{late}: {:?}", tables.collect::<Vec<_>>());
    }
}

fn is_sealed(node: &Node) -> bool {
    let peer = node.status().unwrap()["peers"][0].clone();
    peer["sealed"].is_string() && peer["plain"] == false
}

#[test]
fn a_running_cluster_is_converted_without_a_gap() {
    let lab = lab("nt-convert").up().unwrap();
    let wire = Eavesdropper::start(lab.switch(), MARKER);
    let traffic = Traffic::start(&lab);
    traffic.flow();
    assert!(wire.take().readable > 0, "without keys everybody reads along");
    // One entry after the other.
    let mut table = lab.table();
    for (entry, node) in lab.nodes().iter().enumerate() {
        table.nodes[entry].public_keys = node.public_keys().unwrap();
        put(&lab, &table);
        traffic.flow();
    }
    wait_until(SOON, "sessions", || lab.nodes().iter().all(is_sealed)).unwrap();
    wire.take();
    traffic.flow();
    let heard = wire.take();
    assert_eq!((heard.readable, heard.frames > 0), (0, true));
    // To insist, one node after the other.
    for node in lab.nodes() {
        set_mode(node, "require");
        traffic.flow();
    }
    let heard = wire.take();
    assert_eq!((heard.readable, heard.frames > 0), (0, true));
    for node in lab.nodes() {
        assert!(!listens(node, PLAIN_PORT) && listens(node, SEALED_PORT), "{}", node.name());
    }
    // And back.
    for node in lab.nodes() {
        set_mode(node, "prefer");
        traffic.flow();
        assert!(listens(node, PLAIN_PORT), "{}", node.name());
    }
    traffic.lost_nothing("the conversion", &lab);
    assert_eq!(wire.take().readable, 0, "what has had a session stays sealed");
}

/// As docs/sealed.md has it: a changed configuration and a reload.
#[track_caller]
fn set_mode(node: &Node, mode: &str) {
    node.write_config(&[&format!("[sealed]\nmode = \"{mode}\"\n")]).unwrap();
    node.reload().unwrap();
    let is_in_force = || node.status().unwrap()["sealed"]["mode"] == mode;
    if wait_until(SOON * 2, mode, is_in_force).is_err() {
        panic!("{mode} is not in force at {}: {}", node.name(), node.log_tail());
    }
}

fn listens(node: &Node, port: u16) -> bool {
    run(node.netns(), "ss", &["-Hlun"]).contains(&format!(":{port} "))
}

#[test]
fn who_begins_to_insist_loses_nothing_that_a_silent_peer_sends_first() {
    let lab = lab("nt-insist").nodes(3).up().unwrap();
    let mut table = lab.table();
    for (entry, node) in table.nodes.iter_mut().zip(lab.nodes()) {
        entry.public_keys = node.public_keys().unwrap();
    }
    put(&lab, &table);
    // The pods know their routers, and the first and the third node have had no session.
    let (one, two, three) = (lab.pod(1, 1), lab.pod(2, 1), lab.pod(3, 1));
    for pod in [&one, &three] {
        assert_reaches_within(SOON, two.netns(), pod.ipv4());
    }
    set_mode(lab.node(1), "require");
    let streams =
        [(&three, &one), (&one, &three)].map(|(from, to)| Stream::start(from, to, Family::V4));
    let traffic = Traffic(streams.into());
    traffic.flow();
    traffic.lost_nothing("require at one end", &lab);
}

#[test]
fn a_peer_that_is_down_keeps_nobody_from_insisting() {
    let lab = lab("nt-insistdown").nodes(3).up().unwrap();
    let mut table = lab.table();
    for (entry, node) in table.nodes.iter_mut().zip(lab.nodes()) {
        entry.public_keys = node.public_keys().unwrap();
    }
    put(&lab, &table);
    lab.node(3).stop().unwrap();
    let traffic = Traffic::start(&lab);
    // One that cannot be read changes nothing, nor does one that only a restart could go by.
    let (node, mode) = (lab.node(1), || lab.node(1).status().unwrap()["sealed"]["mode"].clone());
    for (wrong, said) in [
        ("[sealed]\nmode = \"requre\"\n", "the new configuration is refused"),
        ("[sealed]\nmode = \"off\"\n", "begins or ends to seal with a restart only"),
        ("[tun]\nqueues = 1\n", "only sealed.mode comes into force"),
    ] {
        node.write_config(&[wrong]).unwrap();
        node.reload().unwrap();
        wait_until(SOON, said, || node.log().contains(said)).unwrap();
        assert_eq!(mode(), "prefer");
    }
    set_mode(node, "require");
    assert!(node.log().contains("insisting without a session with some peers"));
    traffic.flow();
    traffic.lost_nothing("require beside a peer that is down", &lab);
}

#[test]
fn a_cluster_that_prefers_to_seal_goes_back_with_its_table() {
    let lab = lab("nt-sealback").sealed("prefer").up().unwrap();
    let wire = Eavesdropper::start(lab.switch(), MARKER);
    let traffic = Traffic::start(&lab);
    wait_until(SOON, "sessions", || lab.nodes().iter().all(is_sealed)).unwrap();
    wire.take();
    traffic.flow();
    assert_eq!(wire.take().readable, 0);
    let mut table = lab.table();
    table.nodes.iter_mut().for_each(|node| node.public_keys.clear());
    put(&lab, &table);
    wire.take();
    traffic.flow();
    assert!(wire.take().readable > 0);
    traffic.stop();
    put(&lab, &lab.table());
    let traffic = Traffic::start(&lab);
    wait_until(SOON, "sessions again", || lab.nodes().iter().all(is_sealed)).unwrap();
    wire.take();
    traffic.flow();
    assert_eq!(wire.take().readable, 0);
    traffic.stop();
}

#[test]
fn a_nodes_key_changes_without_the_loss_of_a_packet() {
    let lab = lab("nt-rotate").sealed("require").up().unwrap();
    let node = lab.node(1);
    let keys = |verb: &str| {
        let config = node.config_path();
        node.culvert(&["keys", verb, "--config", config.to_str().unwrap()]).unwrap();
        node.public_keys().unwrap()
    };
    let known = || node.status().unwrap()["sealed"]["public_keys"].clone();
    let follows = |keys: &[String]| {
        let keys = serde_json::json!(keys);
        wait_until(SOON, "the daemon to follow its files", || known() == keys).unwrap();
    };
    let mut table = lab.table();
    let traffic = Traffic::start(&lab);
    let first = table.nodes[0].public_keys.clone();

    let both = keys("rotate");
    assert_eq!(both[0], first[0]);
    table.nodes[0].public_keys.clone_from(&both);
    follows(&both);
    put(&lab, &table);
    traffic.flow();
    let switched = keys("switch");
    assert_eq!(switched[0], both[1]);
    follows(&switched);
    traffic.flow();
    // For as long as the steps ask for.
    thread::sleep(Duration::from_secs(10));
    let retired = keys("retire");
    assert_eq!(retired, switched[..1]);
    follows(&retired);
    traffic.flow();
    table.nodes[0].public_keys.clone_from(&retired);
    put(&lab, &table);
    traffic.flow();
    assert!(lab.nodes().iter().all(is_sealed));
    traffic.lost_nothing("rotation", &lab);
    // Sessions with the new key are all that there are, and can be had anew.
    for node in lab.nodes() {
        node.restart().unwrap();
        assert_reaches_within(SOON, lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
    }
}

#[test]
fn the_clusters_secret_changes_without_the_loss_of_a_packet() {
    let lab = lab("nt-psk").sealed("require").without_daemons().up().unwrap();
    let [old, new] = SECRETS;
    for node in lab.nodes() {
        let files = secret_files(node).map(|path| path.display().to_string());
        let config = format!("[sealed]\nmode = \"require\"\npsk_files = {files:?}\n");
        fs::create_dir_all(node.state_dir()).unwrap();
        write_secrets(node, [old, old]);
        node.write_config(&[&config]).unwrap();
        node.start().unwrap();
    }
    for node in 1..=2 {
        lab.add_pod(node).unwrap();
    }
    let traffic = Traffic::start(&lab);
    for secrets in [[old, new], [new, old], [new, new]] {
        for node in lab.nodes() {
            let changes = || node.log().matches("the secrets of the cluster have changed").count();
            let before = changes();
            write_secrets(node, secrets);
            wait_until(SOON, "the secrets to be read", || changes() > before).unwrap();
            traffic.flow();
        }
    }
    traffic.lost_nothing("the cluster's secret", &lab);
    // The next session is of the new one; with the old one alone there is none.
    let node = lab.node(2);
    node.restart().unwrap();
    assert_reaches_within(SOON, lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
    node.stop().unwrap();
    write_secrets(node, [old, old]);
    node.start().unwrap();
    let fails = || !node.status().unwrap()["sealed"]["failing"].as_array().unwrap().is_empty();
    let (one, two) = (lab.pod(1, 1), lab.pod(2, 1));
    wait_until(SOON, "the old secret to be refused", || {
        for (from, to) in [(&one, &two), (&two, &one)] {
            assert!(!quick_ping(from.netns(), to.ipv4()).is_reply());
        }
        fails()
    })
    .unwrap();
}

fn secret_files(node: &Node) -> [PathBuf; 2] {
    ["first.psk", "second.psk"].map(|name| node.state_dir().join(name))
}

/// As docs/sealed.md has it: under another name, for the owner only, and renamed.
fn write_secrets(node: &Node, secrets: [&str; 2]) {
    for (path, secret) in secret_files(node).iter().zip(secrets) {
        let beside = path.with_extension("new");
        fs::write(&beside, format!("{secret}\n")).unwrap();
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(&beside, path).unwrap();
    }
}
