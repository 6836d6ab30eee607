//! A worker's two halves, each turn compared with what the reference says must come of it.

use std::collections::{BTreeMap, VecDeque};

use culvert_dataplane::engine::DropReason;

use crate::ledger::{Fate, Violation, ensure};
use crate::node::Emitter;
use crate::packet::{Read, addresses, is_fragment, number};
use crate::ports::{Fates, Sent};
use crate::reference::{Egress, View};
use crate::world::{FlowKey, World};

/// Errors that a node may send at once, and so surely sends.
const REPLY_BURST: u64 = 50;

impl World {
    fn view(&self, node: usize) -> View<'_> {
        let daemon = self.nodes[node].daemon.as_ref().expect("only asked of a node that is up");
        View {
            me: node,
            version: &self.cluster.versions[daemon.version],
            vni: self.cluster.overlay.vni.get(),
            v6_underlay: self.cluster.v6_underlay,
            path_mtu: &daemon.path_mtu,
        }
    }

    /// What was sent, each datagram with its account.
    pub(crate) fn egress(&mut self, node: usize) -> Result<Vec<(Sent, Option<u32>)>, Violation> {
        let reads = std::mem::take(&mut self.nodes[node].reads);
        let verdicts: Vec<Egress> = {
            let view = self.view(node);
            reads.iter().map(|read| view.egress(read)).collect()
        };
        let now = self.clock.instant();
        let daemon = self.nodes[node].daemon.as_mut().expect("it is up");
        let (sent, replies) = daemon.egress(&reads, now);

        let mut in_flow = by_flow(sent.iter().map(|sent| sent.bytes.get(8..).unwrap_or_default()));
        let mut numbers = vec![None; sent.len()];
        let mut owed = Vec::new();
        for (read, verdict) in reads.iter().zip(verdicts) {
            self.tell(|| {
                format!("node{node} egress  {} {}", describe(&read.packets[0]), tell(&verdict))
            });
            match verdict {
                Egress::Forward { to, datagrams } => {
                    self.no_loop(node, read)?;
                    let packets = read.packets.iter().zip(&read.numbers).zip(&datagrams);
                    for ((packet, number), datagrams) in packets {
                        if datagrams.len() > 1 {
                            self.ledger.fragment(*number, datagrams.len());
                        }
                        for datagram in datagrams {
                            let place = next_of(&mut in_flow, &datagram[8..]);
                            let found = place.map(|place| &sent[place]);
                            self.check_sent(node, to, (packet, datagram), *number, found)?;
                            place.into_iter().for_each(|place| numbers[place] = *number);
                        }
                    }
                }
                Egress::Drop(reason) => self.drop_read(node, read, reason)?,
                Egress::Reply(reason, mtu) => {
                    owed.push((read, mtu));
                    self.drop_read(node, read, reason)?;
                }
            }
        }
        ensure("only what pods sent leaves", in_flow.values().all(VecDeque::is_empty), || {
            format!("node{node} sent {sent:?}")
        })?;
        self.check_replies(node, &owed, &replies)?;
        self.audit(node)?;
        Ok(sent.into_iter().zip(numbers).collect())
    }

    fn check_sent(
        &mut self,
        node: usize,
        to: usize,
        (packet, datagram): (&[u8], &[u8]),
        number: Option<u32>,
        sent: Option<&Sent>,
    ) -> Result<(), Violation> {
        let invariant = "every packet leaves as it was, in its flow's order, for the node that owns its \
                         destination";
        let sent = sent.ok_or_else(|| {
            Violation::new(invariant, format!("node{node} kept {}", describe(&datagram[8..])))
        })?;
        let to_address = self.cluster.address(to);
        let inner = &datagram[8..];
        let ecn = if inner[0] >> 4 == 4 { inner[1] & 3 } else { (inner[1] >> 4) & 3 };
        let right = sent.to == to_address
            && sent.port == self.cluster.overlay.port
            && sent.ecn == ecn
            && sent.bytes == datagram;
        ensure(invariant, right, || {
            format!("node{node}, {} to {to_address}, ECN {ecn}: sent {sent:?}", describe(inner))
        })?;
        if !is_fragment(packet) {
            let bucket = *self.buckets.entry((node, flow(packet))).or_insert(sent.bucket);
            ensure("a flow keeps its source port", bucket == sent.bucket, || {
                format!("node{node}, {}: {bucket} and {}", describe(inner), sent.bucket)
            })?;
        }
        let peer = crate::cluster::name(to);
        let daemon = self.nodes[node].daemon.as_mut().expect("it is up");
        match sent.refused {
            Some(reason) => {
                daemon.expect_drops(reason, 1);
                self.ledger.end(number, Fate::Dropped(reason))
            }
            None => {
                daemon.expect_traffic(&peer, 0, 1);
                Ok(())
            }
        }
    }

    /// What has come out of the tunnel may go back in only if the table has changed meanwhile.
    fn no_loop(&self, node: usize, read: &Read) -> Result<(), Violation> {
        let daemon = self.nodes[node].daemon.as_ref().expect("it is up");
        ensure("no packet loops", read.delivered_under != Some(daemon.version), || {
            format!("node{node} sends {} on", describe(&read.packets[0]))
        })
    }

    fn drop_read(&mut self, node: usize, read: &Read, reason: DropReason) -> Result<(), Violation> {
        let daemon = self.nodes[node].daemon.as_mut().expect("it is up");
        daemon.expect_drops(reason, read.packets.len());
        if matches!(reason, DropReason::NoOwner | DropReason::TooBig) {
            daemon.tries += 1;
        }
        let mut numbers = read.numbers.iter();
        numbers.try_for_each(|number| self.ledger.end(*number, Fate::Dropped(reason)))
    }

    /// The answers are some of those that are owed, in their order, and all while the limit on them
    /// is far.
    fn check_replies(
        &mut self,
        node: usize,
        owed: &[(&Read, Option<u16>)],
        replies: &Fates,
    ) -> Result<(), Violation> {
        let invariant = "pods are told why, from their router, and not too often";
        let wrong = || {
            let (owed, sent) = (owed.len(), replies.len());
            Violation::new(invariant, format!("node{node} owed {owed} answers and sent {sent}"))
        };
        let mut rest = owed.iter();
        for (reply, refused) in replies {
            let (read, mtu) = rest
                .find(|(read, mtu)| is_reply(reply, &read.packets[0], *mtu))
                .ok_or_else(wrong)?;
            let (source, destination) = addresses(&read.packets[0]);
            if let (Some(mtu), None) = (mtu, refused) {
                self.pod_mtu.insert((source, destination), *mtu);
            }
        }
        let now = self.clock.now();
        let daemon = self.nodes[node].daemon.as_mut().expect("it is up");
        // What cannot be told costs a try as well: it is known only when the answer is built.
        let far = daemon.tries <= REPLY_BURST;
        daemon.replies += replies.len() as u64;
        let age_ms = (now - daemon.started).as_millis();
        let all = replies.len() == owed.len();
        let bounded = u128::from(daemon.replies) <= u128::from(REPLY_BURST) + age_ms + 1;
        if (far && !all) || !bounded { Err(wrong()) } else { Ok(()) }
    }

    pub(crate) fn ingress(&mut self, node: usize) -> Result<(), Violation> {
        let arrivals = std::mem::take(&mut self.nodes[node].arrivals);
        if arrivals.is_empty() {
            return Ok(());
        }
        let (port, now) = (self.cluster.overlay.port, self.clock.instant());
        let daemon = self.nodes[node].daemon.as_mut().expect("it is up");
        let written = daemon.ingress(&arrivals, port, now);
        let mut in_flow = by_flow(written.iter().map(|(bytes, _)| &bytes[..]));
        for arrival in &arrivals {
            let sender = self.cluster.node_at(arrival.source);
            for flight in &arrival.flights {
                let verdict = self.view(node).ingress(sender, arrival.ecn, &flight.bytes);
                self.tell(|| {
                    let fate =
                        verdict.as_ref().map_or_else(|reason| reason.as_str(), |_| "deliver");
                    let what = flight.bytes.get(8..).map_or_else(String::new, describe);
                    format!("node{node} ingress from {} {what} {fate}", arrival.source)
                });
                let packet = match verdict {
                    Err(reason) => {
                        let daemon = self.nodes[node].daemon.as_mut().expect("it is up");
                        daemon.expect_drops(reason, 1);
                        self.ledger.end(flight.number, Fate::Dropped(reason))?;
                        continue;
                    }
                    Ok(packet) => packet,
                };
                let sender = sender.expect("a stranger delivers nothing");
                let daemon = self.nodes[node].daemon.as_mut().expect("it is up");
                daemon.expect_traffic(&crate::cluster::name(sender), 1, 1);
                let found = next_of(&mut in_flow, &packet).map(|place| &written[place]);
                let same = found.is_some_and(|(bytes, _)| *bytes == packet);
                ensure(
                    "every good packet is delivered as it was, in its flow's order",
                    same,
                    || format!("node{node}: {} became {found:?}", describe(&packet)),
                )?;
                self.check_delivery(node, flight.emitter, &packet)?;
                match found.and_then(|(_, refused)| *refused) {
                    Some(reason) => {
                        let daemon = self.nodes[node].daemon.as_mut().expect("it is up");
                        daemon.expect_drops(reason, 1);
                        self.ledger.end(flight.number, Fate::Dropped(reason))?;
                    }
                    None => self.kernel_takes(node, &packet, flight.number)?,
                }
            }
        }
        ensure("nothing else is delivered", in_flow.values().all(VecDeque::is_empty), || {
            format!("node{node} wrote {written:?} for {arrivals:?}")
        })?;
        self.audit(node)
    }

    /// The two promises to pods, straight from the operator's view and from who really sent.
    fn check_delivery(
        &self,
        node: usize,
        emitter: Emitter,
        packet: &[u8],
    ) -> Result<(), Violation> {
        let (source, destination) = addresses(packet);
        let version = self.view(node).version;
        ensure("no packet reaches a wrong pod", version.owner(destination) == Some(node), || {
            format!("node{node} delivered {}", describe(packet))
        })?;
        let honest = match (version.owner(source), emitter) {
            (Some(owner), _) => Emitter::Node(owner) == emitter,
            // A node speaks for itself.
            (None, Emitter::Node(node)) => {
                version.entry(node).is_some_and(|entry| entry.address == source)
            }
            (None, Emitter::Stranger) => false,
        };
        ensure("no packet is delivered with a spoofed source", honest, || {
            format!("node{node} delivered {}, which {emitter:?} sent", describe(packet))
        })
    }

    fn audit(&self, node: usize) -> Result<(), Violation> {
        let daemon = self.nodes[node].daemon.as_ref().expect("it is up");
        daemon.audit().map_err(|detail| {
            Violation::new("the counters add up", format!("node{node}: {detail}"))
        })
    }
}

