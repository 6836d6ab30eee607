//! A real node, the API server that it follows, and the cluster that this tells of.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_lab::{Lab, Node, TableNode, clock, interrupt, wait_until};
use serde::Serialize;
use serde_json::{Value, json};
use source_servers::ApiServer;
use source_servers::api_server::{NAMESPACES, NETWORK_POLICIES, PODS as PODS_PATH};
use tempfile::TempDir;

use super::{Following, Taken};
use crate::growth::other;
use crate::networks::{PREFIX, bypass_filters};
use crate::policy::objects;
use crate::programs::Programs;
use crate::sources::node_object;
use crate::traffic::pause;
use crate::usage::{self, CpuTime};

pub(super) const NODES: usize = 10_000;
pub(super) const PODS: usize = 150_000;
pub(super) const POLICIES: usize = 5_000;

/// What changes in one second.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Rates {
    /// Nodes whose kubelet reports that it lives, which changes the object: each does every five
    /// minutes.
    pub(super) nodes: usize,
    /// Pods that change: with thousands that come and go a minute, each by some changes.
    pub(super) pods: usize,
}

pub(super) const RATES: Rates = Rates { nodes: NODES / 300, pods: 100 };

/// Every so many pod changes a policy changes too.
const PODS_A_POLICY: usize = 500;

/// Where the API server is: the switch between the nodes.
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

/// How long the daemon may take for everything that there is.
const LIMIT: Duration = Duration::from_secs(180);

pub(super) struct Stage {
    // The server goes last, so that no daemon sees its end.
    lab: Lab,
    nodes: Vec<TableNode>,
    server: ApiServer,
    /// The configuration that the lab wrote for the daemon.
    config: String,
    _directory: TempDir,
    /// Changes so far.
    changed: usize,
}

impl Stage {
    pub(super) fn build(programs: &Programs) -> Result<Self> {
        let name = format!("{PREFIX}cluster");
        let directory = TempDir::with_prefix(&name).context("make a directory")?;
        let kubeconfig = directory.path().join("kubeconfig");
        let lab = Lab::builder(name)
            .nodes(2)
            .pods(0)
            .without_daemons()
            .culvert(&programs.culvert)
            .plugin(&programs.plugin)
            .config(format!(
                "[network]\ncidrs = [\"10.0.0.0/8\"]\n[table]\nsource = \"kubernetes\"\n\
                 [kubernetes]\nkubeconfig = {kubeconfig:?}\n[policy]\nmode = \"off\"\n"
            ))
            .replace()
            .up()?;
        bypass_filters(&lab)?;
        let server = ApiServer::start_in(lab.switch(), SERVER.into());
        fs::write(&kubeconfig, server.kubeconfig()).context("write a kubeconfig")?;
        let real = lab.table().nodes;
        let others = NODES - real.len();
        let nodes: Vec<TableNode> = real.into_iter().chain((0..).map(other).take(others)).collect();
        nodes.iter().for_each(|node| server.put(node_object(node)));
        for namespace in objects::namespaces() {
            server.put_other(NAMESPACES, namespace);
        }
        for number in 0..PODS {
            server.put_other(PODS_PATH, pod(&nodes, number));
        }
        for number in (0..).filter(|number| has_few_peers(*number)).take(POLICIES) {
            server.put_other(NETWORK_POLICIES, objects::policy(number));
        }
        server.forget();
        let config = fs::read_to_string(lab.node(1).config_path()).context("read a file")?;
        Ok(Self { lab, nodes, server, config, _directory: directory, changed: 0 })
    }

    /// Starts the daemon, and has the cluster change for as long as `changing`.
    pub(super) fn measure(&mut self, following: Following, changing: Duration) -> Result<Taken> {
        let node = self.lab.node(1);
        let policies = following == Following::Policies;
        let mode = if policies { "mode = \"on\"" } else { "mode = \"off\"" };
        fs::write(node.config_path(), self.config.replace("mode = \"off\"", mode))
            .context("write a configuration")?;
        let received = received(node)?;
        let start = clock::now();
        node.spawn()?;
        let is_ready = || is_ready(node, policies);
        wait_until(LIMIT, "the daemon to know the cluster", is_ready)?;
        let ready_seconds = start.elapsed().as_secs_f64();
        let id = node.pid().context("the daemon has ended")?;
        let ready_cpu_seconds = CpuTime::so_far(&[id])?.daemons.as_secs_f64();
        let listed = self::received(node)?;
        pause(Duration::from_secs(2))?;
        let (cpu, before) = (CpuTime::so_far(&[id])?, self::received(node)?);
        let seconds = self.change(changing)?.as_secs_f64();
        let node = self.lab.node(1);
        let cpu = CpuTime::so_far(&[id])?.since(&cpu).daemons;
        let told = self::received(node)? - before;
        let memory = usage::memory(id)?;
        node.stop()?;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        Ok(Taken {
            following,
            ready_seconds,
            ready_cpu_seconds,
            ready_mib: mib(listed - received),
            resident_mib: mib(memory.resident),
            peak_mib: mib(memory.peak),
            changing_cpu_ms: cpu.as_secs_f64() * 1e3 / seconds,
            changing_kib: told as f64 / 1024.0 / seconds,
        })
    }

