//! The direction of dependencies, as `ARCHITECTURE.md` draws it: between crates, which cargo
//! enforces, and between the modules of the daemon's crate. And what rustfmt leaves alone: how long
//! comments may be.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Each module of the daemon, and the modules that it may use.
const LAYERS: [(&str, &[&str]); 21] = [
    ("main", &["cli"]),
    (
        "cli",
        &[
            "app",
            "cni_install",
            "config",
            "control",
            "doctor",
            "inspect",
            "ipam",
            "kubectl",
            "lifecycle",
            "manifest",
            "migrate",
            "observe",
            "reach",
            "replay",
            "ui",
        ],
    ),
    ("doctor", &["app", "config", "ipam", "observe", "platform"]),
    ("inspect", &["app", "config", "explain", "ipam", "lifecycle", "observe", "pcap"]),
    ("reach", &["compose", "kubectl"]),
    ("ui", &["compose", "kubectl", "observe"]),
    ("replay", &["app", "lifecycle", "pcap", "platform"]),
    ("app", &["config", "control", "explain", "lifecycle", "observe", "pcap", "platform"]),
    ("control", &["config", "lifecycle", "platform"]),
    ("observe", &["explain", "lifecycle"]),
    ("explain", &["platform"]),
    ("config", &["platform"]),
    ("cni_install", &["platform"]),
    ("compose", &[]),
    ("ipam", &[]),
    ("kubectl", &[]),
    ("manifest", &["config"]),
    ("migrate", &["app", "ipam", "kubectl", "observe"]),
    ("pcap", &[]),
    ("platform", &[]),
    ("lifecycle", &[]),
];

/// Each crate that is shipped or shipped with, and those of ours that it uses, as cargo says.
fn crates() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let name = |of: &Value| of["name"].as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap();
    let ours: BTreeSet<String> = packages.iter().map(name).collect();
    packages
        .iter()
        .filter(|package| {
            let manifest = package["manifest_path"].as_str().unwrap();
            !manifest.contains("/tests/") && !manifest.contains("/bench/")
        })
        .map(|package| {
            let uses = package["dependencies"].as_array().unwrap().iter();
            let uses = uses.filter(|used| used["kind"].is_null()).map(name);
            (name(package), uses.filter(|used| ours.contains(used)).collect())
        })
        .collect()
}

/// The same, as the first picture of `ARCHITECTURE.md` has it: `crate → crates`, which may go on in
/// the next line.
fn drawn() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(workspace().join("ARCHITECTURE.md")).unwrap();
    let picture = text.split("```").nth(1).unwrap();
    let mut drawn: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut user = String::new();
    for line in picture.lines().skip(1) {
        let used = match line.split_once('→') {
            Some((name, used)) => {
                user = name.trim().to_owned();
                used
            }
            None => line,
        };
        let used = used.split_whitespace().filter(|word| *word != "–").map(str::to_owned);
        let all = drawn.entry(user.clone()).or_default();
        for one in used {
            assert!(all.insert(one.clone()), "{user} is drawn to use {one} twice");
        }
    }
    drawn
}

#[test]
fn crates_use_one_another_as_drawn() {
    assert_eq!(drawn(), crates());
}

