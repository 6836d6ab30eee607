//! Nodes whose daemons follow one source, the source itself, and changing what it has.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use culvert_lab::{Lab, Node, TableFile, TableNode};
use serde::Serialize;
use serde_json::{Value, json};
use source_servers::{ApiServer, Etcd, Gateway, api_server};
use tempfile::TempDir;

use crate::growth::other;
use crate::networks::{PREFIX, bypass_filters};
use crate::programs::Programs;

/// Where the source is: the switch between the nodes.
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

/// The two addresses that [`Stage::move_to`] chooses from; both are the switch's.
pub(super) const PLACES: [Ipv4Addr; 2] =
    [Ipv4Addr::new(192, 168, 1, 201), Ipv4Addr::new(192, 168, 1, 202)];

/// The node that moves, and its subnet.
pub(super) const MOVER: &str = "mover";
const MOVER_SUBNET: &str = "10.250.0.0/24";
/// A pod that it would have.
pub(super) const MOVER_POD: Ipv4Addr = Ipv4Addr::new(10, 250, 0, 9);

/// A pod network with room for 10,000 subnets of 256 addresses each.
const NETWORK: &str = "10.0.0.0/8";

/// Keys in one transaction; a load of 10,000 is ten of them.
const CHUNK: usize = 1000;

/// What a node's images weigh in the API: the kubelet names 50 at most, each by tag and digest.
const IMAGES: usize = 50;

/// Where a table comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// A table file.
    File,
    /// An etcd of our own.
    Etcd,
    /// A stand-in for the Kubernetes API.
    Kubernetes,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::File, Self::Etcd, Self::Kubernetes];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Etcd => "etcd",
            Self::Kubernetes => "kubernetes",
        }
    }
}

enum Server {
    /// The file's text for each place of the mover.
    File([String; 2]),
    Etcd {
        gateway: Gateway,
        _etcd: Etcd,
    },
    Kubernetes(ApiServer),
}

/// Nodes and their source.
pub(super) struct Stage {
    // The server goes last, so that no daemon sees its end.
    pub(super) lab: Lab,
    server: Server,
    /// Has the kubeconfig.
    _directory: TempDir,
}

impl Stage {
    /// Builds `nodes` real nodes, without daemons, whose source has `others` more and the mover.
    pub(super) fn build(kind: Kind, programs: &Programs, nodes: u16, others: u32) -> Result<Self> {
        let name = format!("{PREFIX}src-{}-{nodes}", kind.name());
        let directory = TempDir::with_prefix(&name).context("make a directory")?;
        let kubeconfig = directory.path().join("kubeconfig");
        let lab = Lab::builder(name)
            .nodes(nodes)
            .pods(0)
            .without_daemons()
            .culvert(&programs.culvert)
            .plugin(&programs.plugin)
            .config(config(kind, &kubeconfig))
            .replace()
            .up()?;
        bypass_filters(&lab)?;
        for place in PLACES {
            lab.switch().ip(&format!("address add {place}/32 dev lo"))?;
        }
        let server = match kind {
            Kind::File => {
                let texts = PLACES.map(|place| file(&lab, others, place));
                lab.write_table(&texts[0])?;
                Server::File(texts)
            }
            Kind::Etcd => {
                let arguments = vec!["--max-txn-ops".to_owned(), CHUNK.to_string()];
                let etcd = Etcd::start_in(lab.switch(), SERVER.into(), arguments);
                let keys: Vec<(String, String)> = (0..others)
                    .map(other)
                    .chain([mover(PLACES[0])])
                    .map(|node| (key(&node), claim(&node)))
                    .collect();
                keys.chunks(CHUNK).for_each(|chunk| etcd.put_all(chunk));
                Server::Etcd { gateway: etcd.gateway(), _etcd: etcd }
            }
            Kind::Kubernetes => {
                let server = ApiServer::start_in(lab.switch(), SERVER.into());
                fs::write(&kubeconfig, server.kubeconfig())
                    .with_context(|| format!("write {}", kubeconfig.display()))?;
                let all = lab.table().nodes.into_iter().chain((0..others).map(other));
                all.chain([mover(PLACES[0])]).for_each(|node| server.put(node_object(&node)));
                server.forget();
                Server::Kubernetes(server)
            }
        };
        Ok(Self { lab, server, _directory: directory })
    }

