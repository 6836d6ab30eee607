//! What the lab writes for the programs it starts: the daemon's configuration, the subnet table,
//! and the network configuration that a container runtime hands to the plugin.
//!
//! Owns text only. Knows the files as a user does, by their documented keys, and shares no type
//! with the daemon: a key that is renamed breaks the lab as it would break a user.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::json;
use toml::{Table, Value};

use super::plan::Plan;

/// UDP port of the overlay: VXLAN-GPE's.
pub const UNDERLAY_PORT: u16 = 4790;

/// Where the daemon answers HTTP, in its node's namespace.
pub const OBSERVE_ADDRESS: &str = "127.0.0.1:4791";

/// A subnet table, as its file has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFile {
    /// The nodes, in the order of the file.
    #[serde(rename = "node")]
    pub nodes: Vec<TableNode>,
}

/// A node of a subnet table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableNode {
    /// Name of the node.
    pub name: String,
    /// Where the other nodes send to it.
    pub address: IpAddr,
    /// The pod subnets that it owns.
    pub subnets: Vec<IpNet>,
    /// The public keys by which others seal what they send to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub public_keys: Vec<String>,
}

impl TableFile {
    /// The table in which every node of `plan` has what the plan gives it.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        let nodes = (1..=plan.nodes)
            .map(|node| TableNode {
                name: format!("node{node}"),
                address: plan.node_address(node),
                subnets: plan.subnets(node),
                public_keys: Vec::new(),
            })
            .collect();
        Self { nodes }
    }

    /// The file's text.
    ///
    /// # Panics
    ///
    /// Never: the type has no value that TOML cannot express.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("strings and lists of strings are TOML")
    }
}

/// Where a node keeps its files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paths<'a> {
    pub(crate) run_dir: &'a Path,
    pub(crate) state_dir: &'a Path,
    pub(crate) table: &'a Path,
}

/// The configuration of `node`'s daemon, with `overrides`, each TOML, laid over it in their order.
pub(crate) fn daemon_config(
    plan: &Plan,
    node: u16,
    paths: &Paths<'_>,
    overrides: &[&str],
) -> Result<String> {
    let mut config = toml::toml! {
        [network]
        service_cidrs = []
        vni = 1

        [tun]
        name = "culvert0"

        [bridge]
        name = "v-net-0"

        [table]
        source = "file"

        [egress]
        masquerade = true
    };
    let cidrs = plan.cluster_networks().iter().map(|net| Value::from(net.to_string())).collect();
    set(&mut config, "network", "cidrs", Value::Array(cidrs));
    set(&mut config, "node", "name", format!("node{node}").into());
    set(&mut config, "node", "run_dir", path_value(paths.run_dir));
    set(&mut config, "node", "state_dir", path_value(paths.state_dir));
    set(&mut config, "underlay", "address", plan.node_address(node).to_string().into());
    set(&mut config, "underlay", "port", i64::from(UNDERLAY_PORT).into());
    set(&mut config, "table", "path", path_value(paths.table));
    set(&mut config, "observe", "address", OBSERVE_ADDRESS.into());

    for text in overrides {
        let over: Table =
            text.parse().with_context(|| format!("read the added configuration `{text}`"))?;
        lay_over(&mut config, over);
    }
    toml::to_string(&config).context("write the daemon's configuration")
}

/// The network configuration that a container runtime on a node hands to the plugin.
pub(crate) fn cni_config(run_dir: &Path, state_dir: &Path) -> serde_json::Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "culvert",
        "type": "culvert-cni",
        "runDir": run_dir,
        "stateDir": state_dir,
    })
}

fn path_value(path: &Path) -> Value {
    path.to_string_lossy().into_owned().into()
}

fn set(config: &mut Table, section: &str, key: &str, value: Value) {
    let section = config.entry(section).or_insert_with(|| Table::new().into());
    if let Value::Table(section) = section {
        section.insert(key.into(), value);
    }
}

/// Lays `over` over `base`: tables merge, everything else replaces.
fn lay_over(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(over)) => lay_over(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use overlay_proto::Family;

    use super::super::plan::Families;
    use super::*;

    #[test]
    fn the_table_lists_every_node() {
        let text = TableFile::of(&plan()).to_toml();
        let table: Table = text.parse().unwrap();
        let nodes = table["node"].as_array().unwrap();
        assert_eq!(nodes.len(), 3);
        assert_eq!(nodes[1]["name"].as_str(), Some("node2"));
        assert_eq!(nodes[1]["address"].as_str(), Some("192.168.1.12"));
        assert_eq!(nodes[1]["subnets"][0].as_str(), Some("10.244.2.0/24"));
        assert_eq!(nodes[1]["subnets"][1].as_str(), Some("fd00:10:244:2::/64"));
        assert_eq!(toml::from_str::<TableFile>(&text).unwrap(), TableFile::of(&plan()));
    }

    #[test]
    fn added_configuration_overrides_key_by_key() {
        let added = ["[underlay]\nmtu = 1400\n[network]\nvni = 7", "[network]\nvni = 9"];
        let config: Table = daemon_config(&plan(), 1, &paths(), &added).unwrap().parse().unwrap();
        assert_eq!(config["network"]["vni"].as_integer(), Some(9));
        assert_eq!(config["underlay"]["mtu"].as_integer(), Some(1400));
        assert_eq!(config["underlay"]["port"].as_integer(), Some(4790));
        assert_eq!(config["underlay"]["address"].as_str(), Some("192.168.1.11"));
        assert_eq!(config["network"]["cidrs"][1].as_str(), Some("fd00:10:244::/48"));
        assert_eq!(config["node"]["run_dir"].as_str(), Some("/run/x"));
    }

    #[test]
    fn added_configuration_that_is_no_toml_is_refused() {
        let error = daemon_config(&plan(), 1, &paths(), &["[underlay"]).unwrap_err();
        assert!(error.to_string().contains("[underlay"), "{error}");
    }

    fn plan() -> Plan {
        Plan {
            name: "lab".into(),
            nodes: 3,
            pods: 2,
            families: Families::Dual,
            underlay: Family::V4,
            underlay_mtu: 1500,
        }
    }

    fn paths() -> Paths<'static> {
        Paths {
            run_dir: Path::new("/run/x"),
            state_dir: Path::new("/run/y"),
            table: Path::new("/run/t.toml"),
        }
    }
}
