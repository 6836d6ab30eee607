//! The test programs of the copy: building, measuring and running them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;

/// The rungs that a mutant must get past: all of the mutated crates that need no root, and the
/// fuzzer's corpus.
const BUILD: &str = "test --locked --no-run --message-format=json --no-default-features --lib --tests \
     -p overlay-proto -p culvert-dataplane -p culvert-seal -p culvert-claims -p culvert-keys \
     -p culvert-membership -p culvert-netlink -p culvert-node -p culvert-fuzz";

/// How much longer than without a mutant a program may take, beside others.
const SLOWER: u32 = 5;

/// What it may take at least.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the machine does beside may not decide.
const PATIENCE_WITHOUT_MUTANT: Duration = Duration::from_secs(1800);

/// A test program.
pub(crate) struct Program {
    /// The crate that it belongs to, as a folder: "crates/seal".
    pub(crate) package: String,
    /// "crates/seal handshakes".
    pub(crate) name: String,
    /// The crates whose code is in it.
    crates: BTreeSet<String>,
    path: PathBuf,
    folder: PathBuf,
    /// What it took without a mutant.
    pub(crate) takes: Duration,
}

/// How a run of a program ended.
pub(crate) enum Outcome {
    Passed,
    /// The first test that failed.
    Failed(String),
    /// It ended without saying that a test failed.
    Died,
    /// It did not end.
    Hung,
}

#[derive(Deserialize)]
struct Message {
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    executable: Option<PathBuf>,
    message: Option<Diagnostic>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Diagnostic {
    level: String,
    rendered: Option<String>,
}

/// What cargo says of the crates, as far as it is read.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    /// Its folder, if it is one of ours.
    path: Option<PathBuf>,
}

/// Builds all programs of `copy`, beside it, and runs without a mutant those that have code of the
/// folders `mutated`, which are returned; those that take least are first.
///
/// # Errors
///
/// What the compiler says, or which test fails although nothing is mutated.
pub(crate) fn build(copy: &Path, mutated: &BTreeSet<&str>) -> Result<Vec<Program>, String> {
    let output = Command::new(env!("CARGO"))
        .args(BUILD.split_whitespace())
        .current_dir(copy)
        .env("CARGO_TARGET_DIR", copy.with_file_name("build"))
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("cargo: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let messages: Vec<Message> =
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if !output.status.success() {
        let errors = messages.into_iter().filter_map(|message| message.message);
        let errors = errors.filter(|message| message.level == "error");
        let errors: String = errors.filter_map(|message| message.rendered).collect();
        return Err(format!("the source with all mutants does not compile:\n{errors}"));
    }
    let uses = uses(copy)?;
    let programs = messages.into_iter().filter_map(|message| program(copy, &uses, message));
    let is_wanted = |program: &Program| mutated.iter().any(|package| program.has(package));
    let mut programs: Vec<_> = programs.filter(is_wanted).collect();
    for program in &mut programs {
        let begin = Instant::now();
        match program.run("", PATIENCE_WITHOUT_MUTANT) {
            Outcome::Passed => program.takes = begin.elapsed(),
            Outcome::Failed(test) => {
                return Err(format!("{}: {test} fails without a mutant", program.name));
            }
            Outcome::Died | Outcome::Hung => {
                return Err(format!("{} fails without a mutant", program.name));
            }
        }
    }
    programs.sort_by_key(|program| program.takes);
    Ok(programs)
}

/// Which of our crates each of them uses itself, by folder.
fn uses(copy: &Path) -> Result<BTreeMap<String, Vec<String>>, String> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--no-deps", "--format-version=1"])
        .current_dir(copy)
        .output()
        .map_err(|e| format!("cargo metadata: {e}"))?;
    let metadata: Metadata =
        serde_json::from_slice(&output.stdout).map_err(|e| format!("cargo metadata: {e}"))?;
    let place = |folder: &Path| Some(folder.strip_prefix(copy).ok()?.to_str()?.to_owned());
    let entry = |package: &Package| {
        let used = package.dependencies.iter().filter_map(|used| place(used.path.as_deref()?));
        Some((place(package.manifest_path.parent()?)?, used.collect()))
    };
    Ok(metadata.packages.iter().filter_map(entry).collect())
}

/// The crate in a folder and all of ours that it is built of.
fn crates_of(package: &str, uses: &BTreeMap<String, Vec<String>>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut left = vec![package.to_owned()];
    while let Some(next) = left.pop() {
        if !found.contains(&next) {
            left.extend(uses.get(&next).into_iter().flatten().cloned());
            found.insert(next);
        }
    }
    found
}

fn program(copy: &Path, uses: &BTreeMap<String, Vec<String>>, message: Message) -> Option<Program> {
    let (path, target) = (message.executable?, message.target?);
    let folder = message.manifest_path?.parent()?.to_owned();
    let package = folder.strip_prefix(copy).ok()?.to_str()?.to_owned();
    let is_test = target.kind.iter().any(|kind| kind == "lib" || kind == "test");
    let name = format!("{package} {}", target.name);
    let crates = crates_of(&package, uses);
    is_test.then_some(Program { package, name, crates, path, folder, takes: Duration::ZERO })
}

impl Program {
    /// Whether code of the crate in the folder `package` is in it.
    pub(crate) fn has(&self, package: &str) -> bool {
        self.crates.contains(package)
    }

    /// Runs it with the mutant `name`, until the first test fails.
    pub(crate) fn run_mutant(&self, name: &str) -> Outcome {
        self.run(name, PATIENCE + self.takes * SLOWER)
    }

    fn run(&self, mutant: &str, patience: Duration) -> Outcome {
        let mut child = Command::new(&self.path)
            .current_dir(&self.folder)
            .env("CARGO_MANIFEST_DIR", &self.folder)
            .env("CULVERT_MUTANT", mutant)
            // Saved failures of one mutant must not be those of the next, and which input fails
            // says enough.
            .env("PROPTEST_FAILURE_PERSISTENCE", "off")
            .env("PROPTEST_MAX_SHRINK_ITERS", "0")
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a program that was just built runs");
        let outcome = watch(child.stdout.take().expect("it is a pipe"), patience);
        // One that ended by itself is not there to be killed.
        let _gone = child.kill();
        let succeeded = child.wait().is_ok_and(|status| status.success());
        if matches!(outcome, Outcome::Passed) && !succeeded { Outcome::Died } else { outcome }
    }
}

/// Follows what a program says until a test fails, it ends, or it has taken too long.
fn watch(output: ChildStdout, patience: Duration) -> Outcome {
    let (tell, hear) = channel();
    thread::spawn(move || {
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        // Nobody waits any more for one that hung.
        let _late = tell.send(lines.find_map(|line| failed_test(&line)));
    });
    match hear.recv_timeout(patience) {
        Ok(Some(test)) => Outcome::Failed(test),
        Ok(None) => Outcome::Passed,
        Err(_) => Outcome::Hung,
    }
}

fn failed_test(line: &str) -> Option<String> {
    Some(line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?.to_owned())
}
