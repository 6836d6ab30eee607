//! A consistent list of nodes out of entries that people and other nodes wrote.
//!
//! Every table source ends here, so that a broken file and a broken database entry are refused by
//! the same rules. A file has one author, who can mend it, and is refused as a whole: half a table
//! would be a black hole. In a database that every node writes to, one bad entry must not cost the
//! others their network: it is left out, and said so.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use culvert_keys::PublicKey;
use foldhash::fast::RandomState;
use ipnet::IpNet;
use overlay_proto::Family;

use crate::membership::error;
use crate::reserved::reserved;
use crate::tunnel::Spoken;
use crate::{Fault, Membership, NodeEntry, NodeKeys, Overlay, Place, TableError};

/// A node that was left out, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The node's name.
    pub name: String,
    /// What is wrong with its entry.
    pub error: TableError,
}

impl Membership {
    /// Takes `nodes`, of which the one named `local` is this node, if nothing is wrong with any.
    ///
    /// # Errors
    ///
    /// The first fault found, with its place in `nodes`.
    pub fn check(
        overlay: Overlay,
        local: &str,
        nodes: Vec<impl Into<Arc<NodeEntry>>>,
    ) -> Result<Self, TableError> {
        let (members, rejected) = Self::admit(overlay, local, nodes)?;
        match rejected.into_iter().next() {
            None => Ok(members),
            Some(first) => Err(first.error),
        }
    }

    /// Takes of `nodes`, oldest first, each that is sound and goes with those before it.
    ///
    /// Of two nodes that claim one name, address, subnet, public key or hardware address, or a port
    /// for two codecs, the older keeps it.
    ///
    /// # Errors
    ///
    /// The node named `local` is missing, or is one of those that would be left out.
    pub fn admit(
        overlay: Overlay,
        local: &str,
        nodes: Vec<impl Into<Arc<NodeEntry>>>,
    ) -> Result<(Self, Vec<Rejected>), TableError> {
        let mut nodes: Vec<Arc<NodeEntry>> = nodes.into_iter().map(Into::into).collect();
        let Some(mut own) = nodes.iter().position(|node| node.name == local) else {
            return Err(error(Place::Table, local, Fault::LocalNodeMissing));
        };
        let blocks = |network: &IpNet| Some((*network, reserved(network)?));
        if let Some((network, block)) = overlay.networks.iter().find_map(blocks) {
            return Err(error(Place::Networks, network, Fault::ReservedNetwork(block)));
        }
        let mut taken = Taken::new(&nodes, Family::of(nodes[own].address));
        let mut spoken = Spoken::new(&overlay, nodes[own].tunnel_options);
        let mut rejected = Vec::new();
        for (index, node) in nodes.iter().enumerate() {
            let checked = taken.take(&overlay, index, node).and_then(|()| {
                spoken.take(index, node).inspect_err(|_fault| taken.give_back(node))
            });
            match checked {
                Ok(()) => {}
                Err(fault) if index == own => return Err(fault),
                Err(fault) => rejected.push((index, fault)),
            }
        }
        drop(taken);
        own -= rejected.iter().filter(|(index, _)| *index < own).count();
        let mut out =
            rejected.iter().map(|(index, _)| *index).collect::<Vec<_>>().into_iter().peekable();
        let left_out = rejected
            .into_iter()
            .map(|(index, error)| Rejected { name: nodes[index].name.clone(), error })
            .collect();
        let mut index = 0;
        nodes.retain(|_| {
            let is_in = out.next_if_eq(&index).is_none();
            index += 1;
            is_in
        });
        Ok((Self::sound(overlay, nodes, own), left_out))
    }
}

/// What admitted nodes have.
struct Taken<'a> {
    /// The family of all nodes' addresses.
    family: Family,
    names: HashSet<&'a str, RandomState>,
    addresses: HashMap<IpAddr, &'a str, RandomState>,
    /// Whether no two subnets of the list have an address in common: then nobody can have taken
    /// one.
    disjoint: bool,
    /// By the first address. No two have an address in common, so that whatever overlaps a prefix
    /// is its neighbour here.
    subnets: BTreeMap<u128, (IpNet, &'a str)>,
    /// Who has a key is who has sent what was sealed with it.
    keys: HashMap<PublicKey, &'a str, RandomState>,
}

