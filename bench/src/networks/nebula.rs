//! nebula: a userspace overlay that encrypts, one packet per system call.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use culvert_lab::Node;

use super::{Network, Recipe, program, routed};

/// Outer IPv4 and UDP header, nebula's header and authentication tag.
const MTU: u16 = routed::UNDERLAY_MTU - (20 + 8 + 16 + 16);

const PORT: u16 = 4242;

pub(super) struct Nebula;

impl Recipe for Nebula {
    fn name(&self) -> &'static str {
        "nebula"
    }

    fn about(&self) -> String {
        let version = program::run(Command::new("nebula").arg("-version")).unwrap_or_default();
        let version = version.split_whitespace().last().unwrap_or_default().to_owned();
        format!("nebula {version}, encrypted, MTU {MTU}")
    }

    fn missing(&self) -> Option<String> {
        program::missing(&["nebula", "nebula-cert"], "apt-get install nebula")
    }

    fn build(&self, lab: String) -> Result<Network> {
        let (lab, pods) = routed::build(lab, MTU)?;
        let mut network = Network::new(lab, pods);
        let authority = program::directory(network.lab.node(1))?;
        certificate(&authority, &["ca", "-name", "bench"])?;
        for (node, peer) in [(1, 2), (2, 1)] {
            let (own, other) = (network.lab.node(node), network.lab.node(peer));
            let dir = program::directory(own)?;
            let (name, address) = (own.name(), format!("10.99.0.{node}/24"));
            let (subnet, dir_text) = (routed::subnet(node), dir.to_string_lossy());
            let (crt, key) = (format!("{dir_text}/host.crt"), format!("{dir_text}/host.key"));
            certificate(
                &authority,
                &[
                    "sign", "-name", name, "-ip", &address, "-subnets", &subnet, "-out-crt", &crt,
                    "-out-key", &key,
                ],
            )?;
            let config = dir.join("config.json");
            let text = config_text(&authority, &dir, peer, other);
            fs::write(&config, text).context("write nebula's configuration")?;
            let daemon = program::start(own, "nebula", &["-config", &config.to_string_lossy()])?;
            network.add_daemon(daemon);
        }
        Ok(network)
    }
}

fn certificate(authority: &Path, arguments: &[&str]) -> Result<()> {
    program::run(Command::new("nebula-cert").args(arguments).current_dir(authority)).map(drop)
}

/// The configuration, as JSON, which is YAML.
fn config_text(authority: &Path, dir: &Path, peer: u16, peer_node: &Node) -> String {
    let peer_address = format!("10.99.0.{peer}");
    let any = [serde_json::json!({"port": "any", "proto": "any", "host": "any"})];
    let mut hosts = serde_json::Map::new();
    let endpoint = format!("{}:{PORT}", peer_node.address());
    hosts.insert(peer_address.clone(), serde_json::json!([endpoint]));
    let route = serde_json::json!({"route": routed::subnet(peer), "via": peer_address, "mtu": MTU});
    serde_json::json!({
        "pki": {
            "ca": authority.join("ca.crt"),
            "cert": dir.join("host.crt"),
            "key": dir.join("host.key"),
        },
        "static_host_map": hosts,
        "lighthouse": {"am_lighthouse": false, "hosts": []},
        "listen": {"host": "0.0.0.0", "port": PORT},
        "tun": {"dev": "nebula1", "mtu": MTU, "unsafe_routes": [route]},
        "firewall": {"outbound": any, "inbound": any},
    })
    .to_string()
}
