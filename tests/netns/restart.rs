//! A daemon ends, by request or by force, and starts again.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix;
use std::path::Path;
use std::process::Stdio;

use culvert_lab::clock;
use culvert_lab::{Netns, Node, Pod, wait_until};
use culvert_node::node_file::NodeFile;

use crate::harness::{
    CULVERT, FAMILIES, SOON, assert_reaches, assert_reaches_within, assert_same_lines, lab, ping,
    refused_start, run,
};

#[test]
fn connections_survive_a_killed_daemon() {
    let lab = lab("nt-kill9").up().unwrap();
    let node = lab.node(1);
    let (one, two) = (lab.pod(1, 1), lab.pod(2, 1));
    let mut streams = FAMILIES.map(|family| {
        let mut stream = Echo::connect(&one, &two, SocketAddr::new(two.address(family), 0));
        stream.exchange(b"before");
        stream
    });
    let before = kernel_state(node.netns());
    let pid = node.pid();

    node.kill9().unwrap();
    assert_same_lines(&kernel_state(node.netns()), &before);
    // Sent into the silence: TCP sends it again.
    streams.iter_mut().for_each(|stream| stream.send(b"while it is down"));
    node.start().unwrap();
    assert_ne!(node.pid(), pid);

    for stream in &mut streams {
        stream.receive(b"while it is down");
        stream.exchange(b"after");
    }
    assert_same_lines(&kernel_state(node.netns()), &before);
    assert_eq!(node.status().unwrap()["repairs"], 0);
}

#[test]
fn a_daemon_that_is_asked_to_stop_leaves_in_order() {
    let lab = lab("nt-term").up().unwrap();
    let node = lab.node(1);
    let socket = node.run_dir().join("culvert.sock");
    let file = NodeFile::path(&node.run_dir());
    assert!(socket.exists() && file.exists());
    let before = kernel_state(node.netns());

    let start = clock::now();
    let status = node.stop().unwrap().unwrap();
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert_eq!(status.code(), Some(0), "{}", node.log_tail());
    assert!(!socket.exists(), "the admin socket stays");
    assert!(!file.exists(), "the node file stays");
    assert_same_lines(&kernel_state(node.netns()), &before);

    node.start().unwrap();
    assert_reaches(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
}

#[test]
fn a_second_daemon_is_refused_and_disturbs_nothing() {
    let lab = lab("nt-second").up().unwrap();
    let node = lab.node(1);
    let pid = node.pid();
    let (code, said) = refused_start(node);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("another daemon answers"), "{said}");
    assert!(said.contains("node.stand_by"), "{said}");
    assert_eq!(node.pid(), pid);
    assert!(NodeFile::path(&node.run_dir()).exists());
    assert_eq!(node.status().unwrap()["ready"], true);
    assert_reaches(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
}

#[test]
fn a_second_daemon_with_its_own_run_directory_is_refused_too() {
    let lab = lab("nt-twice").up().unwrap();
    let node = lab.node(1);
    let elsewhere = node.state_dir().join("elsewhere");
    let text = std::fs::read_to_string(node.config_path()).unwrap();
    let (one, two) = (lab.pod(1, 1), lab.pod(2, 1));
    // Whatever names of its own it has.
    for keys in [
        &[][..],
        &["[tun]\nname = \"culvert9\""],
        &["[tun]\nname = \"culvert9\"", "[bridge]\nname = \"v-net-9\"", "[underlay]\nport = 4799"],
    ] {
        node.write_config(keys).unwrap();
        refused_beside(node, &elsewhere);
        std::fs::write(node.config_path(), &text).unwrap();
        assert_eq!(node.status().unwrap()["ready"], true);
        assert_reaches_within(SOON, one.netns(), two.ipv4());
    }
    let all = (0..50).all(|_| ping(one.netns(), two.ipv4()).is_reply());
    assert!(all, "packets are lost");
}

/// Starts a daemon like that of `node`, but with a run directory of its own.
fn refused_beside(node: &Node, elsewhere: &Path) {
    let text = std::fs::read_to_string(node.config_path()).unwrap();
    let moved = text.replace(
        &format!("{:?}", node.run_dir().display().to_string()),
        &format!("{:?}", elsewhere.display().to_string()),
    );
    assert_ne!(moved, text);
    // Another address for HTTP as well, so that nothing stands in its way but the claim.
    std::fs::write(node.config_path(), moved.replace("127.0.0.1:4791", "127.0.0.1:4792")).unwrap();
    let (code, said) = refused_start(node);
    assert_eq!(code, Some(1), "{said}");
    let pid = format!("process {}", node.pid().expect("it runs"));
    for part in ["another daemon", &pid, "tun.name culvert0", "underlay.port 4790"] {
        assert!(said.contains(part), "{said} lacks {part}");
    }
}

#[test]
fn a_daemon_that_stands_by_takes_over_when_the_first_one_ends() {
    let lab = lab("nt-standby").up().unwrap();
    let node = lab.node(1);
    let (one, two) = (lab.pod(1, 1), lab.pod(2, 1));
    let mut stream = Echo::connect(&one, &two, SocketAddr::new(two.ipv4(), 0));
    stream.exchange(b"before");
    node.write_config(&["[node]\nstand_by = true"]).unwrap();
    let before = kernel_state(node.netns());
    let log = std::fs::File::create(node.state_dir().join("second.log")).unwrap();
    let mut command = node.netns().command(CULVERT);
    command.args(["run", "--config"]).arg(node.config_path()).stdout(Stdio::null()).stderr(log);
    let mut second = command.spawn().unwrap();
    let said = || std::fs::read_to_string(node.state_dir().join("second.log")).unwrap();
    wait_until(SOON, "the second to stand by", || said().contains("standing by")).unwrap();
    assert_reaches(one.netns(), two.ipv4());
    assert_same_lines(&kernel_state(node.netns()), &before);

    node.stop().unwrap();
    wait_until(SOON, "the second to take over", || {
        node.http("/readyz").is_ok_and(|(code, _)| code == 200)
    })
    .unwrap();
    stream.exchange(b"after");
    assert_same_lines(&kernel_state(node.netns()), &before);
    assert_eq!(node.status().unwrap()["repairs"], 0);

    let pid = rustix::process::Pid::from_child(&second);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(second.wait().unwrap().code(), Some(0), "{}", said());
}

#[test]
fn no_other_user_of_the_machine_keeps_a_daemon_from_starting() {
    let lab = lab("nt-squat").up().unwrap();
    let node = lab.node(1);
    node.stop().unwrap();
    // Whatever name a user without rights can take.
    let name = unix::net::SocketAddr::from_abstract_name("culvert").unwrap();
    let _squatter =
        node.netns().run(|| unix::net::UnixDatagram::bind_addr(&name)).unwrap().unwrap();
    let table = ["nft", "add", "table", "inet", "culvert-claim"];
    let mut stranger = node.netns().command("setpriv");
    stranger.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]).args(table);
    assert!(!stranger.output().unwrap().status.success(), "a stranger can take the name");
    node.start().unwrap();
    assert_reaches(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
    // Nobody but the daemon lets it go.
    run(node.netns(), "nft", &["flush", "ruleset"]);
    let (code, said) = refused_start(node);
    assert_eq!(code, Some(1), "{said}");
    let name = format!("inet {}", table[4]);
    assert!(run(node.netns(), "nft", &["list", "tables"]).contains(&name));
}

