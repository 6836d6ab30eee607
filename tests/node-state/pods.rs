//! Pods on a reconciled node: their cables, their MTU, and what address others see.

use std::net::UdpSocket;
use std::thread;
use std::time::Duration;

use culvert_dataplane::platform::udp::SOCKET_MARK;
use culvert_lab::clock;
use socket2::SockRef;

use crate::node::{Namespace, Node, inside, ip, this_namespace};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Plugs a pod, which lives in the namespace `pod`, into the node of this thread as the plugin
/// does.
fn plug(pod: &str, port: &str, address: &str) {
    ip(&format!("link add {port} mtu 1464 type veth peer name eth0 mtu 1464 netns {pod}"));
    ip(&format!("link set {port} master v-net-0 up"));
    ip(&format!("-n {pod} link set eth0 up"));
    ip(&format!("-n {pod} addr add {address} dev eth0"));
    ip(&format!("-n {pod} route add default via 10.244.1.1"));
}

/// Answers every datagram to `address`, in this thread's namespace, with the source it came from.
fn answer_at(address: &str) {
    let socket = UdpSocket::bind(address).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_len, source)) = socket.recv_from(&mut buffer) {
            let _unreachable = socket.send_to(source.ip().to_string().as_bytes(), source);
        }
    });
}

/// The source address that whoever answers at `address` sees of the namespace `from`.
fn seen(from: &str, address: &'static str) -> Option<String> {
    inside(from, move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(b"who am I", address).unwrap();
        let mut buffer = [0; 64];
        let len = socket.recv(&mut buffer).ok()?;
        String::from_utf8(buffer[..len].to_vec()).ok()
    })
}

#[test]
fn deleted_bridge_comes_back_with_its_pods() {
    let pod_namespace = Namespace::new("replug-pod");
    let pod = pod_namespace.name().to_owned();
    Namespace::new("replug").run(async move || {
        let mut node = Node::ready();
        plug(&pod, "culv1a2b3c4d", "10.244.1.2/24");
        node.reconcile();
        answer_at("0.0.0.0:7");
        assert_eq!(seen(&pod, "10.244.1.1:7").as_deref(), Some("10.244.1.2"));
        ip("link del v-net-0");
        let done = node.reconcile();
        assert!(done.contains(&"plug culv1a2b3c4d into v-net-0".to_owned()), "{done:#?}");
        assert!(ip("-d link show dev culv1a2b3c4d").contains("hairpin on"));
        assert_eq!(seen(&pod, "10.244.1.1:7").as_deref(), Some("10.244.1.2"));
        assert_eq!(node.reconcile(), [""; 0]);
    });
}

