//! A packet played to the data path, and the steps that led to its verdict.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};

use culvert_dataplane::engine::{DropReason, Owner, Peer, PeerIndex, Seal, Table};
use culvert_dataplane::platform::clock;
use culvert_dataplane::platform::tun::Offload;
use culvert_dataplane::{Decision, Observation, Outer, Rehearsal, SENDERS, Tap, bucket};
use ipnet::IpNet;
use overlay_proto::{DecodeError, Ecn, Family, Fragments, InnerPacket, ecn, esp};

use super::packet::{self, Impossible, Protocol};
use super::service;
use super::steps::Steps;
use super::{Direction, Holder, Node, Passage, Question, Refused, Trace, Verdict, Way};

/// What the data path did.
#[derive(Debug, Default)]
struct Seen {
    verdict: Verdict,
    reason: Option<DropReason>,
    peer: Option<String>,
    bucket: usize,
    wire_bytes: usize,
    datagrams: usize,
    /// Whether it would be sealed, and if so, whether there is a session.
    sealed: Option<bool>,
}

#[derive(Default)]
struct Watch(RefCell<Seen>);

impl Tap for Watch {
    fn observe(&self, observation: &Observation<'_>) {
        let seen = &mut *self.0.borrow_mut();
        match *observation {
            Observation::Egress { packet, peer, decision } => {
                seen.peer = peer.map(|peer| peer.name().to_owned());
                (seen.verdict, seen.reason) = match decision {
                    Decision::Forward { datagrams, .. } => {
                        seen.datagrams = datagrams;
                        (Verdict::Forward, None)
                    }
                    Decision::Seal { datagrams, flow_hash, is_ready } => {
                        seen.datagrams = datagrams;
                        (seen.bucket, seen.sealed) = (bucket(flow_hash), Some(is_ready));
                        if let Some(peer) = peer {
                            seen.wire_bytes += sealed_len(packet, peer);
                        }
                        (Verdict::Forward, None)
                    }
                    Decision::Reply { reason, .. } => (Verdict::Reply, Some(reason)),
                    Decision::Drop(reason) => (Verdict::Drop, Some(reason)),
                };
            }
            Observation::Sent { peer, flow_hash, datagram, .. } => {
                seen.bucket = bucket(flow_hash);
                seen.wire_bytes += Outer::len_on(Family::of(peer.address())) + datagram.len();
            }
            Observation::Ingress { peer, outcome, .. } => {
                seen.peer = peer.map(|peer| peer.name().to_owned());
                (seen.verdict, seen.reason) = match outcome {
                    Ok(_) => (Verdict::Deliver, None),
                    Err(reason) => (Verdict::Drop, Some(reason)),
                };
            }
            Observation::Lost { .. } => {}
        }
    }
}

/// Bytes on the wire of a packet that is sealed.
fn sealed_len(packet: &[u8], peer: &Peer) -> usize {
    let outer = Outer::len_on(Family::of(peer.address()));
    let planned = InnerPacket::parse(packet)
        .ok()
        .and_then(|packet| Fragments::new(&packet, peer.mtu_for(packet.family())));
    let Some(mut fragments) = planned else { return outer + esp::datagram_len(packet.len()) };
    let (mut buffer, mut len) = (packet.to_vec(), 0);
    while let Some(fragment) = fragments.next_in(&mut buffer) {
        len += outer + esp::datagram_len(fragment.len());
    }
    len
}

fn play(table: &Table, put: impl FnOnce(&mut Rehearsal)) -> Seen {
    let now = clock::now();
    let mut rehearsal = Rehearsal::new(Offload::None, now);
    put(&mut rehearsal);
    let watch = Watch::default();
    rehearsal.run(table, &watch, now);
    watch.0.into_inner()
}

/// A packet that a pod or this node sends, and what has become of it on its way to the routes.
struct Sent<'a> {
    question: &'a Question,
    packet: &'a [u8],
    /// The device that it comes in by; none if this node sends it.
    comes_by: Option<&'a str>,
    /// Whether it was sent to a service.
    is_redirected: bool,
}

