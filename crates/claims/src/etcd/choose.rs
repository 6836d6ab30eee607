//! Which subnets a node asks for.
//!
//! Pure. A node that has no subnet starts looking at a place that follows from its name: nodes that
//! start together then rarely want the same one, and a subnet that somebody left is not the first
//! that the next one takes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::failure::Refusal;
use super::keys::Settings;

/// Prefixes that are somebody's. No two have an address in common, unless somebody wrote them so.
#[derive(Debug, Default)]
pub(super) struct Occupied {
    by_start: BTreeMap<IpAddr, IpNet>,
    /// Prefixes that contain others, which cannot be found beside their neighbours.
    wide: Vec<IpNet>,
}

impl Occupied {
    pub(super) fn add(&mut self, net: IpNet) {
        if self.is_free(&net) {
            self.by_start.insert(net.network(), net);
        } else {
            self.wide.push(net);
        }
    }

    pub(super) fn is_free(&self, net: &IpNet) -> bool {
        let overlaps = |other: &IpNet| other.contains(net) || net.contains(other);
        let before = self.by_start.range(..=net.network()).next_back();
        let after = self.by_start.range(net.network()..).next();
        let near = before.into_iter().chain(after).any(|(_, other)| overlaps(other));
        !near && !self.wide.iter().any(overlaps)
    }
}

/// A free subnet of `network` for the node `name`, or why there is none.
pub(super) fn choose(
    network: &IpNet,
    settings: &Settings,
    occupied: &Occupied,
    name: &str,
) -> Result<IpNet, Refusal> {
    let len = settings.len(network);
    let bits = u32::from(len - network.prefix_len()).min(63);
    let count = 1_u64 << bits;
    // The network's own address would be that of the first node too, which confuses people.
    let first = u64::from(count > 1);
    let usable = count - first;
    let start = hash(name) % usable;
    (0..usable)
        .map(|step| subnet(network, len, first + (start + step) % usable))
        .find(|subnet| occupied.is_free(subnet))
        .ok_or(Refusal::Full { network: *network, len, usable })
}

fn subnet(network: &IpNet, len: u8, index: u64) -> IpNet {
    let address: IpAddr = match network {
        IpNet::V4(net) => {
            let offset = u32::try_from(index << (32 - len)).unwrap_or_default();
            (u32::from(net.network()) | offset).to_be_bytes().into()
        }
        IpNet::V6(net) => {
            let offset = u128::from(index) << (128 - len);
            (u128::from(net.network()) | offset).to_be_bytes().into()
        }
    };
    IpNet::new_assert(address, len)
}

/// FNV-1a: the same on every version, so that a node whose memory is lost asks for the same again.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use overlay_proto::Vni;

    use crate::Parameters;

    fn settings(len: u8) -> Settings {
        let vni = Vni::new(1).unwrap();
        let parameters = Parameters { cidrs: Vec::new(), vni, port: 4790 };
        Settings { parameters, subnet_len: len, subnet_len_v6: 64 }
    }

    #[test]
    fn every_subnet_but_the_first_is_given_out_once_and_then_the_knob_is_named() {
        let network: IpNet = "10.244.0.0/20".parse().unwrap();
        let mut occupied = Occupied::default();
        let mut seen = std::collections::BTreeSet::new();
        for node in 0..15 {
            let subnet =
                choose(&network, &settings(24), &occupied, &format!("node{node}")).unwrap();
            assert!(network.contains(&subnet) && subnet.prefix_len() == 24, "{subnet}");
            assert!(seen.insert(subnet), "{subnet} twice");
            occupied.add(subnet);
        }
        assert!(!seen.contains(&"10.244.0.0/24".parse().unwrap()));
        let error = choose(&network, &settings(24), &occupied, "late").unwrap_err().to_string();
        for part in ["no free /24 is left of 10.244.0.0/20", "all 15", "cidrs", "subnet_len"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_choice_avoids_larger_and_smaller_neighbours() {
        let network: IpNet = "10.244.0.0/22".parse().unwrap();
        let mut occupied = Occupied::default();
        for net in ["10.244.1.128/25", "10.244.2.0/23"] {
            occupied.add(net.parse().unwrap());
        }
        assert!(choose(&network, &settings(24), &occupied, "node").is_err());
        let mut wide = Occupied::default();
        wide.add("10.244.1.0/24".parse().unwrap());
        wide.add("10.244.0.0/22".parse().unwrap());
        assert!(!wide.is_free(&"10.244.3.0/24".parse().unwrap()));
    }

    #[test]
    fn the_same_name_asks_for_the_same_and_others_rarely_do() {
        let network: IpNet = "fd00:10:244::/48".parse().unwrap();
        let of = |name: &str| choose(&network, &settings(24), &Occupied::default(), name).unwrap();
        assert_eq!(of("node1"), of("node1"));
        let distinct: std::collections::BTreeSet<IpNet> =
            (0..100).map(|node| of(&format!("node{node}"))).collect();
        assert!(distinct.len() > 90, "{}", distinct.len());
    }

    #[test]
    fn a_network_of_one_subnet_has_one() {
        let network: IpNet = "10.244.0.0/24".parse().unwrap();
        assert_eq!(choose(&network, &settings(24), &Occupied::default(), "a").unwrap(), network);
    }
}
