use std::fs;
use std::path::Path;

use super::*;
use crate::app::checkup::Checkup;
use crate::config::Overrides;

const TABLE: &str = r#"
[[node]]
name = "node1"
address = "192.168.1.11"
subnets = ["10.244.1.0/24"]
[[node]]
name = "node2"
address = "192.168.1.12"
subnets = ["10.244.2.0/24"]
"#;

/// Table files that make no table, and a part of what is said of each.
const FAULTY: [(&str, &str); 4] = [
    ("", "lacks this node"),
    ("[[node]", "t.toml:1"),
    ("[[node]]\nname = \"node1\"\n", "t.toml:1"),
    (
        "[[node]]\nname = \"node1\"\naddress = \"0.0.0.0\"\nsubnets = [\"10.244.1.0/24\"]\n",
        "t.toml:3: node.address = 0.0.0.0",
    ),
];

/// A node with a table file and a state directory of its own.
struct Stage {
    directory: tempfile::TempDir,
    readiness: Readiness,
}

impl Stage {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), readiness: Readiness::new() }
    }

    fn table(&self) -> std::path::PathBuf {
        self.directory.path().join("t.toml")
    }

    fn start(&self) -> Feed {
        let text = format!(
            "[network]\ncidrs = [\"10.244.0.0/16\"]\n[node]\nname = \"node1\"\nstate_dir = \"{}\"\n\
             [table]\nsource = \"file\"\npath = \"{}\"\n",
            self.directory.path().display(),
            self.table().display()
        );
        let config = Config::parse(Path::new("c.toml"), &text, &Overrides::default()).unwrap();
        Feed::start(
            Arc::new(config),
            Arc::new(Facts::new(clock::now(), Checkup::new(Box::new(|| None)))),
        )
    }

    /// Leaves a last good table.
    async fn take(&self, table: &str) -> Membership {
        fs::write(self.table(), table).unwrap();
        let mut feed = self.start();
        let members = feed.first(&self.readiness).await.unwrap();
        feed.taken(members.overlay()).await;
        members
    }
}

#[tokio::test]
async fn a_faulty_file_at_start_is_fatal_only_without_a_last_good_table() {
    for (text, part) in FAULTY {
        let stage = Stage::new();
        fs::write(stage.table(), text).unwrap();
        let error = stage.start().first(&stage.readiness).await.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");

        let good = stage.take(TABLE).await;
        fs::write(stage.table(), text).unwrap();
        let mut feed = stage.start();
        assert_eq!(feed.first(&stage.readiness).await.unwrap(), good);
        let standing = &feed.standing;
        let shown = standing.malformed.as_ref().or(standing.refused.as_ref()).unwrap();
        assert!(shown.contains(part), "{shown}");
    }
}

#[tokio::test]
async fn a_missing_file_at_start_is_waited_for() {
    let stage = Stage::new();
    let mut feed = stage.start();
    {
        let first = feed.first(&stage.readiness);
        tokio::pin!(first);
        let missing = async {
            loop {
                let table = stage.readiness.missing().remove(0);
                if table.what == Need::Table && table.why.contains("t.toml") {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            members = &mut first => panic!("{members:?}"),
            () = missing => {}
        }
        fs::write(stage.table(), TABLE).unwrap();
        assert_eq!(first.await.unwrap().peer_count(), 1);
    }
    let overlay = feed.members(None).unwrap().overlay().clone();
    feed.taken(&overlay).await;
    fs::remove_file(stage.table()).unwrap();
    assert_eq!(stage.start().first(&stage.readiness).await.unwrap().peer_count(), 1);
}

#[tokio::test]
async fn what_is_refused_later_does_not_replace_the_last_good_table() {
    let stage = Stage::new();
    let good = stage.take(TABLE).await;
    let mut feed = stage.start();
    feed.first(&stage.readiness).await.unwrap();
    feed.taken(good.overlay()).await;
    fs::write(stage.table(), TABLE.replace("192.168.1.12", "192.168.1.13")).unwrap();
    while !feed.changed().await {}
    let other = feed.members(Some(good.overlay())).unwrap();
    assert_ne!(other, good);
    feed.refused(Some("the address is not here".into()));
    // As after a change of a large table, whose copy waits.
    feed.last_good.outdate();
    feed.keep(good.overlay(), When::Now).await;
    fs::remove_file(stage.table()).unwrap();
    assert_eq!(stage.start().first(&stage.readiness).await.unwrap(), good);
}

#[tokio::test]
async fn a_node_that_reports_what_is_known_wakes_nobody() {
    let stage = Stage::new();
    stage.take(TABLE).await;
    let mut feed = stage.start();
    feed.first(&stage.readiness).await.unwrap();
    let known: Vec<_> = feed.proposal.nodes().cloned().collect();
    let (tell, told) = tokio::sync::mpsc::channel(8);
    feed.source = Source::of(told);
    tell.send(Update::Put(known[1].clone())).await.unwrap();
    tell.send(Update::Remove("nobody".to_owned())).await.unwrap();
    let waited = tokio::time::timeout(Duration::from_millis(200), feed.changed()).await;
    assert!(waited.is_err(), "nothing has changed");
    tell.send(Update::Contested(Some("taken".to_owned()))).await.unwrap();
    assert!(!feed.changed().await, "how it stands, and not the table");
    tell.send(Update::Put(known[1].clone())).await.unwrap();
    tell.send(Update::Remove(known[1].entry.name.clone())).await.unwrap();
    assert!(feed.changed().await);
}
