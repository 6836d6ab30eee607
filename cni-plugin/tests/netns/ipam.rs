//! The address store under real conditions: full disks, the last addresses, lost files, a node that
//! was `host-local`'s before.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use culvert_node::Attachment;
use culvert_node::ipam::{
    self, DATABASE, DIRECTORY, HostLocal, Ports, Pulse, Range, Request, Store, Survey as _,
    Surveyor, live_pods,
};
use serde_json::{Value, json};

use crate::harness::*;

const ONE: [&str; 1] = ["10.244.1.0/24"];

fn store(node: &Node) -> Store {
    Store::open(&node.state_dir()).expect("a sound store").expect("a store")
}

fn ranges(node: &Node) -> Vec<Range> {
    node.node_file().subnets.into_iter().map(Range::whole).collect()
}

#[test]
fn sixty_four_adds_at_once_share_the_last_ten_addresses() {
    let node = Node::new("lastten", &ONE);
    let path = Path::new("/held");
    for number in 0..243 {
        let held = Attachment::new("pods", &format!("held{number}"), "eth0").expect("valid names");
        let request = Request::one_of_each_family(&node.node_file().subnets);
        let mut no_ports = Ports::default();
        let mut store = Store::open_or_create(&node.state_dir(), &mut no_ports).expect("a store");
        store.allocate(&held, path, &request, &mut no_ports).expect("room");
    }
    let pods: Vec<_> = (0..64).map(|number| node.pod(&format!("p{number}"))).collect();
    let running: Vec<_> = pods.iter().map(|pod| pod.start("ADD", None)).collect();
    let (mut given, mut refused) = (Vec::new(), 0);
    for child in running {
        match outcome(&child.wait_with_output().expect("the plugin ends")) {
            Ok(result) => given.push(result["ips"][0]["address"].to_string()),
            Err(error) => {
                assert_eq!(error["code"], 101, "{error}");
                let text = error["msg"].to_string();
                assert!(text.contains("10.244.1.0/24 (253 in use)"), "{text}");
                assert!(text.contains("subnet table"), "{text}");
                refused += 1;
            }
        }
    }
    given.sort();
    given.dedup();
    assert_eq!((given.len(), refused), (10, 54));
    assert_eq!(node.host_devices().len(), 10);
    assert_eq!(node.held_addresses(), 253);
}

/// A small file system of its own for the state directory.
struct Disk(PathBuf);

impl Disk {
    fn new(node: &Node) -> Self {
        let path = node.state_dir();
        fs::create_dir_all(&path).expect("a mount point");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"]).arg(&path));
        Self(path)
    }

    fn remount(&self, mode: &str) {
        run(Command::new("mount").args(["-o", &format!("remount,{mode}")]).arg(&self.0));
    }

    /// Leaves no room at all.
    fn fill(&self) {
        let mut file = fs::File::create(self.0.join("filler")).expect("a file");
        while file.write_all(&[0; 512]).is_ok() {}
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("filler")).expect("the filler is removed");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("the program is installed");
    assert!(output.status.success(), "{command:?}: {output:?}");
}

#[test]
fn full_disk_is_named_loses_nothing_and_is_over_when_there_is_room() {
    let node = Node::new("fulldisk", &ONE);
    let disk = Disk::new(&node);
    disk.fill();
    let first = node.pod("p0");
    let error = first.add().expect_err("no store can be made");
    assert_eq!(error["code"], 104, "{error}");
    disk.make_room();
    first.add().expect("ADD succeeds with room");

    disk.fill();
    let mut attached = vec![first];
    // What the log has room for already may still succeed.
    let refused = loop {
        let pod = node.pod(&format!("p{}", attached.len()));
        match pod.add() {
            Ok(_) => attached.push(pod),
            Err(error) => break error,
        }
        assert!(attached.len() < 200, "the disk is never full");
    };
    assert_eq!(refused["code"], 104, "{refused}");
    let text = refused["msg"].to_string();
    assert!(text.contains("free some space") || text.contains("free space"), "{text}");
    assert_eq!(node.host_devices().len(), attached.len());
    let going = attached.pop().expect("there is one");
    going.del().expect("a full disk keeps no pod from going");
    assert!(!going.has_link("eth0"));
    assert_eq!(node.host_devices().len(), attached.len());
    disk.make_room();
    going.del().expect("DEL may be repeated");
    assert_eq!(node.held_addresses(), attached.len());
    node.pod("last").add().expect("ADD succeeds with room");
    for pod in &attached {
        pod.del().expect("DEL succeeds");
    }
    assert_eq!(store(&node).faults().expect("a sound store"), Vec::<String>::new());
}

