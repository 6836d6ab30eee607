//! A stand-in for flanneld with the back end `vxlan` and the store `kube`: it does to the kernel
//! and to its Node what flannel v0.28 does, and follows the other Nodes; and what flannel's plugin
//! has the stock plugins `bridge` and `host-local` do for a pod.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use culvert_lab::{Lab, NODE_INTERFACE, Netns, Node, Place, wait_until};
use serde_json::{Value, json};
use source_servers::api_server::ApiServer;

use crate::listener::LIMIT;

/// Between two looks at the Nodes; flanneld watches them.
const LOOK: Duration = Duration::from_millis(20);

const PLUGINS: &str = "/usr/lib/cni";

/// How flanneld knows another node.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lease {
    subnet: String,
    mac: String,
    public_ip: String,
}

/// The program on one node; it ends with this value, and leaves everything in the kernel.
pub(super) struct Flanneld {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flanneld {
    /// Starts it, and waits until it has set its node up.
    pub(super) fn start(node: &Node, server: &Arc<ApiServer>) -> Self {
        let (netns, name) = (node.netns().clone(), node.name().to_owned());
        let own = server.node(&name);
        let stored = annotation(&own, "backend-data")
            .and_then(|data| serde_json::from_str::<Value>(&data).ok())
            .map(|data| data["VtepMAC"].as_str().unwrap().to_owned());
        ensure_device(&netns, &node.address().to_string(), stored.as_deref());
        let subnet = own["spec"]["podCIDR"].as_str().unwrap().to_owned();
        let network = subnet.split('/').next().unwrap();
        netns
            .ip(&format!("address replace {network}/32 dev flannel.1\nlink set flannel.1 up\n"))
            .unwrap();
        let mac = super::device_mac(&netns);
        server.annotate(
            &name,
            [
                ("backend-data", format!("{{\"VNI\":1,\"VtepMAC\":\"{mac}\"}}")),
                ("backend-type", "vxlan".to_owned()),
                ("kube-subnet-manager", "true".to_owned()),
                ("public-ip", node.address().to_string()),
            ]
            .map(|(key, value)| (format!("flannel.alpha.coreos.com/{key}"), Some(value))),
        );
        let ended = Arc::new(AtomicBool::new(false));
        let (stop, server, others) = (Arc::clone(&ended), Arc::clone(server), name.clone());
        let ready = Arc::new(AtomicBool::new(false));
        let is_ready = Arc::clone(&ready);
        let thread = thread::spawn(move || {
            let mut known = BTreeMap::new();
            while !stop.load(Ordering::Relaxed) {
                let leases = leases(&server, &others);
                for (node, lease) in &leases {
                    if known.get(node) != Some(lease) {
                        program(&netns, lease);
                    }
                }
                known = leases;
                is_ready.store(true, Ordering::Relaxed);
                thread::sleep(LOOK);
            }
        });
        wait_until(LIMIT, "flanneld to set its node up", || ready.load(Ordering::Relaxed)).unwrap();
        Self { ended, thread: Some(thread) }
    }
}

impl Drop for Flanneld {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn annotation(node: &Value, key: &str) -> Option<String> {
    let value = &node["metadata"]["annotations"][format!("flannel.alpha.coreos.com/{key}")];
    value.as_str().map(str::to_owned)
}

/// The leases of all nodes but `own`; of those of other back ends flanneld takes no notice.
fn leases(server: &ApiServer, own: &str) -> BTreeMap<String, Lease> {
    let nodes = server.nodes().into_iter().filter(|(name, _)| name != own);
    let lease = |node: &Value| {
        let is_ours = annotation(node, "kube-subnet-manager").as_deref() == Some("true")
            && annotation(node, "backend-type").as_deref() == Some("vxlan");
        let data: Value = serde_json::from_str(&annotation(node, "backend-data")?).ok()?;
        is_ours.then(|| Lease {
            subnet: node["spec"]["podCIDR"].as_str().unwrap().to_owned(),
            mac: data["VtepMAC"].as_str().unwrap().to_owned(),
            public_ip: annotation(node, "public-ip").unwrap(),
        })
    };
    nodes.filter_map(|(name, node)| Some((name, lease(&node)?))).collect()
}

/// `ensureLink`: a device of the right kind is used as it is.
fn ensure_device(netns: &Netns, own: &str, mac: Option<&str>) {
    if netns.ip_output(&["link", "show", "flannel.1"]).is_ok() {
        return;
    }
    let mac = mac.map(|mac| format!("address {mac}")).unwrap_or_default();
    netns
        .ip(&format!(
            "link add flannel.1 {mac} mtu 1450 type vxlan id 1 dev {NODE_INTERFACE} local {own} \
             dstport 8472 nolearning\n"
        ))
        .unwrap();
}

/// What flanneld does for a lease that is new or another: ARP, FDB, route, in this order.
fn program(netns: &Netns, lease: &Lease) {
    let Lease { subnet, mac, public_ip } = lease;
    let gateway = subnet.split('/').next().unwrap();
    netns
        .ip(&format!("neighbour replace {gateway} lladdr {mac} dev flannel.1 nud permanent\n"))
        .unwrap();
    let fdb = ["fdb", "replace", mac, "dev", "flannel.1", "dst", public_ip, "self", "permanent"];
    let output = netns.command("bridge").args(fdb).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    netns.ip(&format!("route replace {subnet} via {gateway} dev flannel.1 onlink\n")).unwrap();
}

/// The directories of a node's CNI, as they are under `/etc`, `/run` and `/var/lib` otherwise.
pub(super) struct Cni {
    pub(super) conf_dir: PathBuf,
    pub(super) networks: PathBuf,
    pub(super) subnet_env: PathBuf,
}

impl Cni {
    /// As flannel's DaemonSet leaves them on `node`, under `root`.
    pub(super) fn new(root: &Path, node: u16) -> Self {
        let root = root.join(format!("node{node}"));
        let conf_dir = root.join("net.d");
        fs::create_dir_all(&conf_dir).unwrap();
        let list = json!({
            "name": "cbr0",
            "cniVersion": "0.3.1",
            "plugins": [
                {"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}},
                {"type": "portmap", "capabilities": {"portMappings": true}},
            ],
        });
        fs::write(conf_dir.join("10-flannel.conflist"), list.to_string()).unwrap();
        let subnet_env = root.join("subnet.env");
        let text = format!(
            "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.{node}.1/24\nFLANNEL_MTU=1450\n\
             FLANNEL_IPMASQ=true\n"
        );
        fs::write(&subnet_env, text).unwrap();
        Self { conf_dir, networks: root.join("networks"), subnet_env }
    }

    /// The addresses that host-local holds.
    pub(super) fn held(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(self.networks.join("cbr0")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.parse::<IpAddr>().is_ok()).collect()
    }

    /// Has the stock plugins plug in a pod, as flannel's plugin delegates it to them.
    pub(super) fn add_pod(&self, lab: &Lab, node: u16, pod: u16) -> (Netns, String) {
        let netns = Netns::create(lab.plan().namespace(Place::Pod(node, pod))).unwrap();
        netns.ip("link set lo up\n").unwrap();
        let conf = json!({
            "cniVersion": "0.3.1",
            "name": "cbr0",
            "type": "bridge",
            "mtu": 1450,
            "hairpinMode": true,
            "ipMasq": false,
            "isGateway": true,
            "isDefaultGateway": true,
            "ipam": {
                "type": "host-local",
                "dataDir": self.networks,
                "ranges": [[{"subnet": format!("10.244.{node}.0/24")}]],
                "routes": [{"dst": "10.244.0.0/16"}],
            },
        });
        let mut plugin = lab
            .node(node)
            .netns()
            .command(Path::new(PLUGINS).join("bridge"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("CNI_COMMAND", "ADD")
            .env("CNI_CONTAINERID", format!("node{node}-pod{pod}"))
            .env("CNI_NETNS", netns.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", PLUGINS)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        plugin.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
        let output = plugin.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        let address = result["ips"][0]["address"].as_str().unwrap();
        (netns, address.split('/').next().unwrap().to_owned())
    }
}

/// Calls `culvert migrate flannel` with these words on `node`.
pub(super) fn migrate(node: &Node, cni: &Cni, words: &[&str]) -> (bool, String) {
    let output = node
        .netns()
        .command(env!("CARGO_BIN_EXE_culvert"))
        .args(["migrate", "flannel"])
        .args(words)
        .arg("--conf-dir")
        .arg(&cni.conf_dir)
        .arg("--host-local-dir")
        .arg(&cni.networks)
        .arg("--subnet-env")
        .arg(&cni.subnet_env)
        .arg("--state-dir")
        .arg(node.state_dir())
        .arg("--run-dir")
        .arg(node.run_dir())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

/// A command of the machine, which must succeed.
pub(super) fn run(netns: &Netns, program: &str, arguments: &[&str]) {
    let output: std::process::Output =
        Command::output(netns.command(program).args(arguments)).unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}
