//! A host and its pods as namespaces, and what the tests ask of them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use culvert_cni::fault::{self, Step};
use culvert_node::Attachment;
use culvert_node::ipam::Store;
use culvert_node::node_file::NodeFile;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const BRIDGE: &str = "v-net-0";
pub(crate) const DUAL_STACK: [&str; 2] = ["10.244.1.0/24", "fd00:1::/64"];

/// How often, and how far apart, to look whether the plugin holds: half a minute in all, and on an
/// idle machine the first few looks.
const HELD_LOOKS: u32 = 6000;
const HELD_PAUSE: Duration = Duration::from_millis(5);

/// A namespace that plays the host, with a bridge, a node file and a state directory.
pub(crate) struct Node {
    pub(crate) netns: String,
    pub(crate) dir: TempDir,
    pub(crate) subnets: Vec<String>,
    pub(crate) cluster_networks: Vec<String>,
    pub(crate) config: Value,
}

impl Node {
    pub(crate) fn new(test: &str, subnets: &[&str]) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test makes network namespaces and needs root"
        );
        let node = Self {
            netns: format!("cnit-{test}-{}", std::process::id()),
            dir: TempDir::new().expect("a temporary directory"),
            subnets: subnets.iter().map(|subnet| (*subnet).to_owned()).collect(),
            cluster_networks: Vec::new(),
            config: json!({"cniVersion": "1.0.0", "name": "pods", "type": "culvert-cni"}),
        };
        ip(&["netns", "add", &node.netns]);
        node.ip(&["link", "set", "lo", "up"]);
        // With a MAC of its own, as the daemon makes it: else the bridge borrows its ports'.
        node.ip(&["link", "add", BRIDGE, "address", "0a:58:00:00:00:01", "type", "bridge"]);
        for subnet in node.node_file().subnets {
            let gateway = culvert_node::node_file::gateway(&subnet).to_string();
            node.ip(&["addr", "add", &gateway, "dev", BRIDGE, "nodad"]);
        }
        node.ip(&["link", "set", BRIDGE, "up"]);
        node.write_node_file();
        node
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn node_file(&self) -> NodeFile {
        let parse = |subnet: &String| subnet.parse().expect("a valid subnet");
        NodeFile {
            gso_max_size: Some(62_640),
            node: "node1".to_owned(),
            bridge: BRIDGE.to_owned(),
            mtu: 1400,
            subnets: self.subnets.iter().map(parse).collect(),
            cluster_networks: self.cluster_networks.iter().map(parse).collect(),
            masquerade: Some(true),
            policy: false,
            own_ports: Vec::new(),
        }
    }

    pub(crate) fn write_node_file(&self) {
        self.node_file().write(&self.run_dir()).expect("the node file is written");
    }

    pub(crate) fn pod(&self, name: &str) -> Pod<'_> {
        let netns = format!("{}-{name}", self.netns);
        ip(&["netns", "add", &netns]);
        Pod {
            node: self,
            netns,
            container: name.to_owned(),
            without_netns: false,
            keys: json!({}),
            environment: Vec::new(),
        }
    }

    /// Calls a verb that is about the whole network.
    pub(crate) fn call(&self, verb: &str, keys: &Value) -> Result<Value, Value> {
        let mut config = self.config.clone();
        config["cniVersion"] = json!("1.1.0");
        config["runDir"] = json!(self.run_dir());
        config["stateDir"] = json!(self.state_dir());
        merge(&mut config, keys);
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.netns, env!("CARGO_BIN_EXE_culvert-cni")])
            .env("CNI_COMMAND", verb)
            .env("CNI_PATH", "/opt/cni/bin");
        outcome(&start(&mut command, &config).wait_with_output().expect("the plugin ends"))
    }

    pub(crate) fn ip(&self, arguments: &[&str]) {
        ip(&[&["-n", &self.netns], arguments].concat());
    }

    pub(crate) fn exec(&self, arguments: &[&str]) -> String {
        ip(&[&["netns", "exec", &self.netns], arguments].concat())
    }

    pub(crate) fn link(&self, name: &str) -> Value {
        link(&self.netns, name)
    }

    /// Names of the devices that the plugin has made and not removed.
    pub(crate) fn host_devices(&self) -> Vec<String> {
        let links = json_of(&["-n", &self.netns, "-j", "link"]);
        let names = links.as_array().expect("a list of devices").iter();
        names
            .filter_map(|link| link["ifname"].as_str())
            .filter(|name| name.starts_with("culv"))
            .map(str::to_owned)
            .collect()
    }

    pub(crate) fn held_addresses(&self) -> usize {
        let store = Store::open(&self.state_dir()).expect("a sound store");
        store.map_or(0, |mut store| store.records().expect("a sound store").len())
    }

    pub(crate) fn assert_clean(&self) {
        assert_eq!(self.host_devices(), Vec::<String>::new());
        assert_eq!(self.held_addresses(), 0);
        // Files about ports of the node, and what leads there; the empty table stays.
        let files = fs::read_dir(self.run_dir().join("host-ports"));
        assert_eq!(files.map_or(0, Iterator::count), 0);
        let rules = self.exec(&["nft", "list", "ruleset"]);
        let ports = rules.split("table inet culvert-host-ports").nth(1).unwrap_or_default();
        let ports = ports.split("\ntable ").next().unwrap_or_default();
        assert!(!ports.contains("chain culv") && !ports.contains("goto"), "{ports}");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        delete_netns(&self.netns);
    }
}

