//! The kernel of this node, as `culvert explain` asks it.
//!
//! Over sockets of its own, in the caller's thread, which waits for the kernel: a question never
//! waits for the thread that repairs the node, nor that for a question.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::Context as _;
use culvert_dataplane::platform::udp::SOCKET_MARK;
use culvert_netlink::{
    Address, Flow, Link, RouteAnswer, Rtnetlink, Socket, Standing, route_refusal,
};
use culvert_nft::{Device, Fate, Hook, Packet, Rules, Stage, Transport};
use culvert_node::pod_port::PodPort;
use ipnet::IpNet;

use super::examine::{filters_frames, foreign_rules, frames_parameter, legacy_tables};
use crate::explain::{
    Holder, Hurdle, Kernel, Passage, Protocol, Question, Redirected, Target, Underlay, Way,
};
use crate::platform::sysctl::Sysctls;

/// Pods that are listed where none is meant, or several are.
const NAMED: usize = 16;

/// Least letters that stand for a container's id.
const LEAST: usize = 6;

/// What the node has, read once for a question.
pub(super) struct KernelFacts {
    socket: Socket<Rtnetlink>,
    links: Vec<Link>,
    addresses: Vec<Address>,
    /// Index of the bridge, if there is one.
    bridge: Option<u32>,
    bridge_name: String,
    tun_name: String,
    sysctls: Sysctls,
    /// The rules of other programs, once they were asked for.
    rules: Option<Rules>,
    /// Tables of iptables-legacy, whose rules are not followed.
    legacy: Vec<String>,
}

impl KernelFacts {
    /// Reads devices and addresses; pods are behind `bridge`, other nodes behind `tun`.
    ///
    /// # Errors
    ///
    /// The kernel refuses, or does not answer.
    pub(super) fn read(bridge: &str, tun: &str, sysctl_dir: &Path) -> anyhow::Result<Self> {
        let mut socket = Socket::open().context("asking the kernel about this node")?;
        let links = socket.links_despite_changes()?;
        let addresses = socket.addresses()?;
        let index = links.iter().find(|link| link.name == bridge).map(|link| link.index);
        Ok(Self {
            socket,
            links,
            addresses,
            bridge: index,
            bridge_name: bridge.to_owned(),
            tun_name: tun.to_owned(),
            sysctls: Sysctls::at(sysctl_dir),
            rules: None,
            legacy: Vec::new(),
        })
    }

    /// What the notes on the ports say.
    fn pods(&self) -> impl Iterator<Item = PodPort> {
        self.links.iter().filter_map(|link| PodPort::from_note(&link.name, &link.alias))
    }

    /// The addresses of the pod that `name` names: its container's id, the begin of it, or the
    /// device of its port.
    pub(super) fn find(&self, name: &str) -> anyhow::Result<Vec<IpAddr>> {
        let all: Vec<PodPort> = self.pods().collect();
        let container = |pod: &PodPort| pod.owner().container().to_owned();
        let is_named = |pod: &&PodPort| pod.device == name || container(pod) == name;
        let begins = |pod: &&PodPort| name.len() >= LEAST && container(pod).starts_with(name);
        let mut found: Vec<&PodPort> = all.iter().filter(is_named).collect();
        if found.is_empty() {
            found = all.iter().filter(begins).collect();
        }
        if found.is_empty() {
            // A lab has its name before those of its pods.
            let ends = |pod: &&PodPort| {
                let rest = container(pod);
                rest.strip_suffix(name).is_some_and(|lab| lab.ends_with('-'))
            };
            found = all.iter().filter(ends).collect();
        }
        let names = |pods: &[&PodPort]| {
            let names: Vec<String> = pods.iter().take(NAMED).map(|pod| container(pod)).collect();
            let more = if pods.len() > NAMED { ", …" } else { "" };
            format!("{}{more}", names.join(", "))
        };
        match found.as_slice() {
            [pod] => Ok(pod.addresses.iter().map(IpNet::addr).collect()),
            [] => anyhow::bail!(
                "no pod of this node is called {name}: there is {}. Give the id of its container \
                 (`culvert ipam list` shows all), or an address. Pods of other nodes are known by their \
                 addresses alone",
                match names(&all.iter().collect::<Vec<_>>()) {
                    none if none.is_empty() => "none".to_owned(),
                    names => names,
                }
            ),
            several => anyhow::bail!(
                "{} pods of this node have such a name, {}: give more of it",
                several.len(),
                names(several)
            ),
        }
    }

