//! Whole nodes, with pods and packets, whose tables come from etcd or Kubernetes.

use std::net::IpAddr;
use std::time::Duration;

use culvert_lab::probe::{self, Ping};
use culvert_lab::{Families, Lab, LabBuilder, Node, Pod, wait_until};
use tempfile::TempDir;

use crate::listener::LIMIT;
use source_servers::Etcd;
use source_servers::api_server::{self, ApiServer};

/// The switch of every lab, which is where the source is.
pub(crate) const SWITCH: &str = "192.168.1.1";

pub(crate) fn switch() -> IpAddr {
    SWITCH.parse().unwrap()
}

pub(crate) fn lab(name: &str) -> LabBuilder {
    Lab::builder(name)
        .culvert(env!("CARGO_BIN_EXE_culvert"))
        .nodes(2)
        .pods(1)
        .families(Families::Ipv4)
        .replace()
}

/// A lab without daemons, and an etcd at its switch. Its nodes come up with [`up`].
pub(crate) fn with_etcd(name: &str, more: &str) -> (Lab, Etcd) {
    let text = format!(
        "[table]\nsource = \"etcd\"\n[etcd]\nendpoints = [\"http://{SWITCH}:2379\"]\n{more}"
    );
    let lab = lab(name).config(text).without_daemons().up().unwrap();
    let etcd = Etcd::start_in(lab.switch(), switch(), Vec::new());
    (lab, etcd)
}

/// A lab without daemons, and an API server at its switch that has its nodes.
pub(crate) fn with_kubernetes(name: &str) -> (Lab, ApiServer, TempDir) {
    let directory = TempDir::with_prefix("culvert-kube-").unwrap();
    let kubeconfig = directory.path().join("kubeconfig");
    let text = format!(
        "[table]\nsource = \"kubernetes\"\n[kubernetes]\nkubeconfig = \"{}\"\n[policy]\nmode = \"off\"\n",
        kubeconfig.display()
    );
    let lab = lab(name).config(text).without_daemons().up().unwrap();
    let server = ApiServer::start_in(lab.switch(), switch());
    std::fs::write(&kubeconfig, server.kubeconfig()).unwrap();
    for number in 1..=2 {
        server.put(api_server::node(number, &format!("10.244.{number}.0/24")));
    }
    (lab, server, directory)
}

/// Starts every daemon, and attaches a pod to each node.
pub(crate) fn up(lab: &Lab) -> (Pod, Pod) {
    for number in 1..=2 {
        lab.node(number).spawn().unwrap();
    }
    for number in 1..=2 {
        lab.node(number).wait_ready().unwrap();
    }
    (lab.add_pod(1).unwrap(), lab.add_pod(2).unwrap())
}

pub(crate) fn answers(from: &Pod, to: &Pod) -> bool {
    let ping = Ping::default().timeout(Duration::from_millis(200));
    probe::ping(from.netns(), to.ipv4(), &ping).unwrap().is_reply()
}

#[track_caller]
pub(crate) fn assert_talk(one: &Pod, two: &Pod) {
    for (from, to) in [(one, two), (two, one)] {
        wait_until(LIMIT, "pods to talk", || answers(from, to)).unwrap();
    }
}

pub(crate) fn table(node: &Node) -> serde_json::Value {
    node.status().unwrap()["table"].clone()
}

#[track_caller]
pub(crate) fn until_current(node: &Node, current: bool) {
    let what = format!("the source of {} to be there: {current}", node.name());
    wait_until(LIMIT, &what, || table(node)["current"] == current).unwrap();
}

/// Waits until `/readyz` answers like this; an answer may be a tenth of a second old.
#[track_caller]
fn until_readyz(node: &Node, is_right: impl Fn(u16, &str) -> bool) {
    let answers = || node.http("/readyz").is_ok_and(|(code, body)| is_right(code, &body));
    wait_until(LIMIT, "the right answer at /readyz", answers).unwrap();
}