#[test]
fn read_only_disk_is_named_and_del_still_removes_the_devices() {
    let node = Node::new("readonly", &ONE);
    let disk = Disk::new(&node);
    let pod = node.pod("p1");
    pod.add().expect("ADD succeeds");
    disk.remount("ro");
    let error = node.pod("p2").add().expect_err("nothing can be written");
    assert_eq!(error["code"], 104, "{error}");
    let text = error["msg"].to_string();
    assert!(
        text.contains(DATABASE) && text.contains("stateDir") || text.contains("writable"),
        "{text}"
    );
    let output = pod.start("DEL", None).wait_with_output().expect("the plugin ends");
    outcome(&output).expect("the pod may go");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("stay held until the daemon's sweep"), "{said}");
    assert_eq!(node.host_devices(), Vec::<String>::new());
    disk.remount("rw");
    assert_eq!(node.held_addresses(), 1);
    // What the daemon does within minutes.
    let record = store(&node).records().expect("a sound store").remove(0);
    delete_netns(&pod.netns);
    let ports = in_netns(&node.netns, || Surveyor::open().and_then(|mut surveyor| surveyor.look()));
    assert_eq!(Pulse::of(&record, &ports.expect("the kernel answers")), Pulse::Gone);
    pod.del().expect("DEL succeeds");
    node.assert_clean();
}

/// The ways to lose a store.
fn lose(node: &Node, how: &str) {
    let directory = node.state_dir().join(DIRECTORY);
    let file = directory.join(DATABASE);
    match how {
        "removed" => fs::remove_dir_all(&directory).expect("the directory is removed"),
        "cut" => {
            let file = fs::OpenOptions::new().write(true).open(&file);
            file.and_then(|file| file.set_len(100)).expect("it is cut");
            let _ = fs::remove_file(directory.join(format!("{DATABASE}-wal")));
        }
        "overwritten" => fs::write(&file, [0x55; 8192]).expect("it is overwritten"),
        "truncated" => fs::write(&file, []).expect("it is truncated"),
        _ => unreachable!("{how}"),
    }
}

#[test]
fn lost_store_is_made_anew_from_the_ports_before_an_address_is_given() {
    for how in ["removed", "cut", "overwritten", "truncated"] {
        let node = Node::new(&format!("lost{how}"), &DUAL_STACK);
        let pods = ["p1", "p2", "p3"].map(|name| node.pod(name));
        let results = pods.each_ref().map(|pod| pod.add().expect("ADD succeeds"));
        pods[1].del().expect("DEL succeeds");
        let before = store(&node).records().expect("a sound store");
        lose(&node, how);

        let taken: Vec<_> =
            [&pods[0], &pods[2]].iter().flat_map(|pod| pod.addresses("eth0")).collect();
        let next = node.pod("p4");
        let output = next.start("ADD", None).wait_with_output().expect("the plugin ends");
        outcome(&output).expect("ADD succeeds");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("was made from the notes on pods' ports"), "{how}: {said}");
        let given = next.addresses("eth0");
        assert!(given.iter().all(|address| !taken.contains(address)), "{how}: {given:?}");
        let known = |record: &ipam::Record| {
            (
                record.allocation,
                record.attachment.clone(),
                record.host_device.clone(),
                record.mac,
                record.host_netns,
            )
        };
        let after = store(&node).records().expect("a sound store");
        let kept: Vec<_> =
            after.iter().filter(|record| record.attachment.container() != "p4").collect();
        assert!(kept.into_iter().map(known).eq(before.iter().map(known)), "{how}: {after:?}");
        pods[0].check(&results[0]).expect("CHECK finds nothing");
        for pod in [&pods[0], &pods[2], &next] {
            pod.del().expect("DEL succeeds");
        }
        node.assert_clean();
    }
}

