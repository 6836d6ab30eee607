//! The networks that are compared, behind one interface.
//!
//! Each has two nodes, namespaces joined by the lab's switch, and a pod on each, which owns its
//! node's `10.244.N.0/24`. What differs is how the pods' packets get from node to node. Another
//! network is one more file with a [`Recipe`], and a line in [`recipes`].

mod culvert;
pub(crate) mod kernel_vxlan;
mod medium;
mod nebula;
pub(crate) mod program;
mod routed;
mod underlay;
mod wireguard;

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use ::culvert_lab::{Lab, probe, wait_for};
use anyhow::{Context as _, Result};

pub(crate) use self::culvert::Culvert;
pub(crate) use self::medium::{Arrived, Medium};

use crate::programs::Programs;
use crate::traffic::Pod;

/// What every namespace and lab of the bench is called by.
pub(crate) const PREFIX: &str = "bm-";

/// The network that ratios are to.
pub(crate) const BASELINE: &str = "kernel-vxlan";

/// How long a network may take until the pods reach each other.
const REACH_LIMIT: Duration = Duration::from_secs(20);

/// How to build a network.
pub(crate) trait Recipe {
    /// The name, of letters, digits and `-`.
    fn name(&self) -> &str;

    /// What it is, in a line.
    fn about(&self) -> String;

    /// What this machine lacks for it, and how to get it.
    fn missing(&self) -> Option<String> {
        None
    }

    /// Builds it under the lab name `lab`. Whatever exists of that name goes first.
    fn build(&self, lab: String) -> Result<Network>;
}

/// A network that is up.
pub(crate) struct Network {
    pub(crate) name: String,
    pub(crate) about: String,
    /// The pods, on the first and the second node.
    pub(crate) pods: [Pod; 2],
    /// The daemons' process ids; none if the kernel does it all.
    pub(crate) daemons: Vec<u32>,
    medium: Cell<Medium>,
    lab: Lab,
    /// Dropped after the lab, whose end ends the processes.
    leftovers: Leftovers,
}

/// What the lab does not know of.
#[derive(Default)]
struct Leftovers {
    /// Processes to take note of the end of.
    processes: Vec<Child>,
    /// Files elsewhere.
    files: Vec<PathBuf>,
}

impl Network {
    /// Builds the network of `recipe` and waits until its pods reach each other.
    pub(crate) fn up(recipe: &dyn Recipe) -> Result<Self> {
        let mut network = recipe
            .build(format!("{PREFIX}{}", recipe.name()))
            .with_context(|| format!("build the network {}", recipe.name()))?;
        network.name = recipe.name().to_owned();
        network.about = recipe.about();
        bypass_filters(&network.lab)?;
        network.wait_reachable()?;
        Ok(network)
    }

    /// A network without daemons that its `lab` and `pods` describe.
    fn new(lab: Lab, pods: [Pod; 2]) -> Self {
        Self {
            name: String::new(),
            about: String::new(),
            pods,
            daemons: Vec::new(),
            medium: Cell::new(Medium::Veth),
            lab,
            leftovers: Leftovers::default(),
        }
    }

    /// Lays `medium` between the nodes, unless it is there already.
    pub(crate) fn lay(&self, medium: Medium) -> Result<()> {
        if self.medium.get() != medium {
            medium.lay(&self.lab).with_context(|| format!("make a {medium:?} of {}", self.name))?;
            self.medium.set(medium);
        }
        Ok(())
    }

    /// What has arrived on the underlay so far, at the first node (0) or the second (1).
    pub(crate) fn arrived(&self, node: usize) -> Result<Arrived> {
        Arrived::at(self.lab.nodes()[node].netns())
    }

    /// Takes note of a daemon.
    fn add_daemon(&mut self, daemon: Child) {
        self.daemons.push(daemon.id());
        self.leftovers.processes.push(daemon);
    }

    fn wait_reachable(&self) -> Result<()> {
        let [first, second] = &self.pods;
        for (from, to) in [(first, second), (second, first)] {
            let what = format!("the pods of {} to reach each other", self.name);
            let timeout = Duration::from_millis(200);
            wait_for(REACH_LIMIT, &what, || {
                Ok(probe::udp_echo(&from.netns, &to.netns, to.address, 64, timeout).ok())
            })
            .with_context(|| self.logs())?;
        }
        Ok(())
    }

    /// The end of what the daemons said.
    fn logs(&self) -> String {
        let tails = self.lab.nodes().iter().map(|node| (node.name(), node.log_tail()));
        let said = tails.filter(|(_, tail)| !tail.is_empty());
        let text: String = said.map(|(name, tail)| format!("{name} said:{tail}\n")).collect();
        if text.is_empty() { "nothing was logged".to_owned() } else { text }
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // The lab has ended it; what it could not end, it has complained of.
            let _ = process.try_wait();
        }
        for path in &self.files {
            // Gone already, if its program ended in peace.
            let _ = fs::remove_file(path);
            // Refused while it holds others' files, which is as it should be.
            let _ = path.parent().map(fs::remove_dir);
        }
    }
}

/// Lets the switch between the nodes pass frames as a switch does: on a machine that runs
/// containers a bridge looks at each as a firewall would (`br_netfilter`).
pub(crate) fn bypass_filters(lab: &Lab) -> Result<()> {
    let switch = lab.switch();
    for protocol in ["iptables", "ip6tables", "arptables"] {
        let key = format!("bridge/bridge-nf-call-{protocol}");
        if Path::new("/proc/sys/net").join(&key).exists() {
            switch.set_sysctl(&key, "0")?;
        }
    }
    Ok(())
}

/// Every network, in the order of the columns.
pub(crate) fn recipes(programs: &Programs) -> Vec<Box<dyn Recipe>> {
    vec![
        Box::new(underlay::Underlay),
        Box::new(kernel_vxlan::KernelVxlan),
        Box::new(Culvert::new("culvert", programs)),
        Box::new(
            Culvert::new("culvert-plain", programs)
                .with_config("[tun]\noffload = false")
                .with_about("culvert with every offload off"),
        ),
        Box::new(Culvert::new("culvert-sealed", programs).sealed("aes-256-gcm")),
        Box::new(Culvert::new("culvert-sealed-chacha", programs).sealed("chacha20-poly1305")),
        Box::new(wireguard::GO),
        Box::new(wireguard::GOTATUN),
        Box::new(wireguard::BORINGTUN),
        Box::new(nebula::Nebula),
    ]
}
