//! Faults of a lab: breaking one thing, and taking it back.
//!
//! Owns what each fault does to which namespace, and the record of those that are there. A fault is
//! made by what makes it in a real cluster: a signal, a rule, a route, a cable. Taking it back
//! needs nothing but its description, and does what is left to do, so that it may be done twice.

mod command;
mod forged;
mod link;
mod machine;

use std::fmt;
use std::fs;
use std::io;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use serde::{Deserialize, Serialize};

use super::files;
use super::network::Lab;
use super::node::Node;

/// Something that is broken, or is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Subcommand)]
#[serde(tag = "fault", rename_all = "kebab-case")]
pub enum Fault {
    /// Kill the daemon (SIGKILL), as the kernel does when memory runs out.
    Kill {
        /// The node.
        node: String,
    },
    /// Stop the daemon (SIGSTOP): it holds its sockets and does nothing.
    Stop {
        /// The node.
        node: String,
    },
    /// Pull the node's cable out of the switch.
    Cut {
        /// The node.
        node: String,
    },
    /// Make the way to the node narrow, and say so to nobody: a path MTU black hole.
    Narrow {
        /// The node.
        node: String,
        /// What still fits, in bytes of the underlay.
        #[arg(long, value_name = "BYTES", default_value_t = 1400)]
        mtu: u16,
    },
    /// Lose some of the datagrams that the node sends, or all from one source port.
    Lose {
        /// The node.
        node: String,
        /// How many of a hundred.
        #[arg(long, value_name = "PERCENT", default_value_t = 100,
              value_parser = clap::value_parser!(u8).range(1..=100))]
        percent: u8,
        /// Only those from this UDP port: one of the sixteen paths. `culvert explain` says which
        /// port a flow has.
        #[arg(long, value_name = "PORT")]
        source_port: Option<u16>,
    },
    /// Let the node send no faster than this, and drop the rest (a policer).
    Slow {
        /// The node.
        node: String,
        /// In kilobytes a second.
        #[arg(long, value_name = "KBYTES", default_value_t = 1000)]
        rate: u32,
    },
    /// Delay what the node sends: a program holds its frames back, on the way to the switch.
    Delay {
        /// The node.
        node: String,
        /// In milliseconds.
        #[arg(long, value_name = "MS", default_value_t = 50)]
        ms: u32,
    },
    /// Give the node a firewall that forwards nothing (nftables, policy drop).
    Forward {
        /// The node.
        node: String,
    },
    /// Install Docker on the node, as far as its firewall goes: iptables FORWARD, policy DROP.
    Docker {
        /// The node.
        node: String,
    },
    /// Give the node a firewall that takes no datagram of a tunnel.
    Input {
        /// The node.
        node: String,
    },
    /// Give the node a route of another program to the pods of another node.
    Route {
        /// The node.
        node: String,
        /// The node whose pods it takes away; the next one unless told otherwise.
        #[arg(long, value_name = "NODE")]
        to: Option<String>,
    },
    /// Give the node a rule, such as a VPN's, that sends packets of its pods nowhere.
    Rule {
        /// The node.
        node: String,
    },
    /// Give another machine of the underlay the node's address.
    Address {
        /// The node.
        node: String,
    },
    /// Tell the node, as a stranger, that its datagrams are too long (forged ICMP), once.
    Icmp {
        /// The node.
        node: String,
        /// What is claimed to fit, in bytes.
        #[arg(long, value_name = "BYTES", default_value_t = 576)]
        mtu: u16,
    },
}

impl Fault {
    /// The node that it is about.
    #[must_use]
    pub fn node(&self) -> &str {
        match self {
            Self::Kill { node }
            | Self::Stop { node }
            | Self::Cut { node }
            | Self::Narrow { node, .. }
            | Self::Lose { node, .. }
            | Self::Slow { node, .. }
            | Self::Delay { node, .. }
            | Self::Forward { node }
            | Self::Docker { node }
            | Self::Input { node }
            | Self::Route { node, .. }
            | Self::Rule { node }
            | Self::Address { node }
            | Self::Icmp { node, .. } => node,
        }
    }

