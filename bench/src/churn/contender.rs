//! One node, its plugin, and the namespaces of its pods.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_lab::{Netns, clock, wait_until};
use serde_json::{Value, json};

use super::{ROOM_OF_24, delete};
use crate::programs::Programs;

/// What our namespaces are called by, so that a killed run's can be found.
const PREFIX: &str = "bchurn-";

/// Where Debian keeps the stock plugins, and where their own releases put them.
const STOCK: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// Calls at once while pods are attached that are not measured.
const FILLING: usize = 8;

const BRIDGE: &str = "churn0";
const NETWORK: &str = "churn";

/// The node's address on the underlay, where it has no peers.
const ADDRESS: &str = "192.0.2.1";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Stock,
    Culvert,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Stock, Self::Culvert];

    fn name(self) -> &'static str {
        match self {
            Self::Stock => "bridge + host-local",
            Self::Culvert => "culvert-cni",
        }
    }

    fn tag(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Culvert => "culvert",
        }
    }
}

/// A node whose pods one plugin attaches.
pub(super) struct Contender {
    kind: Kind,
    node: Netns,
    directory: PathBuf,
    subnet: String,
    plugin: PathBuf,
    culvert: PathBuf,
    config: String,
    daemon: Option<Child>,
    /// Namespaces of the pods that are measured.
    pods: Vec<Netns>,
    /// Those of the pods that are merely present.
    present: Vec<Netns>,
}

impl Contender {
    /// A node with `subnet` and namespaces for `pods` pods.
    pub(super) fn new(kind: Kind, programs: &Programs, subnet: &str, pods: usize) -> Result<Self> {
        let plugin = match kind {
            Kind::Stock => stock_plugin()?,
            Kind::Culvert => programs.plugin.clone(),
        };
        let directory =
            std::env::temp_dir().join(format!("{PREFIX}{}-{}", kind.tag(), std::process::id()));
        fs::create_dir_all(&directory).context("make a directory for the node")?;
        let node = Netns::create(format!("{PREFIX}{}", kind.tag()))?;
        let mut contender = Self {
            kind,
            node,
            subnet: subnet.to_owned(),
            plugin,
            culvert: programs.culvert.clone(),
            config: String::new(),
            daemon: None,
            pods: Vec::new(),
            present: Vec::new(),
            directory,
        };
        contender.prepare()?;
        contender.pods = contender.namespaces("pod", 0, pods)?;
        Ok(contender)
    }

    pub(super) fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// What each plugin finds on a node: ours what the daemon makes, with the daemon at work; the
    /// stock one makes its bridge itself, with the first pod.
    fn prepare(&mut self) -> Result<()> {
        self.node.ip("link set lo up\n")?;
        let config = match self.kind {
            Kind::Stock => json!({
                "cniVersion": "1.0.0", "name": NETWORK, "type": "bridge", "bridge": BRIDGE,
                "isDefaultGateway": true, "hairpinMode": true, "mtu": 1400,
                "ipam": {
                    "type": "host-local",
                    "subnet": self.subnet,
                    "dataDir": self.directory,
                },
            }),
            Kind::Culvert => {
                self.start_daemon()?;
                json!({
                    "cniVersion": "1.0.0", "name": NETWORK, "type": "culvert-cni", "mtu": 1400,
                    "runDir": self.directory, "stateDir": self.directory,
                })
            }
        };
        self.config = config.to_string();
        Ok(())
    }

    /// Starts a daemon whose table has this node alone, and waits for it.
    fn start_daemon(&mut self) -> Result<()> {
        self.node.ip(&format!("address add {ADDRESS}/32 dev lo\n"))?;
        let (directory, subnet) = (&self.directory, &self.subnet);
        let table = directory.join("table.toml");
        let node = format!(
            "[[node]]\nname = \"{NETWORK}\"\naddress = \"{ADDRESS}\"\nsubnets = [\"{subnet}\"]\n"
        );
        fs::write(&table, node).context("write the subnet table")?;
        let config = directory.join("config.toml");
        let text = format!(
            "[network]\ncidrs = [\"10.88.0.0/16\"]\n[node]\nname = \"{NETWORK}\"\n\
             run_dir = {directory:?}\nstate_dir = {directory:?}\n[bridge]\nname = \"{BRIDGE}\"\n\
             [table]\nsource = \"file\"\npath = {table:?}\n"
        );
        fs::write(&config, text).context("write the configuration")?;
        let log = fs::File::create(directory.join("daemon.log")).context("make a log")?;
        let mut command = self.node.command(&self.culvert);
        command.arg("run").arg("--config").arg(&config).stdout(Stdio::null()).stderr(log);
        self.daemon = Some(command.spawn().context("start the daemon")?);
        let node_file = directory.join("node.json");
        wait_until(Duration::from_secs(10), "the daemon's node file", || node_file.exists())
    }

    /// Ends the daemon; what it made in the kernel stays, and so does the node file.
    fn kill_daemon(&mut self) -> Result<()> {
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        daemon.kill().context("kill the daemon")?;
        daemon.wait().context("wait for the daemon")?;
        Ok(())
    }

    fn namespaces(&self, word: &str, from: usize, to: usize) -> Result<Vec<Netns>> {
        let name = |number| format!("{}-{word}{number}", self.node.name());
        (from..to).map(|number| Netns::create(name(number))).collect()
    }

