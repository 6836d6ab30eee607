//! Daemons that are looked at, and how.
//!
//! A thread for each asks again and again; one that does not answer holds up nobody else, and what
//! it said before is not shown as if it said it now.

use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use culvert_node::bounded_file;
use tokio::sync::watch;

use crate::compose::{self, Project};
use crate::kubectl;
use crate::observe::{self, Status};

/// How often a daemon is asked over its socket, and how often by a program, which costs more.
const OFTEN: Duration = Duration::from_secs(2);
const SELDOM: Duration = Duration::from_secs(5);

/// How long a program may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// The longest status that is read: that of 10,000 nodes has some ten megabytes.
const LONGEST: u64 = 64 << 20;

/// And of what a program complains about.
const LONGEST_COMPLAINT: u64 = 4 << 10;

/// Daemons that are asked by programs at most.
const MOST: usize = 32;

/// A daemon, and how it is asked.
#[derive(Clone, Debug)]
pub(super) struct Vantage {
    name: String,
    how: How,
}

#[derive(Clone, Debug)]
enum How {
    /// By the admin socket in this directory.
    Socket(PathBuf),
    /// By a program that prints its status.
    Program(Vec<OsString>),
    /// It was asked before.
    File(PathBuf),
}

/// What was last seen of a daemon.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// What it is called here.
    pub(super) name: String,
    /// Its status, or why there is none; nothing before the first look is over.
    pub(super) found: Option<Result<Status, String>>,
}

impl Vantage {
    pub(super) fn socket(name: &str, run_dir: &Path) -> Self {
        Self { name: name.to_owned(), how: How::Socket(run_dir.to_owned()) }
    }

    pub(super) fn file(path: &Path) -> Self {
        Self { name: path.display().to_string(), how: How::File(path.to_owned()) }
    }

    fn program(name: &str, words: &[&str]) -> Self {
        let words = words.iter().map(OsString::from).collect();
        Self { name: name.to_owned(), how: How::Program(words) }
    }

    fn pause(&self) -> Duration {
        match self.how {
            How::Socket(_) | How::File(_) => OFTEN,
            How::Program(_) => SELDOM,
        }
    }

    fn look(&self) -> anyhow::Result<Status> {
        let said = match &self.how {
            How::Socket(run_dir) => return observe::query(run_dir),
            How::Program(words) => {
                let (said, complaint) = said(words)?;
                ensure!(!said.is_empty(), "{complaint}");
                said
            }
            How::File(path) => bounded_file::read(path, LONGEST)
                .with_context(|| format!("reading {}", path.display()))?,
        };
        // Its code is another one while the node is not ready.
        serde_json::from_slice(&said).with_context(|| {
            let text = String::from_utf8_lossy(&said);
            let line = text.lines().next().unwrap_or("nothing");
            format!("it is no status: {}", line.chars().take(200).collect::<String>())
        })
    }
}

/// What a program prints within the time for it, and what it complains about.
fn said(words: &[OsString]) -> anyhow::Result<(Vec<u8>, String)> {
    let (program, arguments) = words.split_first().context("name a program")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("running {}", program.display()))?;
    let stdout = child.stdout.take().context("a pipe of the program")?;
    let stderr = child.stderr.take().context("a pipe of the program")?;
    let (tell, told) = mpsc::channel();
    let reading = thread::Builder::new().name("reading".to_owned()).spawn(move || {
        let (mut said, mut complaint) = (Vec::new(), Vec::new());
        let read = stdout.take(LONGEST).read_to_end(&mut said);
        let complained = stderr.take(LONGEST_COMPLAINT).read_to_end(&mut complaint);
        let _ = tell.send(read.and(complained).map(|_| (said, complaint)));
    });
    let said = reading.map(|_| told.recv_timeout(PATIENCE));
    // It has ended, or is to.
    if !matches!(child.try_wait(), Ok(Some(_))) && !matches!(said, Ok(Ok(_))) {
        let _ = child.kill();
    }
    child.wait().context("waiting for the program")?;
    let (said, complaint) = said?.context("it takes too long")??;
    let complaint = String::from_utf8_lossy(&complaint);
    let line = complaint.lines().find(|line| !line.trim().is_empty());
    Ok((said, line.unwrap_or("it says nothing").to_owned()))
}