/// The way of a packet that is sent here; also the packet as rules of services make it, if it
/// opens a connection and they do.
///
/// # Errors
///
/// What rules make of it cannot be.
pub(super) fn egress(
    table: &Table,
    node: &Node,
    question: &Question,
    opens: bool,
    mut steps: Steps<'_>,
) -> Result<(Trace, Option<Question>), Impossible> {
    let source = question.source;
    describe_source(table, source, &mut steps);
    let is_local = table.owner(source) == Some(Owner::Local);
    let sender = if is_local { steps.holder(source) } else { None };
    if let Some(Some(Holder::Pod { trouble: Some(trouble), .. })) = &sender {
        steps.kernel("pod", trouble.clone());
        return Ok((without_data_path(question, Verdict::KernelDrops, steps), None));
    }
    if sender == Some(None) {
        let found =
            format!("no pod here has {source}; a checked pod's packets from it are dropped");
        steps.kernel("source check", found);
        return Ok((without_data_path(question, Verdict::KernelDrops, steps), None));
    }
    let comes_by = (sender != Some(Some(Holder::Node))).then_some(node.bridge.as_str());
    let packet = packet::build(question)?;
    let sent = Sent { question, packet: &packet, comes_by, is_redirected: false };
    let followed = if opens { service::followed(question, comes_by, &mut steps) } else { None };
    let Some(becomes) = followed else { return Ok((leaves(table, node, &sent, steps), None)) };
    if comes_by.is_some() && steps.is_stopped(&Passage::Arrives(question)) {
        return Ok((without_data_path(question, Verdict::KernelDrops, steps), None));
    }
    let packet = packet::build(&becomes)?;
    let sent = Sent { question: &becomes, packet: &packet, comes_by, is_redirected: true };
    let trace = leaves(table, node, &sent, steps);
    Ok((Trace { packet: described(question), ..trace }, Some(becomes)))
}

/// The way of a packet from the routes on.
fn leaves(table: &Table, node: &Node, sent: &Sent<'_>, mut steps: Steps<'_>) -> Trace {
    let Sent { question, packet, comes_by, is_redirected } = *sent;
    let (source, destination) = (question.source, question.destination);
    let is_local = table.owner(source) == Some(Owner::Local);
    if is_local && table.owner(destination) == Some(Owner::Local) {
        let Node { bridge, tun, .. } = node;
        let subnet = subnet(&table.local().subnets, destination);
        steps.table("bridge", format!("{destination} is in {subnet} too: {tun} sees nothing"));
        // What was sent to a service comes to the node's own address, and is routed back.
        let passage = match is_redirected {
            true => Passage::Routed(question, bridge),
            false => Passage::Bridged(question),
        };
        let verdict = if is_nobodys(destination, &mut steps) || steps.is_stopped(&passage) {
            Verdict::KernelDrops
        } else {
            steps.delivered(bridge, destination.is_ipv4());
            steps.beyond(WITHIN.to_owned());
            Verdict::Local
        };
        return Trace {
            direction: Direction::Local,
            ..without_data_path(question, verdict, steps)
        };
    }
    if let Some(verdict) = route_to_tun(table, node, question, comes_by, &mut steps) {
        return without_data_path(question, verdict, steps);
    }
    if comes_by.is_some() && steps.is_stopped(&Passage::ToTunnel(question)) {
        return without_data_path(question, Verdict::KernelDrops, steps);
    }
    let mut seen = play(table, |rehearsal| rehearsal.pod_sends(packet));
    match (table.owner(destination), seen.reason) {
        (_, Some(DropReason::Multicast)) => {
            let found = format!("{destination} is a group, and groups do not span nodes");
            steps.table("destination", found);
        }
        (Some(Owner::Peer(peer)), Some(DropReason::ForeignSource)) => {
            let found = format!("{destination} is a pod of {}", table.peer(peer).name());
            steps.table("destination", found);
        }
        (Some(Owner::Peer(peer)), _) => {
            let peer = table.peer(peer);
            if onward(table, node, peer, destination, packet, &seen, &mut steps).is_err() {
                (seen.verdict, seen.wire_bytes) = (Verdict::KernelDrops, 0);
            } else if seen.verdict == Verdict::Forward {
                not_looked_at_there(node, peer, &mut steps);
            }
        }
        (Some(Owner::Local), _) => {
            steps.table("destination", format!("{destination} is in a subnet of this node"));
        }
        (None, _) => steps.table("destination", format!("{destination} is in no node's subnet")),
    }
    if seen.verdict == Verdict::Reply
        && let Some(router) = table.local().router_address(Family::of(source))
    {
        steps.table("answer", format!("the sender gets an ICMP error from {router}"));
    }
    trace(question, Direction::Egress, steps, seen)
}

