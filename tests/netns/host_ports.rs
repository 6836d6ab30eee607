//! Ports of the node that lead to a pod, opened by our plugin alone: from where they are reached,
//! who the pod sees calling, and what brings them back.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use culvert_lab::{Lab, Netns, Node, Pod, wait_until};
use serde_json::{Value, json};

use crate::chained::{call_from, serve};
use crate::harness::{FAMILIES, REPAIR_LIMIT, SOON, lab, quick_ping, run};

/// Port of the node, and the pod's behind it.
const HOST_PORT: u16 = 8080;
const POD_PORT: u16 = 80;

/// How long a datagram may take on a busy machine before it is sent again.
const DATAGRAM_LIMIT: Duration = Duration::from_millis(200);

fn web() -> Value {
    json!([{"hostPort": HOST_PORT, "containerPort": POD_PORT, "protocol": "tcp"}])
}

/// Attaches `pod` anew, with its addresses, and these ports of its node.
fn open(node: &Node, pod: &Pod, ports: &Value) -> Value {
    node.cni("DEL", pod).unwrap();
    let runtime = wanted(pod, ports);
    node.cni_with("ADD", pod, &runtime).unwrap()
}

fn wanted(pod: &Pod, ports: &Value) -> Value {
    let addresses = FAMILIES.map(|family| pod.address(family).to_string());
    json!({ "ips": addresses, "portMappings": ports })
}

/// The address of the node's bridge in the family of `node`.
fn bridge(lab: &Lab, node: IpAddr) -> String {
    let mut subnets = lab.node(1).subnets().iter();
    let subnet = subnets.find(|subnet| subnet.addr().is_ipv4() == node.is_ipv4()).unwrap();
    culvert_node::node_file::gateway(subnet).addr().to_string()
}

/// The address that `from` has when it calls `to`.
pub(crate) fn source_toward(from: &Netns, to: IpAddr) -> IpAddr {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = from.run(|| UdpSocket::bind(any)).unwrap().unwrap();
    socket.connect((to, HOST_PORT)).unwrap();
    socket.local_addr().unwrap().ip()
}

fn is_closed(from: &Netns, address: IpAddr) -> bool {
    call_from(from, address, HOST_PORT).is_err()
}

#[test]
fn port_is_reached_from_everywhere_and_the_pod_sees_who_calls() {
    let lab = lab("nt-ports").pods(2).up().unwrap();
    let (node, pod, near, far) = (lab.node(1), lab.pod(1, 1), lab.pod(1, 2), lab.pod(2, 1));
    open(node, &pod, &web());
    serve(pod.netns(), POD_PORT);
    for family in FAMILIES {
        let address = node.address_in(family);
        let seen: IpAddr = call_from(lab.switch(), address, HOST_PORT).unwrap().parse().unwrap();
        assert_eq!(seen, source_toward(lab.switch(), address), "who is outside comes as he is");
        // A pod leaves the cluster network on its way to a node, so it comes as its own node.
        let seen = call_from(far.netns(), address, HOST_PORT).unwrap();
        assert_eq!(seen, lab.node(2).address_in(family).to_string());
        assert_eq!(call_from(node.netns(), address, HOST_PORT).unwrap(), address.to_string());
        // Pods of the node seem to be the bridge: else they would be answered past the node.
        let bridge = bridge(&lab, address);
        for own in [&near, &pod] {
            assert_eq!(call_from(own.netns(), address, HOST_PORT).unwrap(), bridge);
        }
        // The bridge's address is one of the node's, too.
        let gateway = bridge.parse().unwrap();
        assert_eq!(call_from(near.netns(), gateway, HOST_PORT).unwrap(), bridge);
        let seen = call_from(far.netns(), gateway, HOST_PORT).unwrap();
        assert_eq!(seen, far.address(family).to_string(), "through the tunnel nothing changes");
        // Whoever calls the pod itself is not concerned.
        let own = pod.address(family);
        let seen = call_from(near.netns(), own, POD_PORT).unwrap();
        assert_eq!(seen, near.address(family).to_string());
        assert!(is_closed(near.netns(), far.address(family)), "another's port of that number");
    }
    let localhost = Ipv4Addr::LOCALHOST.into();
    let seen = call_from(node.netns(), localhost, HOST_PORT).unwrap();
    assert_eq!(seen, bridge(&lab, localhost));
    let began = culvert_lab::clock::now();
    assert!(is_closed(node.netns(), "::1".parse().unwrap()), "IPv6 has nothing of the kind");
    assert!(began.elapsed() < SOON / 2, "it is refused, and nobody waits");
    node.cni("DEL", &pod).unwrap();
    for from in [lab.switch(), node.netns(), near.netns()] {
        assert!(is_closed(from, node.address()), "the port went with the pod");
    }
}

