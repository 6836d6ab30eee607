//! The table file: a table that is taken keeps what its type promises.

use std::collections::HashSet;
use std::path::Path;

use culvert::control::source::members;
use culvert::control::table_file;
use culvert_dataplane::engine::{Owner, PeerRegistry, Table};
use overlay_proto::Mtu;

use crate::cluster::overlay;

pub(crate) fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let proposal = match table_file::parse(Path::new("table.toml"), text.to_owned()) {
        Ok(proposal) => proposal,
        Err(complaint) => {
            assert!(!complaint.to_string().is_empty());
            return;
        }
    };
    let members = match members(&proposal, &overlay(), "node1") {
        Ok((members, left_out)) => {
            assert_eq!(left_out, [], "a file is taken whole");
            members
        }
        Err(unsound) => {
            assert!(!unsound.to_string().is_empty());
            return;
        }
    };
    let all = members.entries();
    let names: HashSet<_> = all.iter().map(|node| &node.name).collect();
    let addresses: HashSet<_> = all.iter().map(|node| node.address).collect();
    assert_eq!((names.len(), addresses.len()), (all.len(), all.len()));
    let mtu = |_| Mtu::new(1464).unwrap();
    let table = Table::compile(&members, vec![], mtu, &PeerRegistry::default());
    // Every subnet, first address and last, leads to its node and to no other.
    for node in members.peers() {
        let index = table.sender(node.address).expect("each peer can be heard");
        for subnet in &node.subnets {
            assert_eq!(table.owner(subnet.network()), Some(Owner::Peer(index)));
            assert_eq!(table.owner(subnet.broadcast()), Some(Owner::Peer(index)));
        }
    }
    assert_eq!(table.sender(members.local().address), None);
    for subnet in &members.local().subnets {
        assert_eq!(table.owner(subnet.network()), Some(Owner::Local));
        assert_eq!(table.owner(subnet.broadcast()), Some(Owner::Local));
    }
}
