//! A cluster on flannel comes over node by node, while its pods talk.

mod flanneld;
mod traffic;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use culvert::config::{Config, Overrides};
use culvert::control::source;
use culvert_lab::probe::{self, Ping};
use culvert_lab::{Lab, Netns, wait_until};
use serde_json::json;
use source_servers::api_server::{self, ApiServer};
use tempfile::TempDir;

use self::flanneld::{Cni, Flanneld, migrate, run};
use self::traffic::{Lost, Traffic};
use crate::listener::{LIMIT, Listener};
use crate::nodes::{lab, switch};

const NODES: u16 = 3;

/// Nodes that flannel serves, each with a pod.
struct Cluster {
    lab: Lab,
    server: Arc<ApiServer>,
    flannelds: Vec<Option<Flanneld>>,
    cnis: Vec<Cni>,
    pods: Vec<(Netns, String)>,
    _directory: TempDir,
}

impl Cluster {
    fn up(name: &str) -> Self {
        let directory = TempDir::with_prefix("culvert-flannel-").unwrap();
        let kubeconfig = directory.path().join("kubeconfig");
        let text = format!(
            "[table]\nsource = \"kubernetes\"\n[kubernetes]\nkubeconfig = \"{}\"\n\
             migrate_from = \"flannel\"\n[bridge]\nname = \"cni0\"\n[policy]\nmode = \"off\"\n",
            kubeconfig.display()
        );
        let lab = lab(name).nodes(NODES).config(text).without_daemons().up().unwrap();
        like_a_wire(&lab);
        let server = Arc::new(ApiServer::start_in(lab.switch(), switch()));
        fs::write(&kubeconfig, server.kubeconfig()).unwrap();
        for number in 1..=NODES {
            server.put(api_server::node(number.into(), &format!("10.244.{number}.0/24")));
        }
        let mut flannelds = Vec::new();
        let (mut cnis, mut pods) = (Vec::new(), Vec::new());
        for number in 1..=NODES {
            let node = lab.node(number);
            // Whoever runs flannel has switched it on (the bridge plugin for IPv4, or kubeadm).
            node.netns().set_sysctl("ipv4/ip_forward", "1").unwrap();
            flannelds.push(Some(Flanneld::start(node, &server)));
            let cni = Cni::new(directory.path(), number);
            // A number that the lab gives to none of its own.
            pods.push(cni.add_pod(&lab, number, 9));
            cnis.push(cni);
        }
        Self { lab, server, flannelds, cnis, pods, _directory: directory }
    }

    fn place(node: u16) -> usize {
        usize::from(node) - 1
    }

    /// What each pair of pods says to one another.
    fn talk(&self) -> Vec<Traffic> {
        let pairs = [(0, 1), (1, 2), (2, 0)];
        let start = |(from, to): (usize, usize)| {
            let (to, address) = &self.pods[to];
            Traffic::start(&self.pods[from].0, (to, address))
        };
        pairs.into_iter().map(start).collect()
    }

    /// Takes the node over, as docs/kubernetes.md says.
    fn take_over(&mut self, number: u16) {
        let node = self.lab.node(number);
        self.flannelds[Self::place(number)] = None;
        let (done, said) = migrate(node, &self.cnis[Self::place(number)], &["node", "--apply"]);
        assert!(done, "{said}");
        node.spawn().unwrap();
        node.wait_ready().unwrap();
        let name = format!("node{number}");
        let has_said = || self.annotation(&name, "culvert.dev/codec") == json!("vxlan-gpe");
        wait_until(LIMIT, "the node to say that it has changed", has_said).unwrap();
    }

