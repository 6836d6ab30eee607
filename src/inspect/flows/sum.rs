//! Flows of several seconds as one list, and what a flow looks like in a line.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use culvert_dataplane::engine::DropReason;
use culvert_node::words::counted;

use crate::inspect::units::octets;
use crate::observe::{FlowDirection, FlowRecord, FlowWord};

/// What tells one flow from another: all but time and counts.
type Key = (
    FlowDirection,
    FlowWord,
    Option<&'static str>,
    [Option<IpAddr>; 3],
    Option<String>,
    [Option<u16>; 2],
);

/// Flows that are told apart: a hundred times what a worker tells apart in a second, in some tens
/// of megabytes. Whoever looks for hours while ports are scanned sees more.
const MOST: usize = 1 << 17;

/// Flows with their counts over several seconds.
#[derive(Debug, Default)]
pub(super) struct Sum {
    flows: BTreeMap<Key, FlowRecord>,
    /// Packets of flows that there was no room for.
    others: u64,
}

impl Sum {
    pub(super) fn add(&mut self, flow: &FlowRecord) {
        let key = (
            flow.direction,
            flow.verdict,
            flow.reason.map(DropReason::as_str),
            [flow.source, flow.destination, flow.outer],
            flow.protocol.clone(),
            [flow.source_port, flow.destination_port],
        );
        let is_full = self.flows.len() >= MOST;
        match self.flows.get_mut(&key) {
            Some(known) => {
                let (packets, bytes) = (known.packets, known.bytes);
                // Names and time are the newest.
                known.clone_from(flow);
                known.packets = known.packets.saturating_add(packets);
                known.bytes = known.bytes.saturating_add(bytes);
            }
            None if is_full => self.others = self.others.saturating_add(flow.packets),
            None => {
                self.flows.insert(key, flow.clone());
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Packets of flows that there was no room for.
    pub(super) const fn others(&self) -> u64 {
        self.others
    }

    /// The flows, those with most bytes first.
    pub(super) fn flows(&self) -> Vec<FlowRecord> {
        let mut flows: Vec<FlowRecord> = self.flows.values().cloned().collect();
        flows.sort_by_key(|flow| Reverse(flow.bytes));
        flows
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.flows().iter().try_for_each(|flow| writeln!(f, "{}", line(flow)))
    }
}

/// A flow for people.
pub(super) fn line(flow: &FlowRecord) -> String {
    let mut text = format!(
        "{:<7} {:<7} {} > {} {}",
        flow.direction,
        flow.verdict,
        end(flow.source, flow.source_port),
        end(flow.destination, flow.destination_port),
        flow.protocol.as_deref().unwrap_or("?"),
    );
    if let Some(reason) = &flow.reason {
        text.push_str(&format!(", {}", reason.as_str()));
    }
    match (&flow.peer, flow.outer) {
        (Some(peer), _) => text.push_str(&format!(", peer {peer}")),
        (None, Some(outer)) => text.push_str(&format!(", stranger {outer}")),
        (None, None) => {}
    }
    let pod = match flow.direction {
        FlowDirection::Egress => &flow.source_pod,
        FlowDirection::Ingress => &flow.destination_pod,
    };
    if let Some(pod) = pod {
        text.push_str(&format!(", pod {}", short(pod)));
    }
    text.push_str(&format!(", {}, {}", counted(flow.packets, "packet"), octets(flow.bytes)));
    text
}

/// A connection for people, with this node's end first, so that both directions are called alike.
pub(crate) fn tuple(flow: &FlowRecord) -> String {
    let source = end(flow.source, flow.source_port);
    let destination = end(flow.destination, flow.destination_port);
    let protocol = flow.protocol.as_deref().unwrap_or("?");
    match flow.direction {
        FlowDirection::Egress => format!("{source} - {destination} {protocol}"),
        FlowDirection::Ingress => format!("{destination} - {source} {protocol}"),
    }
}

fn end(address: Option<IpAddr>, port: Option<u16>) -> String {
    match (address, port) {
        (Some(address), Some(port)) => SocketAddr::new(address, port).to_string(),
        (Some(address), None) => address.to_string(),
        (None, _) => "?".to_owned(),
    }
}

/// A container's id as people write it.
pub(crate) fn short(name: &str) -> String {
    const ID: usize = 64;
    let is_id = name.len() >= ID && name.bytes().take(ID).all(|byte| byte.is_ascii_hexdigit());
    if is_id { name.chars().take(12).collect() } else { name.to_owned() }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::observe::FLOW_SCHEMA;

    pub(crate) fn flow() -> FlowRecord {
        FlowRecord {
            schema: FLOW_SCHEMA,
            time: "2026-01-01T00:00:00Z".to_owned(),
            direction: FlowDirection::Egress,
            verdict: FlowWord::Drop,
            reason: Some(DropReason::TooBig),
            source: Some("10.244.1.2".parse().unwrap()),
            destination: Some("10.244.2.3".parse().unwrap()),
            protocol: Some("tcp".to_owned()),
            source_port: Some(40_000),
            destination_port: Some(80),
            source_pod: Some("4f1d2c".to_owned()),
            destination_pod: None,
            peer: Some("node2".to_owned()),
            outer: Some("192.168.1.12".parse().unwrap()),
            packets: 64,
            bytes: 96_000,
        }
    }

    #[test]
    fn flow_is_a_line_that_says_who_what_and_how_much() {
        assert_eq!(
            line(&flow()),
            "egress  drop    10.244.1.2:40000 > 10.244.2.3:80 tcp, too_big, peer node2, pod 4f1d2c, \
             64 packets, 93.8 KiB"
        );
        let stranger = FlowRecord {
            direction: FlowDirection::Ingress,
            reason: Some(DropReason::UnknownPeer),
            source: None,
            destination: None,
            protocol: None,
            source_port: None,
            destination_port: None,
            source_pod: None,
            peer: None,
            packets: 1,
            bytes: 100,
            ..flow()
        };
        assert_eq!(
            line(&stranger),
            "ingress drop    ? > ? ?, unknown_peer, stranger 192.168.1.12, 1 packet, 100 B"
        );
    }

    #[test]
    fn seconds_of_one_flow_are_summed_and_the_heaviest_comes_first() {
        let mut sum = Sum::default();
        let other = FlowRecord { destination_port: Some(81), bytes: 100_000, ..flow() };
        let again = FlowRecord { time: "2026-01-01T00:00:01Z".to_owned(), ..flow() };
        for flow in [flow(), other, again] {
            sum.add(&flow);
        }
        let flows = sum.flows();
        assert_eq!(flows.len(), 2);
        assert_eq!((flows[0].packets, flows[0].bytes), (128, 192_000));
        assert_eq!(flows[0].time, "2026-01-01T00:00:01Z");
    }

    #[test]
    fn flows_beyond_all_measure_are_counted_and_not_kept() {
        let mut sum = Sum::default();
        for number in 0..MOST + 10 {
            let [.., a, b, c] = number.to_be_bytes();
            sum.add(&FlowRecord { destination: Some([10, a, b, c].into()), packets: 2, ..flow() });
        }
        assert_eq!((sum.flows.len(), sum.others()), (MOST, 20));
        sum.add(&FlowRecord { destination: Some([10, 0, 0, 0].into()), packets: 2, ..flow() });
        assert_eq!(sum.others(), 20, "that one is known");
    }

    #[test]
    fn only_ids_are_cut() {
        assert_eq!(short(&"4f".repeat(32)), "4f4f4f4f4f4f");
        assert_eq!(short("a-pod-with-a-name"), "a-pod-with-a-name");
    }
}
