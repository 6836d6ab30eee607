use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;

use clap::ValueEnum as _;
use culvert_node::Attachment;
use culvert_node::ipam::{Ports, Request};
use culvert_node::node_file::{NodeFile, SOCKET_NAME};
use culvert_node::pod_port::PodPort;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::conflist::{Chained, Version};
use super::*;

/// Patience for one look at the daemon.
const ONE_LOOK: Duration = Duration::from_nanos(1);

/// Directories, a program to install, and a daemon that is there or not.
struct Machine {
    dir: TempDir,
    places: Places,
}

impl Machine {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let at = |name: &str| dir.path().join(name);
        let places = Places {
            bin_dir: at("bin"),
            conf_dir: at("conf"),
            run_dir: at("run"),
            state_dir: at("state"),
        };
        fs::write(at("plugin"), "first").unwrap();
        Self { dir, places }
    }

    fn plugin(&self) -> PathBuf {
        self.dir.path().join("plugin")
    }

    /// A daemon that is ready, until the value is dropped. The loopback plays the bridge.
    fn daemon(&self) -> UnixListener {
        let node = NodeFile {
            node: "node1".to_owned(),
            bridge: "lo".to_owned(),
            mtu: 1400,
            gso_max_size: None,
            subnets: Vec::new(),
            cluster_networks: Vec::new(),
            masquerade: None,
            policy: false,
            own_ports: Vec::new(),
        };
        node.write(&self.places.run_dir).unwrap();
        UnixListener::bind(self.places.run_dir.join(SOCKET_NAME)).unwrap()
    }

    fn install(&self, conflist: &Conflist) -> Result<Vec<String>> {
        install(&self.places, &self.plugin(), conflist, ONE_LOOK)
    }

    fn files(&self, directory: &Path) -> Vec<String> {
        let Ok(entries) = fs::read_dir(directory) else {
            return Vec::new();
        };
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn conflist(&self) -> Value {
        let text = fs::read_to_string(self.places.conf_dir.join(CONFLIST)).unwrap();
        serde_json::from_str(&text).unwrap()
    }
}

fn versioned() -> String {
    format!("{PROGRAM}-{}", env!("CARGO_PKG_VERSION"))
}

#[test]
fn no_patience_at_all_asks_no_daemon() {
    let machine = Machine::new();
    let places = Places { run_dir: "/nonexistent".into(), ..machine.places.clone() };
    install(&places, &machine.plugin(), &Conflist::default(), Duration::ZERO).unwrap();
    assert_eq!(machine.files(&machine.places.conf_dir), [CONFLIST]);
    assert_eq!(
        machine.files(&machine.places.bin_dir),
        [PROGRAM.to_owned(), versioned(), LOOPBACK.to_owned()]
    );
}

/// What containerd is told of in a directory of configurations: its watcher ignores files that are
/// made there or come from elsewhere, and reads everything anew with all other events.
#[test]
fn runtime_that_watches_never_finds_the_directory_without_a_configuration() {
    use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
    let machine = Machine::new();
    let conf_dir = &machine.places.conf_dir;
    fs::create_dir(conf_dir).unwrap();
    let watch = init(CreateFlags::NONBLOCK).unwrap();
    let all = WatchFlags::CREATE | WatchFlags::MODIFY | WatchFlags::MOVE | WatchFlags::DELETE;
    for _first_and_again in 0..2 {
        add_watch(&watch, conf_dir, all).unwrap();
        install(&machine.places, &machine.plugin(), &Conflist::default(), Duration::ZERO).unwrap();
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&watch, &mut buffer);
        let mut seen = Vec::new();
        while let Ok(event) = reader.next() {
            let name = event.file_name().unwrap().to_str().unwrap().to_owned();
            let ignored = ReadFlags::CREATE | ReadFlags::MOVED_TO | ReadFlags::ISDIR;
            if !ignored.contains(event.events()) && !event.events().contains(ReadFlags::ISDIR) {
                seen.push((event.events(), name));
            }
        }
        // Its new name is what has it read: by then it is there.
        assert_eq!(seen, [(ReadFlags::MOVED_FROM, format!(".{CONFLIST}.new"))]);
        assert_eq!(machine.files(conf_dir), [CONFLIST]);
    }
}

