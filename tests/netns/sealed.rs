//! The port of sealed traffic: who cannot reach it, and from when on.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use culvert_lab::{Lab, Netns, Node, UNDERLAY_PORT, probe, wait_until};

use crate::harness::{SOON, TABLE_LIMIT, lab, lead_service, run};
use crate::packets::{Udp, contains, mark_as_daemon};

/// Where what is sealed goes, unless the configuration says otherwise.
const PORT: u16 = 4500;

/// What must not arrive, and what shows that everything before it was handled.
const EVIL: &[u8] = b"must not arrive";
const GOOD: &[u8] = b"may arrive";

/// Alice's and Bob's public keys in RFC 7748, 6.1. No node of a lab has them, and none has to.
const KEYS: [&str; 2] = [
    "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=",
    "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=",
];

/// The nodes have these modes, and so far no keys in the table.
fn lab_with(name: &str, modes: [&str; 2]) -> Lab {
    let lab = lab(name).without_daemons().up().unwrap();
    for (node, mode) in lab.nodes().iter().zip(modes) {
        node.write_config(&[&format!("[sealed]\nmode = \"{mode}\"\n")]).unwrap();
        node.start().unwrap();
    }
    for node in 1..=2 {
        lab.add_pod(node).unwrap();
    }
    lab
}

/// Gives both nodes a key in the table, and waits until the rules follow.
fn add_keys(lab: &Lab) {
    let text = lab.table().to_toml();
    let entries = text.split("[[node]]").skip(1).zip(KEYS);
    let entry = |(entry, key)| format!("[[node]]{entry}\npublic_keys = [\"{key}\"]\n");
    lab.write_table(&entries.map(entry).collect::<String>()).unwrap();
    for node in lab.nodes() {
        let guarded = || ports(node, "codec_ports").contains(&PORT.to_string());
        wait_until(TABLE_LIMIT, "the rules to have the port", guarded).unwrap();
    }
}

fn ports(node: &Node, set: &str) -> String {
    run(node.netns(), "nft", &["list", "set", "inet", "culvert", set])
}

/// A program of the node that has the port of what is sealed, where no daemon does.
fn listen(node: &Node) -> UdpSocket {
    let any = SocketAddr::new([0; 4].into(), PORT);
    let socket = node.netns().run(|| UdpSocket::bind(any)).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    socket
}

/// Has `send` called until what may arrive has; says whether what must not did before.
fn saw_evil(at: &UdpSocket, send: impl Fn()) -> bool {
    let mut evil = false;
    let arrived = || {
        send();
        let mut buffer = [0; 2048];
        while let Ok(len) = at.recv(&mut buffer) {
            evil |= contains(&buffer[..len], EVIL);
            if contains(&buffer[..len], GOOD) {
                return true;
            }
        }
        false
    };
    wait_until(SOON, "what may arrive", arrived).unwrap();
    evil
}

fn send(from: &Netns, to: IpAddr, payload: &[u8], marked: bool) -> std::io::Result<()> {
    let socket = from.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    if marked {
        mark_as_daemon(&socket);
    }
    socket.send_to(payload, SocketAddr::new(to, PORT)).map(|_len| ())
}

#[test]
fn no_process_of_a_node_that_must_seal_reaches_the_plain_ports_of_others() {
    let lab = lab("nt-sealedplain").sealed("require").up().unwrap();
    let (node, target) = (lab.node(1), lab.node(2).address());
    let socket = node.netns().run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    for port in [PORT, UNDERLAY_PORT, 8285, 8472] {
        let refused = socket.send_to(EVIL, SocketAddr::new(target, port)).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied, "port {port}");
    }
}

#[test]
fn pods_reach_the_sealed_port_of_no_node_once_the_table_has_keys() {
    let lab = lab_with("nt-sealed", ["off", "off"]);
    let attacker = lab.pod(1, 1);
    let listeners: Vec<UdpSocket> = lab.nodes().iter().map(listen).collect();
    let attack = |node: &Node| {
        let packet = Udp::new(attacker.ipv4(), node.address(), EVIL).port(PORT).bytes();
        probe::send_packet(attacker.netns(), &packet).unwrap();
    };
    // From a neighbour of the nodes, which is no pod.
    let honest = |node: &Node| send(lab.switch(), node.address(), GOOD, false).unwrap();
    for (node, listener) in lab.nodes().iter().zip(&listeners) {
        let seen = saw_evil(listener, || {
            attack(node);
            honest(node);
        });
        assert!(seen, "{}: without keys the port is one like any other", node.name());
    }
    add_keys(&lab);
    for (node, listener) in lab.nodes().iter().zip(&listeners) {
        while listener.recv(&mut [0; 2048]).is_ok() {}
        let seen = saw_evil(listener, || {
            attack(node);
            honest(node);
        });
        assert!(!seen, "{}", node.name());
    }
    // Among themselves pods use it as they like.
    let server = lab.pod(2, 1);
    let any = SocketAddr::new([0; 4].into(), PORT);
    let inside = server.netns().run(|| UdpSocket::bind(any)).unwrap().unwrap();
    inside.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    saw_evil(&inside, || send(attacker.netns(), server.ipv4(), GOOD, false).unwrap());
}

