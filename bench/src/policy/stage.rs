//! Two nodes that follow a stand-in for the Kubernetes API, their pods, and what it tells of them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_lab::{Lab, Node, TableNode, clock, wait_until};
use serde::Serialize;
use serde_json::{Value, json};
use source_servers::ApiServer;
use source_servers::api_server::{self, NAMESPACES, NETWORK_POLICIES, PODS};
use tempfile::TempDir;

use super::objects::{self, OWN};
use crate::networks::{PREFIX, bypass_filters};
use crate::programs::Programs;
use crate::traffic::{Pod, pause};
use crate::usage;

/// A start with all policies and pods.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Start {
    /// Until the node was ready, its rules in force.
    pub(super) ready_seconds: f64,
    /// Of the daemon, in MiB.
    pub(super) resident_mib: f64,
    /// What the kernel took for the rules, as far as its unreclaimable memory tells, in MiB.
    pub(super) kernel_mib: f64,
}

/// Where the source is: the switch between the nodes.
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

/// How long a node may take for everything that there is.
const LIMIT: Duration = Duration::from_secs(60);

/// The nodes, and who tells them of policies.
pub(super) struct Stage {
    // The server goes last, so that no daemon sees its end.
    pub(super) lab: Lab,
    /// Two pods of the first node, one of the second, and another of the first.
    pods: Vec<(culvert_lab::Pod, Pod)>,
    pub(super) server: ApiServer,
    _directory: TempDir,
}

impl Stage {
    /// Builds the nodes, their daemons and four pods.
    pub(super) fn build(name: &str, programs: &Programs, policies: bool) -> Result<Self> {
        let name = format!("{PREFIX}{name}");
        let directory = TempDir::with_prefix(&name).context("make a directory")?;
        let kubeconfig = directory.path().join("kubeconfig");
        let mode = if policies { "on" } else { "off" };
        let config = format!(
            "[table]\nsource = \"kubernetes\"\n[kubernetes]\nkubeconfig = {kubeconfig:?}\n[policy]\nmode = \"{mode}\"\n"
        );
        let lab = Lab::builder(name)
            .nodes(2)
            .pods(0)
            .without_daemons()
            .culvert(&programs.culvert)
            .plugin(&programs.plugin)
            .config(config)
            .replace()
            .up()?;
        bypass_filters(&lab)?;
        let server = ApiServer::start_in(lab.switch(), SERVER.into());
        fs::write(&kubeconfig, server.kubeconfig()).context("write a kubeconfig")?;
        lab.table().nodes.iter().for_each(|node| server.put(node_object(node)));
        for namespace in objects::namespaces() {
            server.put_other(NAMESPACES, namespace);
        }
        let mut stage = Self { lab, pods: Vec::new(), server, _directory: directory };
        stage.lab.nodes().iter().try_for_each(Node::spawn)?;
        stage.lab.nodes().iter().try_for_each(Node::wait_ready)?;
        for (node, index) in [(1, 1), (1, 2), (2, 1), (1, 3)] {
            stage.put_pod(node, index, &[]);
            let pod = stage.lab.add_pod(node)?;
            stage.put_pod(node, index, &[pod.ipv4()]);
            let traffic = Pod::from(&pod);
            stage.pods.push((pod, traffic));
        }
        Ok(stage)
    }

    /// Has the server tell of a pod of the lab; without addresses, it is about to be attached.
    pub(super) fn put_pod(&self, node: u16, index: u16, addresses: &[IpAddr]) {
        let name = format!("node{node}-pod{index}");
        let ips: Vec<Value> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
        let kind = if index > 3 { "late" } else { "early" };
        self.server.put_other(
            PODS,
            json!({
                "metadata": {
                    "namespace": OWN, "name": name, "labels": { "pod": name, "kind": kind },
                },
                "spec": { "nodeName": format!("node{node}"), "containers": [] },
                "status": { "phase": "Running", "podIPs": ips },
            }),
        );
    }

    /// The pod of the first node that others send to.
    pub(super) fn server_pod(&self) -> &Pod {
        &self.pods[0].1
    }

