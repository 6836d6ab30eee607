//! Stock plugins behind ours, called as a runtime calls a list: ports of the node that lead to a
//! pod, a limit on its rate, a firewall, and kernel parameters.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use culvert_lab::{Families, Lab, Netns, Node, Pod};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{CULVERT, FAMILIES, lab, run};

/// Where Debian has the stock plugins.
const STOCK: &str = "/usr/lib/cni";

/// Port of the node, and the pod's behind it.
const HOST_PORT: u16 = 8080;
const POD_PORT: u16 = 80;

/// How long a connection may take on a busy machine.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// A pod that a list of plugins attaches, and unplugs when the value is dropped.
struct Chained<'a> {
    node: &'a Node,
    netns: Netns,
    list: Vec<Value>,
    result: Value,
    /// Where stock plugins look for programs; where this process does, unless set.
    path: Option<PathBuf>,
    _state: TempDir,
}

impl<'a> Chained<'a> {
    /// Attaches a pod to node 1 of `lab` by our plugin and those of `chain`.
    fn attach(lab: &'a Lab, chain: impl FnOnce(&Path) -> Vec<Value>) -> Self {
        Self::attach_with(lab, &json!({}), chain)
    }

    /// The same, with this `runtimeConfig` for ours.
    fn attach_with(lab: &'a Lab, runtime: &Value, chain: impl FnOnce(&Path) -> Vec<Value>) -> Self {
        let node = lab.node(1);
        let netns = Netns::create(format!("{}-chained", lab.plan().name)).unwrap();
        let state = TempDir::new().unwrap();
        let mut list = vec![node.cni_config()];
        list[0]["runtimeConfig"] = runtime.clone();
        list.extend(chain(state.path()));
        let mut chained =
            Self { node, netns, list, result: Value::Null, path: None, _state: state };
        for place in 0..chained.list.len() {
            chained.result = chained.call("ADD", place).unwrap();
        }
        chained
    }

    /// Calls one plugin of the list, with the result so far.
    fn call(&self, verb: &str, place: usize) -> Result<Value, String> {
        let mut config = self.list[place].clone();
        config["cniVersion"] = json!("1.0.0");
        config["name"] = self.list[0]["name"].clone();
        if !self.result.is_null() {
            config["prevResult"] = self.result.clone();
        }
        let program = match config["type"].as_str() {
            Some("culvert-cni") => Path::new(CULVERT).with_file_name("culvert-cni"),
            Some(stock) => PathBuf::from(STOCK).join(stock),
            None => panic!("a plugin has a type: {config}"),
        };
        let mut command = self.node.netns().command("env");
        command.args(self.path.iter().map(|path| format!("PATH={}", path.display())));
        let mut child = command
            .arg(&program)
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", self.netns.name())
            .env("CNI_NETNS", self.netns.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", STOCK)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{} {verb}: {said} {stderr}", program.display()));
        }
        Ok(serde_json::from_str(&said).unwrap_or(Value::Null))
    }

    fn check(&self) {
        for place in 0..self.list.len() {
            self.call("CHECK", place).unwrap();
        }
    }

    fn detach(&self) {
        for place in (0..self.list.len()).rev() {
            self.call("DEL", place).unwrap();
        }
    }

    fn address(&self, of: &dyn Fn(&IpAddr) -> bool) -> IpAddr {
        let ips = self.result["ips"].as_array().unwrap();
        let mut addresses = ips.iter().map(|ip| {
            let (address, _) = ip["address"].as_str().unwrap().split_once('/').unwrap();
            address.parse().unwrap()
        });
        addresses.find(|address| of(address)).unwrap()
    }

    fn serve(&self) {
        serve(&self.netns, POD_PORT);
    }
}

/// Answers each caller of a port inside `netns` with the address that it seems to have.
pub(crate) fn serve(netns: &Netns, port: u16) {
    for any in [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)] {
        let bind = || {
            let domain = socket2::Domain::for_address(SocketAddr::new(any, 0));
            let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
            if any.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            socket.bind(&SocketAddr::new(any, port).into())?;
            socket.listen(16)?;
            Ok::<_, std::io::Error>(TcpListener::from(socket))
        };
        let listener = netns.run(bind).unwrap().unwrap();
        // Ends with the test's process.
        thread::spawn(move || {
            while let Ok((mut stream, caller)) = listener.accept() {
                let _ = stream.write_all(caller.ip().to_string().as_bytes());
            }
        });
    }
}

impl Drop for Chained<'_> {
    fn drop(&mut self) {
        for place in (0..self.list.len()).rev() {
            let _ = self.call("DEL", place);
        }
        let _ = self.netns.delete();
    }
}