#[test]
fn pod_learns_of_a_lowered_mtu_and_is_not_cut_off() {
    let pod_namespace = Namespace::new("lower-pod");
    let pod = pod_namespace.name().to_owned();
    Namespace::new("lower").run(async move || {
        let mut node = Node::ready();
        plug(&pod, "culv1a2b3c4d", "10.244.1.2/24");
        node.reconcile();
        node.spec.mtu = 1400;
        node.reconcile();
        // 1436 bytes of payload, 8 of UDP and 20 of IP: as much as the pod's own end carries.
        let deadline = clock::now() + 5 * PATIENCE;
        while !ip(&format!("-n {pod} route get 10.244.2.9")).contains("mtu 1400") {
            assert!(clock::now() < deadline, "the pod was never told");
            inside(&pod, || {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                let _too_big = socket.send_to(&[0; 1436], "10.244.2.9:7");
            });
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        node.spec.mtu = 1500;
        node.reconcile();
        assert!(ip("link show dev culv1a2b3c4d").contains("mtu 1500"));
    });
}

#[test]
fn only_traffic_that_leaves_the_cluster_is_masqueraded() {
    let namespaces = [Namespace::new("masq-pod"), Namespace::new("masq-out")];
    let [pod, outside] = namespaces.each_ref().map(|each| each.name().to_owned());
    Namespace::new("masq").run(async move || {
        let mut node = Node::ready();
        plug(&pod, "culv1a2b3c4d", "10.244.1.2/24");
        node.reconcile();
        ip(&format!("link add eth9 type veth peer name eth0 netns {outside}"));
        ip("addr add 192.168.1.11/24 dev eth9");
        ip("link set eth9 up");
        ip(&format!("-n {outside} link set eth0 up"));
        ip(&format!("-n {outside} addr add 192.168.1.9/24 dev eth0"));
        ip(&format!("-n {outside} route add 10.244.1.0/24 via 192.168.1.11"));
        inside(&outside, || answer_at("0.0.0.0:7"));
        // Another node's pod, reached without the tunnel.
        ip(&format!("-n {outside} addr add 10.244.5.5/32 dev eth0"));
        ip("route add 10.244.5.5 dev eth9");

        assert_eq!(seen(&pod, "192.168.1.9:7").as_deref(), Some("192.168.1.11"));
        assert_eq!(seen(&pod, "10.244.5.5:7").as_deref(), Some("10.244.1.2"));
        node.spec.masquerade = false;
        node.reconcile();
        assert_eq!(seen(&pod, "192.168.1.9:7").as_deref(), Some("10.244.1.2"));
    });
}

#[test]
fn tunnel_datagrams_are_not_tracked_and_pods_send_none() {
    let namespaces = [Namespace::new("track-pod"), Namespace::new("track-peer")];
    let [pod, peer] = namespaces.each_ref().map(|each| each.name().to_owned());
    Namespace::new("track").run(async move || {
        let mut node = Node::ready();
        plug(&pod, "culv1a2b3c4d", "10.244.1.2/24");
        node.reconcile();
        ip(&format!("link add eth9 type veth peer name eth0 netns {peer}"));
        ip("addr add 192.168.1.11/24 dev eth9");
        ip("link set eth9 up");
        ip(&format!("-n {peer} link set eth0 up"));
        ip(&format!("-n {peer} addr add 192.168.1.12/24 dev eth0"));

        // To another pod's port of that number a pod talks as to any other.
        ip(&format!("-n {peer} addr add 10.244.5.5/32 dev eth0"));
        ip(&format!("-n {peer} route add 10.244.1.0/24 dev eth0"));
        ip("route add 10.244.5.5 dev eth9");
        arrives(&pod, &peer, "10.244.5.5:4790");
        assert_eq!(tracked(), 1);
        // To a node's it does not, whichever wire format the port belongs to.
        for (there, here) in [
            ("192.168.1.12:4790", "192.168.1.11:4790"),
            ("192.168.1.12:8472", "192.168.1.11:8472"),
            ("192.168.1.12:8285", "192.168.1.11:8285"),
        ] {
            let receiver = inside(&peer, move || UdpSocket::bind(there).unwrap());
            inside(&pod, move || {
                let sender = UdpSocket::bind("0.0.0.0:0").unwrap();
                sender.send_to(b"no", there).unwrap();
            });
            // What the node sends after that arrives first, because the pod's never does.
            inside(&this_namespace(), move || {
                let sender = UdpSocket::bind("0.0.0.0:0").unwrap();
                SockRef::from(&sender).set_mark(SOCKET_MARK).unwrap();
                sender.send_to(b"yes", there).unwrap();
            });
            receiver.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut buffer = [0; 64];
            let len = receiver.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..len], b"yes", "{there}");
            // Nothing answers on a tunnel's port: both directions go to it, from any port.
            arrives(&peer, &this_namespace(), here);
            assert_eq!(tracked(), 1);
        }
    });
}

/// Sends one datagram from one namespace to `address` in another, and waits until it is there.
fn arrives(from: &str, to: &str, address: &'static str) {
    let receiver = inside(to, move || UdpSocket::bind(address).unwrap());
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    inside(from, move || {
        let sender = UdpSocket::bind("0.0.0.0:0").unwrap();
        sender.send_to(b"one way", address).unwrap();
    });
    receiver.recv(&mut [0; 64]).unwrap();
}

/// How many connections this namespace tracks.
fn tracked() -> usize {
    let count = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").unwrap();
    count.trim().parse().unwrap()
}