/// A namespace that plays a pod, and the calls of the plugin about it.
pub(crate) struct Pod<'a> {
    pub(crate) node: &'a Node,
    pub(crate) netns: String,
    pub(crate) container: String,
    pub(crate) without_netns: bool,
    /// Added to the network's configuration.
    pub(crate) keys: Value,
    /// Added to the environment, or in place of what is there.
    pub(crate) environment: Vec<(&'static str, String)>,
}

impl Pod<'_> {
    pub(crate) fn netns_path(&self) -> String {
        format!("/run/netns/{}", self.netns)
    }

    pub(crate) fn host_device(&self) -> String {
        let attachment = Attachment::new("pods", &self.container, "eth0");
        attachment.expect("valid names").host_device()
    }

    pub(crate) fn add(&self) -> Result<Value, Value> {
        self.call("ADD", None)
    }

    pub(crate) fn del(&self) -> Result<Value, Value> {
        self.call("DEL", None)
    }

    pub(crate) fn check(&self, prev_result: &Value) -> Result<Value, Value> {
        self.call("CHECK", Some(prev_result))
    }

    pub(crate) fn assert_check_finds(&self, prev_result: &Value, part: &str) {
        let error = self.check(prev_result).expect_err(part);
        assert_eq!(error["code"], 103, "{error}");
        assert!(error["msg"].to_string().contains(part), "{error} lacks {part}");
    }

    pub(crate) fn call(&self, verb: &str, prev_result: Option<&Value>) -> Result<Value, Value> {
        let child = self.start(verb, prev_result);
        outcome(&child.wait_with_output().expect("the plugin ends"))
    }

    pub(crate) fn start(&self, verb: &str, prev_result: Option<&Value>) -> Child {
        let mut config = self.node.config.clone();
        config["runDir"] = json!(self.node.run_dir());
        config["stateDir"] = json!(self.node.state_dir());
        merge(&mut config, &self.keys);
        if let Some(prev_result) = prev_result {
            config["prevResult"] = prev_result.clone();
        }
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.node.netns, env!("CARGO_BIN_EXE_culvert-cni")])
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &self.container)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/opt/cni/bin")
            .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=x");
        if !self.without_netns {
            command.env("CNI_NETNS", self.netns_path());
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        start(&mut command, &config)
    }

    /// Runs a verb that a fault is to strike after `step`, and demands that it did.
    pub(crate) fn killed_after(&mut self, verb: &str, step: Step) {
        self.environment = vec![(fault::VARIABLE, format!("kill:{}", step.as_str()))];
        let output = self.start(verb, None).wait_with_output().expect("the plugin ends");
        self.environment.clear();
        // `ip netns exec` becomes the plugin, so the signal is the child's own.
        assert_eq!(output.status.signal(), Some(9), "{verb} did not reach {step:?}: {output:?}");
        assert!(output.stdout.is_empty(), "it was killed before it answered");
    }

    /// Starts a verb and waits until it holds after `step`.
    pub(crate) fn held_after(&mut self, verb: &str, step: Step) -> Held {
        let path = self.node.dir.path().join(format!("held-{}", self.container));
        let fault = format!("hold:{}:{}", step.as_str(), path.display());
        self.environment = vec![(fault::VARIABLE, fault)];
        let mut child = self.start(verb, None);
        self.environment.clear();
        for _ in 0..HELD_LOOKS {
            if path.exists() {
                return Held { child, path };
            }
            let ended = child.try_wait().expect("the plugin can be asked for");
            assert!(ended.is_none(), "{verb} ended before {step:?}");
            thread::sleep(HELD_PAUSE);
        }
        panic!("{verb} never came to {step:?}");
    }

    /// Runs a verb whose other process is to hold after `step`, and demands that it succeeds
    /// meanwhile.
    pub(crate) fn left_behind(&mut self, verb: &str, step: Step) -> LeftBehind {
        let path = self.node.dir.path().join(format!("left-{}", self.container));
        let fault = format!("hold:{}:{}", step.as_str(), path.display());
        self.environment = vec![(fault::VARIABLE, fault)];
        let child = self.start(verb, None);
        self.environment.clear();
        let (sender, receiver) = mpsc::channel();
        // Until nobody has the pipes open any more.
        thread::spawn(move || sender.send(child.wait_with_output()));
        let output = receiver.recv_timeout(HELD_PAUSE * HELD_LOOKS).expect("the pipes are closed");
        outcome(&output.expect("the plugin ends")).expect("the verb succeeds");
        LeftBehind { path }
    }

    pub(crate) fn ip(&self, arguments: &[&str]) {
        ip(&[&["-n", &self.netns], arguments].concat());
    }

    pub(crate) fn ip_exec(&self, arguments: &[&str]) {
        ip(&[&["netns", "exec", &self.netns], arguments].concat());
    }

    pub(crate) fn link(&self, name: &str) -> Value {
        link(&self.netns, name)
    }

    pub(crate) fn has_link(&self, name: &str) -> bool {
        ip_output(&["-n", &self.netns, "link", "show", name]).status.success()
    }

    pub(crate) fn addresses(&self, name: &str) -> BTreeSet<String> {
        let device = json_of(&["-n", &self.netns, "-j", "addr", "show", "dev", name]);
        let infos = device[0]["addr_info"].as_array().expect("a list of addresses");
        let global = infos.iter().filter(|info| info["scope"] == "global");
        global
            .map(|info| {
                assert_eq!(info["tentative"], Value::Null, "duplicate address detection is off");
                format!("{}/{}", info["local"].as_str().expect("an address"), info["prefixlen"])
            })
            .collect()
    }

    pub(crate) fn gateways(&self) -> BTreeSet<String> {
        ["-4", "-6"]
            .iter()
            .flat_map(|family| {
                let routes =
                    json_of(&["-n", &self.netns, "-j", family, "route", "show", "default"]);
                routes.as_array().expect("a list of routes").clone()
            })
            .map(|route| route["gateway"].as_str().expect("a gateway").to_owned())
            .collect()
    }

    pub(crate) fn sysctl(&self, path: &str) -> String {
        in_netns(&self.netns, || {
            let value = fs::read_to_string(format!("/proc/sys/net/{path}"));
            value.expect("the sysctl exists").trim().to_owned()
        })
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        delete_netns(&self.netns);
    }
}

