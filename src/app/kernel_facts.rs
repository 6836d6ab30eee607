//! The kernel of this node, as `culvert explain` asks it.
//!
//! Over sockets of its own, in the caller's thread, which waits for the kernel: a question never
//! waits for the thread that repairs the node, nor that for a question.

use std::net::IpAddr;

use anyhow::Context as _;
use culvert_netlink::{Address, Flow, Link, RouteAnswer, Rtnetlink, Socket};
use culvert_nft::Hook;
use culvert_node::pod_port::PodPort;
use overlay_proto::Family;

use crate::explain::{Holder, Kernel, Way};

/// What the node has, read once for a question.
pub(super) struct KernelFacts {
    socket: Socket<Rtnetlink>,
    links: Vec<Link>,
    addresses: Vec<Address>,
    /// Index of the bridge, if there is one.
    bridge: Option<u32>,
}

impl KernelFacts {
    /// Reads devices and addresses; pods are behind `bridge`.
    ///
    /// # Errors
    ///
    /// The kernel refuses, or does not answer.
    pub(super) fn read(bridge: &str) -> anyhow::Result<Self> {
        let mut socket = Socket::open().context("asking the kernel about this node")?;
        let links = socket.links_despite_changes()?;
        let addresses = socket.addresses()?;
        let bridge = links.iter().find(|link| link.name == bridge).map(|link| link.index);
        Ok(Self { socket, links, addresses, bridge })
    }

    /// What the notes on the ports say.
    fn pods(&self) -> impl Iterator<Item = PodPort> {
        self.links.iter().filter_map(|link| PodPort::from_note(&link.name, &link.alias))
    }

    /// Whether something is behind the bridge of which nothing says its addresses.
    fn has_strangers(&self) -> bool {
        let ports = self.links.iter().filter(|link| link.up && link.controller.is_some());
        ports.filter(|link| link.controller == self.bridge).any(|link| {
            PodPort::from_note(&link.name, &link.alias).is_none_or(|pod| !pod.is_checked)
        })
    }
}

impl Kernel for KernelFacts {
    fn holder(&mut self, address: IpAddr) -> Result<Option<Holder>, String> {
        if self.addresses.iter().any(|has| has.net.addr() == address) {
            return Ok(Some(Holder::Node));
        }
        let mut pods = self.pods();
        match pods.find(|pod| pod.addresses.iter().any(|has| has.addr() == address)) {
            Some(pod) => Ok(Some(Holder::Pod(pod.owner().to_string()))),
            None if self.has_strangers() => {
                Err("a port of the bridge may have any address: it has no note, or is not checked"
                    .to_owned())
            }
            None => Ok(None),
        }
    }

    fn route(
        &mut self,
        source: IpAddr,
        destination: IpAddr,
        incoming: Option<&str>,
    ) -> Result<Way, String> {
        let index = |name: &str| {
            let link = self.links.iter().find(|link| link.name == name);
            link.map(|link| link.index).ok_or_else(|| format!("there is no device {name}"))
        };
        let incoming = incoming.map(index).transpose()?;
        let flow = Flow { source: Some(source), incoming, ..Flow::to(destination) };
        let answers = self.socket.look_up_routes([flow]).map_err(|error| error.to_string())?;
        let answer = answers.into_iter().next().ok_or("it gave no answer")?;
        Ok(match answer {
            RouteAnswer::Local => Way::Here,
            RouteAnswer::Refused(error) => Way::Refused(error.cause.to_string()),
            RouteAnswer::Out(path) => {
                let names = path.links.iter().map(|index| {
                    let link = self.links.iter().find(|link| link.index == *index);
                    link.map_or_else(|| format!("device {index}"), |link| link.name.clone())
                });
                let device = names.collect::<Vec<_>>().join(" or ");
                Way::Out { device, gateway: path.route.gateway }
            }
        })
    }

    fn firewalls(&mut self, family: Family) -> Result<Vec<String>, String> {
        let mut socket = culvert_nft::Socket::open().map_err(|error| error.to_string())?;
        let chains = socket.base_chains().map_err(|error| error.to_string())?;
        // Ours drop by rules, not by policy.
        let is_ipv4 = family == Family::V4;
        let dropping = chains
            .into_iter()
            .filter(|chain| chain.drops && chain.is_passed(is_ipv4, Hook::Forward));
        let describe = |chain: culvert_nft::BaseChain| {
            let (family, table) = (chain.family(), &chain.table);
            format!("chain {family} {table} {} (policy drop)", chain.name)
        };
        Ok(dropping.map(describe).collect())
    }
}
