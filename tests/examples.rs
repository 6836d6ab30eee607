//! The example files, and the examples in the documentation, are what the programs take.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use culvert::config::{Config, Overrides};
use culvert::control::{source, table_file};
use culvert_dataplane::engine::{DropReason, Foreign, Membership, Overlay};
use culvert_seal::{Suite, Suites};

/// The tables of the configuration file, and the least that makes each of them whole.
const SECTIONS: [(&str, &str); 14] = [
    ("network", "cidrs = [\"10.244.0.0/16\"]"),
    ("node", ""),
    ("underlay", ""),
    ("sealed", ""),
    ("tun", ""),
    ("bridge", ""),
    ("table", "source = \"file\"\npath = \"/etc/culvert/table.toml\""),
    ("etcd", ""),
    ("kubernetes", ""),
    ("policy", ""),
    ("egress", ""),
    ("observe", ""),
    ("probe", ""),
    ("flows", ""),
];

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("the file exists")
}

fn config(text: &str) -> Result<Config, String> {
    Config::parse(Path::new("example"), text, &Overrides::default())
        .map_err(|error| error.to_string())
}

fn table(text: &str, local: &str) -> Result<Membership, String> {
    let Config { network, underlay, .. } = config(&minimal())?;
    let overlay = Overlay {
        vni: network.vni,
        networks: network.cidrs,
        port: underlay.port,
        foreign: Foreign::default(),
    };
    let proposal = table_file::parse(Path::new("example"), text.to_owned())
        .map_err(|error| error.to_string())?;
    let members = source::members(&proposal, &overlay, local);
    let (members, _none) = members.map_err(|error| error.to_string())?;
    Ok(members)
}

fn minimal() -> String {
    SECTIONS.map(|(name, body)| format!("[{name}]\n{body}\n")).concat()
}

/// The key of a line such as `#port = 4790`: a key that is shown but not set.
fn shown_key(line: &str) -> Option<&str> {
    let (key, _) = line.strip_prefix('#')?.split_once(" = ")?;
    key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_').then_some(key)
}

fn with_every_key(text: &str) -> String {
    let lines = text.lines().map(|line| match shown_key(line) {
        Some(_) => line.trim_start_matches('#'),
        None => line,
    });
    lines.map(|line| format!("{line}\n")).collect()
}

/// The words that the parser would have taken in place of one that it does not know.
fn expected_words(refusal: &str) -> BTreeSet<String> {
    let (_, expected) = refusal.split_once("expected ").expect("the words");
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The code blocks of a document that are marked as `language`.
fn blocks(document: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let blocks = document.split(&fence).skip(1);
    blocks.map(|rest| rest.split("```").next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn example_configuration_says_the_defaults() {
    let text = read("deploy/config.example.toml");
    assert_eq!(config(&text), config(&minimal()));

    let (example, defaults) = (config(&with_every_key(&text)), config(&minimal()));
    let (example, defaults) = (example.unwrap(), defaults.unwrap());
    // These have no value that could stand in the file: they follow from the machine.
    assert_eq!(example.node.name, "node1");
    assert!(example.underlay.address.is_some());
    assert!(example.underlay.mtu.is_some());
    assert!(example.tun.queues.is_some());
    assert!(example.node.address.is_some());
    assert_eq!(example.sealed.ciphers, Some(Suites::new(Suite::ALL)));
    assert!(example.sealed.key_log.is_some());
    assert!(example.policy.directory.is_some());
    assert!(example.flows.export.is_some());

    let mut like_example = defaults;
    like_example.node.name = example.node.name.clone();
    like_example.node.address = example.node.address;
    like_example.underlay.address = example.underlay.address;
    like_example.underlay.mtu = example.underlay.mtu;
    like_example.tun.queues = example.tun.queues;
    like_example.sealed.ciphers = example.sealed.ciphers;
    like_example.sealed.key_log.clone_from(&example.sealed.key_log);
    like_example.policy.directory.clone_from(&example.policy.directory);
    like_example.flows.export.clone_from(&example.flows.export);
    assert_eq!(example, like_example);
}

#[test]
fn example_configuration_shows_every_key() {
    let text = with_every_key(&read("deploy/config.example.toml"));
    let document: toml::Table = text.parse().unwrap();

    let refusal = config("[no_such_table]\n").unwrap_err();
    let sections: BTreeSet<String> = document.keys().cloned().collect();
    assert_eq!(sections, expected_words(&refusal));

    for (section, _) in SECTIONS {
        // Before the keys that are needed, because the parser stops at the first fault.
        let marker = format!("[{section}]\n");
        let with_fault = minimal().replace(&marker, &format!("{marker}no_such_key = 1\n"));
        let keys: BTreeSet<String> =
            document[section].as_table().unwrap().keys().cloned().collect();
        assert_eq!(keys, expected_words(&config(&with_fault).unwrap_err()), "[{section}]");
    }
}

#[test]
fn example_table_is_good_for_each_of_its_nodes() {
    let text = read("deploy/table.example.toml");
    for node in ["node1", "node2", "node3"] {
        let members = table(&text, node).unwrap();
        assert_eq!((members.local().name.as_str(), members.peers().count()), (node, 2));
    }
}

#[test]
fn example_table_shows_every_key() {
    let text = with_every_key(&read("deploy/table.example.toml"));
    let members = table(&text, "node1").unwrap();
    assert_eq!(members.tunnels().len(), 2, "one node speaks another codec");
    let document: toml::Table = text.parse().unwrap();
    let nodes = document["node"].as_array().unwrap();
    let shown: BTreeSet<String> =
        nodes.iter().flat_map(|node| node.as_table().unwrap().keys().cloned()).collect();
    let refusal = table("[[node]]\nno_such_key = 1\n", "node1").unwrap_err();
    assert_eq!(shown, expected_words(&refusal));
}

#[test]
fn files_in_the_readme_are_good() {
    let readme = read("README.md");
    let blocks = blocks(&readme, "toml");
    let (tables, configs): (Vec<_>, Vec<_>) =
        blocks.iter().partition(|block| block.contains("[[node]]"));
    assert_eq!((tables.len(), configs.len()), (1, 2));
    for text in configs {
        let config = config(text).unwrap();
        table(tables[0], &config.node.name).unwrap();
    }
}

#[test]
fn network_configuration_is_the_same_everywhere() {
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let file = parse(&read("deploy/cni/10-culvert.conflist"));
    assert_eq!(file["cniVersion"], "1.0.0");
    for document in ["docs/cni.md", "README.md"] {
        let lists: Vec<_> = blocks(&read(document), "json")
            .iter()
            .map(|block| parse(block))
            .filter(|value| value.get("plugins").is_some())
            .collect();
        assert_eq!(lists.first(), Some(&file), "{document}");
        for list in lists {
            assert_eq!(list["plugins"][0]["type"], "culvert-cni", "{document}");
        }
    }
    // The other file differs in the version only.
    let mut newer = parse(&read("deploy/cni/10-culvert-1.1.0.conflist"));
    assert_eq!(newer["cniVersion"], "1.1.0");
    newer["cniVersion"] = file["cniVersion"].clone();
    assert_eq!(newer, file);
}

#[test]
fn every_drop_reason_is_explained() {
    let text = read("docs/operations.md");
    for reason in DropReason::ALL {
        let name = format!("`{}`", reason.as_str());
        assert!(text.contains(&name), "docs/operations.md does not explain {name}");
    }
}