    /// Attaches or detaches pods until `count` are present.
    pub(super) fn fill(&mut self, count: usize) -> Result<()> {
        let have = self.present.len();
        if count > have {
            let new = self.namespaces("present", have, count)?;
            self.call_all("ADD", &new, FILLING)?;
            self.present.extend(new);
        } else {
            let leaving = self.present.split_off(count);
            self.call_all("DEL", &leaving, FILLING)?;
            delete(&leaving)?;
        }
        Ok(())
    }

    /// Has `count` addresses held by pods that are not there: a bridge has 1023 ports at most, so
    /// that more cannot be attached. The stock pair's are its files, ours are imported from such.
    pub(super) fn hold(&mut self, count: usize) -> Result<()> {
        // A daemon would free addresses that no pod has.
        self.kill_daemon()?;
        let files = match self.kind {
            Kind::Stock => self.directory.join(NETWORK),
            Kind::Culvert => self.directory.join("host-local"),
        };
        fs::create_dir_all(&files).context("make a directory of host-local")?;
        let mut address = std::net::Ipv4Addr::new(10, 88, 0, 1);
        for number in 0..count {
            address = (u32::from(address) + 1).into();
            fs::write(files.join(address.to_string()), format!("held{number}\r\neth0"))
                .context("write a file of host-local")?;
        }
        let last = files.join("last_reserved_ip.0");
        fs::write(last, address.to_string()).context("write a file of host-local")?;
        if self.kind == Kind::Stock {
            return Ok(());
        }
        let output = self
            .node
            .command(&self.culvert)
            .args(["ipam", "import"])
            .arg(&files)
            .args(["--network", NETWORK, "--subnet", &self.subnet, "--state-dir"])
            .arg(&self.directory)
            .output()
            .context("run culvert ipam import")?;
        ensure!(
            output.status.success(),
            "culvert ipam import: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// How many more pods the subnet has room for, or the namespaces made for them.
    pub(super) fn room(&self) -> usize {
        let addresses = if self.subnet.ends_with("/24") { ROOM_OF_24 } else { usize::MAX };
        self.pods.len().min(addresses.saturating_sub(self.present.len()))
    }

    /// Attaches or detaches the first `count` pods, `at_once` at a time; says how long each call
    /// took.
    pub(super) fn churn(&self, verb: &str, count: usize, at_once: usize) -> Result<Vec<Duration>> {
        let pods = self.pods.get(..count).context("a namespace for each pod")?;
        self.call_all(verb, pods, at_once)
    }

    fn call_all(&self, verb: &str, pods: &[Netns], at_once: usize) -> Result<Vec<Duration>> {
        let next = AtomicUsize::new(0);
        let work = || -> Result<Vec<Duration>> {
            let mut times = Vec::new();
            while let Some(pod) = pods.get(next.fetch_add(1, Ordering::Relaxed)) {
                times.push(self.call(verb, pod)?);
            }
            Ok(times)
        };
        // A child starts in the namespace of the thread that starts it.
        let workers = |_| -> Result<Vec<Duration>> { self.node.run(work)? };
        thread::scope(|scope| {
            let threads: Vec<_> =
                (0..at_once).map(|worker| scope.spawn(move || workers(worker))).collect();
            let mut times = Vec::new();
            for thread in threads {
                times.extend(thread.join().expect("a worker does not panic")?);
            }
            Ok(times)
        })
    }

    /// One call, as a container runtime makes it; its time from start to end.
    fn call(&self, verb: &str, pod: &Netns) -> Result<Duration> {
        let start = clock::now();
        let mut child = Command::new(&self.plugin)
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", pod.name())
            .env("CNI_NETNS", pod.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", self.plugin.parent().unwrap_or_else(|| Path::new("/")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", self.plugin.display()))?;
        let mut stdin = child.stdin.take().context("standard input is a pipe")?;
        stdin.write_all(self.config.as_bytes()).context("hand over the configuration")?;
        drop(stdin);
        let output = child.wait_with_output().context("wait for the plugin")?;
        let took = start.elapsed();
        ensure!(
            output.status.success(),
            "{} {verb}: {}{}",
            self.name(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        if verb == "ADD" {
            let result: Value = serde_json::from_slice(&output.stdout).context("read a result")?;
            ensure!(result["ips"][0]["address"].is_string(), "a result has no address: {result}");
        }
        Ok(took)
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        if let Err(error) = self.kill_daemon() {
            let _ = writeln!(std::io::stderr().lock(), "bench: {error:#}");
        }
        // The bridge's ports go with the node, and with them their other ends.
        let node = std::slice::from_ref(&self.node);
        for namespaces in [node, &self.present, &self.pods] {
            if let Err(error) = delete(namespaces) {
                let _ = writeln!(std::io::stderr().lock(), "bench: {error:#}");
            }
        }
        // What stays of a temporary directory does no harm.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Removes what a killed run left behind.
pub(crate) fn clean() -> Result<()> {
    let names = Netns::names()?;
    let ours = names.into_iter().filter(|name| name.starts_with(PREFIX)).map(Netns::named);
    delete(&ours.collect::<Vec<_>>())
}

fn stock_plugin() -> Result<PathBuf> {
    let found = STOCK.iter().map(|directory| Path::new(directory).join("bridge"));
    let mut found =
        found.filter(|path| path.is_file() && path.with_file_name("host-local").is_file());
    found.next().context(
        "the plugins bridge and host-local are missing: install containernetworking-plugins",
    )
}
