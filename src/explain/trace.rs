//! A packet played to the data path, and the steps that led to its verdict.

use std::cell::RefCell;
use std::net::IpAddr;

use culvert_dataplane::engine::{DropReason, Owner, Peer, PeerIndex, Table};
use culvert_dataplane::platform::clock;
use culvert_dataplane::platform::tun::Offload;
use culvert_dataplane::{Decision, Observation, Outer, Rehearsal, SENDERS, Tap, bucket};
use ipnet::IpNet;
use overlay_proto::{Ecn, Family, InnerPacket, ecn};

use super::packet::Protocol;
use super::{Devices, Direction, Question, Step, Trace, Verdict};

/// What the data path did.
#[derive(Debug, Default)]
struct Seen {
    verdict: Verdict,
    reason: Option<DropReason>,
    peer: Option<String>,
    bucket: usize,
    wire_bytes: usize,
}

#[derive(Default)]
struct Watch(RefCell<Seen>);

impl Tap for Watch {
    fn observe(&self, observation: &Observation<'_>) {
        let seen = &mut *self.0.borrow_mut();
        match *observation {
            Observation::Egress { peer, decision, .. } => {
                seen.peer = peer.map(|peer| peer.name().to_owned());
                (seen.verdict, seen.reason) = match decision {
                    Decision::Forward { .. } => (Verdict::Forward, None),
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

fn play(table: &Table, put: impl FnOnce(&mut Rehearsal)) -> Seen {
    let now = clock::now();
    let mut rehearsal = Rehearsal::new(Offload::None, now);
    put(&mut rehearsal);
    let watch = Watch::default();
    rehearsal.run(table, &watch, now);
    watch.0.into_inner()
}

pub(super) fn egress(
    table: &Table,
    devices: &Devices,
    question: &Question,
    packet: &[u8],
) -> Trace {
    let Devices { bridge, tun } = devices;
    let (source, destination) = (question.source, question.destination);
    let mut steps = Vec::new();
    let mut step = |what: &str, found: String| steps.push(Step { what: what.to_owned(), found });
    match table.owner(source) {
        Some(Owner::Local) => {
            let subnet = subnet(&table.local().subnets, source);
            step("source", format!("{source} is in {subnet}, a subnet of this node"));
        }
        Some(Owner::Peer(peer)) => {
            step(
                "source",
                format!("{source} is a pod of {}, not of this node", table.peer(peer).name()),
            );
        }
        None => step("source", format!("{source} is in no node's subnet")),
    }
    if (table.owner(source), table.owner(destination)) == (Some(Owner::Local), Some(Owner::Local)) {
        let subnet = subnet(&table.local().subnets, destination);
        step(
            "bridge",
            format!("{destination} is in {subnet} too: {bridge} delivers, {tun} sees nothing"),
        );
        let seen = Seen { verdict: Verdict::Local, ..Seen::default() };
        return trace(question, Direction::Local, steps, seen);
    }
    let seen = play(table, |rehearsal| rehearsal.pod_sends(packet));
    step("bridge", format!("the packet comes in by {bridge}"));
    step("tun", format!("the route to the pod networks leads to {tun}, where the daemon reads it"));
    match (table.owner(destination), seen.reason) {
        (_, Some(DropReason::Multicast)) => {
            step("destination", format!("{destination} is a group, and groups do not span nodes"));
        }
        (Some(Owner::Peer(peer)), Some(DropReason::ForeignSource)) => {
            step("destination", format!("{destination} is a pod of {}", table.peer(peer).name()));
        }
        (Some(Owner::Peer(peer)), _) => {
            onward(table, table.peer(peer), destination, packet, &seen, &mut step);
        }
        (Some(Owner::Local), _) => {
            step("destination", format!("{destination} is in a subnet of this node"));
        }
        (None, _) => step("destination", format!("{destination} is in no node's subnet")),
    }
    if seen.verdict == Verdict::Reply
        && let Some(router) = table.local().router_address(Family::of(source))
    {
        step("answer", format!("the sender gets an ICMP error from {router}"));
    }
    trace(question, Direction::Egress, steps, seen)
}

/// The steps from the peer on.
fn onward(
    table: &Table,
    peer: &Peer,
    destination: IpAddr,
    packet: &[u8],
    seen: &Seen,
    step: &mut impl FnMut(&str, String),
) {
    let Peer { endpoint, codec, .. } = peer;
    let mtu = peer.mtu_for(Family::of(destination));
    let name = peer.name();
    let subnet = subnet(peer.subnets(), destination);
    step("peer", format!("{destination} is in {subnet} of {name}, by longest match"));
    let (len, most) = (packet.len(), mtu.get());
    if !mtu.fits(len) {
        return step(
            "size",
            format!("{len} bytes are more than the {most} that fit on the way to {name}"),
        );
    }
    step("size", format!("{len} bytes of at most {most} on the way to {name}"));
    let header = codec.header_len();
    step("codec", format!("{codec}, VNI {}: a header of {header} bytes", peer.vni.get()));
    let mark =
        InnerPacket::parse(packet).map_or(Ecn::NotEct, |packet| ecn::encapsulate(packet.ecn()));
    let (local, number) = (table.local().address, seen.bucket + 1);
    step(
        "outer",
        format!(
            "UDP {local} > {} port {}, source port {number} of {SENDERS}, ECN {mark:?}",
            endpoint.ip(),
            endpoint.port()
        ),
    );
}

pub(super) fn ingress(
    table: &Table,
    devices: &Devices,
    question: &Question,
    from: PeerIndex,
    packet: &[u8],
) -> Trace {
    let Devices { bridge, tun } = devices;
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
    seen.wire_bytes = Outer::len_on(Family::of(peer.address())) + datagram.len();
    let mut steps = Vec::new();
    let mut step = |what: &str, found: String| steps.push(Step { what: what.to_owned(), found });
    let owner = subnet(peer.subnets(), source);
    step("outer", format!("a datagram from {} is from {}", peer.address(), peer.name()));
    step("codec", format!("{}, VNI {}", peer.codec, peer.vni.get()));
    step("source", format!("{source} is in {owner} of {}, by longest match", peer.name()));
    match table.owner(destination) {
        Some(Owner::Local) => {
            let subnet = subnet(&table.local().subnets, destination);
            step("destination", format!("{destination} is in {subnet}, a subnet of this node"));
            step("tun", format!("written to {tun}; the kernel routes it to {bridge} and the pod"));
        }
        Some(Owner::Peer(other)) => {
            step("destination", format!("{destination} is a pod of {}", table.peer(other).name()));
        }
        None => step("destination", format!("{destination} is in no node's subnet")),
    }
    trace(question, Direction::Ingress, steps, seen)
}

fn trace(question: &Question, direction: Direction, steps: Vec<Step>, seen: Seen) -> Trace {
    let Question { source, destination, source_port, destination_port, size, .. } = question;
    let packet = match question.protocol {
        Protocol::Tcp | Protocol::Udp => {
            let name = if question.protocol == Protocol::Tcp { "tcp" } else { "udp" };
            format!(
                "{name} {source} {source_port} > {destination} {destination_port}, {size} bytes"
            )
        }
        Protocol::Icmp => format!("icmp {source} > {destination}, {size} bytes"),
    };
    Trace {
        packet,
        direction,
        steps,
        verdict: seen.verdict,
        reason: seen.reason,
        peer: seen.peer,
        wire_bytes: seen.wire_bytes,
    }
}

/// The longest of the subnets that has the address, as text.
fn subnet(subnets: &[IpNet], address: IpAddr) -> String {
    let all = subnets.iter().filter(|subnet| subnet.contains(&address));
    all.max_by_key(|subnet| subnet.prefix_len()).map_or_else(String::new, ToString::to_string)
}