    /// The pod of the first node that sends.
    pub(super) fn client(&self) -> &Pod {
        &self.pods[1].1
    }

    /// A third pod of the first node, for whoever attaches and detaches it.
    pub(super) fn third(&self) -> &culvert_lab::Pod {
        &self.pods[3].0
    }

    /// The pod of the second node.
    pub(super) fn far(&self) -> &Pod {
        &self.pods[2].1
    }

    /// Creates or replaces a policy.
    pub(super) fn put_policy(&self, policy: Value) {
        self.server.put_other(NETWORK_POLICIES, policy);
    }

    /// Loads everything, and returns what a pod of another node costs the second node, in bytes.
    /// The first tenth of the pods does not count: with it comes what any pods at all cost.
    pub(super) fn load(&self) -> Result<f64> {
        const FIRST: usize = objects::PODS / 10;
        let resident = || -> Result<f64> {
            pause(Duration::from_secs(3))?;
            let id = self.lab.node(2).pid().context("the daemon has ended")?;
            Ok(usage::memory(id)?.resident as f64)
        };
        let mut before = 0.0;
        for number in 0..objects::PODS {
            if number == FIRST {
                self.wait_for("pods", FIRST)?;
                before = resident()?;
            }
            self.server.put_other(PODS, objects::pod(number));
        }
        self.wait_for("pods", objects::PODS)?;
        let after = resident()?;
        for number in 0..objects::POLICIES {
            self.put_policy(objects::policy(number));
        }
        self.wait_for("policies", objects::POLICIES)?;
        self.settle()?;
        Ok((after - before) / (objects::PODS - FIRST) as f64)
    }

    /// Starts the first node's daemon again, after the kernel has lost its rules.
    pub(super) fn restart(&self) -> Result<Start> {
        let node = self.lab.node(1);
        node.stop()?;
        for table in ["inet", "bridge"] {
            let removed = node
                .netns()
                .command("nft")
                .args(["delete", "table", table, "culvert-policy"])
                .output()
                .context("run nft")?;
            ensure!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
        }
        pause(Duration::from_secs(1))?;
        let before = slab()?;
        let start = clock::now();
        node.start()?;
        self.wait_for("policies", objects::POLICIES)?;
        let ready_seconds = start.elapsed().as_secs_f64();
        pause(Duration::from_secs(3))?;
        let memory = usage::memory(node.pid().context("the daemon has ended")?)?;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        Ok(Start {
            ready_seconds,
            resident_mib: mib(memory.resident),
            kernel_mib: mib(slab()?.saturating_sub(before)),
        })
    }

    /// Waits until the first node has changed its rules no more for two seconds.
    fn settle(&self) -> Result<()> {
        let updates = || -> Result<u64> {
            let status = self.lab.node(1).status()?;
            status["policy"]["updates"].as_u64().context("the status has no updates")
        };
        let mut last = updates()?;
        loop {
            pause(Duration::from_secs(2))?;
            let now = updates()?;
            if now == last {
                return Ok(());
            }
            last = now;
        }
    }

    /// Waits until both nodes know so many of something, or more.
    pub(super) fn wait_for(&self, what: &str, count: usize) -> Result<()> {
        let has = |node: &Node| {
            let known = node.status().ok().and_then(|status| status["policy"][what].as_u64());
            known.is_some_and(|known| known >= count as u64)
        };
        wait_until(LIMIT, &format!("{count} {what} to be known"), || {
            self.lab.nodes().iter().all(has)
        })
    }
}

/// Bytes of the kernel's memory that it cannot do without.
fn slab() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("SUnreclaim:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    Ok(kib.context("find SUnreclaim in /proc/meminfo")? * 1024)
}

fn node_object(node: &TableNode) -> Value {
    let subnets: Vec<String> = node.subnets.iter().map(ToString::to_string).collect();
    let mut object = api_server::node(0, subnets.first().map_or("", String::as_str));
    object["metadata"]["name"] = json!(node.name);
    object["spec"]["podCIDRs"] = json!(subnets);
    object["status"]["addresses"][0]["address"] = json!(node.address);
    object
}
