//! Inside a pod: its processes share one address and one localhost, and nobody else has them.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use culvert_lab::Netns;

use crate::harness::{lab, run};

#[test]
fn processes_of_a_pod_share_its_address_and_localhost() {
    let lab = lab("nt-shared").nodes(1).pods(2).up().unwrap();
    let (pod, other) = (lab.pod(1, 1), lab.pod(1, 2));
    let server = greet(pod.netns(), "hello from the first process");

    // A second process of the pod finds the first on localhost, and at the pod's own address.
    for host in ["127.0.0.1".to_owned(), pod.ipv4().to_string()] {
        let output = read_from(pod.netns(), &host, server.port());
        assert_eq!(String::from_utf8_lossy(&output.stdout), "hello from the first process");
    }
    // Another pod has a localhost of its own, and finds the process at the pod's address only.
    let output = read_from(other.netns(), "127.0.0.1", server.port());
    assert!(!output.status.success(), "{output:?}");
    let output = read_from(other.netns(), &pod.ipv4().to_string(), server.port());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello from the first process");

    let listed = || run(pod.netns(), "ip", &["-brief", "address", "show", "eth0"]);
    assert_eq!(listed(), listed());
    assert!(listed().contains(&pod.ipv4().to_string()), "{}", listed());
    assert!(listed().contains(&pod.ipv6().to_string()), "{}", listed());
}

/// Starts a server in `netns` that greets every caller for the rest of the test.
fn greet(netns: &Netns, greeting: &'static str) -> SocketAddr {
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let listener = netns.run(|| TcpListener::bind(any)).unwrap().unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(greeting.as_bytes()));
        }
    });
    address
}

/// What a process of its own in `netns` reads from a server.
fn read_from(netns: &Netns, host: &str, port: u16) -> Output {
    let limit = Duration::from_secs(5).as_secs();
    let script = format!("exec 3<>/dev/tcp/{host}/{port} && cat <&3");
    let mut command: Command = netns.command("timeout");
    command.arg(limit.to_string()).args(["bash", "-c", &script]).output().unwrap()
}
