//! Whether a cluster can come over from flannel, as the API server tells by `kubectl`.

use std::fmt;
use std::io::{self, Write as _};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::Args;
use culvert_claims::kubernetes::{Carrier, Node, Sight};
use overlay_proto::Vni;
use serde::Serialize;
use serde_json::Value;

use crate::kubectl;
use crate::observe::Document;

/// The ConfigMap with flannel's configuration, as its manifests and its chart call it.
const CONFIG_MAP: &str = "kube-flannel-cfg";

/// What flannel takes unless it is told otherwise.
const DEFAULT_VNI: u64 = 1;
const DEFAULT_PORT: u64 = 8472;

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The context of the kubeconfig.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Found {
    pub(super) nodes: Vec<Served>,
    /// What is in the way, with what to do.
    pub(super) problems: Vec<String>,
    /// What Culvert's configuration has to have meanwhile.
    pub(super) configuration: String,
}

/// A node, and what serves it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Served {
    pub(super) name: String,
    /// `flannel`, `culvert` or `nobody`; `unknown` where something is in the way.
    pub(super) by: &'static str,
    pub(super) address: Option<String>,
    pub(super) mac: Option<String>,
}

/// Asks, judges, and prints.
pub(super) fn run(args: &CheckArgs) -> Result<ExitCode> {
    let ask = |question: &[&str]| -> Result<Value> {
        let mut kubectl = Command::new("kubectl");
        if let Some(context) = &args.context {
            kubectl.args(["--context", context]);
        }
        let text = kubectl::output(kubectl.args(question).args(["--output", "json"]))?;
        serde_json::from_str(&text).context("reading what kubectl said")
    };
    let nodes = ask(&["get", "nodes"])?;
    let name = format!("metadata.name={CONFIG_MAP}");
    let maps = ask(&["get", "configmaps", "--all-namespaces", "--field-selector", &name])?;
    let found = judge(&nodes, &maps);
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", Document::first(&found).text()?)?;
    } else {
        write!(out, "{found}")?;
    }
    let good = found.problems.is_empty();
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What `nodes` and flannel's configuration among `maps` come to.
pub(super) fn judge(nodes: &Value, maps: &Value) -> Found {
    let mut found = Found::default();
    let (vni, port) = found.read_configuration(maps);
    let vni = u32::try_from(vni).ok().and_then(|vni| Vni::new(vni).ok());
    let Some(vni) = vni else {
        found.problems.push(format!("the VNI of {CONFIG_MAP} is none: flannel cannot run with it"));
        return found;
    };
    found.configuration = format!(
        "[network]\nvxlan_vni = {}\n[underlay]\nvxlan_port = {port}\n[bridge]\nname = \"cni0\"\n\
         [kubernetes]\nmigrate_from = \"flannel\"\n",
        vni.get()
    );
    for node in nodes["items"].as_array().into_iter().flatten() {
        found.read_node(node, vni);
    }
    if found.nodes.is_empty() {
        found.problems.push("the cluster has no nodes".to_owned());
    }
    found
}

impl Found {
    /// Flannel's network identifier and port.
    fn read_configuration(&mut self, maps: &Value) -> (u64, u64) {
        let text = maps["items"][0]["data"]["net-conf.json"].as_str();
        let Some(config) = text.and_then(|text| serde_json::from_str::<Value>(text).ok()) else {
            self.problems.push(format!(
                "there is no ConfigMap {CONFIG_MAP} with a net-conf.json: flannel is not installed by its \
                 manifest or chart (its store may be etcd, which cannot come over)"
            ));
            return (DEFAULT_VNI, DEFAULT_PORT);
        };
        let backend = &config["Backend"];
        let mut refuse = |what: &str, remedy: &str| {
            self.problems.push(format!("net-conf.json of {CONFIG_MAP}: {what}; {remedy}"));
        };
        let kind = backend["Type"].as_str().unwrap_or("vxlan");
        if kind != "vxlan" {
            refuse(
                &format!("the back end is {kind}"),
                "only vxlan can come over; change flannel to vxlan first, or make the cluster anew",
            );
        }
        if backend["DirectRouting"] == true {
            refuse(
                "DirectRouting is true, so that flannel's nodes send packets of pods outside of tunnels",
                "set it to false, and restart flannel's pods",
            );
        }
        if backend["GBP"] == true {
            refuse("GBP is true, whose bits in VXLAN headers Culvert refuses", "set it to false");
        }
        if config["EnableIPv6"] == true {
            refuse("EnableIPv6 is true, and only IPv4 can come over", "set it to false");
        }
        let number = |key: &str, default| backend[key].as_u64().unwrap_or(default);
        (number("VNI", DEFAULT_VNI), number("Port", DEFAULT_PORT))
    }

    fn read_node(&mut self, value: &Value, vni: Vni) {
        let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let mut served = Served { name, by: "unknown", address: None, mac: None };
        // Nothing of ours depends on the port here.
        let sight = Sight { port: 0, flannel: Some(vni) };
        let carrier = serde_json::from_value::<Node>(value.clone());
        let carrier = carrier.map_err(|error| error.to_string());
        match carrier.and_then(|node| node.carrier(sight)) {
            Ok(Carrier::Culvert) => served.by = "culvert",
            Ok(Carrier::Flannel { address, mac }) => {
                served.by = "flannel";
                (served.address, served.mac) = (Some(address.to_string()), Some(mac.to_string()));
                let twin = self.nodes.iter().find(|node| {
                    (node.address.is_some() && node.address == served.address)
                        || (node.mac.is_some() && node.mac == served.mac)
                });
                if let Some(twin) = twin {
                    self.problems.push(format!(
                        "node {}: {} has the same public-ip or VtepMAC; restart flannel on both",
                        served.name, twin.name
                    ));
                }
            }
            Ok(Carrier::Nobody) => served.by = "nobody",
            Err(problem) => self.problems.push(format!("node {}: {problem}", served.name)),
        }
        self.nodes.push(served);
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.nodes.iter().map(|node| node.name.len()).max().unwrap_or_default();
        for Served { name, by, address, mac } in &self.nodes {
            let [address, mac] = [address, mac].map(|it| it.as_deref().unwrap_or("–"));
            writeln!(f, "{name:width$}  {by:7}  {address:15}  {mac}")?;
        }
        for problem in &self.problems {
            writeln!(f, "in the way: {problem}")?;
        }
        if self.problems.is_empty() {
            writeln!(
                f,
                "nothing is in the way. Culvert's configuration has, until all have come over:"
            )?;
            write!(f, "\n{}", self.configuration)?;
        }
        Ok(())
    }
}
