//! A few digits by which the tables of two nodes compare.

use std::fmt;
use std::ops::{AddAssign, SubAssign};

use crate::membership::NodeEntry;

/// The sum of the entries of a table: two nodes that have the same entries have the same digest,
/// whatever order they came in. It tells slips apart, not forgeries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest(u64);

impl Digest {
    /// The digest of `entries`.
    pub fn of<'a>(entries: impl IntoIterator<Item = &'a NodeEntry>) -> Self {
        let mut digest = Self::default();
        for entry in entries {
            digest += entry;
        }
        digest
    }

    /// The number that is shown as eight digits.
    #[must_use]
    pub fn short(self) -> u32 {
        u32::try_from(self.0 >> 32).unwrap_or_default()
    }
}

impl AddAssign<&NodeEntry> for Digest {
    fn add_assign(&mut self, entry: &NodeEntry) {
        self.0 = self.0.wrapping_add(summand(entry));
    }
}

impl SubAssign<&NodeEntry> for Digest {
    fn sub_assign(&mut self, entry: &NodeEntry) {
        self.0 = self.0.wrapping_sub(summand(entry));
    }
}

/// What `entry` is in a sum.
fn summand(entry: &NodeEntry) -> u64 {
    let mut text = Fnv(0xcbf2_9ce4_8422_2325);
    let mut subnets = entry.subnets.clone();
    subnets.sort_unstable();
    let NodeEntry { name, address, tunnel_options, .. } = entry;
    let _infallible =
        fmt::write(&mut text, format_args!("{name:?} {address} {subnets:?} {tunnel_options:?}"));
    text.0
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.short())
    }
}

/// FNV-1a with 64 bits, the same on every machine.
struct Fnv(u64);

impl fmt::Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TunnelOptions;

    fn entry(name: &str, subnet: &str) -> NodeEntry {
        NodeEntry {
            name: name.to_owned(),
            address: "192.168.1.11".parse().unwrap(),
            subnets: vec![subnet.parse().unwrap()],
            tunnel_options: TunnelOptions::default(),
        }
    }

    #[test]
    fn order_does_not_count_and_everything_else_does() {
        let (one, two) = (entry("node1", "10.244.1.0/24"), entry("node2", "10.244.2.0/24"));
        let digest = Digest::of([&one, &two]);
        assert_eq!(digest, Digest::of([&two, &one]));
        assert_eq!(digest.to_string().len(), 8);
        let others = [
            entry("node3", "10.244.2.0/24"),
            entry("node2", "10.244.3.0/24"),
            NodeEntry { address: "192.168.1.12".parse().unwrap(), ..two.clone() },
            NodeEntry {
                tunnel_options: TunnelOptions { port: Some(1), ..TunnelOptions::default() },
                ..two.clone()
            },
        ];
        for other in others {
            assert_ne!(Digest::of([&one, &other]), digest, "{other:?}");
        }
        assert_ne!(Digest::of([&one]), digest);
        let mut changed = digest;
        changed -= &two;
        assert_eq!(changed, Digest::of([&one]));
    }
}
