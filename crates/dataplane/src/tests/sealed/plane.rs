//! The data path as control has it: keys, tables and ports.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;

use culvert_seal::Suites;
use culvert_seal::keys::{NodeKey, Psk};
use culvert_seal::mesh::{Config, Identity};
use culvert_seal::noise::PostQuantum;
use zeroize::Zeroizing;

use super::*;
use crate::engine::PeerKeys;

fn key(byte: u8) -> Arc<NodeKey> {
    Arc::new(NodeKey::from_secret(&Zeroizing::new([byte; 32])).unwrap())
}

fn identity() -> Identity {
    Identity { keys: vec![key(1)], psks: vec![Psk::none()] }
}

fn keys_of(nodes: &[u8]) -> Vec<PeerKeys> {
    let keys = |node: &u8| PeerKeys {
        name: format!("node{node}"),
        address: sealed_port_of(*node),
        keys: vec![*key(*node).public()],
    };
    nodes.iter().map(keys).collect()
}

/// Starts node1 on ports that nobody has.
fn start(mode: SealedMode) -> DataPlane {
    let address = Ipv4Addr::LOCALHOST.into();
    let port = UdpSocket::bind((address, 0)).unwrap().local_addr().unwrap().port();
    let config = Config {
        vni: vni(),
        post_quantum: PostQuantum::Require,
        suites: Suites::of_this_machine(),
        lanes: 0,
    };
    let options = DataPlaneOptions {
        tun: "none".to_owned(),
        workers: 2,
        offload: Offload::TcpUdp,
        busy_poll: Duration::ZERO,
        started: clock::now(),
        sealed: Some(SealedOptions { port, mode, config, identity: identity(), key_log: None }),
    };
    let table = table_of(1, SEALED_MTU, TunnelOptions::default());
    let tunnels = match mode {
        SealedMode::Prefer => table.local().tunnels.clone(),
        SealedMode::Require => Vec::new(),
    };
    let ends = Ends { address, tunnels, is_sealing: true };
    DataPlane::start(options, table, &ends).unwrap().0
}

/// How each peer is spoken to.
fn seals(plane: &DataPlane) -> Vec<&'static str> {
    let seal = |seal: &Seal| match seal {
        Seal::Plain => "plain",
        Seal::NoKey => "no key",
        Seal::Keyed(_) => "keyed",
    };
    plane.table().peers().iter().map(|peer| seal(&peer.seal)).collect()
}

/// Waits for what the thread that makes keys does soon.
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("waited too long for {what}");
}

#[test]
fn keys_and_table_may_come_in_either_order() {
    let table = || table_of(1, SEALED_MTU, TunnelOptions::default());
    let plane = start(SealedMode::Require);
    assert_eq!(seals(&plane), ["no key", "no key"]);
    plane.set_keys(identity(), keys_of(&[2]));
    assert_eq!(seals(&plane), ["keyed", "no key"], "without another table");
    let known = |peer: usize| match &plane.table().peers()[peer].seal {
        Seal::Keyed(keyed) => Some(Arc::clone(&keyed.link)),
        Seal::Plain | Seal::NoKey => None,
    };
    let node2 = known(0).unwrap();
    wait_until("node2 to be known", || node2.state().is_some());
    plane.publish(table());
    assert_eq!(seals(&plane), ["keyed", "no key"]);
    // A peer that has lost its key is not spoken to in plain before a table says so.
    plane.set_keys(identity(), keys_of(&[3]));
    assert_eq!(seals(&plane), ["keyed", "keyed"]);
    plane.publish(table());
    assert_eq!(seals(&plane), ["no key", "keyed"]);
    let node3 = known(1).unwrap();
    wait_until("node3 to be known", || node3.state().is_some() && node2.state().is_none());
    assert!(plane.take_sealed_events().is_some());
    assert_eq!((plane.refused_handshakes(), plane.has_failed()), (0, false));
    plane.stop();
}

#[test]
fn what_is_known_of_a_peer_outlives_tables() {
    let plane = start(SealedMode::Prefer);
    let link = |plane: &DataPlane| match &plane.table().peers()[0].seal {
        Seal::Keyed(keyed) => Arc::clone(&keyed.link),
        Seal::Plain | Seal::NoKey => panic!("node2 has a key"),
    };
    plane.set_keys(identity(), keys_of(&[2]));
    assert_eq!(seals(&plane), ["keyed", "plain"]);
    let before = link(&plane);
    plane.set_keys(identity(), keys_of(&[2, 3]));
    plane.publish(table_of(1, SEALED_MTU, TunnelOptions::default()));
    assert_eq!(seals(&plane), ["keyed", "keyed"]);
    assert!(Arc::ptr_eq(&before, &link(&plane)));
    plane.stop();
}