#[test]
fn check_and_gc_go_by_the_ports_while_the_store_is_lost() {
    let node = Node::new("lostcheck", &DUAL_STACK);
    let [kept, gone] = ["p1", "p2"].map(|name| node.pod(name));
    let result = kept.add().expect("ADD succeeds");
    gone.add().expect("ADD succeeds");
    lose(&node, "removed");
    kept.check(&result).expect("the pod is as it was");
    let listed = json!({"containerID": kept.container, "ifname": "eth0"});
    let keys = json!({"cniVersion": "1.1.0", "cni.dev/valid-attachments": [listed]});
    node.call("GC", &keys).expect("GC succeeds");
    assert!(!gone.has_link("eth0") && kept.has_link("eth0"));
    kept.del().expect("DEL succeeds");
    assert_eq!(node.host_devices(), Vec::<String>::new());
}

#[test]
fn store_that_is_lost_in_the_midst_of_an_add_gives_no_address_twice() {
    let node = Node::new("lostmidst", &ONE);
    let mut slow = node.pod("p1");
    // It has its address, and no port that bears a note yet.
    let running = slow.held_after("ADD", culvert_cni::fault::Step::AddressesAllocated);
    lose(&node, "removed");
    let quick = node.pod("p2");
    quick.add().expect("ADD succeeds");
    assert_eq!(quick.addresses("eth0"), set(&["10.244.1.2/24"]));
    let error = running.go_on().expect_err("its address is another's");
    assert_eq!(error["code"], 104, "{error}");
    assert!(error["msg"].to_string().contains("try again"), "{error}");
    assert!(!slow.has_link("eth0"));
    slow.add().expect("ADD succeeds");
    assert_eq!(slow.addresses("eth0"), set(&["10.244.1.3/24"]));
}

#[test]
fn mac_addresses_of_others_are_refused_and_leave_nothing_behind() {
    let node = Node::new("macs", &ONE);
    let mut first = node.pod("p1");
    first.keys = json!({"runtimeConfig": {"mac": "02:11:22:33:44:55"}});
    first.add().expect("ADD succeeds");
    let of_link = |name: &str| node.link(name)["address"].as_str().expect("a MAC").to_owned();
    let taken = [
        "02:11:22:33:44:55".to_owned(),
        of_link(BRIDGE),
        of_link(&first.host_device()),
        // Of the pod that will have the last address.
        "0a:58:0a:f4:01:fe".to_owned(),
    ];
    let mut second = node.pod("p2");
    for mac in taken {
        for by_args in [false, true] {
            second.keys = json!({});
            second.environment.clear();
            if by_args {
                second.environment = vec![("CNI_ARGS", format!("MAC={mac}"))];
            } else {
                second.keys = json!({"runtimeConfig": {"mac": mac}});
            }
            let error = second.add().expect_err("the MAC address is somebody's");
            assert_eq!(error["code"], 102, "{error}");
            assert!(error["msg"].to_string().contains("begins with 02"), "{error}");
            assert_eq!(node.host_devices().len(), 1);
            assert_eq!(node.held_addresses(), 1);
        }
    }
    // That of an address goes with the address.
    second.environment.clear();
    second.keys = json!({"runtimeConfig": {"mac": "0a:58:0a:f4:01:fe", "ips": ["10.244.1.254"]}});
    second.add().expect("ADD succeeds");
    // The store is lost; the notes still know.
    lose(&node, "removed");
    let mut third = node.pod("p3");
    third.keys = first.keys.clone();
    assert_eq!(third.add().expect_err("the note has it")["code"], 102);
}

