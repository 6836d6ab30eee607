//! A node for one test: a network namespace, a TUN and a reconciler.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use culvert::control::node::{Action, Changes, NodeSpec, Reconciler, Report, TunOwner};
use culvert_dataplane::platform::{Error, Result};
use rustix::net::{AddressFamily, SocketType, netdevice, socket};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tun::AbstractDevice as _;

/// A network namespace, named after its test and removed on drop.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    #[expect(clippy::print_stdout, reason = "shown with a test that fails")]
    pub(crate) fn new(test: &str) -> Self {
        let name = format!("nodet-{test}");
        // One that an interrupted run left behind.
        let _absent = Command::new("ip").args(["netns", "del", &name]).output();
        ip(&format!("netns add {name}"));
        println!("look inside with: nsenter --net=/run/netns/{name}");
        Self { name }
    }

    /// Runs `body` in the namespace, on a thread and a runtime of its own.
    pub(crate) fn run<F>(&self, body: F)
    where
        F: AsyncFnOnce() + Send + 'static,
    {
        inside(&self.name, || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(body());
        });
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _gone = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// Runs `body` on a thread of its own in the namespace called `name`.
pub(crate) fn inside<T, F>(name: &str, body: F) -> T
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let file = File::open(format!("/run/netns/{name}")).unwrap();
    let done = thread::spawn(move || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        body()
    })
    .join();
    match done {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Name of the namespace that this thread is in.
pub(crate) fn this_namespace() -> String {
    run("ip netns identify").trim().to_owned()
}

/// Holds a TUN as the data path does.
pub(crate) struct Owner {
    name: String,
    device: Mutex<Option<(tun::Device, u32)>>,
}

impl Owner {
    fn index(&self) -> Option<u32> {
        let any = socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
        netdevice::name_to_index(&any, &self.name).ok()
    }
}

impl TunOwner for Owner {
    fn is_attached(&self) -> bool {
        let device = self.device.lock().unwrap();
        // By number, which a device keeps when somebody renames it.
        let any = socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
        device
            .as_ref()
            .is_some_and(|(_device, index)| netdevice::index_to_name(&any, *index).is_ok())
    }

    fn open(&self) -> Result<()> {
        let mut held = self.device.lock().unwrap();
        *held = None;
        let failed = |error: tun::Error| {
            Error::new("open TUN", &self.name, std::io::Error::other(error.to_string()))
        };
        let mut config = tun::Configuration::default();
        config.tun_name(&self.name).platform_config(|platform| {
            platform.vnet_hdr(true);
        });
        let mut device = tun::create(&config).map_err(failed)?;
        device.persist().map_err(failed)?;
        assert_eq!(device.tun_name().unwrap(), self.name);
        let index = self.index().unwrap();
        *held = Some((device, index));
        Ok(())
    }
}

/// A node with the addresses that everybody learns pod networking with.
pub(crate) struct Node {
    pub(crate) spec: NodeSpec,
    pub(crate) owner: Owner,
    pub(crate) reconciler: Reconciler,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self {
            spec: spec(),
            owner: Owner { name: spec().tun, device: Mutex::default() },
            reconciler: Reconciler::open().unwrap(),
        }
    }

    /// A node on which everything is as it should be.
    pub(crate) fn ready() -> Self {
        let mut node = Self::new();
        node.reconcile();
        node
    }

    /// Reconciles with a look at everything, and says what that took.
    pub(crate) fn reconcile(&mut self) -> Vec<String> {
        self.try_reconcile(Changes::ALL).unwrap_or_else(|error| panic!("{error:#}"))
    }

    pub(crate) fn try_reconcile(&mut self, changes: Changes) -> anyhow::Result<Vec<String>> {
        let report = self.reconciler.reconcile(&self.spec, &self.owner, changes)?;
        Ok(report.done.iter().map(Action::to_string).collect())
    }

    /// What a look finds on a node on which everything is as it should be.
    pub(crate) fn report(&mut self) -> Report {
        let report = self.reconciler.reconcile(&self.spec, &self.owner, Changes::default());
        report.unwrap_or_else(|error| panic!("{error:#}"))
    }
}

pub(crate) fn spec() -> NodeSpec {
    NodeSpec {
        tun: "culvert0".into(),
        bridge: "v-net-0".into(),
        cluster_networks: nets(&["10.244.0.0/16", "fd00:10:244::/48"]),
        local_subnets: nets(&["10.244.1.0/24", "fd00:10:244:1::/64"]),
        mtu: 1464,
        underlay_ports: vec![4790, 8472, 8285],
        codec_ports: vec![4790, 8472, 8285],
        remote_subnets: nets(&["10.244.2.0/24", "fd00:10:244:2::/64"]).into(),
        peers: Vec::new(),
        masquerade: true,
        sealed_only: false,
        narrow_subnets: Vec::new(),
        predecessor: None,
    }
}

pub(crate) fn nets(texts: &[&str]) -> Vec<ipnet::IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Runs `ip` in the current namespace.
pub(crate) fn ip(arguments: &str) -> String {
    run(&format!("ip {arguments}"))
}

/// Runs a program, given with its arguments in one line, and returns what it printed.
pub(crate) fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn sysctl(key: &str) -> String {
    let path = format!("/proc/sys/net/{key}");
    std::fs::read_to_string(path).unwrap().trim().to_owned()
}

pub(crate) fn set_sysctl(key: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{key}"), value).unwrap();
}