#[test]
fn two_pods_have_one_port_by_two_addresses_and_each_its_own_by_protocol() {
    let lab = lab("nt-portpair").pods(2).up().unwrap();
    let (node, one, two) = (lab.node(1), lab.pod(1, 1), lab.pod(1, 2));
    let with = |address: IpAddr| json!([{"hostPort": HOST_PORT, "containerPort": POD_PORT, "hostIP": address}]);
    open(node, &one, &with(Ipv4Addr::LOCALHOST.into()));
    open(node, &two, &with(node.address()));
    for (pod, port) in [(&one, POD_PORT), (&two, POD_PORT)] {
        serve(pod.netns(), port);
    }
    // Which of them answers is seen by whom it lets go: without the other it is the one.
    let localhost = Ipv4Addr::LOCALHOST.into();
    call_from(node.netns(), localhost, HOST_PORT).unwrap();
    call_from(lab.switch(), node.address(), HOST_PORT).unwrap();
    node.cni("DEL", &one).unwrap();
    assert!(is_closed(node.netns(), localhost), "this one was the first pod's");
    call_from(lab.switch(), node.address(), HOST_PORT).unwrap();
    node.cni("DEL", &two).unwrap();
    assert!(is_closed(lab.switch(), node.address()));
}

/// Sends a datagram to `to` until an answer comes, by one socket: one flow for the kernel.
fn eventually_answered(socket: &UdpSocket, to: SocketAddr) -> String {
    let mut text = [0; 64];
    let mut len = 0;
    wait_until(SOON, "an answer to a datagram", || {
        let _refused = socket.send_to(b"?", to);
        match socket.recv(&mut text) {
            Ok(read) => {
                len = read;
                true
            }
            Err(_) => false,
        }
    })
    .unwrap();
    String::from_utf8_lossy(&text[..len]).into_owned()
}

/// Answers datagrams with `name`.
fn serve_datagrams(netns: &Netns, port: u16, name: &'static str) {
    let socket = netns.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))).unwrap().unwrap();
    // Ends with the test's process.
    std::thread::spawn(move || {
        let mut byte = [0; 8];
        while let Ok((_, from)) = socket.recv_from(&mut byte) {
            let _ = socket.send_to(name.as_bytes(), from);
        }
    });
}

#[test]
fn datagrams_that_never_cease_reach_the_pod_that_comes_and_then_the_next() {
    let lab = lab("nt-portudp").pods(2).up().unwrap();
    let (node, one, two) = (lab.node(1), lab.pod(1, 1), lab.pod(1, 2));
    let ports = json!([{"hostPort": 5353, "containerPort": 53, "protocol": "UDP"}]);
    let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
    let socket = lab.switch().run(bind).unwrap().unwrap();
    socket.set_read_timeout(Some(DATAGRAM_LIMIT)).unwrap();
    let to = SocketAddr::new(node.address(), 5353);
    // The kernel has decided about this flow before there is a pod.
    socket.send_to(b"?", to).unwrap();
    open(node, &one, &ports);
    serve_datagrams(one.netns(), 53, "one");
    assert_eq!(eventually_answered(&socket, to), "one");
    node.cni("DEL", &one).unwrap();
    let _nobody = socket.send_to(b"?", to);
    open(node, &two, &ports);
    serve_datagrams(two.netns(), 53, "two");
    assert_eq!(eventually_answered(&socket, to), "two");
}

#[test]
fn ports_come_back_whatever_is_removed_and_go_with_a_pod_that_had_no_del() {
    let lab = lab("nt-portback").pods(2).up().unwrap();
    let (node, pod) = (lab.node(1), lab.pod(1, 1));
    open(node, &pod, &web());
    serve(pod.netns(), POD_PORT);
    let reached = || call_from(lab.switch(), node.address(), HOST_PORT).is_ok();
    let local = || call_from(node.netns(), Ipv4Addr::LOCALHOST.into(), HOST_PORT).is_ok();
    let listed = || run(node.netns(), "nft", &["list", "table", "inet", "culvert-host-ports"]);
    let before = listed();
    for command in [
        "flush ruleset",
        "delete table inet culvert-host-ports",
        "flush map inet culvert-host-ports ports",
        "flush chain inet culvert-host-ports guard",
        "flush chain inet culvert-host-ports prerouting",
        "add table inet culvert-host-ports { flags dormant; }",
    ] {
        run(node.netns(), "nft", &[command]);
        wait_until(REPAIR_LIMIT, command, || listed_as(node.netns(), &before)).unwrap();
        assert!(reached() && local(), "after {command}");
    }
    // The bridge is made anew, and with it goes its parameter.
    run(node.netns(), "ip", &["link", "del", "v-net-0"]);
    wait_until(REPAIR_LIMIT, "the port without its bridge", || reached() && local()).unwrap();
    // A daemon that was killed, and what somebody removed meanwhile.
    node.kill9().unwrap();
    assert!(reached(), "nobody needs the daemon for it");
    run(node.netns(), "nft", &["delete table inet culvert-host-ports"]);
    node.start().unwrap();
    wait_until(REPAIR_LIMIT, "the port of the next daemon", || reached() && local()).unwrap();
    // The pod goes, and nobody says so.
    run(node.netns(), "ip", &["link", "del", &device(node)]);
    let files = || fs::read_dir(node.run_dir().join("host-ports")).unwrap().count();
    wait_until(REPAIR_LIMIT, "the file to go", || files() == 0).unwrap();
    wait_until(REPAIR_LIMIT, "the rules to go", || !listed().contains("chain culv")).unwrap();
}