#[test]
fn adds_at_once_that_ask_for_one_mac_address_get_it_once() {
    let node = Node::new("macsatonce", &ONE);
    let pods: Vec<_> = (0..12)
        .map(|number| {
            let mut pod = node.pod(&format!("p{number}"));
            pod.keys = json!({"runtimeConfig": {"mac": "02:11:22:33:44:55"}});
            pod
        })
        .collect();
    let running: Vec<_> = pods.iter().map(|pod| pod.start("ADD", None)).collect();
    let outcomes = running.into_iter().map(|child| {
        outcome(&child.wait_with_output().expect("the plugin ends"))
            .map_err(|error| error["code"].clone())
    });
    let (given, refused): (Vec<_>, Vec<_>) = outcomes.partition(Result::is_ok);
    assert_eq!((given.len(), refused.len()), (1, 11));
    assert!(refused.iter().all(|refused| *refused == Err(json!(102))), "{refused:?}");
}

#[test]
fn mtu_below_what_ipv6_needs_is_for_pods_with_ipv4_only() {
    let node = Node::new("small", &DUAL_STACK);
    let mut pod = node.pod("p1");
    pod.keys = json!({"mtu": 1000});
    let error = pod.add().expect_err("IPv6 needs more");
    assert_eq!(error["code"], 7, "{error}");
    let text = error["msg"].to_string();
    assert!(text.contains("1280") && text.contains("IPv6"), "{text}");
    pod.keys = json!({"mtu": 1000, "ipam": {"subnet": "10.244.1.0/24"}});
    let result = pod.add().expect("ADD succeeds");
    assert_eq!(pod.link("eth0")["mtu"], 1000);
    assert_talk(&node.netns, "10.244.1.1".parse().expect("an address"), &pod.netns);
    pod.check(&result).expect("CHECK finds nothing");
}

#[test]
fn pod_is_gone_only_when_its_namespace_and_its_device_are() {
    let node = Node::new("pulse", &ONE);
    let pod = node.pod("p1");
    pod.add().expect("ADD succeeds");
    let record = store(&node).records().expect("a sound store").remove(0);
    let pulse = || {
        in_netns(&node.netns, || {
            let mut surveyor = Surveyor::open().expect("a socket");
            Pulse::of(&record, &surveyor.look().expect("the kernel answers"))
        })
    };
    assert_eq!(pulse(), Pulse::Alive);
    // The name goes, but a process keeps the namespace, and so the device.
    let mut keeper = Command::new("ip")
        .args(["netns", "exec", &pod.netns, "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("`ip` is installed");
    // It answers once it is inside.
    let mut stdin = keeper.stdin.take().expect("a pipe");
    stdin.write_all(b"x").expect("it reads");
    let mut byte = [0];
    std::io::Read::read_exact(&mut keeper.stdout.take().expect("a pipe"), &mut byte)
        .expect("it writes");
    delete_netns(&pod.netns);
    assert_eq!(pulse(), Pulse::Alive);
    // Another namespace of the same name is not the pod's either.
    ip(&["netns", "add", &pod.netns]);
    node.ip(&["link", "del", &pod.host_device()]);
    assert_eq!(pulse(), Pulse::Gone);
    drop(stdin);
    keeper.wait().expect("it ends");
}

#[test]
fn more_addresses_than_fit_the_note_on_the_port_are_refused_and_given_back() {
    let subnets: Vec<String> = (1..=6).map(|n| format!("fd00:1234:5678:111{n}::/64")).collect();
    let node = Node::new("crowded", &subnets.iter().map(String::as_str).collect::<Vec<_>>());
    let mut pod = node.pod("p1");
    let longest = |subnet: &String| {
        let first = subnet.replace("::/64", ":def0:1234:5678:9abc");
        json!([{"subnet": subnet, "rangeStart": first}])
    };
    let sets: Vec<Value> = subnets.iter().map(longest).collect();
    pod.keys = json!({"ipam": {"ranges": sets}});
    let error = pod.add().expect_err("the note has no room for six");
    assert_eq!(error["code"], 7, "{error}");
    assert!(error["msg"].to_string().contains("ask for fewer"), "{error}");
    node.assert_clean();
    pod.keys = json!({"ipam": {"ranges": sets[..5]}});
    pod.add().expect("five fit");
}

/// The stock plugins, called as a container runtime would, with `host-local` for addresses.
struct Stock<'a> {
    node: &'a Node,
    data: PathBuf,
}

impl Stock<'_> {
    fn add(&self, pod: &Pod<'_>) -> Value {
        let config = json!({
            "cniVersion": "1.0.0", "name": "pods", "type": "bridge", "bridge": BRIDGE,
            "isDefaultGateway": true,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:1::/64"}]],
                "dataDir": self.data,
            },
        });
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.node.netns, "/usr/lib/cni/bridge"])
            .env("CNI_COMMAND", "ADD")
            .env("CNI_CONTAINERID", &pod.container)
            .env("CNI_NETNS", pod.netns_path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/usr/lib/cni")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("`ip` is installed");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(config.to_string().as_bytes()).expect("the plugin reads");
        drop(stdin);
        let output = child.wait_with_output().expect("the plugin ends");
        assert!(
            output.status.success(),
            "/usr/lib/cni/bridge (package containernetworking-plugins): {output:?}"
        );
        serde_json::from_slice(&output.stdout).expect("a result")
    }
}

