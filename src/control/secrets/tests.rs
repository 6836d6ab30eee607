use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::change::ChangeError;
use super::*;
use crate::config::{Config, Overrides};

/// 32 bytes of 1 and of 2.
const PSKS: [&str; 2] = [
    "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
    "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=",
];

struct Stage(tempfile::TempDir);

impl Stage {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn key_file(&self) -> PathBuf {
        self.path("node.key")
    }

    fn psk(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn sealed(&self, psk_files: Vec<PathBuf>) -> Sealed {
        let text = format!(
            "[network]\ncidrs = [\"10.244.0.0/16\"]\n[node]\nname = \"n\"\nstate_dir = \"{}\"\n\
             [table]\nsource = \"file\"\npath = \"t\"\n",
            self.0.path().display()
        );
        let config = Config::parse(Path::new("c"), &text, &Overrides::default()).unwrap();
        Sealed { psk_files, ..config.sealed }
    }

    fn read(&self, psk_files: Vec<PathBuf>) -> Result<Secrets, Error> {
        SecretFiles::new(self.sealed(psk_files)).read_or_make()
    }

    fn ring(&self) -> KeyRing {
        KeyRing::read_or_make(&self.key_file()).unwrap()
    }

    /// What each key is for, and which of `known` it is.
    fn uses(&self, known: &NodeKeys) -> Vec<(&'static str, Option<usize>)> {
        let ring = self.ring();
        let place = |key: &culvert_seal::keys::PublicKey| known.iter().position(|it| it == key);
        ring.with_uses().map(|(usage, key)| (usage.as_str(), place(key.public()))).collect()
    }
}

#[test]
fn a_key_follows_another_in_three_steps() {
    let stage = Stage::new();
    let key_file = stage.key_file();
    let first = stage.ring().public();
    assert!(matches!(switch(&key_file), Err(ChangeError::NoNext)));
    assert!(matches!(retire(&key_file), Err(ChangeError::NoFormer)));

    assert!(rotate(&key_file).unwrap());
    let both = stage.ring().public();
    assert_eq!((both.iter().count(), both.iter().next()), (2, first.iter().next()));
    assert!(!rotate(&key_file).unwrap(), "there is one already");
    assert_eq!(stage.ring().public(), both);
    assert!(matches!(retire(&key_file), Err(ChangeError::NoFormer)));
    assert_eq!(stage.uses(&both), [("current", Some(0)), ("next", Some(1))]);

    assert_eq!(since_switch(&key_file).unwrap(), None);
    switch(&key_file).unwrap();
    assert!(since_switch(&key_file).unwrap().is_some_and(|since| since < Duration::from_secs(60)));
    assert_eq!(stage.uses(&both), [("current", Some(1)), ("former", Some(0))]);
    assert!(matches!(switch(&key_file), Err(ChangeError::NoNext)));
    assert!(matches!(rotate(&key_file), Err(ChangeError::NotRetired(_))));

    retire(&key_file).unwrap();
    assert_eq!(stage.uses(&both), [("current", Some(1))]);
    assert_eq!(fs::read_dir(stage.0.path()).unwrap().count(), 1);
    let mode = fs::metadata(&key_file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_switch_that_was_cut_short_leaves_a_key_and_goes_on() {
    let stage = Stage::new();
    let key_file = stage.key_file();
    stage.ring();
    rotate(&key_file).unwrap();
    let both = stage.ring().public();
    // The machine stopped between the two steps.
    fs::hard_link(&key_file, stage.path("node.key.former")).unwrap();
    assert_eq!(stage.uses(&both), [("current", Some(0)), ("next", Some(1))]);
    switch(&key_file).unwrap();
    assert_eq!(stage.uses(&both), [("current", Some(1)), ("former", Some(0))]);
}

#[test]
fn a_next_key_that_cannot_be_used_takes_nobodys_place() {
    let stage = Stage::new();
    let key_file = stage.key_file();
    stage.ring();
    let before = fs::read(&key_file).unwrap();
    stage.psk("node.key.next", "half");
    let error = switch(&key_file).unwrap_err().to_string();
    assert!(error.contains("node.key.next: not 44 characters"), "{error}");
    assert_eq!(fs::read(&key_file).unwrap(), before);
    let error = KeyRing::read_or_make(&key_file).unwrap_err().to_string();
    assert!(error.contains("node.key.next"), "{error}");
}

#[test]
fn a_node_begins_with_a_key_that_its_peers_have() {
    let stage = Stage::new();
    stage.ring();
    rotate(&stage.key_file()).unwrap();
    let secrets = stage.read(Vec::new()).unwrap();
    let [current, next]: [_; 2] =
        secrets.ring.public().iter().copied().collect::<Vec<_>>().try_into().unwrap();
    let begins = |listed: &[_]| {
        let identity = secrets.identity(NodeKeys::new(listed.iter().copied()).unwrap());
        assert_eq!(identity.keys.len(), 2, "all are accepted");
        *identity.keys[0].public()
    };
    assert_eq!(begins(&[current]), current);
    assert_eq!(begins(&[next, current]), current);
    assert_eq!(begins(&[next]), next);
    assert_eq!(begins(&[]), current);
}

#[test]
fn secrets_of_the_cluster_are_read_in_their_order_and_none_is_shown() {
    let stage = Stage::new();
    let files = vec![stage.psk("new", PSKS[1]), stage.psk("old", PSKS[0])];
    let secrets = stage.read(files).unwrap();
    let identity = secrets.identity(NodeKeys::default());
    let bytes: Vec<u8> = identity.psks.iter().map(|psk| psk.expose()[0]).collect();
    assert_eq!(bytes, [2, 1]);
    let key = fs::read_to_string(stage.key_file()).unwrap();
    for shown in [format!("{secrets:?}"), format!("{identity:?}")] {
        assert!(shown.contains("Psk(hidden)") && shown.contains("NodeKey"), "{shown}");
        assert!(!shown.contains(key.trim()) && !shown.contains("2, 2, 2"), "{shown}");
    }
    // Without one, handshakes have what is known to all in its place.
    let none = stage.read(Vec::new()).unwrap();
    assert_eq!(none.identity(NodeKeys::default()).psks, [Psk::none()]);
    let error = stage.read(vec![stage.path("gone")]).unwrap_err();
    assert!(error.to_string().contains("gone"), "{error}");
}

#[test]
fn whatever_file_changes_is_noticed() {
    let stage = Stage::new();
    let psk = stage.psk("psk", PSKS[0]);
    let mut files = SecretFiles::new(stage.sealed(vec![psk]));
    let first = files.read_or_make().unwrap().ring.public();
    assert!(!files.is_changed(), "making the key is no change of it");

    rotate(&stage.key_file()).unwrap();
    assert!(files.is_changed());
    assert_ne!(files.read().unwrap().ring.public(), first);

    // As a person replaces it, and as Kubernetes does.
    fs::rename(stage.psk("written", PSKS[1]), stage.path("psk")).unwrap();
    assert!(files.is_changed());
    let identity = files.read().unwrap().identity(first);
    assert_eq!(identity.psks[0].expose()[0], 2);

    fs::remove_file(stage.path("psk")).unwrap();
    assert!(files.is_changed());
    assert!(files.read().is_err());
    assert!(!files.is_changed(), "it is said once");
}

#[test]
fn a_key_that_is_gone_is_missed_and_not_made_anew_while_the_node_has_it() {
    let stage = Stage::new();
    let mut files = SecretFiles::new(stage.sealed(Vec::new()));
    files.read_or_make().unwrap();
    fs::remove_file(stage.key_file()).unwrap();
    assert!(files.is_changed());
    let error = files.read().unwrap_err().to_string();
    assert!(error.contains("node.key"), "{error}");
    assert!(!stage.key_file().exists());
}

#[tokio::test]
async fn change_is_noticed_by_whoever_listens_to_much_else() {
    let stage = Stage::new();
    let mut files = SecretFiles::new(stage.sealed(Vec::new()));
    files.read_or_make().unwrap();
    rotate(&stage.key_file()).unwrap();
    let moment = INTERVAL / 10;
    let noticed = async { while tokio::time::timeout(moment, files.changed()).await.is_err() {} };
    tokio::time::timeout(INTERVAL * 5, noticed).await.expect("it is noticed");
}
