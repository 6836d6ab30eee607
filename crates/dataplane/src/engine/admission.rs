//! A consistent list of nodes out of entries that many hands wrote.
//!
//! A file has one author, who can mend it, and is refused whole. In a database that every node writes
//! to, one bad entry must not cost the others their network: it is left out, and said so.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::slice;
use std::sync::Arc;

use ipnet::IpNet;
use overlay_proto::Family;

use super::membership::{check_addresses, check_names, check_overlaps, check_subnets, error};
use super::tunnel::Spoken;
use super::{Fault, Membership, NodeEntry, Overlay, Place, TableError};

/// A node that was left out, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The node's name.
    pub name: String,
    /// What is wrong with its entry.
    pub error: TableError,
}

impl Membership {
    /// Takes of `nodes`, oldest first, each that is sound and goes with those before it.
    ///
    /// Of two nodes that claim one name, address, subnet or hardware address, or a port for two codecs,
    /// the older keeps it.
    ///
    /// # Errors
    ///
    /// The node named `local` is missing, or is one of those that would be left out.
    pub fn admit(
        overlay: Overlay,
        local: &str,
        nodes: Vec<impl Into<Arc<NodeEntry>>>,
    ) -> Result<(Self, Vec<Rejected>), TableError> {
        let nodes: Vec<Arc<NodeEntry>> = nodes.into_iter().map(Into::into).collect();
        let (family, speech) = match nodes.iter().find(|node| node.name == local) {
            Some(node) => (Family::of(node.address), node.speech),
            None => return Err(error(Place::Table, local, Fault::LocalNodeMissing)),
        };
        let mut taken = Taken::default();
        let mut spoken = Spoken::new(&overlay, speech);
        let mut admitted = Vec::with_capacity(nodes.len());
        let mut rejected = Vec::new();
        for (index, node) in nodes.into_iter().enumerate() {
            let checked = alone(&overlay, &node, family)
                .and_then(|()| taken.check(index, &node))
                .and_then(|()| spoken.take(index, &node));
            match checked {
                Ok(()) => {
                    taken.add(&node);
                    admitted.push(node);
                }
                Err(fault) if node.name == local => return Err(fault),
                Err(error) => rejected.push(Rejected { name: node.name.clone(), error }),
            }
        }
        let local = admitted.iter().position(|node| node.name == local).unwrap_or_default();
        Ok((Self::sound(overlay, admitted, local), rejected))
    }
}

/// What is wrong with a node whatever the others are.
fn alone(overlay: &Overlay, node: &Arc<NodeEntry>, family: Family) -> Result<(), TableError> {
    let node = slice::from_ref(node);
    check_names(node)?;
    check_addresses(overlay, node, family)?;
    check_subnets(overlay, node)?;
    check_overlaps(node)
}

/// What admitted nodes have.
#[derive(Default)]
struct Taken {
    names: HashSet<String>,
    addresses: HashMap<IpAddr, String>,
    /// By network address. No two have an address in common, so that whatever overlaps a prefix is
    /// its neighbour here.
    subnets: BTreeMap<IpAddr, (IpNet, String)>,
}

impl Taken {
    fn check(&self, index: usize, node: &NodeEntry) -> Result<(), TableError> {
        if self.names.contains(&node.name) {
            return Err(error(Place::Name(index), &node.name, Fault::DuplicateName));
        }
        if let Some(owner) = self.addresses.get(&node.address) {
            let fault = Fault::DuplicateAddress(owner.clone());
            return Err(error(Place::Address(index), node.address, fault));
        }
        for (place, subnet) in node.subnets.iter().enumerate() {
            let before = self.subnets.range(..=subnet.network()).next_back();
            let after = self.subnets.range(subnet.network()..).next();
            let overlapping = [before, after]
                .into_iter()
                .flatten()
                .find(|(_, (other, _))| other.contains(subnet) || subnet.contains(other));
            if let Some((_, (other, owner))) = overlapping {
                let fault = Fault::Overlap(owner.clone(), *other);
                return Err(error(Place::Subnet(index, place), subnet, fault));
            }
        }
        Ok(())
    }

    fn add(&mut self, node: &NodeEntry) {
        self.names.insert(node.name.clone());
        self.addresses.insert(node.address, node.name.clone());
        for subnet in &node.subnets {
            self.subnets.insert(subnet.network(), (*subnet, node.name.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use overlay_proto::{CodecKind, Vni};
    use proptest::prelude::*;

    use super::*;
    use crate::engine::{Foreign, Speech};

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
            speech: Speech::default(),
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
        let speaking = |name: &str, index: u8, speech| NodeEntry {
            speech,
            ..node(name, &format!("192.168.1.{index}"), &[&format!("10.244.{index}.0/24")])
        };
        let vxlan = |mac: &str| Speech {
            codec: Some(CodecKind::Vxlan),
            port: None,
            mac: (!mac.is_empty()).then(|| mac.parse().unwrap()),
        };
        let bare = Speech { codec: Some(CodecKind::IpUdp), ..Speech::default() };
        let nodes = vec![
            node("node1", "192.168.1.11", &["10.244.1.0/24"]),
            speaking("device", 12, vxlan("02:00:00:00:00:01")),
            speaking("nowhere", 13, vxlan("")),
            speaking("twin", 14, vxlan("02:00:00:00:00:01")),
            speaking("squatter", 15, Speech { port: Some(4790), ..bare }),
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
                speech: Speech::default(),
            }));
            let count = nodes.len();
            let (members, rejected) = Membership::admit(overlay(), "node1", nodes).unwrap();
            prop_assert_eq!(members.peers().count() + 1 + rejected.len(), count);
            let again = members.entries().to_vec();
            prop_assert!(Membership::check(overlay(), "node1", again).is_ok());
        }
    }
}
