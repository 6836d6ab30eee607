//! Other addresses that rules give a packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::attribute;
use crate::table::Hook;

use super::evaluate::State;
use super::packet::Packet;
use super::registers::Registers;
use super::walk::Obstacle;
use super::{Key, Rules};

/// `NFTA_NAT_*`; `NFT_NAT_DNAT`; `NFPROTO_IPV4`.
const NAT_TYPE: u16 = 1;
const NAT_FAMILY: u16 = 2;
const NAT_ADDRESS: u16 = 3;
const NAT_PORT: u16 = 5;
const DESTINATION: u32 = 1;
const IPV4: u32 = 2;

/// `NFTA_TARGET_INFO`, and what is in it from revision 1 on, a `struct nf_nat_range`: flags, the
/// first and the last address, and the first and the last port.
const TARGET_DATA: u16 = 3;
const RANGE_LEN: usize = 40;
const HAS_ADDRESS: u32 = 1;
const HAS_PORT: u32 = 2;

/// What a rule makes of a packet's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It gets another source.
    Source,
    /// It gets this destination.
    Destination(Target),
    /// It gets another address, which could not be followed.
    Unknown,
}

/// Where a packet is sent instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The address, unless only the port is another.
    pub address: Option<IpAddr>,
    /// The port, if that is another.
    pub port: Option<u16>,
}

/// A rule that may give a packet another destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirection {
    /// The rule.
    pub by: Obstacle,
    /// Where it sends the packet; none where that could not be followed.
    pub to: Option<Target>,
}

impl Rules {
    /// The rules that may give `packet` another destination at `hook`, those that are asked first
    /// before the others, and whether one of them certainly does.
    #[must_use]
    pub fn redirections(&self, hook: Hook, packet: &Packet) -> (Vec<Redirection>, bool) {
        let mut called: Vec<&Key> = self.at(hook, packet.is_ipv4()).collect();
        called.sort_by_key(|key| self.chains.get(*key).and_then(|chain| chain.hook));
        let mut found = Vec::new();
        for (family, table, name) in called {
            let mut state = State::new(packet, false);
            let ends = self.follow((*family, table), name, &mut state, 0);
            let is_certain = ends.is_translated();
            found.extend(ends.redirections);
            if is_certain && !found.is_empty() {
                return (found, true);
            }
        }
        (found, false)
    }
}

/// What the expression `nat` does.
pub(super) fn of_nat(data: &[u8], registers: &Registers) -> Change {
    let number = |kind| attribute::number(data, kind);
    if number(NAT_TYPE) != Some(DESTINATION) {
        return Change::Source;
    }
    let len = if number(NAT_FAMILY) == Some(IPV4) { 4 } else { 16 };
    let read = |kind, len| -> Option<Option<Vec<u8>>> {
        let Some(register) = number(kind) else { return Some(None) };
        registers.read(register, len).into_iter().collect::<Option<Vec<u8>>>().map(Some)
    };
    let (Some(address), Some(port)) = (read(NAT_ADDRESS, len), read(NAT_PORT, 2)) else {
        return Change::Unknown;
    };
    Change::Destination(Target {
        address: address.as_deref().and_then(address_of),
        port: port.and_then(|port| Some(u16::from_be_bytes(port.try_into().ok()?))),
    })
}

/// What the target `DNAT` of iptables does.
pub(super) fn of_target(data: &[u8]) -> Change {
    let range = attribute::find(data, TARGET_DATA).unwrap_or_default();
    let word = |at: usize| range.get(at..at + 4).and_then(|word| <[u8; 4]>::try_from(word).ok());
    let Some(flags) = word(0).map(u32::from_ne_bytes).filter(|_| range.len() >= RANGE_LEN) else {
        return Change::Unknown;
    };
    let (first, last) = (range.get(4..20), range.get(20..36));
    let has = |flag: u32| flags & flag != 0;
    if has(HAS_ADDRESS) && first != last {
        return Change::Unknown;
    }
    // Of an address of IPv4 the rest is zero.
    let is_ipv4 = first.is_some_and(|first| first.iter().skip(4).all(|byte| *byte == 0));
    let address = first.and_then(|first| address_of(if is_ipv4 { first.get(..4)? } else { first }));
    let port = range.get(36..38).and_then(|port| Some(u16::from_be_bytes(port.try_into().ok()?)));
    Change::Destination(Target {
        address: address.filter(|_| has(HAS_ADDRESS)),
        port: port.filter(|_| has(HAS_PORT)),
    })
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::Attributes;

    fn known(bytes: &[u8]) -> Vec<Option<u8>> {
        bytes.iter().copied().map(Some).collect()
    }

    #[test]
    fn destination_is_read_from_the_registers_as_far_as_they_are_known() {
        let mut data = Attributes::default();
        for (kind, value) in [(1, 1), (2, 2), (3, 1), (5, 2)] {
            data.number(kind, value);
        }
        let mut registers = Registers::new();
        registers.write(1, &known(&[10, 244, 2, 3]));
        registers.write(2, &known(&8053_u16.to_be_bytes()));
        let target = Target { address: Some([10, 244, 2, 3].into()), port: Some(8053) };
        assert_eq!(of_nat(&data.0, &registers), Change::Destination(target));
        registers.forget(1);
        assert_eq!(of_nat(&data.0, &registers), Change::Unknown);
        let mut source = Attributes::default();
        source.number(1, 0);
        assert_eq!(of_nat(&source.0, &registers), Change::Source);
    }

    #[test]
    fn target_of_iptables_has_address_and_port() {
        let range = |flags: u32, last: u8| {
            let mut range = flags.to_ne_bytes().to_vec();
            for host in [3, last] {
                range.extend([10, 244, 2, host]);
                range.extend([0; 12]);
            }
            range.extend(8053_u16.to_be_bytes());
            range.extend(8053_u16.to_be_bytes());
            let mut data = Attributes::default();
            data.text(1, "DNAT");
            data.bytes(3, &range);
            of_target(&data.0)
        };
        let address = Some(IpAddr::from([10, 244, 2, 3]));
        let to = |address, port| Change::Destination(Target { address, port });
        assert_eq!(range(3, 3), to(address, Some(8053)));
        assert_eq!(range(1, 3), to(address, None));
        assert_eq!(range(1, 9), Change::Unknown, "one of several");
        assert_eq!(of_target(&[]), Change::Unknown);
    }
}
