//! Addresses as ranges.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::object::{Block, Selector};
use crate::plan::{PortRange, Ranges};
use crate::world::NodeView;

/// Numbers as ranges of which none touches the next, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Spans(Vec<(u128, u128)>);

impl Spans {
    /// All of these, which may be in any order and touch.
    fn of(mut pieces: Vec<(u128, u128)>) -> Self {
        pieces.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::new();
        for (first, last) in pieces {
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                Some(_) | None => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    /// The same without any of these, which may be in any order and touch.
    fn without(self, gone: Vec<(u128, u128)>) -> Self {
        let gone = Self::of(gone).0;
        let mut rest = Vec::with_capacity(self.0.len());
        let mut next = 0;
        for (mut first, last) in self.0 {
            while gone.get(next).is_some_and(|(_, end)| *end < first) {
                next += 1;
            }
            let mut is_cut_off = false;
            for (from, to) in gone[next..].iter().take_while(|(from, _)| *from <= last) {
                if first < *from {
                    rest.push((first, from - 1));
                }
                is_cut_off = *to >= last;
                first = to.saturating_add(1);
            }
            if !is_cut_off {
                rest.push((first, last));
            }
        }
        Self(rest)
    }
}

/// The addresses of any of `blocks`.
pub(super) fn of_blocks(blocks: &[Block], nodes: &[NodeView<'_>]) -> Ranges {
    let of_family = |is_v4: bool| {
        let blocks = blocks.iter().filter(|block| block.cidr.addr().is_ipv4() == is_v4);
        Spans::of(blocks.flat_map(|block| of_block(block, nodes).0).collect())
    };
    Ranges { v4: ranges(&of_family(true), true).v4, v6: ranges(&of_family(false), false).v6 }
}

/// The addresses of `block`: of a node that is known by addresses in it also those that it has in
/// the pod network, and of one that is left out by them not those.
fn of_block(block: &Block, nodes: &[NodeView<'_>]) -> Spans {
    let spans = Spans::of(vec![ends(&block.cidr)]);
    let spans = spans.without(block.except.iter().map(ends).collect());
    let is_v4 = block.cidr.addr().is_ipv4();
    // What the last node says of an address counts.
    let mut meant: BTreeMap<u128, bool> = BTreeMap::new();
    for node in nodes {
        let mut internal =
            node.internal().filter(|address| block.cidr.contains(address)).peekable();
        if internal.peek().is_none() {
            continue;
        }
        let is_in = internal.any(|address| block.contains(address));
        let overlay = node.overlay().filter(|address| address.is_ipv4() == is_v4);
        meant.extend(overlay.map(|address| (number(address), is_in)));
    }
    let singles = |is_in: bool| {
        let numbers = meant.iter().filter(move |(_, its)| **its == is_in);
        numbers.map(|(number, _)| (*number, *number)).collect::<Vec<_>>()
    };
    let mut pieces = spans.without(singles(false)).0;
    pieces.extend(singles(true));
    Spans::of(pieces)
}

/// All addresses of the nodes whose labels match.
pub(super) fn of_nodes(selector: &Selector, nodes: &[NodeView<'_>]) -> Ranges {
    let matching = nodes.iter().filter(|node| node.labels().is_some_and(|it| selector.matches(it)));
    let addresses: Vec<IpAddr> = matching.flat_map(|node| node.addresses()).collect();
    let of_family = |is_v4: bool| {
        let addresses = addresses.iter().filter(|address| address.is_ipv4() == is_v4);
        Spans::of(addresses.map(|address| (number(*address), number(*address))).collect())
    };
    Ranges { v4: ranges(&of_family(true), true).v4, v6: ranges(&of_family(false), false).v6 }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces of a small world that follow from a number.
    fn pieces(seed: &mut u64, most: u64) -> Vec<(u128, u128)> {
        let mut next = |end: u64| {
            *seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            u128::from((*seed >> 33) % end)
        };
        let count = next(most);
        (0..count)
            .map(|_| {
                let first = next(40);
                (first, first + next(6))
            })
            .collect()
    }

    fn has(pieces: &[(u128, u128)], number: u128) -> bool {
        pieces.iter().any(|(first, last)| (*first..=*last).contains(&number))
    }

    #[test]
    fn spans_have_what_their_pieces_have_and_none_touches_the_next() {
        let mut seed = 1;
        for _ in 0..2_000 {
            let (all, gone) = (pieces(&mut seed, 8), pieces(&mut seed, 8));
            let spans = Spans::of(all.clone());
            let rest = Spans::of(all.clone()).without(gone.clone());
            for number in 0..50 {
                assert_eq!(has(&spans.0, number), has(&all, number));
                let is_left = has(&all, number) && !has(&gone, number);
                assert_eq!(has(&rest.0, number), is_left, "{number}: {all:?} without {gone:?}");
            }
            for spans in [spans, rest] {
                assert!(spans.0.iter().all(|(first, last)| first <= last));
                assert!(spans.0.is_sorted_by(|one, other| one.1 + 1 < other.0), "{spans:?}");
            }
        }
    }

    #[test]
    fn spans_go_to_the_last_number() {
        let all = Spans::of(vec![(0, u128::MAX), (7, u128::MAX)]);
        assert_eq!(all.0, [(0, u128::MAX)]);
        assert_eq!(all.without(vec![(9, u128::MAX)]).0, [(0, 8)]);
        assert_eq!(Spans::of(vec![(0, u128::MAX)]).without(vec![(0, u128::MAX)]).0, []);
    }
}