impl<'a> Taken<'a> {
    fn new(nodes: &[Arc<NodeEntry>], family: Family) -> Self {
        let count = nodes.len();
        Self {
            family,
            names: HashSet::with_capacity_and_hasher(count, RandomState::default()),
            addresses: HashMap::with_capacity_and_hasher(count, RandomState::default()),
            disjoint: are_disjoint(nodes),
            subnets: BTreeMap::new(),
            keys: HashMap::default(),
        }
    }

    /// Takes what the node at `index` of the list has; one with a fault changes nothing.
    fn take(
        &mut self,
        overlay: &Overlay,
        index: usize,
        node: &'a NodeEntry,
    ) -> Result<(), TableError> {
        if node.name.is_empty() || node.name.chars().any(char::is_control) {
            return Err(error(Place::Name(index), format!("{:?}", node.name), Fault::BadName));
        }
        if !self.names.insert(&node.name) {
            return Err(error(Place::Name(index), &node.name, Fault::DuplicateName));
        }
        let taken = self.take_address(overlay, index, node).and_then(|()| {
            let taken = self.take_subnets(overlay, index, node).and_then(|()| {
                self.take_keys(index, node).inspect_err(|_fault| self.free(&node.subnets))
            });
            taken.inspect_err(|_fault| {
                self.addresses.remove(&node.address);
            })
        });
        taken.inspect_err(|_fault| {
            self.names.remove(node.name.as_str());
        })
    }

    fn take_address(
        &mut self,
        overlay: &Overlay,
        index: usize,
        node: &'a NodeEntry,
    ) -> Result<(), TableError> {
        let address = node.address;
        let inside = || overlay.networks.iter().find(|network| network.contains(&address));
        let fault = if reserved(&address.into()).is_some() {
            Fault::UnusableAddress
        } else if Family::of(address) != self.family {
            Fault::AddressFamily
        } else if let Some(network) = inside() {
            Fault::AddressInside(*network)
        } else {
            match self.addresses.entry(address) {
                Entry::Occupied(owner) => Fault::DuplicateAddress((*owner.get()).to_owned()),
                Entry::Vacant(place) => {
                    place.insert(&node.name);
                    return Ok(());
                }
            }
        };
        Err(error(Place::Address(index), address, fault))
    }

    fn take_subnets(
        &mut self,
        overlay: &Overlay,
        index: usize,
        node: &'a NodeEntry,
    ) -> Result<(), TableError> {
        if node.subnets.is_empty() {
            return Err(error(Place::Subnets(index), "[]", Fault::NoSubnet));
        }
        for (place, subnet) in node.subnets.iter().enumerate() {
            if let Some(fault) = self.subnet_fault(overlay, subnet) {
                self.free(&node.subnets[..place]);
                return Err(error(Place::Subnet(index, place), subnet, fault));
            }
            if !self.disjoint {
                self.subnets.insert(place_of(subnet.network()), (*subnet, &node.name));
            }
        }
        Ok(())
    }

    fn take_keys(&mut self, index: usize, node: &'a NodeEntry) -> Result<(), TableError> {
        let keys = &node.tunnel_options.keys;
        // Before any is taken, so that there is nothing to give back.
        if let Some((place, key, owner)) = self.rival(keys) {
            let fault = Fault::DuplicateKey(owner.to_owned());
            return Err(error(Place::Key(index, place), key, fault));
        }
        self.keys.extend(keys.iter().map(|key| (*key, node.name.as_str())));
        Ok(())
    }

    /// The first of `keys` that a node has, and which.
    fn rival(&self, keys: &NodeKeys) -> Option<(usize, PublicKey, &'a str)> {
        let mut places = keys.iter().enumerate();
        places.find_map(|(place, key)| Some((place, *key, *self.keys.get(key)?)))
    }