    /// Gives the node back to flannel, as docs/kubernetes.md says.
    fn go_back(&mut self, number: u16) {
        let (node, name) = (self.lab.node(number), format!("node{number}"));
        let say = |codec: Option<&str>| {
            let ours = ["port", "address", "public-key"].map(|key| (key, None));
            let codec = ("codec", codec.map(str::to_owned));
            let is_gone = codec.1.is_none();
            let all = [codec].into_iter().chain(ours.into_iter().filter(|_| is_gone));
            let all = all.map(|(key, value)| (format!("culvert.dev/{key}"), value));
            self.server.annotate(&name, all.collect::<Vec<_>>());
        };
        say(Some("vxlan"));
        let have_daemons = self.lab.nodes().iter().zip(&self.flannelds);
        let have_daemons = have_daemons.filter(|(_, flanneld)| flanneld.is_none());
        for (other, _) in have_daemons.filter(|(other, _)| other.name() != name) {
            let speaks = || {
                let status = other.status().unwrap();
                let mut peers = status["peers"].as_array().unwrap().iter();
                peers.any(|peer| peer["name"] == *name && peer["codec"] == "vxlan")
            };
            wait_until(LIMIT, "the others to speak VXLAN", speaks).unwrap();
        }
        wait_until(LIMIT, "flannel's device", || is_up(node.netns())).unwrap();
        // Beside the daemon, which goes on sending until flanneld has written its routes.
        self.flannelds[Self::place(number)] = Some(Flanneld::start(node, &self.server));
        let cni = &self.cnis[Self::place(number)];
        let (done, said) = migrate(node, cni, &["back", "--apply"]);
        assert!(!done && said.contains("a daemon serves this network namespace"), "{said}");
        // As flannel's DaemonSet does when it starts.
        let list = cni.conf_dir.join("10-flannel.conflist");
        fs::copy(cni.conf_dir.join("10-flannel.conflist.before-culvert"), &list).unwrap();
        node.stop().unwrap();
        // Of a pod that was deleted since.
        fs::write(cni.networks.join("cbr0/10.244.1.200"), "gone\r\neth0").unwrap();
        self.back(number);
        say(None);
        let left = node.netns().ip_output(&["link", "show", "culvert0"]);
        assert!(left.is_err(), "{left:?}");
        let (held, pod) = (cni.held(), &self.pods[Self::place(number)].1);
        assert!(held.contains(pod), "host-local holds the pod's address: {held:?}");
        assert!(!held.contains("10.244.1.200"), "{held:?}");
    }

    /// Gives files and devices of a node that Culvert has left to flannel.
    fn back(&self, number: u16) {
        let cni = &self.cnis[Self::place(number)];
        let (done, said) = migrate(self.lab.node(number), cni, &["back", "--apply"]);
        assert!(done, "{said}");
        let names = fs::read_dir(&cni.conf_dir).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.collect::<Vec<_>>(), ["10-flannel.conflist"]);
    }

    fn annotation(&self, node: &str, key: &str) -> serde_json::Value {
        self.server.node(node)["metadata"]["annotations"][key].clone()
    }
}

/// Lets the underlay's switch send what a cable would carry: whole datagrams with whole checksums
/// (see `tests/netns/interop/foreign.rs`).
fn like_a_wire(lab: &Lab) {
    for node in lab.nodes() {
        let keys = ["tx", "tx-udp-segmentation", "tx-udp_tnl-segmentation"];
        let keys = keys.iter().chain(&["tx-udp_tnl-csum-segmentation"]);
        let off = keys.flat_map(|key| [*key, "off"]);
        let arguments: Vec<&str> = ["-K", node.name()].into_iter().chain(off).collect();
        run(lab.switch(), "ethtool", &arguments);
    }
}

fn reaches(from: &Netns, address: &str) -> bool {
    let ping = Ping::default().timeout(Duration::from_millis(200));
    probe::ping(from, address.parse().unwrap(), &ping).unwrap().is_reply()
}

fn is_up(netns: &Netns) -> bool {
    netns.ip_output(&["link", "show", "up", "dev", "flannel.1"]).is_ok_and(|text| !text.is_empty())
}

