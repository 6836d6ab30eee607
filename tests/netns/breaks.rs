//! `culvert lab break` and `mend`: that what is said to be broken is, and is as before afterwards.

use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use culvert_lab::probe::{self, Ping, Transfer};
use culvert_lab::{Fault, Lab, LabBuilder, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{SOON, assert_reaches, lab, run};

fn plain(name: &str) -> LabBuilder {
    lab(name).families(culvert_lab::Families::Ipv4)
}

/// The devices of the switch by their names.
fn ports(lab: &Lab) -> Vec<String> {
    let text = run(lab.switch(), "ip", &["-o", "link", "show"]);
    let names = text.lines().filter_map(|line| line.split(": ").nth(1));
    names.map(|name| name.split('@').next().unwrap().to_owned()).collect()
}

/// How long an echo from the first pod to the second takes.
fn round_trip(lab: &Lab) -> Duration {
    let ping = Ping::default().timeout(SOON);
    let echo = probe::ping(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4(), &ping).unwrap();
    echo.rtt().unwrap_or_else(|| panic!("{echo:?}"))
}

#[test]
fn what_a_node_sends_arrives_later_and_whole() {
    let lab = plain("nt-breaks-delay").up().unwrap();
    assert_reaches(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
    let (before, delay) = (ports(&lab), |ms| Fault::Delay { node: "node2".to_owned(), ms });
    // It cannot be sooner, and how much later is the machine's. None is lost, however soon it is
    // sent.
    for ms in 60..70 {
        lab.inflict(&delay(ms)).unwrap();
        assert!(round_trip(&lab) >= Duration::from_millis(ms.into()));
    }
    // Another delay takes the place of the first, and both ways have one.
    lab.inflict(&delay(30)).unwrap();
    lab.inflict(&Fault::Delay { node: "node1".to_owned(), ms: 40 }).unwrap();
    assert_eq!(lab.faults().unwrap().len(), 2);
    assert!(round_trip(&lab) >= Duration::from_millis(70));
    let (client, server) = (lab.pod(1, 1), lab.pod(2, 1));
    let transfer = Transfer::of(1 << 20);
    probe::transfer(client.netns(), server.netns(), server.ipv4(), &transfer).unwrap();

    // Whoever delays may have ended by himself.
    let id = fs::read_to_string("/run/culvert-lab/nt-breaks-delay/node2/relay.pid").unwrap();
    let id = Pid::from_raw(id.parse().unwrap()).unwrap();
    kill_process(id, Signal::KILL).unwrap();
    assert_eq!(lab.mend().unwrap().len(), 2);
    assert_eq!(ports(&lab), before);
    wait_until(SOON, "no delay", || round_trip(&lab) < Duration::from_millis(70)).unwrap();
    // A lab that goes takes it along.
    lab.inflict(&delay(10)).unwrap();
    let removed = culvert_lab::down("nt-breaks-delay").unwrap();
    assert_eq!(removed.processes, 3, "two daemons and what delays");
}

#[test]
fn cable_that_is_plugged_in_again_carries_the_next_packet() {
    let lab = plain("nt-breaks-cut").up().unwrap();
    assert_reaches(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
    let fault = Fault::Cut { node: "node2".to_owned() };
    for _ in 0..10 {
        lab.inflict(&fault).unwrap();
        assert_eq!(lab.mend().unwrap(), std::slice::from_ref(&fault));
        round_trip(&lab);
    }
}

/// How many of so many datagrams from the first pod arrive at the second.
fn arriving(lab: &Lab, count: u32, len: usize) -> u32 {
    let (from, to) = (lab.pod(1, 1), lab.pod(2, 1));
    let bind = |pod: &culvert_lab::Pod| {
        let address = (pod.ipv4(), 0);
        pod.netns().run(|| UdpSocket::bind(address)).unwrap().unwrap()
    };
    let (sender, receiver) = (bind(&from), bind(&to));
    let address = receiver.local_addr().unwrap();
    let received = std::thread::spawn(move || {
        receiver.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut buffer = [0; 2048];
        (0..count).take_while(|_| receiver.recv(&mut buffer).is_ok()).count()
    });
    for _ in 0..count {
        sender.send_to(&vec![7; len], address).unwrap();
        std::thread::sleep(Duration::from_micros(200));
    }
    u32::try_from(received.join().unwrap()).unwrap()
}

#[test]
fn a_part_of_what_a_node_sends_is_lost_and_more_than_fits_is() {
    let lab = plain("nt-breaks-lose").up().unwrap();
    assert_reaches(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
    let node = "node1".to_owned();
    for fault in [
        Fault::Lose { node: node.clone(), percent: 50, source_port: None },
        // With a second's worth at once to begin with.
        Fault::Slow { node, rate: 50 },
    ] {
        lab.inflict(&fault).unwrap();
        let arrived = arriving(&lab, 200, 1000);
        assert!((10..190).contains(&arrived), "{fault}: {arrived} of 200");
        assert_eq!(lab.mend().unwrap(), [fault]);
    }
    assert_eq!(arriving(&lab, 50, 1000), 50);
}
