//! What may go from one place to another: a set of protocols and ports.

use std::fmt;

use overlay_proto::Protocol;

use crate::judge::Traffic;
use crate::plan::PortRange;

/// Protocols and ports of the destination that may pass.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Openings {
    /// Sorted ranges of which none touches the next, for each of [`Protocol::ALL`].
    ports: [Vec<(u16, u16)>; 3],
    /// What has no ports that policies know: ICMP, and every other protocol.
    other: bool,
}

impl Openings {
    /// Nothing.
    #[must_use]
    pub const fn none() -> Self {
        Self { ports: [const { Vec::new() }; 3], other: false }
    }

    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        Self { ports: [const { (0, u16::MAX) }; 3].map(|range| vec![range]), other: true }
    }

    /// These ports and nothing else.
    pub fn of(ports: impl IntoIterator<Item = PortRange>) -> Self {
        let mut openings = Self::none();
        for PortRange { protocol, first, last } in ports {
            let one = [(first, last)];
            let known = &mut openings.ports[place(protocol)];
            *known = combine(known, &one, |one, other| one || other);
        }
        openings
    }

    /// Whether nothing passes.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::none()
    }

    /// Whether everything passes.
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self == Self::all()
    }

    /// Whether `traffic` passes.
    #[must_use]
    pub fn contain(&self, traffic: Traffic) -> bool {
        match traffic {
            Traffic::Other => self.other,
            Traffic::Port(protocol, port) => {
                let mut ranges = self.ports[place(protocol)].iter();
                ranges.any(|(first, last)| (*first..=*last).contains(&port))
            }
        }
    }

    /// What is in one of both.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        self.with(other, |one, other| one || other)
    }

    /// What is in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        self.with(other, |one, other| one && other)
    }

    /// What is in this one and not in the other.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        self.with(other, |one, other| one && !other)
    }

    fn with(&self, other: &Self, keep: fn(bool, bool) -> bool) -> Self {
        let ports = [0, 1, 2].map(|at| combine(&self.ports[at], &other.ports[at], keep));
        Self { ports, other: keep(self.other, other.other) }
    }
}

const fn place(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Tcp => 0,
        Protocol::Udp => 1,
        Protocol::Sctp => 2,
    }
}

/// The ranges of numbers of which `keep` says so, told whether each list has them.
fn combine(
    one: &[(u16, u16)],
    other: &[(u16, u16)],
    keep: fn(bool, bool) -> bool,
) -> Vec<(u16, u16)> {
    /// One more than the last port.
    const END: u32 = 0x1_0000;
    let both = one.iter().chain(other);
    let borders = both.flat_map(|(first, last)| [u32::from(*first), u32::from(*last) + 1]);
    let mut borders: Vec<u32> = borders.chain([0, END]).collect();
    borders.sort_unstable();
    borders.dedup();
    let has = |list: &[(u16, u16)], number: u32| {
        list.iter().any(|(first, last)| (u32::from(*first)..=u32::from(*last)).contains(&number))
    };
    let mut kept: Vec<(u16, u16)> = Vec::new();
    for pair in borders.windows(2) {
        let (first, end) = (pair[0], pair[1]);
        if !keep(has(one, first), has(other, first)) {
            continue;
        }
        let port = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
        match kept.last_mut() {
            Some(last) if u32::from(last.1) + 1 == first => last.1 = port(end - 1),
            Some(_) | None => kept.push((port(first), port(end - 1))),
        }
    }
    kept
}

impl fmt::Display for Openings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_all() {
            return f.write_str("all");
        }
        if self.is_none() {
            return f.write_str("–");
        }
        let mut parts = Vec::new();
        for protocol in Protocol::ALL {
            let ranges = &self.ports[place(protocol)];
            match ranges.as_slice() {
                [] => {}
                [(0, u16::MAX)] => parts.push(protocol.to_string()),
                ranges => {
                    let range = |(first, last): &(u16, u16)| {
                        if first == last { first.to_string() } else { format!("{first}-{last}") }
                    };
                    let ranges: Vec<String> = ranges.iter().map(range).collect();
                    parts.push(format!("{protocol} {}", ranges.join(",")));
                }
            }
        }
        if self.other {
            parts.push("others".to_owned());
        }
        f.write_str(&parts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(first: u16, last: u16) -> PortRange {
        PortRange { protocol: Protocol::Tcp, first, last }
    }

    #[test]
    fn sets_are_combined() {
        let (low, high) = (Openings::of([tcp(0, 99)]), Openings::of([tcp(50, u16::MAX)]));
        assert_eq!(low.or(&high), Openings::of([tcp(0, u16::MAX)]));
        assert_eq!(low.and(&high), Openings::of([tcp(50, 99)]));
        assert_eq!(low.without(&high), Openings::of([tcp(0, 49)]));
        assert_eq!(high.without(&low), Openings::of([tcp(100, u16::MAX)]));
        assert_eq!(Openings::all().without(&Openings::all()), Openings::none());
        assert!(low.contain(Traffic::Port(Protocol::Tcp, 99)));
        assert!(!low.contain(Traffic::Port(Protocol::Tcp, 100)));
        assert!(!low.contain(Traffic::Port(Protocol::Udp, 99)) && !low.contain(Traffic::Other));
    }

    #[test]
    fn ranges_that_touch_are_one() {
        assert_eq!(Openings::of([tcp(1, 2), tcp(3, 4)]).to_string(), "tcp 1-4");
        let some = Openings::of([tcp(80, 80), tcp(443, 443)]);
        assert_eq!(some.to_string(), "tcp 80,443");
        assert_eq!(
            Openings::all().without(&some).to_string(),
            "tcp 0-79,81-442,444-65535; udp; sctp; others"
        );
        assert_eq!(
            (Openings::all().to_string(), Openings::none().to_string()),
            ("all".into(), "–".into())
        );
    }
}
