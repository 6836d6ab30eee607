//! A node: its namespace and its daemon.
//!
//! Owns starting, stopping and asking the daemon, as a service manager and an operator would. Never
//! reads the daemon's memory or shares code with it: what the lab knows it got from the program's
//! own commands and files.

use std::env;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use culvert_node::node_file::SOCKET_NAME;
use culvert_node::private_socket;
use ipnet::IpNet;
use overlay_proto::Family;
use rustix::net::sockopt::socket_peercred;
use rustix::process::Signal;
use serde::Deserialize;

use super::files::{self, Description};
use super::interrupt;
use super::netns::Netns;
use super::plan::Place;
use super::probe;
use super::process::Process;
use super::render::{self, Paths};
use super::wait::wait_for;

/// How long a daemon may take until it is ready. It takes a fraction of a second; a machine that
/// runs many tests at once may need several.
const READY_LIMIT: Duration = Duration::from_secs(20);

/// How long a daemon may take to drain and stop.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// How long a daemon may keep whoever wants to know which process it is: one that stands still
/// accepts nobody.
const KNOCK: Duration = Duration::from_secs(1);

/// Lines of a daemon's log that an error shows.
const LOG_TAIL: usize = 15;

/// A node of a lab.
#[derive(Debug)]
pub struct Node {
    pub(super) index: u16,
    name: String,
    address: IpAddr,
    subnets: Vec<IpNet>,
    netns: Netns,
    dir: PathBuf,
    pub(super) lab: Description,
    daemon: Mutex<Daemon>,
}

/// How a daemon stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does not run.
    Gone,
    /// It stands still (SIGSTOP).
    Stopped,
    /// It runs and does not answer at [`render::OBSERVE_ADDRESS`].
    Silent,
    /// It says that it is not ready.
    NotReady,
    /// It says that it is ready.
    Ready,
}

impl Standing {
    /// In words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "not running",
            Self::Stopped => "stopped (SIGSTOP)",
            Self::Silent => "silent on 127.0.0.1:4791",
            Self::NotReady => "not ready",
            Self::Ready => "ready",
        }
    }
}

/// What this process knows of the daemon it started.
#[derive(Debug, Default)]
struct Daemon {
    /// The process; none if another program started it, which left its id in a file.
    child: Option<Child>,
}

impl Node {
    pub(super) fn of(lab: &Description, index: u16) -> Self {
        Self {
            index,
            name: Place::Node(index).to_string(),
            address: lab.plan.node_address(index),
            subnets: lab.plan.subnets(index),
            netns: Netns::named(lab.plan.namespace(Place::Node(index))),
            dir: files::node_dir(&files::dir(&lab.plan.name), index),
            lab: lab.clone(),
            daemon: Mutex::default(),
        }
    }

    /// Name in the subnet table.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Address by which the other nodes reach it.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Underlay address in `family`: a node has one of each.
    #[must_use]
    pub fn address_in(&self, family: Family) -> IpAddr {
        self.lab.plan.node_address_in(self.index, family)
    }

    /// The pod subnets that the lab's plan gives it.
    #[must_use]
    pub fn subnets(&self) -> &[IpNet] {
        &self.subnets
    }

    /// Its namespace.
    #[must_use]
    pub const fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The daemon's run directory.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// The daemon's and the plugin's state directory.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The daemon's configuration file.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    /// The subnet table that the daemon reads.
    #[must_use]
    pub fn table_path(&self) -> PathBuf {
        self.lab.table(self.index)
    }

    /// The file with everything that the daemon has said.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.dir.join("daemon.log")
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes the daemon's configuration, with each of `overrides` laid over the lab's own. Takes
    /// effect at the next start.
    ///
    /// # Errors
    ///
    /// An override is no TOML, or the file cannot be written.
    pub fn write_config(&self, overrides: &[&str]) -> Result<()> {
        let (run_dir, state_dir, table) = (self.run_dir(), self.state_dir(), self.table_path());
        let paths = Paths { run_dir: &run_dir, state_dir: &state_dir, table: &table };
        let text = render::daemon_config(&self.lab.plan, self.index, &paths, overrides)?;
        files::write(&self.config_path(), &text)
    }