    /// How a flow is routed, and the index of the one device that it leaves by.
    fn look_up(&mut self, flow: Flow) -> Result<(Way, Option<u32>), String> {
        let answers = self.socket.look_up_routes([flow]).map_err(|error| error.to_string())?;
        let answer = answers.into_iter().next().ok_or("it gave no answer")?;
        Ok(match answer {
            RouteAnswer::Local => (Way::Here, None),
            RouteAnswer::Refused(error) => (Way::Refused(route_refusal(&error)), None),
            RouteAnswer::Out(path) => {
                let names = path.links.iter().map(|index| {
                    let link = self.links.iter().find(|link| link.index == *index);
                    link.map_or_else(|| format!("device {index}"), |link| link.name.clone())
                });
                let device = names.collect::<Vec<_>>().join(" or ");
                let way = Way::Out { device, gateway: path.route.gateway };
                (way, path.links.first().copied())
            }
        })
    }

    /// Why a pod gets nothing, as far as its port and the neighbours tell.
    fn trouble(&mut self, pod: &PodPort, address: IpAddr) -> Option<String> {
        let port = self.links.iter().find(|link| link.name == pod.device)?;
        if port.up && !port.running {
            return Some(format!("its interface is down: {} has no carrier", pod.device));
        }
        let known = self.socket.neighbours(self.bridge?).ok()?;
        let entry = known.iter().find(|neighbour| neighbour.address == address)?;
        match (entry.standing, entry.mac) {
            (Standing::Fixed, mac) if mac != Some(pod.mac) => {
                let mac = mac.map_or_else(|| "nowhere".to_owned(), |mac| mac.to_string());
                Some(format!(
                    "somebody wrote down that {address} is at {mac}, and the pod is at {}",
                    pod.mac
                ))
            }
            (Standing::Silent, _) => Some(format!(
                "it does not answer who has {address}: its address or its interface is gone"
            )),
            (Standing::Known | Standing::Fixed, _) => None,
        }
    }

    /// Reads the rules of other programs, the first time that they are asked for.
    fn read_rules(&mut self) -> Result<(), String> {
        if self.rules.is_none() {
            self.rules = Some(foreign_rules().map_err(|error| format!("{error:#}"))?);
            self.legacy = legacy_tables().0;
        }
        Ok(())
    }

    fn device(&self, name: &str) -> Option<Device> {
        let link = self.links.iter().find(|link| link.name == name)?;
        Some(Device { index: link.index, name: link.name.clone() })
    }

    /// The device of a pod's port, by the pod's address.
    fn port_of(&self, address: IpAddr) -> Option<String> {
        let mut pods = self.pods();
        pods.find(|pod| pod.addresses.iter().any(|has| has.addr() == address)).map(|pod| pod.device)
    }