/// A verb that holds between two steps.
pub(crate) struct Held {
    child: Child,
    path: PathBuf,
}

impl Held {
    /// Lets it go on, and says what came of it.
    pub(crate) fn go_on(self) -> Result<Value, Value> {
        fs::remove_file(&self.path).expect("the plugin made the file");
        outcome(&self.child.wait_with_output().expect("the plugin ends"))
    }
}

/// A process that a verb has left behind, and that holds.
pub(crate) struct LeftBehind {
    path: PathBuf,
}

impl LeftBehind {
    /// Waits until it holds, and lets it go.
    pub(crate) fn release(self) {
        let mut looks = 0;
        while !self.path.exists() {
            assert!(looks < HELD_LOOKS, "nobody was left behind");
            looks += 1;
            thread::sleep(HELD_PAUSE);
        }
        fs::remove_file(&self.path).expect("the process made the file");
    }
}

/// Lays the members of `keys` over those of `config`.
fn merge(config: &mut Value, keys: &Value) {
    for (key, value) in keys.as_object().expect("an object of keys") {
        config[key] = value.clone();
    }
}

/// Starts the plugin and hands it its configuration.
fn start(command: &mut Command, config: &Value) -> Child {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("`ip` is installed");
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    stdin.write_all(config.to_string().as_bytes()).expect("the plugin reads its config");
    child
}