/// Calls `address`, and says whom the pod saw calling.
pub(crate) fn call_from(from: &Netns, address: IpAddr, port: u16) -> std::io::Result<String> {
    let target = SocketAddr::new(address, port);
    let mut stream = from.run(|| TcpStream::connect_timeout(&target, CONNECT_LIMIT)).unwrap()?;
    stream.set_read_timeout(Some(CONNECT_LIMIT))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// The address of the bridge in one family.
fn node_bridge(pod: &Chained<'_>, is_ipv6: bool) -> String {
    let ips = pod.result["ips"].as_array().unwrap();
    let mut gateways = ips.iter().map(|ip| ip["gateway"].as_str().unwrap());
    gateways.find(|gateway| gateway.contains(':') == is_ipv6).unwrap().to_owned()
}

fn portmap() -> Value {
    let tcp = json!({"hostPort": HOST_PORT, "containerPort": POD_PORT, "protocol": "tcp"});
    json!({
        "type": "portmap",
        "snat": true,
        "capabilities": {"portMappings": true},
        "runtimeConfig": {"portMappings": [tcp]},
    })
}

#[test]
fn host_port_is_reached_from_outside_and_from_a_pod_of_another_node() {
    let lab = lab("nt-hostport").up().unwrap();
    let pod = Chained::attach(&lab, |_| vec![portmap()]);
    pod.serve();
    pod.call("CHECK", 0).unwrap();
    // Up to 1.2, portmap looks for the rules of each family among those of the other, too
    // (containernetworking/plugins, issue 819).
    if let Err(error) = pod.call("CHECK", 1) {
        assert!(error.contains("could not check ipv6 dnat"), "{error}");
    }
    let near: Pod = lab.pod(1, 1);
    let far: Pod = lab.pod(2, 1);
    for family in FAMILIES {
        let node = lab.node(1).address_in(family);
        let seen: IpAddr = call_from(lab.switch(), node, HOST_PORT).unwrap().parse().unwrap();
        assert_eq!(seen.is_ipv6(), node.is_ipv6());
        assert_ne!(seen, node, "the pod sees who calls");
        // A pod leaves the cluster network on its way to a node, so it comes as its own node.
        let seen = call_from(far.netns(), node, HOST_PORT).unwrap();
        assert_eq!(seen, lab.node(2).address_in(family).to_string());
        // From the node's own pods it is reached by way of the bridge, whose address they seem to
        // have: else the answers would not come back through the node. The pod is one of them.
        let bridge = node_bridge(&pod, node.is_ipv6());
        assert_eq!(call_from(near.netns(), node, HOST_PORT).unwrap(), bridge);
        assert_eq!(call_from(&pod.netns, node, HOST_PORT).unwrap(), bridge);
        // The pod itself keeps its port.
        let own = pod.address(&|address| address.is_ipv6() == node.is_ipv6());
        let seen = call_from(far.netns(), own, POD_PORT).unwrap();
        assert_eq!(seen, far.address(family).to_string());
    }
    pod.detach();
    let node = lab.node(1).address();
    assert!(call_from(lab.switch(), node, HOST_PORT).is_err(), "the port went with the pod");
}

#[test]
fn port_that_two_plugins_open_is_translated_once() {
    let lab = lab("nt-hostboth").up().unwrap();
    let ours = portmap()["runtimeConfig"].clone();
    let pod = Chained::attach_with(&lab, &ours, |_| vec![portmap()]);
    pod.serve();
    for family in FAMILIES {
        let node = lab.node(1).address_in(family);
        let seen = call_from(lab.pod(2, 1).netns(), node, HOST_PORT).unwrap();
        assert_eq!(seen, lab.node(2).address_in(family).to_string());
        let bridge = node_bridge(&pod, node.is_ipv6());
        assert_eq!(call_from(&pod.netns, node, HOST_PORT).unwrap(), bridge);
    }
    let localhost = Ipv4Addr::LOCALHOST.into();
    assert_eq!(
        call_from(lab.node(1).netns(), localhost, HOST_PORT).unwrap(),
        node_bridge(&pod, false)
    );
    pod.detach();
    assert!(call_from(lab.switch(), lab.node(1).address(), HOST_PORT).is_err());
}

#[test]
fn portmaps_own_check_finds_what_it_made_where_it_looks_in_one_family_only() {
    let lab = lab("nt-portcheck").nodes(1).families(Families::Ipv4).up().unwrap();
    let mut pod = Chained::attach(&lab, |_| vec![portmap()]);
    let node = lab.node(1).netns();
    let only = TempDir::new().unwrap();
    let found = run(node, "bash", &["-c", "command -v iptables"]);
    std::os::unix::fs::symlink(found.trim(), only.path().join("iptables")).unwrap();
    pod.path = Some(only.path().to_owned());
    pod.check();
    run(node, "iptables", &["-t", "nat", "-F"]);
    let error = pod.call("CHECK", 1).unwrap_err();
    assert!(error.contains("dnat"), "{error}");
    pod.path = None;
}

#[test]
fn bandwidth_firewall_and_tuning_work_behind_ours_and_leave_nothing() {
    let lab = lab("nt-chain").up().unwrap();
    let node = lab.node(1).netns();
    let before = run(node, "ip", &["-brief", "link"]);
    let pod = Chained::attach(&lab, |state| {
        let rate = json!({
            "ingressRate": 800_000_000, "ingressBurst": 80_000_000,
            "egressRate": 800_000_000, "egressBurst": 80_000_000,
        });
        vec![
            json!({"type": "bandwidth", "runtimeConfig": {"bandwidth": rate}}),
            json!({"type": "firewall", "backend": "iptables"}),
            json!({
                "type": "tuning", "dataDir": state.join("tuning"),
                "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"},
            }),
        ]
    });
    pod.check();
    let port = pod.result["interfaces"][1]["name"].as_str().unwrap();
    let shaped = run(node, "tc", &["qdisc", "show", "dev", port]);
    assert!(shaped.contains("tbf") && shaped.contains("ingress"), "{shaped}");
    let own = pod.address(&|address| address.is_ipv4());
    let rules = run(node, "iptables-save", &["-t", "filter"]);
    assert!(rules.contains(&format!("-s {own}/32 -j ACCEPT")), "{rules}");
    let path = "/proc/sys/net/ipv4/conf/eth0/arp_filter";
    let set = pod.netns.run(|| fs::read_to_string(path)).unwrap().unwrap();
    assert_eq!(set.trim(), "1");

    pod.serve();
    let far = lab.pod(2, 1);
    assert_eq!(call_from(far.netns(), own, POD_PORT).unwrap(), far.ipv4().to_string());

    pod.detach();
    assert_eq!(run(node, "ip", &["-brief", "link"]), before);
    let rules = run(node, "iptables-save", &["-t", "filter"]);
    assert!(!rules.contains(&own.to_string()), "{rules}");
}
