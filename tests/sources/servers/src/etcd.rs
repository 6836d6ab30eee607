//! An etcd of a test's own: its directory, its ports, and what is done to it.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use culvert_lab::{Netns, wait_until};
use tempfile::TempDir;

use crate::Gateway;

/// How long etcd may take to start on a machine that does much else.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running etcd; ended and removed with this value.
pub struct Etcd {
    directory: TempDir,
    address: IpAddr,
    ports: (u16, u16),
    netns: Option<Netns>,
    child: Option<Child>,
    arguments: Vec<String>,
}

impl Etcd {
    /// Starts one on loopback, on ports that were free a moment ago.
    pub fn start() -> Self {
        Self::with_arguments(Vec::new())
    }

    /// Starts one with more on its command line.
    pub fn with_arguments(arguments: Vec<String>) -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self::serve(None, Ipv4Addr::LOCALHOST.into(), (free(), free()), arguments)
    }

    /// Starts one in a namespace of a lab, where no port is taken.
    pub fn start_in(netns: &Netns, address: IpAddr, arguments: Vec<String>) -> Self {
        Self::serve(Some(netns.clone()), address, (2379, 2380), arguments)
    }

    fn serve(
        netns: Option<Netns>,
        address: IpAddr,
        ports: (u16, u16),
        arguments: Vec<String>,
    ) -> Self {
        let directory = TempDir::with_prefix("culvert-etcd-").unwrap();
        let mut etcd = Self { directory, address, ports, netns, child: None, arguments };
        etcd.run();
        etcd
    }

    fn scheme(&self) -> &'static str {
        if self.arguments.iter().any(|argument| argument == "--cert-file") {
            "https"
        } else {
            "http"
        }
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("{}://{}:{}", self.scheme(), self.address, self.ports.0)
    }

    /// Starts it (again) and waits until it answers.
    pub fn run(&mut self) {
        let (client, peer) = (self.url(), format!("http://{}:{}", self.address, self.ports.1));
        let child = self
            .command("etcd")
            .arg("--data-dir")
            .arg(self.directory.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--logger", "zap"])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd starts: install the package etcd-server");
        self.child = Some(child);
        wait_until(START_LIMIT, "etcd to answer", || self.answers()).unwrap();
    }

    /// Whether it serves: an open port alone may be that of one that has no leader yet.
    fn answers(&self) -> bool {
        self.try_ctl(&["endpoint", "health"]).0
    }

    /// Ends it as a power cut does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Takes all its data away; it must not run.
    pub fn lose_data(&self) {
        std::fs::remove_dir_all(self.data()).unwrap();
    }

    /// Where its data is.
    pub fn data(&self) -> std::path::PathBuf {
        self.directory.path().join("data")
    }

    /// Runs `etcdctl`; it must succeed. Says what it printed.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let (succeeded, text) = self.try_ctl(arguments);
        assert!(succeeded, "etcdctl {arguments:?}: {text}");
        text
    }

    /// Runs `etcdctl`, and says whether it succeeded and what it printed.
    pub fn try_ctl(&self, arguments: &[&str]) -> (bool, String) {
        let output = self
            .etcdctl()
            .args(self.client_arguments())
            .args(arguments)
            .output()
            .expect("etcdctl starts: install the package etcd-client");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    fn etcdctl(&self) -> Command {
        let mut command = self.command("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.url()]);
        command
    }

    /// A program where the server is.
    fn command(&self, program: &str) -> Command {
        match &self.netns {
            Some(netns) => netns.command(program),
            None => Command::new(program),
        }
    }

    /// Many changes, one after the other.
    pub fn gateway(&self) -> Gateway {
        Gateway::connect(self.netns.as_ref(), SocketAddr::new(self.address, self.ports.0))
    }

    /// What `etcdctl` needs to be believed, where etcd asks for a certificate.
    fn client_arguments(&self) -> Vec<String> {
        let value_of = |name: &str| {
            let place = self.arguments.iter().position(|argument| argument == name)?;
            self.arguments.get(place + 1).cloned()
        };
        let pairs =
            [("--cacert", "--trusted-ca-file"), ("--cert", "--cert-file"), ("--key", "--key-file")];
        let given =
            pairs.into_iter().filter_map(|(to, from)| Some([to.to_owned(), value_of(from)?]));
        given.flatten().collect()
    }

    /// Puts `value` at `key`.
    pub fn put(&self, key: &str, value: &str) {
        self.ctl(&["put", key, value]);
    }

    /// Puts all of `keys` in one transaction; etcd must allow that many.
    pub fn put_all(&self, keys: &[(String, String)]) {
        // etcdctl takes quoted words as Go does, which for these values is as Rust writes them.
        let puts: String =
            keys.iter().map(|(key, value)| format!("put {key} {value:?}\n")).collect();
        let mut child = self
            .etcdctl()
            .args(["--command-timeout", "60s", "txn"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("etcdctl starts: install the package etcd-client");
        // No comparison, these puts, and nothing otherwise.
        let text = format!("\n{puts}\n\n");
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// The value at `key`; empty if there is none.
    pub fn value(&self, key: &str) -> String {
        self.ctl(&["get", "--print-value-only", key]).trim().to_owned()
    }

    /// Every key under `prefix`.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let text = self.ctl(&["get", "--prefix", "--keys-only", prefix]);
        text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The text of a configuration for a node that has its table from `etcd`.
pub fn config(etcd: &Etcd, node: &str, state_dir: &Path, address: &str) -> String {
    format!(
        "[network]\ncidrs = [\"10.244.0.0/16\"]\n[node]\nname = \"{node}\"\naddress = \"{address}\"\n\
         state_dir = \"{}\"\n[table]\nsource = \"etcd\"\n[etcd]\nendpoints = [\"{}\"]\n",
        state_dir.display(),
        etcd.url()
    )
}