/// The hardware address of flannel's device.
fn device_mac(netns: &Netns) -> String {
    let text = netns.ip_output(&["-json", "link", "show", "flannel.1"]).unwrap();
    let links: serde_json::Value = serde_json::from_str(&text).unwrap();
    links[0]["address"].as_str().unwrap().to_owned()
}

/// For the table of docs/kubernetes.md.
#[expect(clippy::print_stderr, reason = "these figures are what the test is run for by hand")]
fn show(step: &str, Lost { sent, lost, silence }: Lost) {
    eprintln!("| {step} | {lost} of {sent} | {} ms |", silence.as_millis());
}

#[test]
fn nodes_change_one_by_one_while_pods_talk_and_one_goes_back() {
    let mut cluster = Cluster::up("src-flannel");
    let streams = cluster.talk();
    let quiet = Traffic::during(&streams, || thread::sleep(Duration::from_secs(3)));
    show("nothing", quiet);
    for number in 1..=NODES {
        let lost = Traffic::during(&streams, || cluster.take_over(number));
        show(&format!("node {number} of {NODES} comes over"), lost);
        lost.assert_little();
        // Its plugin knows the address of the pod from before, and gives another.
        let pod = cluster.lab.add_pod(number).unwrap();
        assert_ne!(pod.ipv4().to_string(), cluster.pods[Cluster::place(number)].1);
        for (_, address) in &cluster.pods {
            let answers = || reaches(pod.netns(), address);
            wait_until(LIMIT, "an answer from a node of either kind", answers).unwrap();
        }
        let (node, cni) = (cluster.lab.node(number), &cluster.cnis[Cluster::place(number)]);
        let (done, said) = migrate(node, cni, &["node", "--apply"]);
        assert!(!done && said.contains("Culvert's daemon serves this node"), "{said}");
        if number < NODES {
            let (done, said) = migrate(node, cni, &["finish", "--apply"]);
            assert!(!done && said.contains("flannel serves other nodes yet"), "{said}");
            assert!(said.contains(&format!("node{NODES}")), "{said}");
        }
    }
    let status = cluster.lab.node(1).status().unwrap();
    assert_eq!(status["peers"][0]["codec"], "esp", "nodes that have changed seal: {status}");
    let lost = Traffic::during(&streams, || cluster.go_back(1));
    show("node 1 goes back", lost);
    lost.assert_little();
    // Nothing of what host-local has given since is lost if somebody says it twice.
    let (pod, address) = cluster.cnis[0].add_pod(&cluster.lab, 1, 8);
    let before = cluster.cnis[0].held();
    assert!(before.contains(&address), "{before:?}");
    cluster.back(1);
    assert_eq!(cluster.cnis[0].held(), before);
    assert!(reaches(&pod, &cluster.pods[1].1));
    let lost = Traffic::during(&streams, || cluster.take_over(1));
    show("and comes over again", lost);
    lost.assert_little();
    for number in 1..=NODES {
        let (node, cni) = (cluster.lab.node(number), &cluster.cnis[Cluster::place(number)]);
        let lost = Traffic::during(&streams, || {
            let (done, said) = migrate(node, cni, &["finish", "--apply"]);
            assert!(done, "{said}");
        });
        show(&format!("node {number} is finished with"), lost);
        let left = node.netns().ip_output(&["link", "show", "flannel.1"]);
        assert!(left.is_err(), "{left:?}");
        assert!(!cni.subnet_env.exists() && !cni.networks.join("cbr0").exists());
        assert_eq!(fs::read_dir(&cni.conf_dir).unwrap().count(), 0);
    }
    streams.into_iter().for_each(Traffic::stop);
}

