//! Addresses as ranges.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::object::{Block, Selector};
use crate::plan::{PortRange, Ranges};
use crate::world::World;

/// Numbers as ranges of which none touches the next, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Spans(Vec<(u128, u128)>);

impl Spans {
    fn add(&mut self, first: u128, last: u128) {
        let mut merged = (first, last);
        self.0.retain(|&(from, to)| {
            let touches = from <= merged.1.saturating_add(1) && merged.0 <= to.saturating_add(1);
            if touches {
                merged = (merged.0.min(from), merged.1.max(to));
            }
            !touches
        });
        let place = self.0.partition_point(|span| *span < merged);
        self.0.insert(place, merged);
    }

    fn cut(&mut self, first: u128, last: u128) {
        let old = std::mem::take(&mut self.0);
        for (from, to) in old {
            if to < first || last < from {
                self.0.push((from, to));
                continue;
            }
            if from < first {
                self.0.push((from, first - 1));
            }
            if last < to {
                self.0.push((last + 1, to));
            }
        }
    }
}

/// The addresses of any of `blocks`.
pub(super) fn of_blocks(blocks: &[Block], world: &World) -> Ranges {
    let (mut v4, mut v6) = (Spans::default(), Spans::default());
    for block in blocks {
        let spans = if block.cidr.addr().is_ipv4() { &mut v4 } else { &mut v6 };
        for (first, last) in of_block(block, world).0 {
            spans.add(first, last);
        }
    }
    Ranges { v4: ranges(&v4, true).v4, v6: ranges(&v6, false).v6 }
}

/// The addresses of `block`: of a node that is known by addresses in it also those that it has in
/// the pod network, and of one that is left out by them not those.
fn of_block(block: &Block, world: &World) -> Spans {
    let mut spans = Spans::default();
    let (first, last) = ends(&block.cidr);
    spans.add(first, last);
    for net in &block.except {
        let (first, last) = ends(net);
        spans.cut(first, last);
    }
    let is_v4 = block.cidr.addr().is_ipv4();
    for node in world.nodes() {
        let mut meant = node.internal().filter(|address| block.cidr.contains(address)).peekable();
        if meant.peek().is_none() {
            continue;
        }
        let is_in = meant.any(|address| block.contains(address));
        for address in node.overlay().filter(|address| address.is_ipv4() == is_v4) {
            let number = number(address);
            if is_in { spans.add(number, number) } else { spans.cut(number, number) }
        }
    }
    spans
}

/// All addresses of the nodes whose labels match.
pub(super) fn of_nodes(selector: &Selector, world: &World) -> Ranges {
    let matching =
        world.nodes().filter(|node| node.labels().is_some_and(|it| selector.matches(it)));
    let addresses: BTreeSet<IpAddr> = matching.flat_map(|node| node.addresses()).collect();
    let (mut v4, mut v6) = (Spans::default(), Spans::default());
    for address in addresses {
        let spans = if address.is_ipv4() { &mut v4 } else { &mut v6 };
        spans.add(number(address), number(address));
    }
    Ranges { v4: ranges(&v4, true).v4, v6: ranges(&v6, false).v6 }
}

/// Port ranges of which none touches the next of its protocol, sorted.
pub(super) fn of_ports(ports: impl IntoIterator<Item = PortRange>) -> Vec<PortRange> {
    let mut ports: Vec<PortRange> = ports.into_iter().collect();
    ports.sort_unstable();
    let mut merged: Vec<PortRange> = Vec::with_capacity(ports.len());
    for range in ports {
        match merged.last_mut() {
            Some(last)
                if last.protocol == range.protocol
                    && range.first <= last.last.saturating_add(1) =>
            {
                last.last = last.last.max(range.last);
            }
            Some(_) | None => merged.push(range),
        }
    }
    merged
}

fn ends(net: &IpNet) -> (u128, u128) {
    (number(net.network()), number(net.broadcast()))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

fn ranges(spans: &Spans, is_v4: bool) -> Ranges {
    let v4 = |number: u128| Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX));
    let spans = &spans.0;
    if is_v4 {
        let v4: Vec<RangeInclusive<Ipv4Addr>> =
            spans.iter().map(|(first, last)| v4(*first)..=v4(*last)).collect();
        Ranges { v4: v4.into(), v6: Ranges::default().v6 }
    } else {
        let v6: Vec<RangeInclusive<Ipv6Addr>> = spans
            .iter()
            .map(|(first, last)| Ipv6Addr::from(*first)..=Ipv6Addr::from(*last))
            .collect();
        Ranges { v4: Ranges::default().v4, v6: v6.into() }
    }
}