/// A TCP connection from `client` to `address` in `server`, with a byte each way.
pub(crate) fn assert_talk(server: &str, address: IpAddr, client: &str) {
    let listener = in_netns(server, || TcpListener::bind(SocketAddr::new(address, 0)))
        .unwrap_or_else(|error| panic!("cannot listen on {address} in {server}: {error}"));
    let target = listener.local_addr().expect("a bound socket has an address");
    let echo = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client connects");
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("the client sends a byte");
        stream.write_all(&byte).expect("the client reads");
    });
    // Less than the second after which TCP would repeat a lost first packet.
    let limit = Duration::from_millis(900);
    let mut stream = in_netns(client, || TcpStream::connect_timeout(&target, limit))
        .unwrap_or_else(|error| panic!("{client} cannot reach {target} in {server}: {error}"));
    stream.write_all(b"x").expect("the server reads");
    stream.read_exact(&mut [0]).expect("the server answers");
    echo.join().expect("the server is fine");
}

/// Runs `work` on a thread inside a namespace.
pub(crate) fn in_netns<T: Send>(netns: &str, work: impl FnOnce() -> T + Send) -> T {
    let enter_and_work = || {
        let file = File::open(format!("/run/netns/{netns}")).expect("the namespace exists");
        move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&file),
            Some(LinkNameSpaceType::Network),
        )
        .expect("root may enter a namespace");
        work()
    };
    thread::scope(|scope| scope.spawn(enter_and_work).join()).expect("the work did not panic")
}

/// The result document, or the error document.
pub(crate) fn outcome(output: &Output) -> Result<Value, Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    let document = if text.is_empty() {
        Value::Null
    } else {
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("stdout is not JSON: {text}"))
    };
    if output.status.success() {
        Ok(document)
    } else {
        assert!(!output.stderr.is_empty(), "a failure is explained on stderr");
        assert!(document["code"].is_u64(), "a failure is a document: {output:?}");
        Err(document)
    }
}

pub(crate) fn set(items: &[&str]) -> BTreeSet<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

pub(crate) fn link(netns: &str, name: &str) -> Value {
    json_of(&["-n", netns, "-d", "-j", "link", "show", name])[0].take()
}

pub(crate) fn json_of(arguments: &[&str]) -> Value {
    let text = ip(arguments);
    if text.trim().is_empty() {
        return json!([]);
    }
    serde_json::from_str(&text).expect("`ip -j` prints JSON")
}

pub(crate) fn ip(arguments: &[&str]) -> String {
    let output = ip_output(arguments);
    assert!(
        output.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn ip_output(arguments: &[&str]) -> Output {
    Command::new("ip").args(arguments).output().expect("`ip` is installed")
}

/// Removes a namespace; a test may have removed it before.
pub(crate) fn delete_netns(netns: &str) {
    let _ = ip_output(&["netns", "del", netns]);
}
