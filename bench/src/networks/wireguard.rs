//! Userspace WireGuard, in three implementations: overlays that encrypt, with the offloads of their
//! versions.

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

/// An implementation.
pub(super) struct Wireguard {
    name: &'static str,
    /// The program, which a device's name follows.
    program: &'static str,
    arguments: &'static [&'static str],
    /// How to get it.
    install: &'static str,
    /// What its devices are called by.
    letters: &'static str,
}

/// In Go.
pub(super) const GO: Wireguard = Wireguard {
    name: "wireguard-go",
    program: "wireguard-go",
    arguments: &["--foreground"],
    install: "apt-get install wireguard-go",
    letters: "wg",
};

/// In Rust, by Mullvad.
pub(super) const GOTATUN: Wireguard = Wireguard {
    name: "gotatun",
    program: "gotatun",
    arguments: &["--foreground", "--disable-drop-privileges", "--verbosity", "error"],
    install: "cargo install --locked gotatun-cli",
    letters: "gt",
};

/// In Rust, by Cloudflare.
pub(super) const BORINGTUN: Wireguard = Wireguard {
    name: "boringtun",
    program: "boringtun-cli",
    arguments: &["--foreground", "--disable-drop-privileges", "--verbosity", "error"],
    install: "cargo install --locked boringtun-cli",
    letters: "bt",
};

impl Recipe for Wireguard {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> String {
        let version = program::run(Command::new(self.program).arg("--version"));
        let version = version.unwrap_or_default();
        let version = version.split_whitespace().nth(1).unwrap_or_default().to_owned();
        format!("{} {version}, encrypted, MTU {MTU}", self.name)
    }

    fn missing(&self) -> Option<String> {
        program::missing(&[self.program], self.install)
            .or_else(|| program::missing(&["wg"], "apt-get install wireguard-tools"))
    }

    fn build(&self, lab: String) -> Result<Network> {
        let (lab, pods) = routed::build(lab, MTU)?;
        let mut network = Network::new(lab, pods);
        let mut keys = Vec::new();
        for node in [1, 2] {
            let own = network.lab.node(node);
            let device = self.device(own);
            let socket = PathBuf::from(format!("{SOCKETS}/{device}.sock"));
            let arguments = [self.arguments, &[&device]].concat();
            let daemon = program::start(own, self.program, &arguments)?;
            network.add_daemon(daemon);
            network.leftovers.files.push(socket.clone());
            let node = network.lab.node(node);
            let said = node.log_tail();
            let what = format!("{} on {}; it said:{said}", self.name, node.name());
            wait_until(Duration::from_secs(5), &what, || socket.exists())?;
            keys.push(configure(node, &device)?);
        }
        for (node, peer) in [(1, 2), (2, 1)] {
            let subnet = routed::subnet(peer);
            let (node, peer, key) =
                (network.lab.node(node), network.lab.node(peer), &keys[usize::from(peer) - 1]);
            let endpoint = format!("{}:{PORT}", peer.address());
            let arguments = ["peer", key, "endpoint", &endpoint, "allowed-ips", &subnet];
            let device = self.device(node);
            set(node, &device, &arguments)?;
            node.netns().ip(&format!(
                "link set {device} mtu {MTU} up\nroute add {subnet} dev {device}\n"
            ))?;
        }
        Ok(network)
    }
}

impl Wireguard {
    /// The device's name, of which there can be one on the machine because of [`SOCKETS`].
    fn device(&self, node: &Node) -> String {
        format!("bm-{}-{}", self.letters, node.name())
    }
}

/// Makes a key for `node` and returns its public half.
fn configure(node: &Node, device: &str) -> Result<String> {
    let private = program::run(Command::new("wg").arg("genkey"))?;
    let file = program::directory(node)?.join("key");
    fs::write(&file, private).context("write a key")?;
    let port = PORT.to_string();
    set(node, device, &["listen-port", &port, "private-key", &file.to_string_lossy()])?;
    // Not every daemon tells it.
    let private = fs::File::open(&file).context("read a key")?;
    program::run(Command::new("wg").arg("pubkey").stdin(private))
}

fn set(node: &Node, device: &str, arguments: &[&str]) -> Result<()> {
    let mut wg = node.netns().command("wg");
    program::run(wg.args(["set", device]).args(arguments)).map(drop)
}
