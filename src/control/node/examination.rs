//! A look at the node that changes nothing: what a reconciler would have to do, and what would go
//! astray all the same.

use std::net::IpAddr;

use anyhow::Context as _;
use culvert_netlink::{
    Address, Link, MAIN_TABLE, Route, RouteAnswer, RouteFilter, RuleLine, route_refusal,
};

use super::action::Action;
use super::desired::Desired;
use super::diff::diff;
use super::firewall::{is_ours, pods};
use super::observe::Observed;
use super::reach::{self, Devices};
use super::stranded::{Stranded, stranded};
use super::{NodeSpec, PROTOCOL, Reconciler, TunOwner, underlay};

/// Protocol number of routes that the kernel has made by router advertisements (`RTPROT_RA`).
const ADVERTISED: u8 = 9;

/// What a look found.
#[derive(Debug, Default)]
pub(crate) struct Examination {
    /// What a daemon would do to the node, in its order.
    pub missing: Vec<Action>,
    /// Whether the TUN takes packets: somebody reads them.
    pub carrying: bool,
    /// A device of ours that another one has made its port, and what to do.
    pub captured: Option<String>,
    /// Packets that take another way than they should.
    pub astray: Vec<Astray>,
    /// Why no datagram of a tunnel leaves, or none arrives.
    pub underlay: Option<String>,
    /// Pods with an address that no subnet of this node has.
    pub stranded: Vec<Stranded>,
    /// Ports of pods whose note is gone.
    pub noteless: Vec<String>,
    /// Pods that are plugged in, by their notes.
    pub pods: usize,
    /// Devices.
    pub links: Vec<Link>,
    /// Addresses of all devices.
    pub addresses: Vec<Address>,
    /// Rules that choose among routing tables.
    pub rules: Vec<RuleLine>,
    /// Routes that came by router advertisements.
    pub advertised: Vec<Route>,
    /// Routes of the main table into the pod networks that are not the daemon's, nor lead to
    /// its devices.
    pub inside: Vec<Route>,
    /// How datagrams to peers leave, in their order, by the names of devices.
    pub ways: Vec<Vec<String>>,
    /// Peers to which the kernel sends nothing, by their addresses, and why not.
    pub refused: Vec<(IpAddr, String)>,
}

/// A packet that takes another way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Astray {
    /// What is wrong, and how to see it.
    pub obstacle: String,
    /// The route that the kernel takes; none where it drops the packet or keeps it.
    pub route: Option<Route>,
    /// The device that it leaves by.
    pub device: String,
    /// Whence and where to.
    pub ends: (Option<IpAddr>, IpAddr),
    /// Whether the packet is one of IPv6.
    pub is_v6: bool,
}

/// One who is not asked to hold anything.
struct Bystander;

impl TunOwner for Bystander {
    fn is_attached(&self) -> bool {
        true
    }

    fn open(&self) -> culvert_dataplane::platform::Result<()> {
        Ok(())
    }
}

