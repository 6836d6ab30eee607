//! The two nodes, the programs on them, and what must be as before when all pods are gone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use culvert_lab::{Families, Lab, Node, wait_until};
use culvert_node::ipam::Store;

/// The port that the program in the containers serves.
pub(crate) const PORT: u16 = 7;

/// How long something may take that has to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Two nodes without pods.
pub(crate) fn lab(name: &str) -> Lab {
    Lab::builder(name)
        .culvert(env!("CARGO_BIN_EXE_culvert"))
        .nodes(2)
        .pods(0)
        .families(Families::Dual)
        .replace()
        .up()
        .unwrap()
}

/// Where this workspace's programs are built.
fn built() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_culvert")).parent().unwrap()
}

/// The plugin.
pub(crate) fn plugin() -> PathBuf {
    needed(built().join("culvert-cni"))
}

/// The program in the containers.
pub(crate) fn guest() -> PathBuf {
    needed(built().parent().unwrap().join("static/debug/runtime-guest"))
}

fn needed(program: PathBuf) -> PathBuf {
    assert!(
        program.exists(),
        "{} is missing: use `make test-root SUITES=runtimes`",
        program.display()
    );
    program
}

/// The stock plugin that brings a container's loopback up; where it is depends on who packaged it.
pub(crate) fn loopback() -> PathBuf {
    ["/usr/lib/cni/loopback", "/opt/cni/bin/loopback"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.exists())
        .expect("install containernetworking-plugins, as `make test-root SUITES=runtimes` does")
}

/// What `program` prints inside a node; it must succeed.
fn said(node: &Node, line: &str) -> String {
    let mut words = line.split(' ');
    let mut command = node.netns().command(words.next().unwrap());
    run(command.args(words))
}

/// What a program prints; it must succeed.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Devices, addresses, routes, rules, allocations and files of every node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Footprint(BTreeMap<String, String>);

impl Footprint {
    pub(crate) fn of(lab: &Lab) -> Self {
        let mut found = BTreeMap::new();
        for node in lab.nodes() {
            let mut note = |what: &str, is: String| {
                found.insert(format!("{} {what}", node.name()), is);
            };
            let links = said(node, "ip -br link");
            // Whether the bridge has a carrier follows from its ports, with some delay.
            let names = links.lines().filter_map(|line| line.split_whitespace().next());
            note("devices", names.collect::<Vec<_>>().join("\n"));
            for (what, line) in [
                ("IPv4 addresses", "ip -br -4 addr show scope global"),
                ("IPv6 addresses", "ip -br -6 addr show scope global"),
                ("IPv4 routes", "ip route show table all type unicast"),
                ("rules", "ip rule"),
                ("nftables", "nft -s list ruleset"),
            ] {
                note(what, without_state(&said(node, line)));
            }
            let store = Store::open(&node.state_dir()).unwrap();
            let records = store.map_or(0, |mut store| store.records().unwrap().len());
            note("allocations", records.to_string());
            // The store stays, like what else the daemon and the plugin keep for good.
            let mut files = files(&node.state_dir());
            files.retain(|file| !file.to_string_lossy().contains("/ipam"));
            files.extend(self::files(&node.run_dir()));
            // It belongs to the store.
            files.retain(|file| !file.ends_with("addresses.edition"));
            note("files", format!("{files:#?}"));
        }
        Self(found)
    }

    /// Demands that everything becomes as it was.
    #[track_caller]
    pub(crate) fn assert_restored(&self, lab: &Lab) {
        let restored = wait_until(PATIENCE, "the nodes to be as before", || Self::of(lab) == *self);
        if restored.is_err() {
            pretty(self, &Self::of(lab));
        }
    }
}

#[track_caller]
fn pretty(before: &Footprint, after: &Footprint) -> ! {
    let differs: Vec<_> = before
        .0
        .iter()
        .filter(|(what, is)| after.0.get(*what) != Some(is))
        .map(|(what, is)| format!("{what}: before {is}\nafter {:?}", after.0.get(what)))
        .collect();
    panic!("something is left: {}", differs.join("\n"))
}

/// A device without a carrier marks its addresses and routes so.
fn without_state(listing: &str) -> String {
    let words = ["linkdown", "UP", "DOWN", "UNKNOWN"];
    listing
        .lines()
        // The kernel gives the bridge a link-local address when it first has a carrier.
        .filter(|line| !line.starts_with("fe80:"))
        .map(|line| {
            let kept = line.split_whitespace().filter(|word| !words.contains(word));
            kept.collect::<Vec<_>>().join(" ")
        })
        .collect::<Vec<_>>()
        .join("\n")
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut found: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}