#[test]
fn pods_talk_by_a_table_in_etcd_and_go_on_when_it_is_gone() {
    let (lab, mut etcd) = with_etcd("src-etcd", "");
    let (one, two) = up(&lab);
    assert_talk(&one, &two);
    assert!(one.ipv4() != two.ipv4());

    etcd.kill();
    until_current(lab.node(1), false);
    assert_talk(&one, &two);
    until_readyz(lab.node(1), |code, body| code == 200 && body.contains("the source is away"));
    let (_, metrics) = lab.node(1).http("/metrics").unwrap();
    assert!(metrics.contains("culvert_table_current 0"), "{metrics}");
    assert!(table(lab.node(1))["age_seconds"].as_f64().unwrap() > 0.0);

    // A daemon that is killed, and one that is restarted, while nobody knows the table.
    lab.node(1).kill9().unwrap();
    lab.node(1).start().unwrap();
    lab.node(2).restart().unwrap();
    assert_talk(&one, &two);

    etcd.run();
    until_current(lab.node(1), true);
    until_current(lab.node(2), true);
    assert_talk(&one, &two);
    until_readyz(lab.node(1), |code, body| code == 200 && body == "ready\n");
}

#[test]
fn a_node_waits_for_its_first_table_and_says_so() {
    let (lab, mut etcd) = with_etcd("src-first", "");
    etcd.kill();
    let node = lab.node(1);
    node.spawn().unwrap();
    until_readyz(node, |code, body| code == 503 && body.contains("waiting for the subnet table"));
    assert_eq!(node.status().unwrap()["ready"], false);
    etcd.run();
    node.wait_ready().unwrap();
}

#[test]
fn all_nodes_restart_at_once_and_a_lease_is_lost_while_packets_flow() {
    let (lab, etcd) = with_etcd("src-all", "lease_seconds = 5\n");
    let (one, two) = up(&lab);
    let subnets = || [1, 2].map(|number| lab.node(number).status().unwrap()["subnets"].clone());
    let had = subnets();
    for number in 1..=2 {
        lab.node(number).kill9().unwrap();
    }
    for number in 1..=2 {
        lab.node(number).spawn().unwrap();
    }
    for number in 1..=2 {
        lab.node(number).wait_ready().unwrap();
    }
    assert_talk(&one, &two);
    assert_eq!(subnets(), had);

    let leases = |etcd: &Etcd| -> Vec<String> {
        let text = etcd.ctl(&["lease", "list"]);
        text.lines().skip(1).map(|line| line.trim().to_owned()).collect()
    };
    let old = leases(&etcd);
    for lease in &old {
        // One that a killed daemon left may run out meanwhile.
        let _ = etcd.try_ctl(&["lease", "revoke", lease]);
    }
    let claimed = || {
        etcd.keys("/culvert/subnets/").len() == 2
            && leases(&etcd).iter().all(|lease| !old.contains(lease))
    };
    wait_until(LIMIT, "both to claim anew", claimed).unwrap();
    assert_talk(&one, &two);
    assert_eq!(subnets(), had);
}