    /// Whether nothing is left of `other` once it is done.
    fn replaces(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Delay { node, .. }, Self::Delay { node: other, .. })
            | (Self::Narrow { node, .. }, Self::Narrow { node: other, .. }) => node == other,
            _ => self == other,
        }
    }

    /// Whether it is over as soon as it is done.
    const fn is_passing(&self) -> bool {
        matches!(self, Self::Icmp { .. })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.node())?;
        match self {
            Self::Kill { .. } => f.write_str("the daemon is killed"),
            Self::Stop { .. } => f.write_str("the daemon is stopped"),
            Self::Cut { .. } => f.write_str("its cable is out of the switch"),
            Self::Narrow { mtu, .. } => {
                write!(f, "no more than {mtu} bytes get through, and nobody says so")
            }
            Self::Lose { percent, source_port: None, .. } => {
                write!(f, "{percent} % of its datagrams are lost")
            }
            Self::Lose { percent, source_port: Some(port), .. } => {
                write!(f, "{percent} % of its datagrams from UDP port {port} are lost")
            }
            Self::Slow { rate, .. } => write!(f, "it sends no more than {rate} kilobytes a second"),
            Self::Delay { ms, .. } => write!(f, "what it sends arrives {ms} ms later"),
            Self::Forward { .. } => f.write_str("a firewall forwards nothing (nftables)"),
            Self::Docker { .. } => f.write_str("Docker's firewall forwards nothing (iptables)"),
            Self::Input { .. } => f.write_str("a firewall takes no datagram of a tunnel"),
            Self::Route { to, .. } => {
                let whose = to.as_deref().unwrap_or("another node");
                write!(f, "a route takes the packets to {whose}'s pods")
            }
            Self::Rule { .. } => f.write_str("a rule sends packets of its pods nowhere"),
            Self::Address { .. } => f.write_str("another machine has its underlay address"),
            Self::Icmp { mtu, .. } => {
                write!(f, "it was told by a stranger that no more than {mtu} bytes fit")
            }
        }
    }
}

impl Lab {
    /// Breaks something, writes down what, and returns it with what was left to choose. What is
    /// broken already is broken anew.
    ///
    /// # Errors
    ///
    /// There is no such node, a program is missing, or the kernel refuses; what was begun is taken
    /// back.
    pub fn inflict(&self, fault: &Fault) -> Result<Fault> {
        let fault = self.completed(fault)?;
        let mut faults = self.faults()?;
        if !fault.is_passing() {
            faults.retain(|known| !fault.replaces(known));
            faults.push(fault.clone());
            // Before it is done, so that a half of it can be taken back.
            self.write_faults(&faults)?;
        }
        if let Err(error) = self.apply(&fault) {
            // The first error is the one to tell.
            let _ = self.take_back(&fault);
            faults.retain(|known| *known != fault);
            self.write_faults(&faults)?;
            return Err(error.context(format!("break {fault}")));
        }
        Ok(fault)
    }

    /// Takes back everything that was broken, the newest first, and starts daemons that do not run.
    /// Returns what there was.
    ///
    /// # Errors
    ///
    /// Something could not be taken back; the rest is, and it stays written down.
    pub fn mend(&self) -> Result<Vec<Fault>> {
        let faults = self.faults()?;
        let mut left = Vec::new();
        let mut failure = None;
        for fault in faults.iter().rev() {
            if let Err(error) = self.take_back(fault) {
                left.insert(0, fault.clone());
                failure.get_or_insert_with(|| error.context(format!("mend {fault}")));
            }
        }
        self.write_faults(&left)?;
        failure.map_or(Ok(faults), Err)
    }