    /// Where a packet is seen on a part of its way, and what is seen.
    fn passage(&self, passage: &Passage<'_>) -> (Vec<Stage>, Packet) {
        let Self { bridge_name: bridge, tun_name: tun, .. } = self;
        let bridged =
            |hooks: &[Hook]| hooks.iter().map(|hook| Stage::Bridge(*hook)).collect::<Vec<_>>();
        let routed = [Hook::Prerouting, Hook::Forward, Hook::Postrouting].map(Stage::Ip).to_vec();
        let into = |address| self.port_of(address).map(|port| Stage::leaving(&port));
        let from = |address| self.port_of(address).map(|port| Stage::entering(&port));
        let arrives = |question: &Question| {
            let frames = bridged(&[Hook::Prerouting, Hook::Input]);
            let stages = from(question.source).into_iter().chain(frames);
            stages.chain([Stage::entering(bridge)])
        };
        let packet = |question: &Question, input: &str, output: &str| Packet {
            source: question.source.into(),
            destination: question.destination.into(),
            transport: transport(question),
            input: self.device(input),
            output: self.device(output),
            mark: 0,
            is_tracked: true,
        };
        let datagram = |source: IpAddr, port: Option<u16>, to: SocketAddr| Packet {
            source: source.into(),
            destination: to.ip().into(),
            transport: Transport::Udp { source: port, destination: to.port() },
            input: None,
            output: None,
            mark: 0,
            is_tracked: false,
        };
        let of = |address: IpAddr| {
            let holder = self.addresses.iter().find(|has| has.net.addr() == address);
            let link =
                self.links.iter().find(|link| holder.is_some_and(|has| has.link == link.index));
            link.map(|link| Device { index: link.index, name: link.name.clone() })
        };
        match *passage {
            Passage::ToTunnel(question) => {
                let stages = arrives(question).chain(routed).chain([Stage::leaving(tun)]);
                (stages.collect(), packet(question, bridge, tun))
            }
            Passage::Arrives(question) => {
                let stages = arrives(question).chain([Stage::Ip(Hook::Prerouting)]);
                // By which it leaves is decided later, and asked later.
                (stages.collect(), Packet { output: None, ..packet(question, bridge, bridge) })
            }
            Passage::Routed(question, output) => {
                let stages = arrives(question).chain(routed).chain([Stage::leaving(output)]);
                let is_back = output == bridge;
                let frames = bridged(&[Hook::Output, Hook::Postrouting]);
                let back = frames.into_iter().chain(into(question.destination));
                let stages = stages.chain(back.filter(|_| is_back));
                (stages.collect(), packet(question, bridge, output))
            }
            Passage::FromTunnel(question) => {
                let stages = [Stage::entering(tun)].into_iter().chain(routed);
                let frames = bridged(&[Hook::Output, Hook::Postrouting]);
                let stages = stages.chain([Stage::leaving(bridge)]).chain(frames);
                (stages.chain(into(question.destination)).collect(), packet(question, tun, bridge))
            }
            Passage::Bridged(question) => {
                let frames = bridged(&[Hook::Prerouting, Hook::Forward, Hook::Postrouting]);
                let stages = from(question.source).into_iter().chain(frames);
                let is_filtered = self.has_filtered_frames(question.source.is_ipv4());
                let stages = stages.chain(routed.into_iter().filter(|_| is_filtered));
                let stages = stages.chain(into(question.destination));
                (stages.collect(), packet(question, bridge, bridge))
            }
            Passage::Sent { local, port, peer } => {
                let output = of(local);
                let leaves = output.as_ref().map(|device| Stage::leaving(&device.name));
                let stages = [Hook::Output, Hook::Postrouting].map(Stage::Ip).into_iter();
                let packet = Packet { output, mark: SOCKET_MARK, ..datagram(local, port, peer) };
                (stages.chain(leaves).collect(), packet)
            }
            Passage::Received { local, peer } => {
                let input = of(local.ip());
                let enters = input.as_ref().map(|device| Stage::entering(&device.name));
                let stages = [Hook::Prerouting, Hook::Input].map(Stage::Ip);
                let packet = Packet { input, ..datagram(peer, None, local) };
                (enters.into_iter().chain(stages).collect(), packet)
            }
        }
    }