#[test]
fn a_node_whose_subnet_was_taken_keeps_its_pods_and_takes_no_new_ones() {
    let (lab, etcd) = with_etcd("src-taken", "");
    let (one, two) = up(&lab);
    let own = lab.node(1).status().unwrap()["subnets"][0].as_str().unwrap().to_owned();
    let key = format!("/culvert/subnets/{}", own.replace('/', "-"));
    let mine = etcd.value(&key);
    etcd.put(&key, r#"{"node":"thief","instance":"x","address":"192.168.1.66"}"#);
    let refuses = || {
        let (code, body) = lab.node(1).http("/readyz").unwrap();
        code == 503 && body.contains("node \"thief\" has claimed it")
    };
    wait_until(LIMIT, "the node to be unready", refuses).unwrap();
    assert!(lab.add_pod(1).is_err(), "no new pod gets an address");
    assert!(
        probe::ping(one.netns(), own.replace("0/24", "1").parse().unwrap(), &Ping::default())
            .unwrap()
            .is_reply()
    );
    etcd.put(&key, &mine);
    lab.node(1).wait_ready().unwrap();
    assert_talk(&one, &two);
}

#[test]
fn a_nodes_own_address_changes_and_the_peers_follow() {
    let (lab, _etcd) = with_etcd("src-move", "");
    // Without an address in its configuration a node finds its own by the routes.
    for number in 1..=2 {
        let node = lab.node(number);
        let text = std::fs::read_to_string(node.config_path()).unwrap();
        let mut config: toml::Table = text.parse().unwrap();
        config["underlay"].as_table_mut().unwrap().remove("address");
        std::fs::write(node.config_path(), config.to_string()).unwrap();
    }
    let (one, two) = up(&lab);
    assert_talk(&one, &two);
    let device = culvert_lab::NODE_INTERFACE;
    lab.node(2)
        .netns()
        .ip(&format!(
            "address add 192.168.1.22/24 dev {device}\naddress del 192.168.1.12/24 dev {device}\n\
             address replace 192.168.1.22/24 dev {device}\nroute replace default via {SWITCH}\n"
        ))
        .unwrap();
    let moved = || lab.node(1).status().unwrap()["peers"][0]["address"] == "192.168.1.22";
    wait_until(LIMIT, "the peer to move", moved).unwrap();
    assert_talk(&one, &two);
}

#[test]
fn pods_talk_by_the_nodes_of_a_cluster() {
    let (lab, server, _directory) = with_kubernetes("src-kube");
    let mut tainted = server.node("node1");
    tainted["spec"]["taints"] = serde_json::json!([{"key": "culvert.dev/not-ready"}]);
    server.put(tainted);
    let (one, two) = up(&lab);
    assert_talk(&one, &two);
    let untainted = || server.node("node1")["spec"]["taints"] == serde_json::json!([]);
    wait_until(LIMIT, "the taint to go", untainted).unwrap();
    drop(server);
    until_current(lab.node(1), false);
    lab.node(1).restart().unwrap();
    assert_talk(&one, &two);
}

#[test]
fn a_node_that_got_another_pod_cidr_takes_it_when_its_last_pod_is_gone() {
    let (lab, server, _directory) = with_kubernetes("src-cidr");
    let (one, _two) = up(&lab);
    let node = lab.node(1);
    let other = lab.add_pod(1).unwrap();
    server.put_other(
        api_server::PODS,
        serde_json::json!({
            "metadata": {"namespace": "default", "name": "web"},
            "spec": {"nodeName": "node1"},
            "status": {"podIP": one.ipv4()},
        }),
    );
    let mut changed = server.node("node1");
    changed["spec"] =
        serde_json::json!({"podCIDR": "10.244.9.0/24", "podCIDRs": ["10.244.9.0/24"]});
    server.put(changed);
    let says = |what: &str| {
        let what = what.to_owned();
        until_readyz(node, move |code, body| code == 503 && body.contains(&what));
    };
    says("got another podCIDR while 2 pods");
    node.remove_pod(other.index()).unwrap();
    let named =
        format!("while 1 pods hold addresses of [10.244.1.0/24] ({} of default/web)", one.ipv4());
    says(&named);
    node.remove_pod(one.index()).unwrap();
    node.wait_ready().unwrap();
    assert_eq!(node.status().unwrap()["subnets"][0], "10.244.9.0/24");
    let new = lab.add_pod(1).unwrap();
    assert!(new.ipv4().to_string().starts_with("10.244.9."), "{}", new.ipv4());
}

#[test]
fn a_peer_that_dies_is_an_event_of_the_node_that_noticed() {
    let (lab, server, _directory) = with_kubernetes("src-events");
    let (one, two) = up(&lab);
    assert_talk(&one, &two);
    // Whoever is not known to answer is not missed.
    let state = || lab.node(1).status().unwrap()["peers"][0]["path"]["state"] == "answers";
    wait_until(Duration::from_secs(30), "node2 to answer", state).unwrap();
    lab.node(2).kill9().unwrap();
    let noticed = || {
        // Its kernel refuses what is sent there.
        let _ = answers(&one, &two);
        server.events().iter().any(|event| {
            event["reason"] == "PeerUnreachable"
                && event["involvedObject"]["name"] == "node1"
                && event["message"] == "no answer from node2"
        })
    };
    wait_until(Duration::from_secs(30), "an event", noticed).unwrap();
}