#[test]
fn files_that_the_architecture_names_are_there() {
    let text = fs::read_to_string(workspace().join("ARCHITECTURE.md")).unwrap();
    let mut files = Vec::new();
    everything(&mut files);
    let named: Vec<&str> = text.split('`').filter(|word| word.ends_with(".rs")).collect();
    assert!(named.len() > 30, "{named:?}");
    let is_there = |name: &&str| files.iter().any(|file| file.ends_with(name));
    let missing: Vec<_> = named.into_iter().filter(|name| !is_there(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Every file of the project that people write, with the directories that tools fill left out.
fn written(directory: &Path, found: &mut Vec<PathBuf>) {
    const TEXT: [&str; 9] = ["md", "rs", "toml", "yaml", "yml", "json", "sh", "service", "lock"];
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !["target", ".git"].contains(&name.as_str()) {
                written(&path, found);
            }
        } else if name == "Makefile"
            || path.extension().is_some_and(|is| TEXT.contains(&is.to_string_lossy().as_ref()))
        {
            found.push(path);
        }
    }
}

#[test]
fn no_file_has_both_sides_of_a_merge() {
    let mut files = Vec::new();
    written(workspace(), &mut files);
    assert!(files.len() > 500, "{}", files.len());
    let sides = ["<".repeat(7), ">".repeat(7)];
    let is_left = |path: &&PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        text.lines().any(|line| sides.iter().any(|side| line.starts_with(&format!("{side} "))))
    };
    let left: Vec<_> = files.iter().filter(is_left).collect();
    assert!(left.is_empty(), "{left:?}");
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn root() -> PathBuf {
    workspace().join("src")
}

/// Every source file of the workspace.
fn everything(found: &mut Vec<PathBuf>) {
    for part in ["src", "overlay-proto", "cni-plugin", "crates", "bench", "tests"] {
        sources(&workspace().join(part), found);
    }
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The lines of a source file that are code and no test.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines().map(str::trim_start).filter(|line| !line.starts_with("//"))
}

/// Modules of this crate that a line refers to.
fn uses(line: &str) -> BTreeSet<String> {
    let references = line.split("crate::").skip(1);
    references
        .flat_map(|rest| match rest.strip_prefix('{') {
            Some(list) => list.split(',').map(word).collect::<Vec<_>>(),
            None => vec![word(rest)],
        })
        .collect()
}

fn word(text: &str) -> String {
    text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn no_module_uses_one_that_its_layer_may_not() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    assert!(files.len() > 30, "the sources were found");
    let mut wrong = Vec::new();
    for file in files {
        let inside = file.strip_prefix(root()).unwrap();
        if inside.ends_with("tests.rs") || inside == Path::new("lib.rs") {
            continue;
        }
        let module = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("{}: no layer is known for this module", inside.display()));
            continue;
        };
        for used in code(&fs::read_to_string(&file).unwrap()).flat_map(uses) {
            let known = LAYERS.iter().any(|(name, _)| *name == used);
            if known && used != module && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{}: {module} may not use {used}", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_stays_in_platform() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    files.retain(|file| !file.starts_with(root().join("platform")));
    files.retain(|file| {
        let text = fs::read_to_string(file).unwrap();
        code(&text).any(|line| line.contains("unsafe {") || line.contains("unsafe fn"))
    });
    assert!(files.is_empty(), "{files:?}");
}

/// What people read beside one another.
const COLUMNS: usize = 100;

#[test]
fn comments_fit_on_their_lines() {
    let mut files = Vec::new();
    everything(&mut files);
    let mut long = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim_start().starts_with("//") && line.chars().count() > COLUMNS {
                long.push(format!("{}:{number}", file.display()));
            }
        }
    }
    assert!(long.is_empty(), "comments of more than {COLUMNS} columns:\n{}", long.join("\n"));
}

/// What decides in a table source is pure: a simulation runs the same code.
#[test]
fn machines_of_table_sources_have_no_io() {
    let used = [
        "culvert-membership",
        "ipnet",
        "overlay-proto",
        "serde",
        "serde_json",
        "thiserror",
        "tracing",
    ];
    is_pure("crates/claims", &used);
}

/// What policies mean is the same for a daemon, for a command and for a test.
#[test]
fn policies_have_no_io() {
    is_pure("crates/policy", &["ipnet", "overlay-proto", "serde", "serde-saphyr", "serde_json"]);
}

/// A crate that uses these and nothing of the machine.
fn is_pure(package: &str, pure: &[&str]) {
    let package = workspace().join(package);
    let manifest = fs::read_to_string(package.join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let used: Vec<&str> =
        manifest["dependencies"].as_table().unwrap().keys().map(String::as_str).collect();
    assert_eq!(used, pure);
    let mut files = Vec::new();
    sources(&package.join("src"), &mut files);
    assert!(files.len() > 10, "{files:?}");
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for foreign in
            ["std::fs", "std::env", "std::thread", "Socket", "SystemTime", "now()", "async "]
        {
            let used = code(&text).find(|line| line.contains(foreign));
            assert_eq!(used, None, "{} uses {foreign}", file.display());
        }
    }
}
