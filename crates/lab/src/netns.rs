//! A named network namespace: making it, removing it, and running code and programs inside.
//!
//! Owns names under `/var/run/netns`, as `ip netns` does, so that every tool of the system can look
//! inside. Never knows what a namespace stands for.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result};
use rustix::thread::LinkNameSpaceType;

use super::ip;

/// Where iproute2 keeps the names.
const DIR: &str = "/var/run/netns";

/// What tells one namespace from another, however it is reached: device and inode.
pub(crate) type Identity = (u64, u64);

/// A named network namespace. A value is a name: dropping it removes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// The namespace called `name`, whether it exists or not.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// Creates the namespace `name`.
    ///
    /// # Errors
    ///
    /// It exists, this process lacks the right, or `ip` is missing.
    pub fn create(name: impl Into<String>) -> Result<Self> {
        let netns = Self::named(name);
        Self::create_all(std::slice::from_ref(&netns))?;
        Ok(netns)
    }

    /// Creates all of `namespaces`.
    pub(crate) fn create_all(namespaces: &[Self]) -> Result<()> {
        ip::batch(None, &lines("netns add", namespaces)).context("create namespaces")
    }

    /// Removes the namespace, with every device in it; one that is gone is no error.
    ///
    /// # Errors
    ///
    /// `ip` refused.
    pub fn delete(&self) -> Result<()> {
        Self::delete_all(std::slice::from_ref(self))
    }

    /// Removes those of `namespaces` that exist.
    pub(crate) fn delete_all(namespaces: &[Self]) -> Result<()> {
        let there: Vec<Self> = namespaces.iter().filter(|netns| netns.exists()).cloned().collect();
        if there.is_empty() {
            return Ok(());
        }
        ip::batch_all(&lines("netns delete", &there)).context("delete namespaces")
    }

    /// The names of all namespaces of this machine that have one.
    ///
    /// # Errors
    ///
    /// The directory of names cannot be read.
    pub fn names() -> Result<Vec<String>> {
        let entries = match fs::read_dir(DIR) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.context("read /var/run/netns")?,
        };
        let names: io::Result<Vec<String>> = entries
            .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
            .collect();
        names.context("read /var/run/netns")
    }

    /// The name, as in `ip netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace; what a container runtime passes as `CNI_NETNS`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(DIR).join(&self.name)
    }

    /// Whether the name is taken.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    /// The command that opens a shell inside, for someone who wants to look.
    #[must_use]
    pub fn shell_line(&self) -> String {
        format!("ip netns exec {} bash", self.name)
    }

    /// A command that runs `program` inside.
    ///
    /// It goes through `ip netns exec`, which also mounts the namespace's own `/sys`, and whose
    /// process becomes the program: the child's id is the program's.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs `work` inside, on a thread of its own, and returns its value. Panics of `work` pass on.
    ///
    /// Sockets belong to the namespace they were opened in, so a socket that `work` returns still
    /// reaches this namespace from any thread. `/proc/sys/net` is the namespace's own here, while
    /// `/sys` and `/proc/net` are the caller's (`/proc/thread-self/net` is right).
    ///
    /// # Errors
    ///
    /// There is no such namespace, or this process may not enter it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| self.enter().map(|()| work()));
            inside.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
        })
    }

    /// Like [`run`](Self::run), without waiting for `work`.
    ///
    /// # Errors
    ///
    /// No thread could be started. Whether it could enter the namespace is part of its result.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        let netns = self.clone();
        thread::Builder::new()
            .name(self.name.clone())
            .spawn(move || netns.enter().map(|()| work()))
            .with_context(|| format!("start a thread for {}", self.name))
    }

    /// Runs the `ip` commands of `script`, one a line, inside.
    ///
    /// # Errors
    ///
    /// `ip` refused a line.
    pub fn ip(&self, script: &str) -> Result<()> {
        ip::batch(Some(&self.name), script)
    }

    /// What `ip` prints inside, called with `arguments`.
    ///
    /// # Errors
    ///
    /// `ip` refused.
    pub fn ip_output(&self, arguments: &[&str]) -> Result<String> {
        ip::run(&[&["-n", &self.name], arguments].concat())
    }

    /// Sets the kernel's network setting `key`, with slashes, to `value` inside.
    ///
    /// # Errors
    ///
    /// There is no such setting or namespace.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys/net").join(key);
        self.run(|| fs::write(&path, value))?
            .with_context(|| format!("set net/{key} to {value} in {}", self.name))
    }

    /// What tells this namespace from others; none if it is gone.
    pub(crate) fn identity(&self) -> Option<Identity> {
        fs::metadata(self.path()).ok().map(|file| (file.dev(), file.ino()))
    }

    /// Moves the calling thread inside, for good.
    fn enter(&self) -> Result<()> {
        let file = File::open(self.path())
            .with_context(|| format!("open the network namespace {}", self.name))?;
        rustix::thread::move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("enter the network namespace {}", self.name))
    }
}

fn lines(command: &str, namespaces: &[Netns]) -> String {
    namespaces.iter().fold(String::new(), |mut script, netns| {
        let _ = writeln!(script, "{command} {}", netns.name);
        script
    })
}