/// Whether `reply` is the ICMP error about `offender` that is owed.
fn is_reply(reply: &[u8], offender: &[u8], mtu: Option<u16>) -> bool {
    let (from, to) = addresses(reply);
    let (source, _) = addresses(offender);
    let v4 = offender[0] >> 4 == 4;
    let icmp = &reply[if v4 { 20 } else { 40 }..];
    let kind = match (v4, mtu) {
        (true, None) => [3, 0],
        (true, Some(_)) => [3, 4],
        (false, None) => [1, 0],
        (false, Some(_)) => [2, 0],
    };
    let [high, low] = mtu.unwrap_or(0).to_be_bytes();
    let is_router = match from {
        std::net::IpAddr::V4(address) => address.octets()[3] % 128 == 1,
        std::net::IpAddr::V6(address) => address.segments()[7] == 1,
    };
    reply[0] >> 4 == offender[0] >> 4
        && to == source
        && is_router
        && icmp[..2] == kind
        && icmp[4..8] == [0, 0, high, low]
        && icmp.len() > 8
        && same_packet(&icmp[8..], offender)
}

/// Whether a quote is the start of a packet; that of a super-packet has the whole's lengths and an
/// unfinished checksum, so only addresses and what the pod can tell it by count.
fn same_packet(quote: &[u8], packet: &[u8]) -> bool {
    let ip_len = if packet[0] >> 4 == 4 { 20 } else { 40 };
    let at = if ip_len == 20 { 12 } else { 8 };
    quote.len() >= ip_len + 8 && quote[at..ip_len + 4] == packet[at..ip_len + 4]
}