    /// What is broken.
    ///
    /// # Errors
    ///
    /// The record cannot be read.
    pub fn faults(&self) -> Result<Vec<Fault>> {
        let path = files::faults(&self.plan().name);
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            text => {
                let text = text.with_context(|| format!("read {}", path.display()))?;
                serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))
            }
        }
    }

    fn write_faults(&self, faults: &[Fault]) -> Result<()> {
        let text = serde_json::to_string_pretty(faults).context("write down the faults")?;
        files::write(&files::faults(&self.plan().name), &text)
    }

    /// The fault with what was left to choose.
    fn completed(&self, fault: &Fault) -> Result<Fault> {
        let node = self.find_node(fault.node())?;
        let Fault::Route { to, .. } = fault else { return Ok(fault.clone()) };
        if let Some(to) = to {
            self.find_node(to)?;
            return Ok(fault.clone());
        }
        let mut others = self.nodes().iter().filter(|other| other.index != node.index);
        let next = others.clone().find(|other| other.index > node.index);
        let to = next.or_else(|| others.next());
        let to = to.context("there is no other node whose pods a route could take away")?;
        Ok(Fault::Route { node: node.name().to_owned(), to: Some(to.name().to_owned()) })
    }

    fn apply(&self, fault: &Fault) -> Result<()> {
        let node = self.find_node(fault.node())?;
        match fault {
            Fault::Kill { .. } => node.kill9(),
            Fault::Stop { .. } => node.freeze(),
            Fault::Cut { .. } => link::cut(self, node),
            Fault::Narrow { mtu, .. } => link::narrow(self, node, *mtu),
            Fault::Lose { percent, source_port, .. } => {
                link::lose(self, node, *percent, *source_port)
            }
            Fault::Slow { rate, .. } => link::slow(self, node, *rate),
            Fault::Delay { ms, .. } => link::delay(self, node, *ms),
            Fault::Forward { .. } => machine::forward(node),
            Fault::Docker { .. } => machine::docker(node),
            Fault::Input { .. } => machine::input(node),
            Fault::Route { to, .. } => machine::route(node, self.other(to.as_deref())?),
            Fault::Rule { .. } => machine::rule(node),
            Fault::Address { .. } => machine::address(self, node),
            Fault::Icmp { mtu, .. } => forged::too_big(self, node, *mtu),
        }
    }

    fn take_back(&self, fault: &Fault) -> Result<()> {
        let node = self.find_node(fault.node())?;
        match fault {
            Fault::Kill { .. } => match node.pid() {
                Some(_) => Ok(()),
                None => node.start(),
            },
            Fault::Stop { .. } => node.thaw(),
            Fault::Cut { .. } => link::plug(self, node),
            Fault::Narrow { .. } => link::widen(self, node),
            Fault::Lose { .. } | Fault::Slow { .. } => link::let_through(self, node),
            Fault::Delay { .. } => link::undelay(self, node),
            Fault::Forward { .. } => machine::remove_table(node, machine::FORWARD),
            Fault::Docker { .. } => machine::undocker(node),
            Fault::Input { .. } => machine::remove_table(node, machine::INPUT),
            Fault::Route { to, .. } => {
                machine::unroute(node, self.other(to.as_deref())?);
                Ok(())
            }
            Fault::Rule { .. } => {
                machine::unrule(node);
                Ok(())
            }
            Fault::Address { .. } => {
                machine::unaddress(self, node);
                Ok(())
            }
            Fault::Icmp { .. } => Ok(()),
        }
    }

    fn other(&self, name: Option<&str>) -> Result<&Node> {
        self.find_node(name.context("the fault does not say to which node")?)
    }

    /// A place by its own name, where `name` is that or the name of its namespace.
    #[must_use]
    pub fn without_prefix<'a>(&self, name: &'a str) -> &'a str {
        let rest = name.strip_prefix(self.plan().name.as_str());
        rest.and_then(|rest| rest.strip_prefix('-')).unwrap_or(name)
    }

    /// The node called `name`, or whose namespace is.
    ///
    /// # Errors
    ///
    /// There is none; the error lists those there are.
    pub fn find_node(&self, name: &str) -> Result<&Node> {
        let name = self.without_prefix(name);
        let found = self.nodes().iter().find(|node| node.name() == name);
        found.with_context(|| {
            let names: Vec<&str> = self.nodes().iter().map(Node::name).collect();
            let lab = &self.plan().name;
            format!("the lab `{lab}` has no node `{name}`; it has {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_is_read_back_as_it_was_written_down() {
        let faults = vec![
            Fault::Kill { node: "node2".to_owned() },
            Fault::Lose { node: "node1".to_owned(), percent: 50, source_port: Some(4711) },
            Fault::Route { node: "node1".to_owned(), to: Some("node2".to_owned()) },
        ];
        let text = serde_json::to_string(&faults).unwrap();
        assert!(text.contains(r#"{"fault":"kill","node":"node2"}"#), "{text}");
        assert_eq!(serde_json::from_str::<Vec<Fault>>(&text).unwrap(), faults);
    }

    #[test]
    fn only_what_a_fault_leaves_of_another_is_written_down() {
        let delay = |node: &str, ms| Fault::Delay { node: node.to_owned(), ms };
        assert!(delay("node1", 10).replaces(&delay("node1", 20)));
        assert!(!delay("node1", 10).replaces(&delay("node2", 10)));
        let lose = |percent| Fault::Lose { node: "node1".to_owned(), percent, source_port: None };
        assert!(!lose(10).replaces(&lose(20)), "both are there");
        assert!(lose(10).replaces(&lose(10)));
    }

    #[test]
    fn fault_says_what_and_where() {
        let lose = Fault::Lose { node: "node1".to_owned(), percent: 50, source_port: Some(4711) };
        let said = lose.to_string();
        assert_eq!(said, "node1: 50 % of its datagrams from UDP port 4711 are lost");
        assert_eq!(lose.node(), "node1");
    }
}