#[test]
fn program_comes_first_and_the_configuration_only_when_the_node_is_ready() {
    let machine = Machine::new();
    let error = machine.install(&Conflist::default()).unwrap_err().to_string();
    assert!(error.contains("not ready") && error.contains("culvert run"), "{error}");
    assert_eq!(machine.files(&machine.places.conf_dir), Vec::<String>::new());
    let program = machine.places.bin_dir.join(PROGRAM);
    assert_eq!(fs::read_to_string(&program).unwrap(), "first");
    assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o777, 0o755);

    let daemon = machine.daemon();
    machine.install(&Conflist::default()).unwrap();
    assert_eq!(
        machine.files(&machine.places.bin_dir),
        [PROGRAM.to_owned(), versioned(), LOOPBACK.to_owned()]
    );
    assert_eq!(machine.files(&machine.places.conf_dir), [CONFLIST]);
    let list = machine.conflist();
    assert_eq!(list["cniVersion"], "1.0.0");
    assert_eq!(list["plugins"][0]["runDir"], json!(machine.places.run_dir));
    assert_eq!(list["plugins"][0]["stateDir"], json!(machine.places.state_dir));
    drop(daemon);
}

#[test]
fn waiting_ends_when_the_node_becomes_ready() {
    let machine = Machine::new();
    thread::scope(|scope| {
        let (places, plugin) = (&machine.places, machine.plugin());
        let patience = Duration::from_secs(60);
        let installing =
            scope.spawn(move || install(places, &plugin, &Conflist::default(), patience));
        let daemon = machine.daemon();
        installing.join().unwrap().unwrap();
        drop(daemon);
    });
    assert_eq!(machine.files(&machine.places.conf_dir), [CONFLIST]);
}

#[test]
fn an_upgrade_replaces_the_program_in_one_step_and_leaves_no_older_one() {
    let machine = Machine::new();
    let _daemon = machine.daemon();
    machine.install(&Conflist::default()).unwrap();
    let link = machine.places.bin_dir.join(PROGRAM);
    fs::rename(
        machine.places.bin_dir.join(versioned()),
        machine.places.bin_dir.join("culvert-cni-0.0.1"),
    )
    .unwrap();
    let running = machine.places.bin_dir.join("culvert-cni-0.0.1");
    let mut open = File::open(&running).unwrap();
    fs::write(machine.plugin(), "second").unwrap();
    machine.install(&Conflist::default()).unwrap();
    assert_eq!(fs::read_to_string(&link).unwrap(), "second");
    assert_eq!(
        machine.files(&machine.places.bin_dir),
        [PROGRAM.to_owned(), versioned(), LOOPBACK.to_owned()]
    );
    // Whoever runs the older one keeps it whole.
    let mut text = String::new();
    io::Read::read_to_string(&mut open, &mut text).unwrap();
    assert_eq!(text, "first");
}

#[test]
fn a_program_that_is_in_its_place_already_becomes_the_link_to_its_copy() {
    let machine = Machine::new();
    let _daemon = machine.daemon();
    let link = machine.places.bin_dir.join(PROGRAM);
    fs::create_dir(&machine.places.bin_dir).unwrap();
    fs::write(&link, "by hand").unwrap();
    for _ in 0..2 {
        install(&machine.places, &link, &Conflist::default(), ONE_LOOK).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), Path::new(&versioned()));
        assert_eq!(fs::read_to_string(&link).unwrap(), "by hand");
    }
}

#[test]
fn version_and_chain_are_those_asked_for() {
    let machine = Machine::new();
    let _daemon = machine.daemon();
    let chain = Chained::value_variants().to_vec();
    let conflist = Conflist { version: Version::V1_1_0, chain };
    let error = machine.install(&conflist).unwrap_err().to_string();
    assert!(error.contains("portmap") && error.contains("--chain"), "{error}");
    assert_eq!(machine.files(&machine.places.bin_dir), Vec::<String>::new());

    fs::create_dir(&machine.places.bin_dir).unwrap();
    for program in conflist.chained() {
        fs::write(machine.places.bin_dir.join(program), "").unwrap();
    }
    machine.install(&conflist).unwrap();
    let list = machine.conflist();
    assert_eq!(list["cniVersion"], "1.1.0");
    let types: Vec<_> =
        list["plugins"].as_array().unwrap().iter().map(|plugin| plugin["type"].clone()).collect();
    assert_eq!(types, ["culvert-cni", "portmap", "bandwidth", "firewall", "tuning"]);
}