    /// Forgets what `node` had taken.
    fn give_back(&mut self, node: &NodeEntry) {
        self.names.remove(node.name.as_str());
        self.addresses.remove(&node.address);
        self.free(&node.subnets);
        for key in node.tunnel_options.keys.iter() {
            self.keys.remove(key);
        }
    }

    fn free(&mut self, subnets: &[IpNet]) {
        for subnet in subnets {
            self.subnets.remove(&place_of(subnet.network()));
        }
    }

    fn subnet_fault(&self, overlay: &Overlay, subnet: &IpNet) -> Option<Fault> {
        if subnet.trunc() != *subnet {
            return Some(Fault::HostBits);
        }
        if !overlay.networks.iter().any(|network| network.contains(subnet)) {
            return Some(Fault::OutsideNetworks(overlay.networks.clone()));
        }
        if subnet.max_prefix_len() - subnet.prefix_len() < 2 {
            return Some(Fault::TooSmall);
        }
        let first = place_of(subnet.network());
        let before = self.subnets.range(..=first).next_back();
        let after = self.subnets.range(first..).next();
        let mut near = before.into_iter().chain(after).map(|(_, near)| near);
        let (other, owner) =
            near.find(|(other, _)| other.contains(subnet) || subnet.contains(other))?;
        Some(Fault::Overlap((*owner).to_owned(), *other))
    }
}

/// Whether no two subnets have an address in common, which is so almost always and told faster than
/// which ones do: in the order of their first addresses an overlap shows between neighbours.
fn are_disjoint(nodes: &[Arc<NodeEntry>]) -> bool {
    let subnets = nodes.iter().flat_map(|node| &node.subnets);
    let mut ends: Vec<(u128, u128)> =
        subnets.map(|subnet| (place_of(subnet.network()), place_of(subnet.broadcast()))).collect();
    ends.sort_unstable();
    ends.windows(2).all(|pair| pair[0].1 < pair[1].0)
}