fn describe_source(table: &Table, source: IpAddr, steps: &mut Steps<'_>) {
    let found = match table.owner(source) {
        Some(Owner::Local) => {
            let subnet = subnet(&table.local().subnets, source);
            format!("{source} is in {subnet}, a subnet of this node")
        }
        Some(Owner::Peer(peer)) => {
            format!("{source} is a pod of {}, not of this node", table.peer(peer).name())
        }
        None => format!("{source} is in no node's subnet"),
    };
    steps.table("source", found);
}

/// Whether nobody on this node has the address, or who has it gets nothing.
fn is_nobodys(destination: IpAddr, steps: &mut Steps<'_>) -> bool {
    let holder = steps.holder(destination);
    if let Some(Some(Holder::Pod { trouble: Some(trouble), .. })) = &holder {
        steps.kernel("pod", trouble.clone());
        return true;
    }
    let is_nobodys = holder == Some(None);
    if is_nobodys {
        let found = format!("no pod here has {destination}: the sender gets \"host unreachable\"");
        steps.kernel("nobody", found);
    }
    is_nobodys
}

/// Follows the packet to the TUN device. If it goes elsewhere, says what becomes of it.
fn route_to_tun(
    table: &Table,
    node: &Node,
    question: &Question,
    comes_by: Option<&str>,
    steps: &mut Steps<'_>,
) -> Option<Verdict> {
    let Node { bridge, tun, masquerade, .. } = node;
    let (source, destination) = (question.source, question.destination);
    if destination.is_multicast() {
        steps.assumed("route", format!("from {bridge} to {tun}, where the daemon reads it"));
        return None;
    }
    let is_inside = table.is_inside(destination);
    let translated = if *masquerade { "with the node's address" } else { "with the pod's address" };
    let Some(way) = steps.route(source, destination, comes_by) else {
        if is_inside {
            steps.assumed("route", format!("from {bridge} to {tun}, where the daemon reads it"));
            return None;
        }
        let found = format!(
            "{destination} is outside the pod networks: it leaves by the node's routes, {translated}"
        );
        steps.assumed("route", found);
        return Some(Verdict::Kernel);
    };
    match way {
        Way::Out { device, .. } if device == *tun => {
            steps.kernel("route", format!("leads to {tun}, where the daemon reads it"));
            None
        }
        Way::Out { device, gateway } => {
            let over = gateway.map_or_else(String::new, |gateway| format!(" over {gateway}"));
            steps.kernel("route", format!("leads to {device}{over}, not to {tun}"));
            if comes_by.is_some() && steps.is_stopped(&Passage::Routed(question, &device)) {
                return Some(Verdict::KernelDrops);
            }
            if is_inside {
                let family = if destination.is_ipv4() { "ip" } else { "ip -6" };
                let iif = comes_by.map_or_else(String::new, |device| format!(" iif {device}"));
                let found = format!(
                    "a rule or route of another program comes before that of Culvert: see `{family} \
                     rule` and `{family} route get {destination} from {source}{iif}`"
                );
                steps.kernel("detour", found);
            } else if comes_by.is_some() {
                let found = format!("outside the pod networks, so it leaves {translated}");
                steps.assumed("translation", found);
            }
            Some(Verdict::Kernel)
        }
        Way::Here => {
            steps.kernel("route", format!("{destination} is this node's own"));
            Some(Verdict::Kernel)
        }
        Way::Refused(cause) => {
            steps.kernel("route", format!("leads nowhere: {cause}"));
            Some(Verdict::KernelDrops)
        }
    }
}

/// The datagram does not leave.
struct Stays;

