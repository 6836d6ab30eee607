//! wireguard-go: a userspace overlay that encrypts, with the offloads of its version.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use culvert_lab::{Node, wait_until};

use super::{Network, Recipe, program, routed};

/// Outer IPv4 and UDP header, WireGuard header and authentication tag; and room for padding to 16
/// bytes, which makes its usual 80 of what are 60 over IPv4.
const MTU: u16 = routed::UNDERLAY_MTU - 80;

const PORT: u16 = 51820;

/// Where it puts the socket by which `wg` reaches it, whatever the namespace.
const SOCKETS: &str = "/var/run/wireguard";

pub(super) struct WireguardGo;

impl Recipe for WireguardGo {
    fn name(&self) -> &'static str {
        "wireguard-go"
    }

    fn about(&self) -> String {
        let version = program::run(Command::new("wireguard-go").arg("--version"));
        let version = version.unwrap_or_default();
        let version = version.split_whitespace().nth(1).unwrap_or("wireguard-go").to_owned();
        format!("wireguard-go {version}, encrypted, MTU {MTU}")
    }

    fn missing(&self) -> Option<String> {
        program::missing(&["wireguard-go", "wg"], "wireguard-go wireguard-tools")
    }

    fn build(&self, lab: String) -> Result<Network> {
        let (lab, pods) = routed::build(lab, MTU)?;
        let mut network = Network::new(lab, pods);
        let mut keys = Vec::new();
        for node in [1, 2] {
            let own = network.lab.node(node);
            let socket = PathBuf::from(socket(own));
            let daemon = program::start(own, "wireguard-go", &["--foreground", &device(own)])?;
            network.add_daemon(daemon);
            network.leftovers.files.push(socket.clone());
            let node = network.lab.node(node);
            let what = format!("wireguard-go on {}; it said:{}", node.name(), node.log_tail());
            wait_until(Duration::from_secs(5), &what, || socket.exists())?;
            keys.push(configure(node)?);
        }
        for (node, peer) in [(1, 2), (2, 1)] {
            let subnet = routed::subnet(peer);
            let (node, peer, key) =
                (network.lab.node(node), network.lab.node(peer), &keys[usize::from(peer) - 1]);
            let endpoint = format!("{}:{PORT}", peer.address());
            let arguments = ["peer", key, "endpoint", &endpoint, "allowed-ips", &subnet];
            set(node, &arguments)?;
            let device = device(node);
            node.netns().ip(&format!(
                "link set {device} mtu {MTU} up\nroute add {subnet} dev {device}\n"
            ))?;
        }
        Ok(network)
    }
}

/// The device's name, of which there can be one on the machine because of [`SOCKETS`].
fn device(node: &Node) -> String {
    format!("bm-wg-{}", node.name())
}

fn socket(node: &Node) -> String {
    format!("{SOCKETS}/{}.sock", device(node))
}

/// Makes a key for `node` and returns its public half.
fn configure(node: &Node) -> Result<String> {
    let private = program::run(Command::new("wg").arg("genkey"))?;
    let file = program::directory(node)?.join("key");
    fs::write(&file, private).context("write a key")?;
    let port = PORT.to_string();
    set(node, &["listen-port", &port, "private-key", &file.to_string_lossy()])?;
    program::run(node.netns().command("wg").args(["show", &device(node), "public-key"]))
}

fn set(node: &Node, arguments: &[&str]) -> Result<()> {
    let mut wg = node.netns().command("wg");
    program::run(wg.args(["set", &device(node)]).args(arguments)).map(drop)
}
