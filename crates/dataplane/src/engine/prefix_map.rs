//! Longest-prefix match whose cost does not depend on the number of prefixes.
//!
//! One hash table per distinct prefix length, longest first: a cluster that gives every node a /24
//! costs one probe, with 3 nodes as with 10,000. A trie would cost up to one step per bit.

use std::collections::HashMap;
use std::net::IpAddr;

use foldhash::fast::FixedState;
use ipnet::IpNet;

/// A map from IP prefixes of both families to `T`.
#[derive(Clone, Debug)]
pub struct PrefixMap<T> {
    v4: Vec<Level<u32, T>>,
    v6: Vec<Level<u128, T>>,
}

#[derive(Clone, Debug)]
struct Level<K, T> {
    mask: K,
    /// The seed is fixed: keys come from the operator's table, never from packets.
    entries: HashMap<K, T, FixedState>,
}

impl<T: Copy> PrefixMap<T> {
    /// Builds the map; of two equal prefixes the later counts.
    pub fn new(prefixes: impl IntoIterator<Item = (IpNet, T)>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (prefix, value) in prefixes {
            match prefix {
                IpNet::V4(net) => {
                    insert(&mut v4, u32::from(net.netmask()), u32::from(net.network()), value);
                }
                IpNet::V6(net) => {
                    insert(&mut v6, u128::from(net.netmask()), u128::from(net.network()), value);
                }
            }
        }
        Self { v4, v6 }
    }

    /// The value of the longest prefix that contains `address`.
    #[inline]
    pub fn longest_match(&self, address: IpAddr) -> Option<T> {
        match address {
            IpAddr::V4(address) => {
                let bits = u32::from(address);
                self.v4.iter().find_map(|level| level.entries.get(&(bits & level.mask)).copied())
            }
            IpAddr::V6(address) => {
                let bits = u128::from(address);
                self.v6.iter().find_map(|level| level.entries.get(&(bits & level.mask)).copied())
            }
        }
    }
}

/// Adds an entry to its level, which keeps the levels in descending order: a longer prefix has the
/// larger mask.
fn insert<K, T>(levels: &mut Vec<Level<K, T>>, mask: K, key: K, value: T)
where
    K: Copy + Ord + std::hash::Hash,
{
    let index = levels.partition_point(|level| level.mask > mask);
    if levels.get(index).is_none_or(|level| level.mask != mask) {
        levels.insert(index, Level { mask, entries: HashMap::default() });
    }
    levels[index].entries.insert(key, value);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_prefix() -> impl Strategy<Value = IpNet> {
        // Few distinct bits, so that prefixes nest and collide often.
        let v4 = (any::<u8>(), 0..=32_u8).prop_map(|(bits, len)| {
            IpNet::new_assert(IpAddr::from([10, bits & 3, bits >> 4, bits]), len).trunc()
        });
        let v6 = (any::<u8>(), 0..=128_u8).prop_map(|(bits, len)| {
            let bits = u16::from(bits);
            IpNet::new_assert(IpAddr::from([0xfd00, bits & 3, 0, 0, 0, 0, 0, bits]), len).trunc()
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn finds_what_a_linear_scan_finds(
            prefixes in proptest::collection::vec(any_prefix(), 0..40),
            probes in proptest::collection::vec(any_prefix(), 1..20),
        ) {
            let map = PrefixMap::new(prefixes.iter().copied().enumerate().map(|(i, p)| (p, i)));
            for address in probes.iter().map(IpNet::addr) {
                let expected = prefixes
                    .iter()
                    .enumerate()
                    .filter(|(_, prefix)| prefix.contains(&address))
                    .max_by_key(|(index, prefix)| (prefix.prefix_len(), *index))
                    .map(|(index, _)| index);
                prop_assert_eq!(map.longest_match(address), expected);
            }
        }
    }
}