/// The steps from the peer on.
fn onward(
    table: &Table,
    node: &Node,
    peer: &Peer,
    destination: IpAddr,
    packet: &[u8],
    seen: &Seen,
    steps: &mut Steps<'_>,
) -> Result<(), Stays> {
    let Peer { endpoint, codec, .. } = peer;
    let mtu = peer.mtu_for(Family::of(destination));
    let name = peer.name();
    let subnet = subnet(peer.subnets(), destination);
    steps.table("peer", format!("{destination} is in {subnet} of {name}, by longest match"));
    let (len, most) = (packet.len(), mtu.get());
    let size = if mtu.fits(len) {
        format!("{len} bytes of at most {most} on the way to {name}")
    } else {
        format!("{len} bytes are more than the {most} that fit on the way to {name}")
    };
    steps.table("size", size);
    if seen.reason == Some(DropReason::NoKey) {
        steps.table("sealed", format!("{name} has no key, and nothing leaves in plain"));
        return Ok(());
    }
    if seen.verdict != Verdict::Forward {
        return Ok(());
    }
    if seen.datagrams > 1 {
        steps.table("fragments", format!("it may be fragmented, and leaves in {}", seen.datagrams));
    }
    let sealed = match (&peer.seal, seen.sealed) {
        (Seal::Keyed(keyed), Some(is_ready)) => Some((keyed, is_ready)),
        _ => None,
    };
    if let Some((_, is_ready)) = sealed {
        let how = if is_ready { "would be sealed" } else { "would handshake and hold" };
        steps.table("sealed", format!("ESP, MTU {most}: {how}"));
    } else {
        let header = codec.header_len();
        steps
            .table("codec", format!("{codec}, VNI {}: a header of {header} bytes", peer.vni.get()));
    }
    let endpoint = sealed.map_or(endpoint, |(keyed, _)| &keyed.endpoint);
    let mark =
        InnerPacket::parse(packet).map_or(Ecn::NotEct, |packet| ecn::encapsulate(packet.ecn()));
    let (local, number) = (table.local().address, seen.bucket + 1);
    let source_port = node.source_ports.get(seen.bucket).copied();
    let routed = steps.underlay(local, *endpoint);
    let port = source_port.map_or_else(String::new, |port| format!("source port {port}, "));
    steps.table(
        "outer",
        format!(
            "UDP {local} > {} port {}, {port}path {number} of {SENDERS}, ECN {mark:?}",
            endpoint.ip(),
            endpoint.port()
        ),
    );
    if let Err(why) = routed {
        steps.kernel("underlay", why);
        return Err(Stays);
    }
    match steps.is_stopped(&Passage::Sent { local, port: source_port, peer: *endpoint }) {
        true => Err(Stays),
        false => Ok(()),
    }
}

/// What the peer does with it, as far as this node can tell.
fn not_looked_at_there(node: &Node, peer: &Peer, steps: &mut Steps<'_>) {
    let name = peer.name();
    let is_common = |refused: &&Refused| {
        let differs = [DropReason::Header(DecodeError::Vni), DropReason::WrongCodec];
        refused.from == peer.address() && differs.contains(&refused.reason)
    };
    let refused = node.refused.iter().find(is_common);
    let what = format!("{name} drops it, as this node does what {name} sends");
    steps.refused(refused, name, &what);
    steps.beyond(format!(
        "{name} should deliver it, by the table; not looked at there: `culvert trace` asks {name}"
    ));
}

pub(super) fn ingress(
    table: &Table,
    node: &Node,
    question: &Question,
    from: PeerIndex,
    packet: &[u8],
    mut steps: Steps<'_>,
) -> Trace {
    let (source, destination) = (question.source, question.destination);
    let peer = table.peer(from);
    let header = peer.codec.header(peer.vni, Family::of(source));
    let datagram = [header.as_slice(), packet].concat();
    let mark =
        InnerPacket::parse(packet).map_or(Ecn::NotEct, |packet| ecn::encapsulate(packet.ecn()));
    let mut seen = play(table, |rehearsal| {
        rehearsal.hear(peer.codec.kind());
        rehearsal.arrives(peer.endpoint, mark, &datagram);
    });
    // What a peer seals is decided about by what is within.
    let is_sealed = matches!(&peer.seal, Seal::Keyed(keyed) if !keyed.may_leave_plain());
    let wire_len = if is_sealed { esp::datagram_len(packet.len()) } else { datagram.len() };
    seen.wire_bytes = Outer::len_on(Family::of(peer.address())) + wire_len;
    let owner = subnet(peer.subnets(), source);
    steps.table("outer", format!("a datagram from {} is from {}", peer.address(), peer.name()));
    let port = match (&peer.seal, is_sealed) {
        (Seal::Keyed(keyed), true) => keyed.endpoint.port(),
        _ => peer.endpoint.port(),
    };
    let local = SocketAddr::new(table.local().address, port);
    if steps.is_stopped(&Passage::Received { local, peer: peer.address() }) {
        (seen.verdict, seen.reason) = (Verdict::KernelDrops, None);
        return trace(question, Direction::Ingress, steps, seen);
    }
    if is_sealed {
        steps.table("sealed", format!("ESP, of a session with {}", peer.name()));
    } else {
        let found = format!(
            "{}, VNI {}, as this node has it; what {} sends was not looked at",
            peer.codec,
            peer.vni.get(),
            peer.name()
        );
        steps.table("codec", found);
    }
    let refused = node.refused.iter().find(|refused| refused.from == peer.address());
    let what = format!("it is dropped, as is what {} sends", peer.name());
    steps.refused(refused.filter(|_| seen.verdict == Verdict::Deliver), peer.name(), &what);
    steps.table("source", format!("{source} is in {owner} of {}, by longest match", peer.name()));
    match table.owner(destination) {
        Some(Owner::Local) => {
            let subnet = subnet(&table.local().subnets, destination);
            let found = format!("{destination} is in {subnet}, a subnet of this node");
            steps.table("destination", found);
            if seen.verdict == Verdict::Deliver {
                seen.verdict = route_to_pod(node, question, &mut steps);
            }
        }
        Some(Owner::Peer(other)) => {
            let found = format!("{destination} is a pod of {}", table.peer(other).name());
            steps.table("destination", found);
        }
        None => steps.table("destination", format!("{destination} is in no node's subnet")),
    }
    trace(question, Direction::Ingress, steps, seen)
}