#[test]
fn pods_of_bridge_and_host_local_keep_their_addresses() {
    let node = Node::new("switch", &DUAL_STACK);
    let stock = Stock { node: &node, data: node.dir.path().join("networks") };
    let old: Vec<_> = ["old1", "old2", "old3"].map(|name| node.pod(name)).into();
    for pod in &old {
        stock.add(pod);
    }
    let addresses: Vec<_> = old.iter().map(|pod| pod.addresses("eth0")).collect();

    let directory = stock.data.join("pods");
    let host_local = HostLocal::read(&directory, "pods").expect("host-local's directory");
    let found = in_netns(&node.netns, || live_pods().expect("the pods are found"));
    assert_eq!(found.unseen, Vec::<String>::new());
    let mut no_ports = Ports::default();
    let mut store = Store::open_or_create(&node.state_dir(), &mut no_ports).expect("a store");
    let import = store.import(&host_local, &ranges(&node), &found.pods).expect("it is imported");
    assert_eq!((import.added.len(), import.without_pod.len()), (6, 0));
    drop(store);
    drop(host_local);

    // Still plugged in, and in the way of nobody.
    assert_talk(&node.netns, "10.244.1.1".parse().expect("an address"), &old[0].netns);
    let held: std::collections::BTreeSet<String> = addresses.iter().flatten().cloned().collect();
    let new: Vec<_> = (0..20).map(|number| node.pod(&format!("new{number}"))).collect();
    for pod in &new {
        pod.add().expect("ADD succeeds");
        assert!(pod.addresses("eth0").is_disjoint(&held), "an address was given twice");
    }
    assert_talk(&new[0].netns, "10.244.1.5".parse().expect("an address"), &old[0].netns);
    let still: Vec<_> = old.iter().map(|pod| pod.addresses("eth0")).collect();
    assert_eq!(still, addresses);

    for pod in old.iter().chain(&new) {
        pod.del().expect("DEL succeeds");
    }
    node.assert_clean();
    for pod in &old {
        assert!(!pod.has_link("eth0"), "the old pod's interface is gone");
    }
    let ports = json_of(&["-n", &node.netns, "-j", "link", "show", "master", BRIDGE]);
    assert_eq!(ports.as_array().expect("a list").len(), 0, "{ports}");
}