    /// Starts every daemon.
    pub(super) fn start(&self) -> Result<()> {
        self.lab.nodes().iter().try_for_each(Node::spawn)?;
        self.lab.nodes().iter().try_for_each(Node::wait_ready)
    }

    /// Has the mover be at one of [`PLACES`]; returns when the source has it.
    pub(super) fn move_to(&mut self, place: usize) -> Result<()> {
        match &mut self.server {
            Server::File(texts) => self.lab.write_table(&texts[place])?,
            Server::Etcd { gateway, .. } => {
                let mover = mover(PLACES[place]);
                gateway.put(&key(&mover), &claim(&mover));
            }
            Server::Kubernetes(server) => server.put(node_object(&mover(PLACES[place]))),
        }
        Ok(())
    }
}

/// What is laid over a daemon's configuration.
fn config(kind: Kind, kubeconfig: &Path) -> String {
    let network = format!("[network]\ncidrs = [\"{NETWORK}\"]\n");
    network
        + &match kind {
            Kind::File => String::new(),
            Kind::Etcd => format!(
                "[table]\nsource = \"etcd\"\n[etcd]\nendpoints = [\"http://{SERVER}:2379\"]\n"
            ),
            Kind::Kubernetes => format!(
                "[table]\nsource = \"kubernetes\"\n[kubernetes]\nkubeconfig = {kubeconfig:?}\n[policy]\nmode = \"off\"\n"
            ),
        }
}

fn mover(place: Ipv4Addr) -> TableNode {
    TableNode {
        name: MOVER.to_owned(),
        address: IpAddr::V4(place),
        subnets: MOVER_SUBNET.parse().into_iter().collect(),
        public_keys: Vec::new(),
    }
}

fn file(lab: &Lab, others: u32, place: Ipv4Addr) -> String {
    let mut table: TableFile = lab.table();
    table.nodes.extend((0..others).map(other).chain([mover(place)]));
    table.to_toml()
}

fn subnet(node: &TableNode) -> String {
    node.subnets.first().map(ToString::to_string).unwrap_or_default()
}

fn key(node: &TableNode) -> String {
    format!("/culvert/subnets/{}", subnet(node).replace('/', "-"))
}

fn claim(node: &TableNode) -> String {
    json!({ "node": node.name, "instance": node.name, "address": node.address }).to_string()
}

/// The node in the API, of the size that it has in a cluster.
pub(crate) fn node_object(node: &TableNode) -> Value {
    let mut object = api_server::node(0, &subnet(node));
    object["metadata"]["name"] = json!(node.name);
    object["status"]["addresses"][0]["address"] = json!(node.address);
    let image = |number: usize| {
        let name = format!("registry.example/project/service-{number}");
        json!({ "names": [format!("{name}@sha256:{:064x}", number), format!("{name}:v1.2.3")],
            "sizeBytes": 123_456_789 })
    };
    object["status"]["images"] = (0..IMAGES).map(image).collect();
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mover_is_nobody_else_s_neighbour() {
        let mover = mover(PLACES[0]);
        assert_eq!(key(&mover), "/culvert/subnets/10.250.0.0-24");
        assert!((0..10_000).map(other).all(|other| other.subnets != mover.subnets));
        assert!(mover.subnets[0].contains(&IpAddr::V4(MOVER_POD)));
        assert!(config(Kind::Kubernetes, Path::new("/x")).contains("kubeconfig = \"/x\"\n"));
    }

    #[test]
    fn a_node_of_the_api_is_as_large_as_in_a_cluster() {
        let len = node_object(&mover(PLACES[0])).to_string().len();
        assert!((8_000..20_000).contains(&len), "{len}");
    }
}