/// As after a start of the machine: the bridge is Culvert's own, and so are all pods.
#[test]
fn pods_of_a_bridge_that_culvert_made_outlive_the_way_back() {
    let mut cluster = Cluster::up("src-flanback");
    cluster.flannelds[0] = None;
    let node = cluster.lab.node(1);
    node.netns().ip("link del cni0\n").unwrap();
    cluster.pods[0].0.delete().unwrap();
    fs::remove_file(cluster.cnis[0].networks.join("cbr0").join(&cluster.pods[0].1)).unwrap();
    cluster.take_over(1);
    let (one, two) = (cluster.lab.add_pod(1).unwrap(), cluster.lab.add_pod(1).unwrap());
    cluster.pods[0].1 = one.ipv4().to_string();
    let far = cluster.pods[1].1.clone();
    let talk = || reaches(one.netns(), &far) && reaches(one.netns(), &two.ipv4().to_string());
    wait_until(LIMIT, "answers before", talk).unwrap();
    cluster.go_back(1);
    wait_until(LIMIT, "answers after", talk).unwrap();
    assert!(reaches(one.netns(), "10.244.1.1"), "their gateway");
    // And flannel's plugin takes the bridge as it is.
    let (three, address) = cluster.cnis[0].add_pod(&cluster.lab, 1, 9);
    assert!(![one.ipv4(), two.ipv4()].map(|it| it.to_string()).contains(&address), "{address}");
    assert!(reaches(&three, &far) && reaches(&three, &one.ipv4().to_string()));
}

#[test]
fn flannels_annotations_are_bounded_as_ours_are() {
    let server = ApiServer::start();
    let flannels = |number: u32, address: &str, mac: &str| {
        let mut node = api_server::node(number, &format!("10.244.{number}.0/24"));
        let annotations = &mut node["metadata"]["annotations"];
        for (key, value) in [
            ("kube-subnet-manager", "true"),
            ("backend-type", "vxlan"),
            ("backend-data", &format!("{{\"VNI\":1,\"VtepMAC\":\"{mac}\"}}")),
            ("public-ip", address),
        ] {
            annotations[format!("flannel.alpha.coreos.com/{key}")] = json!(value);
        }
        node
    };
    server.put(api_server::node(1, "10.244.1.0/24"));
    server.put(flannels(2, "192.168.1.12", "aa:00:00:00:00:02"));
    // Another's address, another's hardware address, a group's, an address that is a pod's.
    server.put(flannels(3, "192.168.1.12", "aa:00:00:00:00:03"));
    server.put(flannels(4, "192.168.1.14", "aa:00:00:00:00:02"));
    server.put(flannels(5, "192.168.1.15", "01:00:5e:00:00:01"));
    server.put(flannels(6, "10.244.1.9", "aa:00:00:00:00:06"));
    server.put(flannels(7, "here", "aa:00:00:00:00:07"));
    let directory = TempDir::with_prefix("culvert-flannel-").unwrap();
    let kubeconfig = directory.path().join("kubeconfig");
    fs::write(&kubeconfig, server.kubeconfig()).unwrap();
    let text = format!(
        "[network]\ncidrs = [\"10.244.0.0/16\"]\n[node]\nname = \"node1\"\nstate_dir = \"{}\"\n\
         [table]\nsource = \"kubernetes\"\n[kubernetes]\nkubeconfig = \"{}\"\n\
         migrate_from = \"flannel\"\n",
        directory.path().display(),
        kubeconfig.display()
    );
    let listener = Listener::start(&text);
    let heard = listener.until("every node", |heard| heard.names().len() == 6);
    assert_eq!(heard.proposal.unreadable().len(), 1, "{heard:?}");
    let config = Config::parse(Path::new("test"), &text, &Overrides::default()).unwrap();
    let overlay = source::overlay(source::configured(&config).unwrap(), &config);
    let (members, rejected) = heard.proposal.members(&overlay, "node1").unwrap();
    let peers: Vec<_> = members.peers().map(|peer| peer.name.as_str()).collect();
    assert_eq!(peers, ["node2"]);
    let mut names: Vec<_> = rejected.iter().map(|rejected| rejected.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["node3", "node4", "node5", "node6"]);
}