#[test]
fn neither_services_nor_processes_lead_to_the_sealed_port_of_another_node() {
    let lab = lab_with("nt-sealedsvc", ["prefer", "off"]);
    add_keys(&lab);
    let (node, attacker) = (lab.node(1), lab.pod(1, 1));
    let target = lab.node(2).address();
    assert!(ports(node, "tunnel_ports").contains(&PORT.to_string()));
    assert!(!ports(lab.node(2), "tunnel_ports").contains(&PORT.to_string()));
    lead_service(node, "10.96.0.5:53".parse().unwrap(), SocketAddr::new(target, PORT));
    let listener = listen(lab.node(2));
    for from in [attacker.netns(), node.netns()] {
        let socket = from.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        // A process is told that it may not.
        let _refused = socket.send_to(EVIL, "10.96.0.5:53");
    }
    assert!(send(node.netns(), target, EVIL, false).is_err(), "a process without the mark");
    let seen = saw_evil(&listener, || send(node.netns(), target, GOOD, true).unwrap());
    assert!(!seen);
}

#[test]
fn nobody_without_rights_sees_a_key() {
    let lab = lab_with("nt-sealedkey", ["prefer", "off"]);
    let node = lab.node(1);
    let file = node.state_dir().join("node.key");
    let key = std::fs::read_to_string(&file).unwrap();
    assert!(!lab.node(2).state_dir().join("node.key").exists());
    let look = |path: &str| {
        let other = ["--reuid", "65534", "--clear-groups", "head", "-c", "1", path];
        node.netns().command("setpriv").args(other).output().unwrap()
    };
    assert!(look("/proc/self/status").status.success(), "it may look at other things");
    assert!(!look(file.to_str().unwrap()).status.success());
    // Nor by what the daemon says.
    let shown = node.culvert(&["status", "--json"]).unwrap();
    let public = node.culvert(&["keys", "show", "--config", node.config_path().to_str().unwrap()]);
    for text in [node.log(), shown, public.unwrap()] {
        assert!(!text.contains(key.trim()), "{text}");
    }
}

#[test]
fn a_daemon_follows_its_keys_on_disk_and_says_what_the_table_lacks() {
    let lab = lab("nt-sealedkeys").up().unwrap();
    let node = lab.node(1);
    let sealed = || node.status().unwrap()["sealed"].clone();
    let known = || sealed()["public_keys"].as_array().map_or(0, Vec::len);
    let says = |part: &str| sealed()["error"].as_str().is_some_and(|error| error.contains(part));
    let config = node.config_path().to_str().unwrap().to_owned();
    let try_keys = |words: &[&str]| {
        node.culvert(&[&["keys"], words, &["--json", "--config", &config]].concat())
    };
    let keys = |verb: &str| {
        let text = try_keys(&[verb]).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    let until = |what: &str, condition: &dyn Fn() -> bool| {
        if let Err(late) = wait_until(SOON, what, condition) {
            panic!("{late}: {}", sealed());
        }
    };
    // A table without keys is as it was.
    assert_eq!((known(), sealed()["error"].is_null()), (1, true));
    assert!(!ports(node, "codec_ports").contains(&PORT.to_string()));
    let write = |line: &str| {
        let text = lab.table().to_toml();
        let [first, second] = text.split("[[node]]").skip(1).collect::<Vec<_>>()[..] else {
            panic!("two nodes: {text}")
        };
        let other = format!("public_keys = [\"{}\"]", KEYS[1]);
        let text = format!("[[node]]{first}\n{line}\n[[node]]{second}\n{other}\n");
        lab.write_table(&text).unwrap();
    };
    write("");
    until("what the table lacks", &|| says("none of this node"));
    let shown = keys("show");
    let line = |of: &serde_json::Value| of["table_line"].as_str().unwrap().to_owned();
    assert!(says(&line(&shown)), "{}", sealed());
    write(&line(&shown));
    until("nothing to be wrong", &|| sealed()["error"].is_null());

    let rotated = keys("rotate");
    until("the next key", &|| known() == 2 && says("lacks this node's next key"));
    // Whoever goes over too early goes on with the key that the table has.
    let present = rotated["keys"][0]["public_key"].clone();
    let early = keys("switch");
    assert_ne!(early["keys"][0]["public_key"], present);
    until("the early switch", &|| says("lacks this node's present key"));
    assert_eq!(sealed()["public_keys"][0], present, "it is the one in use");
    let refused = format!("{:#}", try_keys(&["retire"]).unwrap_err());
    assert!(refused.contains("daemon still uses it"), "{refused}");
    write(&line(&early));
    until("the table with both", &|| sealed()["error"].is_null());
    let first = early["keys"][0]["public_key"].clone();
    assert_eq!(first, rotated["keys"][1]["public_key"]);
    until("the switch", &|| sealed()["public_keys"][0] == first);
    // Peers may use the former key for a moment more.
    let refused = format!("{:#}", try_keys(&["retire"]).unwrap_err());
    assert!(refused.contains("not removed") && refused.contains("--force"), "{refused}");
    let retired = try_keys(&["retire", "--force"]).unwrap();
    let retired: serde_json::Value = serde_json::from_str(&retired).unwrap();
    until("the former key to be missed", &|| says("does not have any more"));
    write(&line(&retired));
    until("the table with one", &|| sealed()["error"].is_null() && known() == 1);

    // What cannot be read leaves the node as it was, and is said.
    let file = node.state_dir().join("node.key");
    let text = std::fs::read(&file).unwrap();
    std::fs::write(&file, "half").unwrap();
    until("the damage", &|| says("node.key: not 44 characters"));
    assert_eq!(known(), 1);
    std::fs::write(&file, text).unwrap();
    node.reload().unwrap();
    until("the end of it", &|| sealed()["error"].is_null());
    assert!(node.is_ready());
}