    /// Whether rules of IP see what the bridge forwards.
    fn has_filtered_frames(&self, is_ipv4: bool) -> bool {
        let parameter = self.sysctls.read(frames_parameter(is_ipv4)).ok().flatten();
        let bridge = self.links.iter().find(|link| link.name == self.bridge_name);
        bridge.is_some_and(|bridge| filters_frames(bridge, parameter.as_deref(), is_ipv4))
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
        let has = |pod: &PodPort| pod.addresses.iter().any(|has| has.addr() == address);
        let pod = self.pods().find(has);
        match pod {
            Some(pod) => {
                let trouble = self.trouble(&pod, address);
                Ok(Some(Holder::Pod { name: pod.owner().to_string(), trouble }))
            }
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
        self.look_up(flow).map(|(way, _)| way)
    }

    fn underlay(&mut self, local: IpAddr, peer: SocketAddr) -> Result<Underlay, String> {
        let flow = Flow {
            source: Some(local),
            udp_port: Some(peer.port()),
            mark: SOCKET_MARK,
            ..Flow::to(peer.ip())
        };
        let (way, link) = self.look_up(flow)?;
        let next = match &way {
            Way::Out { gateway, .. } => gateway.unwrap_or_else(|| peer.ip()),
            Way::Here | Way::Refused(_) => return Ok(Underlay { way, doubt: None }),
        };
        let Some(link) = link else { return Ok(Underlay { way, doubt: None }) };
        let known = self.socket.neighbours(link).map_err(|error| error.to_string())?;
        let neighbour = known.iter().find(|neighbour| neighbour.address == next);
        let doubt = neighbour.and_then(|neighbour| match (neighbour.standing, neighbour.mac) {
            (Standing::Known, _) => None,
            (Standing::Silent, _) => Some(format!("nobody on the link answers who has {next}")),
            (Standing::Fixed, mac) => {
                let mac = mac.map_or_else(|| "nowhere".to_owned(), |mac| mac.to_string());
                Some(format!("somebody wrote down that {next} is at {mac}, which may be wrong"))
            }
        });
        Ok(Underlay { way, doubt })
    }

    fn redirected(
        &mut self,
        question: &Question,
        incoming: Option<&str>,
    ) -> Result<Option<Redirected>, String> {
        self.read_rules()?;
        let Some(rules) = &self.rules else { return Ok(None) };
        let packet = Packet {
            source: question.source.into(),
            destination: question.destination.into(),
            transport: transport(question),
            input: incoming.and_then(|device| self.device(device)),
            output: None,
            mark: 0,
            is_tracked: true,
        };
        let hook = if incoming.is_some() { Hook::Prerouting } else { Hook::Output };
        let (found, is_sure) = rules.redirections(hook, &packet);
        let Some(first) = found.first() else { return Ok(None) };
        let to: Vec<Target> = found.iter().filter_map(|it| it.to).collect();
        let is_followed = to.len() == found.len();
        Ok(Some(Redirected { by: first.by.to_string(), to, is_followed, is_sure }))
    }

    fn filters_frames(&mut self, is_ipv4: bool) -> Result<bool, String> {
        Ok(self.has_filtered_frames(is_ipv4))
    }

    fn hurdles(&mut self, passage: &Passage<'_>) -> Result<Vec<Hurdle>, String> {
        self.read_rules()?;
        let Some(rules) = &self.rules else { return Ok(Vec::new()) };
        let (stages, packet) = self.passage(passage);
        let mut hurdles = Vec::new();
        let program = if packet.source.is_ipv4() { "iptables" } else { "ip6tables" };
        let filter = format!("{program} filter");
        if stages.iter().any(|stage| matches!(stage, Stage::Ip(_))) && self.legacy.contains(&filter)
        {
            let by = format!("the table filter of {program}-legacy, whose rules are not followed,");
            hurdles.push(Hurdle { by, is_sure: false });
        }
        for stage in &stages {
            let (by, is_sure) = match rules.fate(stage, &packet) {
                Fate::Passes => continue,
                Fate::Stops(by) => (by, true),
                Fate::MayStop(by) => (by, false),
            };
            let hurdle = Hurdle { by: by.to_string(), is_sure };
            if !hurdles.contains(&hurdle) {
                hurdles.push(hurdle);
            }
        }
        Ok(hurdles)
    }
}

/// What the packet of a question carries, as rules see it.
fn transport(question: &Question) -> Transport {
    let (source, destination) = (question.source_port, question.destination_port);
    match question.protocol {
        Protocol::Tcp => Transport::Tcp { source, destination },
        Protocol::Udp => Transport::Udp { source: Some(source), destination },
        Protocol::Icmp => Transport::Icmp,
    }
}