#[test]
fn default_directories_stay_out_of_the_configuration() {
    let text = Conflist::default().text(Path::new("/run/culvert"), Path::new("/var/lib/culvert"));
    let shipped: Value =
        serde_json::from_str(include_str!("../../deploy/cni/10-culvert.conflist")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), shipped);
}

#[test]
fn uninstall_leaves_what_is_not_ours_and_may_be_repeated() {
    let machine = Machine::new();
    let _daemon = machine.daemon();
    machine.install(&Conflist::default()).unwrap();
    fs::write(machine.places.bin_dir.join("portmap"), "").unwrap();
    fs::write(machine.places.bin_dir.join("culvert-cni-wrapper"), "").unwrap();
    fs::write(machine.places.conf_dir.join("99-loopback.conf"), "{}").unwrap();
    assert_eq!(uninstall(&machine.places, false).unwrap().len(), 4);
    assert_eq!(machine.files(&machine.places.bin_dir), ["culvert-cni-wrapper", "portmap"]);
    assert_eq!(machine.files(&machine.places.conf_dir), ["99-loopback.conf"]);
    assert_eq!(uninstall(&machine.places, false).unwrap(), Vec::<String>::new());
}

#[test]
fn uninstall_refuses_a_configuration_of_somebody_else() {
    let machine = Machine::new();
    fs::create_dir(&machine.places.conf_dir).unwrap();
    let text = r#"{"plugins": [{"type": "bridge"}]}"#;
    fs::write(machine.places.conf_dir.join(CONFLIST), text).unwrap();
    let error = uninstall(&machine.places, true).unwrap_err().to_string();
    assert!(error.contains("by hand"), "{error}");
    assert_eq!(machine.files(&machine.places.conf_dir), [CONFLIST]);
}

#[test]
fn uninstall_refuses_while_pods_hold_addresses_unless_forced() {
    let machine = Machine::new();
    let _daemon = machine.daemon();
    machine.install(&Conflist::default()).unwrap();
    let mut no_ports = Ports::default();
    let mut store = Store::open_or_create(&machine.places.state_dir, &mut no_ports).unwrap();
    let attachment = Attachment::new("pods", "c1", "eth0").unwrap();
    let request = Request::one_of_each_family(&["10.244.1.0/24".parse().unwrap()]);
    let netns = Path::new("/run/netns/x");
    store.allocate(&attachment, netns, &request, &mut no_ports).unwrap();
    let error = uninstall(&machine.places, false).unwrap_err().to_string();
    assert!(error.contains("hold 1 address,") && error.contains("--force"), "{error}");
    assert_eq!(machine.files(&machine.places.conf_dir), [CONFLIST]);
    uninstall(&machine.places, true).unwrap();
    assert_eq!(machine.files(&machine.places.conf_dir), Vec::<String>::new());
}

#[test]
fn running_pods_are_seen_by_their_ports_when_the_store_is_lost() {
    let state = tempfile::tempdir().unwrap();
    let note = "culvert pod 0a:58:0a:f4:01:02 checked 10.244.1.2/24 pods/c1/eth0";
    let pods = PodPort::from_note("culv0", note).into_iter().collect();
    let mut ports = Ports { pods, ..Ports::default() };
    let error = refuse_with_pods(state.path(), &mut ports).unwrap_err().to_string();
    assert!(error.contains("culv0") && error.contains("--force"), "{error}");
    refuse_with_pods(state.path(), &mut Ports::default()).unwrap();
}

#[test]
fn loopback_is_ours_only_where_there_is_none() {
    let machine = Machine::new();
    let (places, plugin) = (&machine.places, machine.plugin());
    let link = places.bin_dir.join(LOOPBACK);
    let again = || install(places, &plugin, &Conflist::default(), Duration::ZERO).unwrap();
    assert!(again().iter().any(|line| line.contains("loopback is culvert-cni")));
    assert_eq!(fs::read_link(&link).unwrap(), Path::new(PROGRAM));
    assert_eq!(fs::read_to_string(&link).unwrap(), "first", "it leads to the program");
    assert!(!again().iter().any(|line| line.contains("loopback")), "it is there");
    uninstall(places, true).unwrap();
    assert_eq!(machine.files(&places.bin_dir), Vec::<String>::new());
    fs::write(&link, "stock").unwrap();
    again();
    assert_eq!(fs::read_to_string(&link).unwrap(), "stock");
    uninstall(places, true).unwrap();
    assert_eq!(machine.files(&places.bin_dir), [LOOPBACK], "it is somebody else's");
}