/// An address among those of both families: IPv4 is where IPv6 has it, and no IPv6 network is
/// there.
fn place_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().into(),
        IpAddr::V6(address) => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use overlay_proto::{CodecKind, Vni};
    use proptest::prelude::*;

    use super::*;
    use crate::{Foreign, TunnelOptions};

    fn overlay() -> Overlay {
        Overlay {
            vni: Vni::new(1).unwrap(),
            networks: vec!["10.244.0.0/16".parse().unwrap(), "fd00:10:244::/48".parse().unwrap()],
            port: 4790,
            foreign: Foreign::default(),
        }
    }

    fn node(name: &str, address: &str, subnets: &[&str]) -> NodeEntry {
        NodeEntry {
            name: name.into(),
            address: address.parse().unwrap(),
            subnets: subnets.iter().map(|subnet| subnet.parse().unwrap()).collect(),
            tunnel_options: TunnelOptions::default(),
        }
    }

    fn names(members: &Membership) -> Vec<&str> {
        members.peers().map(|peer| peer.name.as_str()).collect()
    }

    #[test]
    fn a_bad_entry_is_left_out_and_the_others_stay() {
        let nodes = vec![
            node("node1", "192.168.1.11", &["10.244.1.0/24"]),
            node("far", "fd00::1", &["10.244.2.0/24"]),
            node("outside", "192.168.1.13", &["10.245.1.0/24"]),
            node("none", "192.168.1.14", &[]),
            node("good", "192.168.1.15", &["10.244.5.0/24"]),
        ];
        let (members, rejected) = Membership::admit(overlay(), "node1", nodes).unwrap();
        assert_eq!(names(&members), ["good"]);
        let reasons: Vec<_> = rejected.iter().map(|r| (r.name.as_str(), &r.error.fault)).collect();
        assert_eq!(reasons[0], ("far", &Fault::AddressFamily));
        assert!(matches!(reasons[1], ("outside", Fault::OutsideNetworks(_))));
        assert_eq!(reasons[2], ("none", &Fault::NoSubnet));
    }

    #[test]
    fn of_two_that_claim_the_same_the_older_keeps_it() {
        let nodes = vec![
            node("old", "192.168.1.12", &["10.244.2.0/24"]),
            node("node1", "192.168.1.11", &["10.244.1.0/24"]),
            node("address", "192.168.1.12", &["10.244.3.0/24"]),
            node("inside", "192.168.1.14", &["10.244.4.0/24", "10.244.2.128/25"]),
            node("around", "192.168.1.15", &["10.244.0.0/20"]),
            node("old", "192.168.1.16", &["10.244.6.0/24"]),
        ];
        let (members, rejected) = Membership::admit(overlay(), "node1", nodes).unwrap();
        assert_eq!(names(&members), ["old"]);
        let of = |index: usize| rejected[index].error.to_string();
        assert_eq!(of(0), "node \"old\" has this address too");
        assert_eq!(of(1), "has addresses in common with 10.244.2.0/24 of node \"old\"");
        assert!(of(2).starts_with("has addresses in common with 10.244."), "{}", of(2));
        assert_eq!(of(3), "another node has this name");
    }

    #[test]
    fn a_local_node_that_is_younger_than_its_rival_is_an_error() {
        let nodes = vec![
            node("old", "192.168.1.11", &["10.244.2.0/24"]),
            node("node1", "192.168.1.11", &["10.244.1.0/24"]),
        ];
        let error = Membership::admit(overlay(), "node1", nodes).unwrap_err();
        assert_eq!(error.fault, Fault::DuplicateAddress("old".into()));
        let error = Membership::admit(overlay(), "node1", Vec::<NodeEntry>::new()).unwrap_err();
        assert_eq!(error.fault, Fault::LocalNodeMissing);
    }

    #[test]
    fn a_node_that_cannot_be_spoken_to_is_left_out() {
        let speaking = |name: &str, index: u8, tunnel_options| NodeEntry {
            tunnel_options,
            ..node(name, &format!("192.168.1.{index}"), &[&format!("10.244.{index}.0/24")])
        };
        let vxlan = |mac: &str| TunnelOptions {
            codec: Some(CodecKind::Vxlan),
            mac: (!mac.is_empty()).then(|| mac.parse().unwrap()),
            ..TunnelOptions::default()
        };
        let bare = TunnelOptions { codec: Some(CodecKind::IpUdp), ..TunnelOptions::default() };
        let nodes = vec![
            node("node1", "192.168.1.11", &["10.244.1.0/24"]),
            speaking("device", 12, vxlan("02:00:00:00:00:01")),
            speaking("nowhere", 13, vxlan("")),
            speaking("twin", 14, vxlan("02:00:00:00:00:01")),
            speaking("squatter", 15, TunnelOptions { port: Some(4790), ..bare }),
            speaking("bare", 16, bare),
        ];
        let (members, rejected) = Membership::admit(overlay(), "node1", nodes).unwrap();
        assert_eq!(names(&members), ["device", "bare"]);
        let reasons: Vec<_> = rejected.into_iter().map(|r| (r.name, r.error.fault)).collect();
        assert_eq!(
            reasons,
            [
                ("nowhere".into(), Fault::MacMissing),
                ("twin".into(), Fault::DuplicateMac("device".into())),
                ("squatter".into(), Fault::PortTwice(CodecKind::VxlanGpe)),
            ]
        );
    }

    #[test]
    fn addresses_and_networks_that_nobody_can_have_are_refused() {
        let nobodys = [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.9.9.9",
            "224.0.0.5",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:192.168.1.12",
            "fe80::1",
            "febf::1",
            "ff02::1",
        ];
        for address in nobodys {
            // The other nodes' addresses are of the same family, so that nothing else is wrong.
            let own = if address.contains(':') { "fd00::11" } else { "192.168.1.11" };
            let nodes = vec![
                node("node1", own, &["10.244.1.0/24"]),
                node("node2", address, &["10.244.2.0/24"]),
            ];
            let error = Membership::check(overlay(), "node1", nodes).unwrap_err();
            assert_eq!((error.place, error.fault), (Place::Address(1), Fault::UnusableAddress));
            let own = vec![node("node1", address, &["10.244.1.0/24"])];
            let error = Membership::check(overlay(), "node1", own).unwrap_err();
            assert_eq!(error.fault, Fault::UnusableAddress, "{address}");
        }
        for address in ["192.0.2.1", "198.51.100.7", "100.64.0.1", "2001:db8::1", "fd00::11"] {
            let nodes = vec![node("node1", address, &["10.244.1.0/24"])];
            assert!(Membership::check(overlay(), "node1", nodes).is_ok(), "{address}");
        }
        for network in
            ["127.0.0.0/16", "0.0.0.0/0", "224.1.0.0/16", "248.0.0.0/8", "fe80::/48", "::/0"]
        {
            let overlay = Overlay { networks: vec![network.parse().unwrap()], ..overlay() };
            let nodes = vec![node("node1", "192.168.1.11", &["10.244.1.0/24"])];
            let error = Membership::check(overlay, "node1", nodes).unwrap_err();
            assert!(matches!(error.fault, Fault::ReservedNetwork(_)), "{network}: {error}");
            assert_eq!(error.value, network);
        }
    }

    #[test]
    fn entries_that_no_node_can_have_are_refused_by_what_is_wrong_with_them() {
        let fault = |name: &str, address: &str, subnet: &str| {
            let nodes = vec![
                node("node1", "192.168.1.11", &["10.244.1.0/24"]),
                node(name, address, &[subnet]),
            ];
            Membership::check(overlay(), "node1", nodes).unwrap_err().fault
        };
        for name in ["", "node2\n", "a\u{7}"] {
            assert_eq!(fault(name, "192.168.1.12", "10.244.2.0/24"), Fault::BadName, "{name:?}");
        }
        let inside = Fault::AddressInside("10.244.0.0/16".parse().unwrap());
        assert_eq!(fault("node2", "10.244.9.9", "10.244.2.0/24"), inside);
        for subnet in ["10.244.2.1/24", "fd00:10:244:2::1/64"] {
            assert_eq!(fault("node2", "192.168.1.12", subnet), Fault::HostBits, "{subnet}");
        }
        for subnet in ["10.244.2.0/31", "10.244.2.0/32", "fd00:10:244:2::/127"] {
            assert_eq!(fault("node2", "192.168.1.12", subnet), Fault::TooSmall, "{subnet}");
        }
    }

    fn with_keys(keys: &[u8], node: NodeEntry) -> NodeEntry {
        let keys = keys.iter().map(|byte| PublicKey::new([*byte; 32]).unwrap());
        let keys = NodeKeys::new(keys).unwrap();
        NodeEntry { tunnel_options: TunnelOptions { keys, ..node.tunnel_options }, ..node }
    }

    #[test]
    fn a_key_that_another_has_is_refused_for_the_later_claimant_only() {
        let nodes = vec![
            node("node1", "192.168.1.11", &["10.244.1.0/24"]),
            with_keys(&[1, 2], node("old", "192.168.1.12", &["10.244.2.0/24"])),
            with_keys(&[3, 2], node("thief", "192.168.1.13", &["10.244.3.0/24"])),
            // What the thief had wanted beside it stays free.
            with_keys(&[3], node("new", "192.168.1.13", &["10.244.3.0/24"])),
        ];
        let (members, rejected) = Membership::admit(overlay(), "node1", nodes).unwrap();
        assert_eq!(names(&members), ["old", "new"]);
        assert_eq!(rejected.len(), 1);
        let error = &rejected[0].error;
        assert_eq!(error.place, Place::Key(2, 1));
        assert_eq!(error.fault, Fault::DuplicateKey("old".into()));
        let key = PublicKey::new([2; 32]).unwrap().to_string();
        assert_eq!((&error.value, error.to_string()), (&key, "node \"old\" has this key".into()));
    }

    #[test]
    fn what_is_not_sealed_has_no_key_and_is_allowed_where_it_must_be() {
        let speaking = |plain, keys: &[u8]| {
            let codec = Some(CodecKind::IpUdp);
            let tunnel_options = TunnelOptions { codec, plain, ..TunnelOptions::default() };
            let node = node("bare", "192.168.1.12", &["10.244.2.0/24"]);
            with_keys(keys, NodeEntry { tunnel_options, ..node })
        };
        let strict =
            Overlay { foreign: Foreign { must_be_plain: true, ..Foreign::default() }, ..overlay() };
        let fault = |overlay: &Overlay, entry: NodeEntry| {
            let nodes = vec![node("node1", "192.168.1.11", &["10.244.1.0/24"]), entry];
            let checked = Membership::check(overlay.clone(), "node1", nodes);
            checked.err().map(|error| (error.place, error.fault))
        };
        assert_eq!(fault(&overlay(), speaking(false, &[])), None);
        assert_eq!(fault(&overlay(), speaking(true, &[])), None);
        assert_eq!(fault(&strict, speaking(true, &[])), None);
        let ip_udp = CodecKind::IpUdp;
        assert_eq!(
            fault(&strict, speaking(false, &[])),
            Some((Place::Codec(1), Fault::NotPlain(ip_udp)))
        );
        assert_eq!(
            fault(&overlay(), speaking(true, &[1])),
            Some((Place::Key(1, 0), Fault::KeyUnused(ip_udp)))
        );
        let mut plain = with_keys(&[], node("node2", "192.168.1.12", &["10.244.2.0/24"]));
        plain.tunnel_options.plain = true;
        let expected = (Place::Plain(1), Fault::PlainWithoutCodec);
        assert_eq!(fault(&strict, plain), Some(expected));
    }

    #[test]
    fn what_a_node_that_is_left_out_wanted_stays_free() {
        let silent = NodeEntry {
            tunnel_options: TunnelOptions {
                codec: Some(CodecKind::Vxlan),
                ..TunnelOptions::default()
            },
            ..node("silent", "192.168.1.12", &["10.244.2.0/24"])
        };
        let nodes = vec![
            node("node1", "192.168.1.11", &["10.244.1.0/24"]),
            silent,
            node("twice", "192.168.1.13", &["10.244.3.0/24", "10.244.3.128/25"]),
            node("third", "192.168.1.12", &["10.244.2.0/24", "10.244.3.0/24"]),
            node("silent", "192.168.1.14", &["10.244.4.0/24"]),
        ];
        let (members, rejected) = Membership::admit(overlay(), "node1", nodes).unwrap();
        assert_eq!(names(&members), ["third", "silent"]);
        assert_eq!(rejected[1].error.place, Place::Subnet(2, 1));
        assert_eq!(rejected.len(), 2);
    }

    proptest! {
        /// What is admitted passes the check that is made of whole lists.
        #[test]
        fn what_is_admitted_is_consistent(
            raw in proptest::collection::vec((0..6_u8, 1..8_u8, 0..8_u8, 20..28_u8), 1..20),
        ) {
            let mut nodes = vec![node("node1", "192.168.1.200", &["10.244.200.0/24"])];
            nodes.extend(raw.iter().map(|(name, address, subnet, len)| NodeEntry {
                name: format!("n{name}"),
                address: [192, 168, 1, *address].into(),
                subnets: vec![IpNet::new_assert([10, 244, *subnet, 0].into(), *len).trunc()],
                tunnel_options: TunnelOptions::default(),
            }));
            let count = nodes.len();
            let (members, rejected) = Membership::admit(overlay(), "node1", nodes).unwrap();
            prop_assert_eq!(members.peers().count() + 1 + rejected.len(), count);
            let again = members.entries().to_vec();
            prop_assert!(Membership::check(overlay(), "node1", again).is_ok());
        }
    }
}