impl Reconciler {
    /// Looks at everything that a daemon would look at, and a little more; changes nothing.
    ///
    /// # Errors
    ///
    /// The kernel does not answer.
    pub(crate) fn examine(&mut self, spec: &NodeSpec) -> anyhow::Result<Examination> {
        let desired = Desired::new(spec);
        let observed = self.observe(spec, &desired, &Bystander, (true, &[]))?;
        let missing = diff(&desired, &observed.actual);
        let socket = &mut self.netlink.socket;
        let links = socket.links_despite_changes().context("listing devices")?;
        let addresses = socket.addresses()?;
        let rules = socket.rule_lines()?;
        let advertised = socket.routes(RouteFilter::Protocol(ADVERTISED))?;
        let own = [&spec.tun, &spec.bridge].map(|name| observed.indexes.get(name).copied());
        let mut inside = socket.routes(RouteFilter::Table(MAIN_TABLE))?;
        inside.retain(|route| {
            let is_ours =
                route.protocol == PROTOCOL || route.link.is_some() && own.contains(&route.link);
            let net = |net: &ipnet::IpNet| net.contains(&route.destination);
            !is_ours && spec.cluster_networks.iter().any(net)
        });
        let answers = socket.look_up_routes(spec.peers.iter().copied())?;
        let name = |index: &u32| {
            let link = links.iter().find(|link| link.index == *index);
            link.map_or_else(|| format!("device {index}"), |link| link.name.clone())
        };
        let ways = answers.iter().map(|answer| match answer {
            RouteAnswer::Out(path) => path.links.iter().map(name).collect(),
            RouteAnswer::Local | RouteAnswer::Refused(_) => Vec::new(),
        });
        let ways = ways.collect();
        let refused = spec.peers.iter().zip(&answers).filter_map(|(peer, answer)| match answer {
            RouteAnswer::Refused(error) => Some((peer.destination, route_refusal(error))),
            RouteAnswer::Out(_) | RouteAnswer::Local => None,
        });
        let refused = refused.collect();
        let questions = underlay::questions(spec);
        let answers = self.netlink.socket.look_up_routes(questions.iter().copied())?;
        let underlay = underlay::fault(&questions, &answers, &observed.indexes, &observed.running);
        Ok(Examination {
            missing,
            carrying: observed.carrying,
            captured: reach::captured(&observed.captured),
            astray: self.astray(spec, &observed)?,
            underlay,
            stranded: stranded(&spec.local_subnets, &observed.pods.ports),
            noteless: observed.noteless,
            pods: pods(&links, &spec.bridge).ports.len(),
            links,
            addresses,
            rules,
            advertised,
            inside,
            ways,
            refused,
        })
    }

    /// The packets of pods, to whichever node, that would not take the way that they should.
    fn astray(&mut self, spec: &NodeSpec, observed: &Observed) -> anyhow::Result<Vec<Astray>> {
        let index = |name: &str| observed.indexes.get(name).copied();
        let (Some(tun), Some(bridge)) = (index(&spec.tun), index(&spec.bridge)) else {
            return Ok(Vec::new());
        };
        let mut astray = Vec::new();
        // Those that do not leave this node are asked about where there is no other one, too.
        let none = spec.remote_subnets.is_empty().then_some(&[][..]);
        for remotes in spec.remote_subnets.chunks(reach::WINDOW).chain(none) {
            let probes = reach::probes(spec, Devices { tun, bridge }, remotes);
            let flows = probes.iter().map(|probe| probe.flow);
            let answers = self.netlink.socket.look_up_routes(flows)?;
            for (probe, answer) in probes.iter().zip(&answers) {
                let Some(detour) = reach::detour(spec, probe, answer, &observed.indexes) else {
                    continue;
                };
                let path = match answer {
                    RouteAnswer::Out(path) => Some(path),
                    RouteAnswer::Local | RouteAnswer::Refused(_) => None,
                };
                let link = path.and_then(|path| path.links.first());
                let device = observed.indexes.iter().find(|(_, index)| Some(*index) == link);
                let found = Astray {
                    obstacle: detour.obstacle,
                    route: path.map(|path| path.route.clone()),
                    device: device.map(|(name, _)| name.clone()).unwrap_or_default(),
                    ends: (probe.flow.source, probe.flow.destination),
                    is_v6: probe.flow.destination.is_ipv6(),
                };
                // The questions that do not depend on other nodes come again with each.
                if !astray.contains(&found) {
                    astray.push(found);
                }
            }
        }
        Ok(astray)
    }

    /// The rules of other programs.
    ///
    /// # Errors
    ///
    /// The kernel does not answer, or has no nftables.
    pub(crate) fn foreign_rules() -> anyhow::Result<culvert_nft::Rules> {
        let mut socket = culvert_nft::Socket::open()?;
        Ok(socket.rules(is_ours)?)
    }
}
