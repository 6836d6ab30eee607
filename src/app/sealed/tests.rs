use std::path::{Path, PathBuf};

use culvert_dataplane::engine::{NodeEntry, TunnelOptions};
use culvert_seal::noise::PostQuantum;
use tempfile::TempDir;

use super::*;
use crate::config::Overrides;
use crate::control::secrets;
use crate::control::source;

/// Bob's public key in RFC 7748, 6.1.
const PEERS: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";

fn config(directory: &TempDir, more: &str) -> Arc<Config> {
    let text = format!(
        "[network]\ncidrs = [\"10.244.0.0/16\"]\nvni = 7\n[node]\nname = \"node1\"\nstate_dir = \"{}\"\n\
         [table]\nsource = \"file\"\npath = \"t\"\n[sealed]\n{more}",
        directory.path().display()
    );
    Config::parse(Path::new("c"), &text, &Overrides::default()).unwrap().into()
}

fn members(config: &Config, own: NodeKeys, peers: NodeKeys) -> Membership {
    let entry = |number: u8, keys| NodeEntry {
        name: format!("node{number}"),
        address: [192, 168, 1, 10 + number].into(),
        subnets: vec![format!("10.244.{number}.0/24").parse().unwrap()],
        tunnel_options: TunnelOptions { keys, ..TunnelOptions::default() },
    };
    let overlay = source::overlay(source::configured(config).unwrap(), config);
    Membership::check(overlay, "node1", vec![entry(1, own), entry(2, peers)]).unwrap()
}

fn one(text: &str) -> NodeKeys {
    NodeKeys::parse([text]).unwrap()
}

async fn open(config: &Arc<Config>) -> Sealed {
    Sealed::open(Arc::clone(config)).await.unwrap()
}

fn key_file(directory: &TempDir) -> PathBuf {
    directory.path().join("node.key")
}

#[tokio::test]
async fn a_node_that_seals_nothing_makes_no_key_and_hides_no_port() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory, "mode = \"off\"\n");
    let mut sealed = open(&config).await;
    let table = members(&config, NodeKeys::default(), one(PEERS));
    sealed.check(&table);
    assert_eq!((sealed.public_keys(), &sealed.unlisted), (NodeKeys::default(), &None));
    assert!(sealed.identity(&table).is_none());
    assert!(!key_file(&directory).exists());
    // Its pods still must not reach the port of those who seal.
    assert_eq!((port(&config, &table), own_port(&config, &table)), (Some(4500), None));
}

#[tokio::test]
async fn a_table_without_keys_is_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory, "");
    let mut sealed = open(&config).await;
    let table = members(&config, NodeKeys::default(), NodeKeys::default());
    sealed.check(&table);
    assert_eq!(sealed.unlisted, None);
    assert_eq!((port(&config, &table), own_port(&config, &table)), (None, None));
    assert_eq!(peers(&config, &table), []);
}

#[tokio::test]
async fn the_data_path_gets_every_peer_that_has_keys() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory, "port = 4501\nciphers = [\"chacha20-poly1305\"]\n");
    let sealed = open(&config).await;
    let table = members(&config, sealed.public_keys(), one(PEERS));
    let peer = PeerKeys {
        name: "node2".into(),
        address: "192.168.1.12:4501".parse().unwrap(),
        keys: one(PEERS).iter().copied().collect(),
    };
    assert_eq!(peers(&config, &table), [peer]);
    let identity = sealed.identity(&table).unwrap();
    let own: Vec<_> = identity.keys.iter().map(|key| *key.public()).collect();
    assert_eq!(NodeKeys::new(own), Ok(sealed.public_keys()));
    let mesh = mesh_config(&config, &table);
    assert_eq!((mesh.vni.get(), mesh.post_quantum), (7, PostQuantum::Require));
    assert_eq!(mesh.suites, Suites::new([culvert_seal::Suite::ChaCha20Poly1305]));
    assert_eq!((port(&config, &table), own_port(&config, &table)), (Some(4501), Some(4501)));
}

#[tokio::test]
async fn what_is_wrong_with_its_keys_in_the_table_is_said_with_what_to_write() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory, "");
    let mut sealed = open(&config).await;
    let first = sealed.public_keys();
    let said = |sealed: &mut Sealed, own: NodeKeys| {
        sealed.check(&members(&config, own, one(PEERS)));
        sealed.unlisted.clone()
    };
    let line =
        format!("; write into its entry: public_keys = [\"{}\"]", first.iter().next().unwrap());
    let missing = said(&mut sealed, NodeKeys::default()).unwrap();
    assert!(missing.starts_with("the table has keys, but none of this node"), "{missing}");
    assert!(missing.ends_with(&line), "{missing}");
    let other = one("hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
    let another = said(&mut sealed, other).unwrap();
    assert!(another.starts_with("the table has another key of this node"), "{another}");
    assert_eq!(said(&mut sealed, first), None);

    secrets::rotate(&key_file(&directory)).unwrap();
    sealed.reread().await;
    let both = sealed.public_keys();
    let next = said(&mut sealed, first).unwrap();
    assert!(next.starts_with("the table lacks this node's next key; write"), "{next}");
    assert_eq!(said(&mut sealed, both), None);
    // Somebody goes over to it before the table has it: the node goes on with what peers know.
    secrets::switch(&key_file(&directory)).unwrap();
    sealed.reread().await;
    let early = said(&mut sealed, first).unwrap();
    assert!(early.starts_with("the table lacks this node's present key"), "{early}");
    let table = members(&config, first, one(PEERS));
    let identity = sealed.identity(&table).unwrap();
    let begins = *identity.keys[0].public();
    assert!(first.has(&begins));
    // And that is the key which status names first, since when it was.
    let now = clock::now();
    sealed.begin_with(&identity, now);
    sealed.begin_with(&identity, now + std::time::Duration::from_secs(5));
    assert_eq!(sealed.status().public_keys[0], begins.to_string());
    assert_eq!((sealed.status().public_keys.len(), sealed.in_use_since()), (2, Some(now)));
    let listed = sealed.identity(&members(&config, both, one(PEERS))).unwrap();
    let later = now + std::time::Duration::from_secs(9);
    sealed.begin_with(&listed, later);
    assert_eq!(sealed.in_use_since(), Some(later));
    assert_ne!(sealed.status().public_keys[0], begins.to_string());
    secrets::retire(&key_file(&directory)).unwrap();
    sealed.reread().await;
    let late = said(&mut sealed, both).unwrap();
    assert!(
        late.starts_with("the table has a key that this node does not have any more"),
        "{late}"
    );
}