/// Whether the table is there with the same rules and elements.
fn listed_as(netns: &Netns, expected: &str) -> bool {
    let arguments = ["list", "table", "inet", "culvert-host-ports"];
    let output = netns.command("nft").args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout) == expected
}

/// The node's end of the cable of the one pod that has ports.
fn device(node: &Node) -> String {
    let mut files = fs::read_dir(node.run_dir().join("host-ports")).unwrap();
    let name = files.next().unwrap().unwrap().file_name().into_string().unwrap();
    name.trim_end_matches(".json").to_owned()
}

#[test]
fn no_pod_reaches_what_listens_at_localhost_though_answers_to_it_pass() {
    let lab = lab("nt-portguard").pods(2).up().unwrap();
    let (node, pod, near) = (lab.node(1), lab.pod(1, 1), lab.pod(1, 2));
    open(node, &pod, &web());
    let local = node.netns().run(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 7777)));
    let local = local.unwrap().unwrap();
    local.set_read_timeout(Some(SOON)).unwrap();
    // The pod is root in its namespace, and sends such a packet by the bridge.
    near.netns().set_sysctl("ipv4/conf/eth0/route_localnet", "1").unwrap();
    run(near.netns(), "ip", &["addr", "del", "127.0.0.1/8", "dev", "lo"]);
    let gateway = bridge(&lab, node.address());
    run(near.netns(), "ip", &["route", "add", "127.0.0.0/8", "via", &gateway]);
    let source = near.ipv4();
    let evil = near.netns().run(|| {
        let socket = UdpSocket::bind((source, 0))?;
        socket.send_to(b"evil", (Ipv4Addr::LOCALHOST, 7777))
    });
    evil.unwrap().unwrap();
    let dropped = || run(node.netns(), "nft", &["list chain inet culvert-host-ports guard"]);
    wait_until(SOON, "the guard to count it", || dropped().contains("packets 1 ")).unwrap();
    let good = node.netns().run(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))).unwrap().unwrap();
    good.send_to(b"good", (Ipv4Addr::LOCALHOST, 7777)).unwrap();
    let mut text = [0; 8];
    let read = local.recv(&mut text).unwrap();
    assert_eq!(&text[..read], b"good", "nothing came before it");
}

/// Whoever may make pods may not take the network of all others, nor answer for their node.
#[test]
fn port_of_the_daemon_is_refused_and_stays_the_daemons() {
    for (name, sealed) in [("nt-ports-tunnel", false), ("nt-ports-sealed", true)] {
        let mut builder = lab(name).pods(1);
        if sealed {
            builder = builder.sealed("require");
        }
        let lab = builder.up().unwrap();
        let (node, pod, far) = (lab.node(1), lab.pod(1, 1), lab.pod(2, 1));
        let tunnel = if sealed { 4500 } else { 4790 };
        node.cni("DEL", &pod).unwrap();
        for (port, protocol) in [(tunnel, "udp"), (4791, "tcp")] {
            let ports = json!([{"hostPort": port, "containerPort": 9, "protocol": protocol}]);
            let refused = node.cni_with("ADD", &pod, &wanted(&pod, &ports)).unwrap_err();
            let refused = format!("{refused:#}");
            assert!(refused.contains(&format!("{port}/{protocol}")), "{refused}");
            assert!(refused.contains("ask for another port"), "{refused}");
        }
        // The same numbers of the other protocol are anybody's.
        let others = [(tunnel, "tcp"), (4791, "udp")].map(
            |(port, protocol)| json!({"hostPort": port, "containerPort": 9, "protocol": protocol}),
        );
        open(node, &pod, &json!(others));
        node.restart().unwrap();
        for (from, to) in [(&pod, &far), (&far, &pod)] {
            wait_until(SOON, "pods to reach each other", || {
                quick_ping(from.netns(), to.ipv4()).is_reply()
            })
            .unwrap();
        }
    }
}