/// Places in a list of packets, for each flow in the list's order: of flows among each other none
/// is promised.
type InFlow = BTreeMap<Option<FlowKey>, VecDeque<usize>>;

fn by_flow<'a>(packets: impl Iterator<Item = &'a [u8]>) -> InFlow {
    let mut in_flow = InFlow::new();
    for (place, packet) in packets.enumerate() {
        in_flow.entry(flow_of(packet)).or_default().push_back(place);
    }
    in_flow
}

/// The place of the next packet of the flow of `packet`.
fn next_of(in_flow: &mut InFlow, packet: &[u8]) -> Option<usize> {
    in_flow.get_mut(&flow_of(packet))?.pop_front()
}

/// The flow, if there are ports.
fn flow_of(packet: &[u8]) -> Option<FlowKey> {
    let ip_len = if packet.first()? >> 4 == 4 { 20 } else { 40 };
    (packet.len() >= ip_len + 4).then(|| flow(packet))
}

/// Fragments of one packet are a flow of their own: not all of them have ports.
fn flow(packet: &[u8]) -> FlowKey {
    let (source, destination) = addresses(packet);
    let (ip_len, protocol) = if packet[0] >> 4 == 4 { (20, packet[9]) } else { (40, packet[6]) };
    if is_fragment(packet) {
        return (source, destination, protocol, [0, 0, packet[4], packet[5]]);
    }
    (source, destination, protocol, packet[ip_len..ip_len + 4].try_into().unwrap())
}

/// A packet in a few words.
pub(crate) fn describe(packet: &[u8]) -> String {
    if packet.len() < 40 {
        return format!("{} bytes", packet.len());
    }
    let (source, destination) = addresses(packet);
    let what = number(packet).map_or_else(|| "no number".to_owned(), |number| format!("#{number}"));
    format!("{what} {source} > {destination} ({} bytes)", packet.len())
}

fn tell(verdict: &Egress) -> String {
    match verdict {
        Egress::Forward { to, datagrams } => {
            let count: usize = datagrams.iter().map(Vec::len).sum();
            format!("forward to node{to} x{count}")
        }
        Egress::Drop(reason) => format!("drop {}", reason.as_str()),
        Egress::Reply(reason, mtu) => format!("reply {} {mtu:?}", reason.as_str()),
    }
}