/// What is said of what happens in a pod.
const WITHIN: &str = "what the pod does with it, and whether it has a way back, was not looked at: \
                      `culvert doctor` here asks it";

/// Follows a packet from the TUN device to the pod.
fn route_to_pod(node: &Node, question: &Question, steps: &mut Steps<'_>) -> Verdict {
    let Node { bridge, tun, .. } = node;
    let (source, destination) = (question.source, question.destination);
    if is_nobodys(destination, steps) {
        return Verdict::KernelDrops;
    }
    let Some(way) = steps.route(source, destination, Some(tun)) else {
        let found = format!("written to {tun}; the kernel routes it to {bridge} and the pod");
        steps.assumed("route", found);
        return Verdict::Deliver;
    };
    match way {
        Way::Out { device, .. } if device == *bridge => {
            steps.kernel("route", format!("from {tun} to {bridge} and the pod"));
            if steps.is_stopped(&Passage::FromTunnel(question)) {
                return Verdict::KernelDrops;
            }
            steps.beyond(WITHIN.to_owned());
            Verdict::Deliver
        }
        Way::Here => {
            steps.kernel("route", "to this node itself".to_owned());
            Verdict::Deliver
        }
        Way::Out { device, .. } => {
            steps.kernel("route", format!("from {tun} to {device}, not to {bridge}"));
            Verdict::Kernel
        }
        Way::Refused(cause) => {
            steps.kernel("route", format!("leads nowhere: {cause}"));
            Verdict::KernelDrops
        }
    }
}

/// What becomes of a packet that the data path never sees.
fn without_data_path(question: &Question, verdict: Verdict, steps: Steps<'_>) -> Trace {
    trace(question, Direction::Kernel, steps, Seen { verdict, ..Seen::default() })
}

/// The packet in a line.
fn described(question: &Question) -> String {
    let Question { source, destination, source_port, destination_port, size, .. } = question;
    match question.protocol {
        Protocol::Tcp | Protocol::Udp => {
            let name = if question.protocol == Protocol::Tcp { "tcp" } else { "udp" };
            format!(
                "{name} {source} {source_port} > {destination} {destination_port}, {size} bytes"
            )
        }
        Protocol::Icmp => format!("icmp {source} > {destination}, {size} bytes"),
    }
}

fn trace(question: &Question, direction: Direction, steps: Steps<'_>, seen: Seen) -> Trace {
    Trace {
        packet: described(question),
        direction,
        steps: steps.found,
        decided_by: steps.decided_by,
        verdict: seen.verdict,
        reason: seen.reason,
        unless: steps.unless,
        peer: seen.peer,
        wire_bytes: seen.wire_bytes,
    }
}

/// The longest of the subnets that has the address, as text.
fn subnet(subnets: &[IpNet], address: IpAddr) -> String {
    let all = subnets.iter().filter(|subnet| subnet.contains(&address));
    all.max_by_key(|subnet| subnet.prefix_len()).map_or_else(String::new, ToString::to_string)
}