    /// The public keys of the node, which is given one if it has none.
    ///
    /// # Errors
    ///
    /// What `culvert keys show` says.
    pub fn public_keys(&self) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Shown {
            keys: Vec<Key>,
        }
        #[derive(Deserialize)]
        struct Key {
            public_key: String,
        }
        let mut command = std::process::Command::new(&self.lab.culvert);
        command.args(["keys", "show", "--json", "--config"]).arg(self.config_path());
        let output = command.output().context("run culvert")?;
        if !output.status.success() {
            return Err(self.culvert_failed(&["keys", "show"], &output));
        }
        let shown: Shown =
            serde_json::from_slice(&output.stdout).context("read what `culvert keys show` says")?;
        Ok(shown.keys.into_iter().map(|key| key.public_key).collect())
    }

    /// Starts the daemon and waits until it is ready.
    ///
    /// # Errors
    ///
    /// It runs already, ended, or was not ready in time. The last lines of its log are part of the
    /// error.
    pub fn start(&self) -> Result<()> {
        self.spawn()?;
        self.wait_ready()
    }

    /// Starts the daemon.
    ///
    /// # Errors
    ///
    /// It runs already, or its program or log cannot be opened.
    pub fn spawn(&self) -> Result<()> {
        ensure!(self.pid().is_none(), "the daemon of {} runs already", self.name);
        self.collect();
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())
            .with_context(|| format!("open {}", self.log_path().display()))?;
        let log_twin = log.try_clone().context("open the log twice")?;
        let mut daemon = self.daemon();
        let child = self
            .netns
            .command(&self.lab.culvert)
            .args(["run", "--config"])
            .arg(self.config_path())
            .envs(self.lab.daemon_env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log_twin)
            .stderr(log)
            // Out of reach of the terminal: Ctrl-C is for the lab, which then stops its daemons.
            .process_group(0)
            .spawn()
            .with_context(|| format!("start the daemon of {}", self.name))?;
        let id = child.id();
        daemon.child = Some(child);
        drop(daemon);
        files::write(&self.pid_path(), &id.to_string())
    }

    /// Waits until the daemon says that it is ready.
    ///
    /// # Errors
    ///
    /// It ended or took too long. The last lines of its log are part of the error.
    pub fn wait_ready(&self) -> Result<()> {
        let what = format!("{} to be ready", self.name);
        wait_for(READY_LIMIT, &what, || {
            if self.is_ready() {
                return Ok(Some(()));
            }
            if self.pid().is_none() {
                bail!("the daemon of {} ended before it was ready{}", self.name, self.ended_with());
            }
            Ok(None)
        })
        .or_else(|error| {
            // The log of a daemon that the user did not wait for says nothing.
            interrupt::check()?;
            Err(self.with_log(&error))
        })
    }

    /// Whether the daemon runs and says that it is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.pid().is_some() && self.http("/readyz").is_ok_and(|(code, _)| code == 200)
    }

    /// How the daemon stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match self.running() {
            None => Standing::Gone,
            Some((_, process)) if process.is_stopped() => Standing::Stopped,
            Some(_) => match self.http("/readyz") {
                Ok((200, _)) => Standing::Ready,
                Ok(_) => Standing::NotReady,
                Err(_) => Standing::Silent,
            },
        }
    }

    /// The daemon's process id, if it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.running().map(|(id, _)| id)
    }

    /// Stops the daemon with SIGTERM and waits until it has drained. How it ended is known only to
    /// the program that started it. One that does not run is no error.
    ///
    /// # Errors
    ///
    /// It did not end in time. The last lines of its log are part of the error.
    pub fn stop(&self) -> Result<Option<ExitStatus>> {
        self.end(Signal::TERM)
    }

    /// Ends the daemon with SIGKILL, as the kernel does when memory runs out.
    ///
    /// # Errors
    ///
    /// It did not go.
    pub fn kill9(&self) -> Result<()> {
        self.end(Signal::KILL).map(drop)
    }

    /// Has the daemon stand still (SIGSTOP), until [`thaw`](Self::thaw). It keeps its sockets.
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Has the daemon go on (SIGCONT). One that does not run is no error.
    ///
    /// # Errors
    ///
    /// It cannot be signalled.
    pub fn thaw(&self) -> Result<()> {
        if self.pid().is_some() { self.signal(Signal::CONT) } else { Ok(()) }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let (_, process) =
            self.running().with_context(|| format!("the daemon of {} does not run", self.name))?;
        process.signal(signal).with_context(|| format!("send {signal:?}"))
    }

    /// Stops the daemon, starts it, and waits until it is ready.
    ///
    /// # Errors
    ///
    /// Those of [`stop`](Self::stop) and [`start`](Self::start).
    pub fn restart(&self) -> Result<()> {
        self.stop()?;
        self.start()
    }

    /// Tells the daemon to read its files again (SIGHUP).
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn reload(&self) -> Result<()> {
        self.signal(Signal::HUP)
    }

    /// What the daemon says of itself: `culvert status --json`.
    ///
    /// # Errors
    ///
    /// The program failed, or what it printed is no JSON.
    pub fn status(&self) -> Result<serde_json::Value> {
        let output = self.run_culvert(&["status", "--json"])?;
        // It ends with 3 while the node is not ready, and says why all the same.
        if !output.status.success() && output.status.code() != Some(3) {
            return Err(self.culvert_failed(&["status", "--json"], &output));
        }
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("read the status of {}", self.name))
    }

    /// How many packets the daemon has dropped for `reason`: zero for one that is not listed.
    ///
    /// # Errors
    ///
    /// Those of [`status`](Self::status).
    pub fn drops(&self, reason: &str) -> Result<u64> {
        Ok(self.status()?["drops"][reason].as_u64().unwrap_or(0))
    }

    /// What `culvert`, called with `arguments` and this node's run directory, prints.
    ///
    /// # Errors
    ///
    /// It failed; what it complained of is part of the error.
    pub fn culvert(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run_culvert(arguments)?;
        if !output.status.success() {
            return Err(self.culvert_failed(arguments, &output));
        }
        String::from_utf8(output.stdout).context("read what culvert printed")
    }

    /// What lets the lab's `culvert` find this node's daemon and configuration by itself.
    ///
    /// # Errors
    ///
    /// The present search path for programs has a colon where none can be.
    pub(super) fn environment(&self) -> Result<Vec<(&'static str, OsString)>> {
        let programs = self.lab.culvert.parent().map(Path::to_owned);
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths(programs.into_iter().chain(env::split_paths(&path)))
            .context("put the lab's programs before all others")?;
        Ok(vec![
            ("PATH", path),
            ("CULVERT_RUN_DIR", self.run_dir().into()),
            ("CULVERT_STATE_DIR", self.state_dir().into()),
            ("CULVERT_CONFIG", self.config_path().into()),
        ])
    }

    fn culvert_failed(&self, arguments: &[&str], output: &Output) -> anyhow::Error {
        anyhow!(
            "`culvert {}` on {}: {}, {}",
            arguments.join(" "),
            self.name,
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        )
    }

    fn run_culvert(&self, arguments: &[&str]) -> Result<Output> {
        self.netns
            .command(&self.lab.culvert)
            .args(arguments)
            .arg("--run-dir")
            .arg(self.run_dir())
            .output()
            .context("run culvert")
    }

    /// What the daemon's HTTP server answers to a GET of `path`: status code and body.
    ///
    /// # Errors
    ///
    /// Nobody answers.
    pub fn http(&self, path: &str) -> Result<(u16, String)> {
        let address: SocketAddr = render::OBSERVE_ADDRESS.parse().context("parse an address")?;
        probe::http_get(&self.netns, address, path)
    }

    /// Everything that the node's daemons have said so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.log_path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The last lines of the log, indented, for an error to show.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(LOG_TAIL)..).unwrap_or_default();
        tail.iter().map(|line| format!("\n    {line}")).collect()
    }

    /// Takes note of the daemon's end, so that its process id is free again.
    pub(super) fn collect(&self) {
        if let Some(child) = self.daemon().child.as_mut() {
            let _ = child.try_wait();
        }
    }

    fn end(&self, signal: Signal) -> Result<Option<ExitStatus>> {
        if let Some((id, process)) = self.running() {
            process.signal(signal).with_context(|| format!("signal process {id}"))?;
            if !process.wait(STOP_LIMIT) {
                let error = anyhow!(
                    "the daemon of {} (process {id}) has not ended {STOP_LIMIT:?} after {signal:?}",
                    self.name
                );
                return Err(self.with_log(&error));
            }
        }
        let _ = fs::remove_file(self.pid_path());
        // It has ended, so this collects it without waiting.
        let status = self.daemon().child.take().map(|mut child| child.wait()).transpose();
        status.context("collect the daemon's exit status")
    }

    /// The running daemon, whoever started it.
    fn running(&self) -> Option<(u32, Process)> {
        // Our own child's id stays its own until we collect it.
        let child = self.daemon().child.as_ref().map(Child::id);
        let ours = child.and_then(|id| Process::open(id).map(|process| (id, process)));
        if ours.is_some() {
            return ours;
        }
        self.recorded().or_else(|| self.listening())
    }

    /// The process that a program of the lab started last, if it runs.
    fn recorded(&self) -> Option<(u32, Process)> {
        let id = fs::read_to_string(self.pid_path()).ok()?.parse().ok()?;
        let process = Process::open(id)?;
        // Between its start and its entering the namespace it is known by its command line.
        let config = self.config_path();
        let ours = process.was_called_with(&config.to_string_lossy())
            || self.netns.identity().is_some_and(|identity| process.is_in(identity));
        ours.then_some((id, process))
    }

    /// The process behind the admin socket: a daemon that somebody started by hand.
    fn listening(&self) -> Option<(u32, Process)> {
        let socket = private_socket::connect(&self.run_dir().join(SOCKET_NAME), KNOCK).ok()?;
        let id = socket_peercred(&socket).ok()?.pid.as_raw_nonzero().get();
        let id = u32::try_from(id).ok()?;
        Process::open(id).map(|process| (id, process))
    }

    fn ended_with(&self) -> String {
        match self.daemon().child.as_mut().map(Child::try_wait) {
            Some(Ok(Some(status))) => format!(" ({status})"),
            _ => String::new(),
        }
    }

    fn with_log(&self, error: &anyhow::Error) -> anyhow::Error {
        let tail = self.log_tail();
        let log = self.log_path();
        if tail.is_empty() {
            return anyhow!("{error:#}; its log, {}, is empty", log.display());
        }
        anyhow!("{error:#}; the end of its log, {}:{tail}", log.display())
    }

    fn pid_path(&self) -> PathBuf {
        self.dir.join("daemon.pid")
    }

    fn daemon(&self) -> MutexGuard<'_, Daemon> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