/// As flannel with `--iface` has it, where nodes have several networks.
#[test]
fn an_address_that_only_flannel_knew_stays_when_nobody_reads_its_annotations() {
    let server = ApiServer::start();
    let mut node = api_server::node(1, "10.244.1.0/24");
    for (key, value) in [
        ("kube-subnet-manager", "true"),
        ("backend-type", "vxlan"),
        ("backend-data", "{\"VNI\":1,\"VtepMAC\":\"aa:00:00:00:00:01\"}"),
        ("public-ip", "192.168.7.11"),
    ] {
        node["metadata"]["annotations"][format!("flannel.alpha.coreos.com/{key}")] = json!(value);
    }
    server.put(node);
    let directory = TempDir::with_prefix("culvert-flannel-").unwrap();
    let kubeconfig = directory.path().join("kubeconfig");
    fs::write(&kubeconfig, server.kubeconfig()).unwrap();
    let text = |more: &str| {
        format!(
            "[network]\ncidrs = [\"10.244.0.0/16\"]\n[node]\nname = \"node1\"\nstate_dir = \
             \"{}\"\n[table]\nsource = \"kubernetes\"\n[kubernetes]\nkubeconfig = \"{}\"\n{more}",
            directory.path().display(),
            kubeconfig.display()
        )
    };
    let own = |text: &str| {
        let listener = Listener::start(text);
        listener.until_names(&["node1"]);
        listener.ready(true);
        let said =
            || server.node("node1")["metadata"]["annotations"]["culvert.dev/codec"].is_string();
        wait_until(LIMIT, "what the node says", said).unwrap();
        let heard = listener.until_names(&["node1"]);
        let config = Config::parse(Path::new("test"), text, &Overrides::default()).unwrap();
        let overlay = source::overlay(source::configured(&config).unwrap(), &config);
        heard.proposal.members(&overlay, "node1").unwrap().0.local().address.to_string()
    };
    assert_eq!(own(&text("migrate_from = \"flannel\"\n")), "192.168.7.11");
    assert_eq!(own(&text("")), "192.168.7.11", "after the change");
}

#[test]
fn a_node_that_flannel_never_served_writes_its_annotations_once_it_is_ready() {
    let server = ApiServer::start();
    server.put(api_server::node(1, "10.244.1.0/24"));
    let directory = TempDir::with_prefix("culvert-flannel-").unwrap();
    let kubeconfig = directory.path().join("kubeconfig");
    fs::write(&kubeconfig, server.kubeconfig()).unwrap();
    let text = format!(
        "[network]\ncidrs = [\"10.244.0.0/16\"]\n[node]\nname = \"node1\"\nstate_dir = \"{}\"\n\
         [table]\nsource = \"kubernetes\"\n[kubernetes]\nkubeconfig = \"{}\"\n\
         migrate_from = \"flannel\"\n",
        directory.path().display(),
        kubeconfig.display()
    );
    let listener = Listener::start(&text);
    listener.until_names(&["node1"]);
    let said = |key: &str| server.node("node1")["metadata"]["annotations"][key].clone();
    assert_eq!(said("culvert.dev/codec"), json!(null), "nobody is to speak with it yet");
    listener.ready(true);
    let has_said = || said("flannel.alpha.coreos.com/kube-subnet-manager") == "true";
    wait_until(LIMIT, "flannel's annotations", has_said).unwrap();
    assert_eq!(said("culvert.dev/codec"), "vxlan-gpe");
    assert_eq!(said("flannel.alpha.coreos.com/public-ip"), "192.168.1.11");
    // The address is worked out by hand from docs/wire-format.md.
    assert_eq!(
        said("flannel.alpha.coreos.com/backend-data"),
        "{\"VNI\":1,\"VtepMAC\":\"02:ce:c0:a8:01:0b\"}"
    );
    // What an operator writes for the way back stays.
    server.annotate("node1", [("culvert.dev/codec".to_owned(), Some("vxlan".to_owned()))]);
    listener.reload();
    listener.until("another look", |heard| heard.snapshots > 1);
    assert_eq!(said("culvert.dev/codec"), "vxlan");
}