    /// Changes the cluster at its rates; says how long that took.
    fn change(&mut self, duration: Duration) -> Result<Duration> {
        const TICK: Duration = Duration::from_millis(100);
        let start = clock::now();
        for tick in 1_u32.. {
            interrupt::check()?;
            if start.elapsed() >= duration {
                break;
            }
            let due = |rate: usize| {
                let by = |tick: u32| rate * tick as usize / 10;
                by(tick) - by(tick - 1)
            };
            (0..due(RATES.nodes)).for_each(|_| self.report_a_node());
            (0..due(RATES.pods)).for_each(|_| self.change_a_pod());
            pause((TICK * tick).saturating_sub(start.elapsed()))?;
        }
        Ok(start.elapsed())
    }

    /// The real nodes stay as they are.
    fn report_a_node(&mut self) {
        let real = self.lab.nodes().len();
        let node = &self.nodes[real + self.changed % (NODES - real)];
        let mut object = node_object(node);
        object["metadata"]["annotations"]["reported"] = json!(self.changed.to_string());
        self.server.put(object);
        self.changed += 1;
    }

    fn change_a_pod(&mut self) {
        let mut pod = pod(&self.nodes, self.changed * 7 % PODS);
        pod["metadata"]["labels"]["round"] = json!(self.changed.to_string());
        self.server.put_other(PODS_PATH, pod);
        if self.changed.is_multiple_of(PODS_A_POLICY) {
            let mut policy = objects::policy(0);
            policy["spec"]["ingress"][0]["ports"][0]["port"] = json!(1 + self.changed % 1000);
            self.server.put_other(NETWORK_POLICIES, policy);
        }
        self.changed += 1;
    }
}

/// Whether the peers of the policy of this number are some of the pods, and not nearly all.
const fn has_few_peers(number: usize) -> bool {
    number % 10 != 9
}

/// A pod of one of the nodes, each of which has as many.
fn pod(nodes: &[TableNode], number: usize) -> Value {
    let node = &nodes[number % nodes.len()];
    let subnet = node.subnets.first().map(|subnet| subnet.network());
    let Some(IpAddr::V4(first)) = subnet else { return Value::Null };
    let host = u32::try_from(2 + number / nodes.len()).unwrap_or_default();
    let mut pod = objects::pod(number);
    pod["spec"]["nodeName"] = json!(node.name);
    pod["status"]["podIPs"] = json!([{ "ip": Ipv4Addr::from(u32::from(first) + host) }]);
    pod
}

/// Whether the daemon is ready, and has heard of everything that it is to follow.
fn is_ready(node: &Node, policies: bool) -> bool {
    // A status names ten thousand peers: asked for all the time, it would be a tenth of the start.
    if !node.is_ready() {
        return false;
    }
    let Ok(status) = node.status() else { return false };
    let count = |what: &str| status["policy"][what].as_u64().unwrap_or_default() as usize;
    !policies || (count("pods") >= PODS && count("policies") >= POLICIES)
}

/// Bytes that the node has got from the underlay.
fn received(node: &Node) -> Result<u64> {
    let text = node.netns().run(|| fs::read_to_string("/proc/thread-self/net/dev"))?;
    let text = text.context("read /proc/net/dev")?;
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix("eth0:"));
    let bytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    ensure!(bytes.is_some(), "no eth0 in /proc/net/dev");
    Ok(bytes.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_pod_has_an_address_of_its_nodes_and_of_no_other_pod() {
        let nodes: Vec<TableNode> = (0..1000).map(other).collect();
        let mut seen = BTreeSet::new();
        for number in 0..15_000 {
            let pod = pod(&nodes, number);
            let address: IpAddr =
                pod["status"]["podIPs"][0]["ip"].as_str().unwrap().parse().unwrap();
            assert!(nodes[number % 1000].subnets[0].contains(&address), "{pod}");
            assert_eq!(pod["spec"]["nodeName"], nodes[number % 1000].name.as_str());
            assert!(seen.insert(address), "{address} twice");
        }
    }
}