/// Looks at all of them from now on, each on a thread of its own.
pub(super) fn watch(vantages: Vec<Vantage>) -> anyhow::Result<watch::Receiver<Vec<Seen>>> {
    ensure!(!vantages.is_empty(), "there is no daemon to ask");
    let nothing = vantages.iter().map(|it| Seen { name: it.name.clone(), found: None }).collect();
    let (tell, told) = watch::channel::<Vec<Seen>>(nothing);
    for (place, vantage) in vantages.into_iter().enumerate() {
        let tell = tell.clone();
        thread::Builder::new().name(vantage.name.clone()).spawn(move || {
            while !tell.is_closed() {
                let found = vantage.look().map_err(|error| format!("{error:#}"));
                tell.send_modify(|seen| {
                    if let Some(seen) = seen.get_mut(place) {
                        // Of one that falls silent it is said by the name that peers have for it.
                        if let Ok(status) = &found {
                            seen.name.clone_from(&status.node);
                        }
                        seen.found = Some(found);
                    }
                });
                thread::sleep(vantage.pause());
            }
        })?;
    }
    Ok(told)
}

/// The daemons of a lab.
#[cfg(feature = "lab")]
pub(super) fn of_lab(name: &str) -> anyhow::Result<Vec<Vantage>> {
    let lab = culvert_lab::Lab::open(name)?;
    Ok(lab.nodes().iter().map(|node| Vantage::socket(node.name(), &node.run_dir())).collect())
}

/// The daemons of docker-compose.yml.
pub(super) fn of_compose(project: &Project) -> anyhow::Result<(String, Vec<Vantage>)> {
    let (project, daemons) = compose::containers(project, "daemon")?;
    let vantages = daemons.iter().take(MOST).map(|daemon| {
        let ask = ["docker", "exec", &daemon.name, "/bin/culvert", "status", "--json"];
        Vantage::program(&daemon.service, &ask)
    });
    Ok((format!("compose {project}"), vantages.collect()))
}

/// The daemons of a cluster.
pub(super) fn of_kubernetes(
    namespace: &str,
    context: Option<&str>,
) -> anyhow::Result<Vec<Vantage>> {
    let pods = kubectl::pods(namespace, context, None)?;
    if pods.is_empty() {
        bail!("no pod of Culvert runs in the namespace \"{namespace}\"");
    }
    Ok(pods
        .iter()
        .take(MOST)
        .map(|(node, pod)| {
            let mut ask = vec!["kubectl"];
            ask.extend(context.iter().flat_map(|context| ["--context", *context]));
            ask.extend(["--namespace", namespace, "exec", pod, "--container", kubectl::CONTAINER]);
            ask.extend(["--", kubectl::PROGRAM, "status", "--json"]);
            Vantage::program(node, &ask)
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked_at(script: &str) -> Result<Status, String> {
        let look = Vantage::program("daemon1", &["sh", "-c", script]).look();
        look.map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn what_a_program_complains_about_is_why_there_is_no_status() {
        let error = "Error response from daemon: Container demo_daemon1_1 is not running";
        assert_eq!(looked_at(&format!("echo '{error}' >&2; exit 1")).unwrap_err(), error);
        assert_eq!(looked_at("exit 1").unwrap_err(), "it says nothing");
        let error = looked_at("echo hello; echo warning >&2").unwrap_err();
        assert!(error.starts_with("it is no status: hello"), "{error}");
    }

    #[tokio::test]
    async fn a_daemon_that_falls_silent_keeps_the_name_that_it_gave() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("status.json");
        let status = Status { node: "node1".to_owned(), ..Status::default() };
        std::fs::write(&file, serde_json::to_vec(&status).unwrap()).unwrap();
        let mut seen = watch(vec![Vantage::file(&file)]).unwrap();
        seen.wait_for(|seen| matches!(seen[0].found, Some(Ok(_)))).await.unwrap();
        std::fs::remove_file(&file).unwrap();
        let is_over = |seen: &Vec<Seen>| matches!(seen[0].found, Some(Err(_)));
        let found = seen.wait_for(is_over).await.unwrap();
        assert_eq!(found[0].name, "node1");
    }
}