/// Devices, addresses, routes and rules. Whether the TUN device has a carrier does not count.
fn kernel_state(netns: &Netns) -> Vec<String> {
    let ip = |arguments: &[&str]| netns.ip_output(arguments).unwrap();
    let rules = run(netns, "nft", &["list", "ruleset"]);
    // The claim to be the only daemon goes with the daemon.
    let mut is_claim = false;
    let rules = rules.lines().filter(|line| {
        is_claim = line.starts_with("table inet culvert-claim ") || (is_claim && *line != "}");
        !is_claim && *line != "}"
    });
    let rules = rules.map(|line| format!("{line}\n")).collect();
    let text: String = [
        ip(&["-oneline", "address"]),
        ip(&["-4", "route", "show", "table", "all"]),
        ip(&["-6", "route", "show", "table", "all"]),
        rules,
    ]
    .concat();
    text.lines().map(|line| line.replace(" linkdown", "").trim_end().to_owned()).collect()
}

/// A connection whose other end sends back what it gets.
struct Echo {
    near: TcpStream,
    far: TcpStream,
}

impl Echo {
    fn connect(from: &Pod, to: &Pod, address: SocketAddr) -> Self {
        let listener = to.netns().run(|| TcpListener::bind(address)).unwrap().unwrap();
        let address = listener.local_addr().unwrap();
        let near =
            from.netns().run(|| TcpStream::connect_timeout(&address, SOON)).unwrap().unwrap();
        let (far, _) = listener.accept().unwrap();
        for stream in [&near, &far] {
            stream.set_read_timeout(Some(SOON)).unwrap();
        }
        Self { near, far }
    }

    fn send(&mut self, message: &[u8]) {
        self.near.write_all(message).unwrap();
    }

    /// Has `message`, which was sent, come to the other end and back.
    fn receive(&mut self, message: &[u8]) {
        let mut buffer = vec![0; message.len()];
        self.far.read_exact(&mut buffer).unwrap();
        self.far.write_all(&buffer).unwrap();
        self.near.read_exact(&mut buffer).unwrap();
        assert_eq!(buffer, message);
    }

    fn exchange(&mut self, message: &[u8]) {
        self.send(message);
        self.receive(message);
    }
}