#[tokio::test]
async fn a_source_that_is_told_of_keys_has_a_moment_to_say_them() {
    let directory = tempfile::tempdir().unwrap();
    let mut by_source = Config::clone(&config(&directory, ""));
    by_source.table = TableSource::Kubernetes(crate::config::Kubernetes {
        kubeconfig: None,
        startup_taint: String::new(),
        from_flannel: false,
    });
    let config = Arc::new(by_source);
    let mut sealed = open(&config).await;
    let lacking = members(&config, NodeKeys::default(), one(PEERS));
    sealed.check(&lacking);
    assert_eq!(sealed.unlisted, None);
    sealed.check(&lacking);
    assert!(sealed.unlisted.as_ref().is_some_and(|why| why.ends_with("its log says why")));
    sealed.check(&members(&config, sealed.public_keys(), one(PEERS)));
    assert_eq!(sealed.status().error, None);
}

#[tokio::test]
async fn keys_that_cannot_be_read_leave_the_old_ones_and_are_refused_at_a_start() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory, "");
    let mut sealed = open(&config).await;
    let before = sealed.public_keys();
    std::fs::write(key_file(&directory), "nonsense").unwrap();
    sealed.reread().await;
    assert_eq!(sealed.public_keys(), before);
    assert!(
        sealed.unread.as_ref().is_some_and(|why| why.contains("node.key")),
        "{:?}",
        sealed.unread
    );
    let refused = Sealed::open(config).await.err().map(|error| format!("{error:#}"));
    assert!(refused.is_some_and(|why| why.contains("node.key: not 44 characters")));
}

#[tokio::test]
async fn another_secret_of_the_cluster_is_used_once_its_file_has_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let psk = directory.path().join("psk");
    let write = |text: &str| {
        std::fs::write(&psk, text).unwrap();
        std::fs::set_permissions(&psk, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n");
    let config = config(&directory, &format!("psk_files = [\"{}\"]\n", psk.display()));
    let mut sealed = open(&config).await;
    let table = members(&config, sealed.public_keys(), one(PEERS));
    let used = |sealed: &Sealed| sealed.identity(&table).unwrap().psks[0].expose()[0];
    assert_eq!(used(&sealed), 1);
    write("AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=\n");
    sealed.reread().await;
    assert_eq!(used(&sealed), 2);
    write("half");
    sealed.reread().await;
    assert_eq!(used(&sealed), 2, "the last that could be read");
    assert!(sealed.status().error.is_some_and(|why| why.contains("/psk: not 44 characters")));
}

#[tokio::test]
async fn a_node_with_a_key_keeps_its_memory_to_itself() {
    use rustix::process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior};
    let directory = tempfile::tempdir().unwrap();
    set_dumpable_behavior(DumpableBehavior::Dumpable).unwrap();
    open(&config(&directory, "")).await;
    assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
}

#[test]
fn a_check_without_a_daemon_says_what_it_would_complain_of() {
    let directory = tempfile::tempdir().unwrap();
    let with_psk = format!("psk_files = [\"{}/psk\"]\n", directory.path().display());
    let look = |config: &Config, members: Option<&Membership>| {
        let OnMachine { faults, hints } = look_at_files(config, members);
        (faults, hints)
    };
    let (missing, none) = look(&config(&directory, &with_psk), None);
    assert!(missing.len() == 1 && missing[0].contains("/psk: "), "{missing:?}");
    assert!(none.is_empty());
    let config = config(&directory, "");
    let table = members(&config, NodeKeys::default(), one(PEERS));
    assert_eq!(look(&config, Some(&table)), Default::default(), "the daemon makes its key");
    assert!(!key_file(&directory).exists());
    let own = KeyRing::read_or_make(&key_file(&directory)).unwrap();
    let (none, unlisted) = look(&config, Some(&table));
    assert!(none.is_empty(), "the daemon starts with it");
    assert!(unlisted.len() == 1 && unlisted[0].ends_with(&own.line()), "{unlisted:?}");
    std::fs::write(key_file(&directory), "nonsense").unwrap();
    let (wrong, _) = look(&config, Some(&table));
    assert!(wrong.len() == 1 && wrong[0].contains("node.key: not 44"), "{wrong:?}");
}
