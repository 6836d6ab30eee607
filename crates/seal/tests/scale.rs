//! A node with thousands of peers that are wanted all at once: every one gets a session at the
//! first attempt, and the memory for all of them and for the handshakes is bounded. Nothing here
//! looks at a clock; `bench handshakes` measures.
//!
//! `CULVERT_PEERS` says with how many (`make many-peers`: 10,000).

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_seal::keys::{NodeKey, Psk};
use culvert_seal::mesh::{Config, Identity, Mesh, Now, Output, PeerEntry, What};
use culvert_seal::mesh::{Entropy, SystemEntropy};
use culvert_seal::noise::PostQuantum;
use culvert_seal::session::PeerLink;
use culvert_seal::{Suite, Suites};
use overlay_proto::Vni;
use overlay_proto::esp::{self, Kind};
use zeroize::Zeroizing;

/// Peers unless somebody says otherwise.
const PEERS: u32 = 5000;

/// What a node may need for each: 64 MiB for 10,000.
const MOST_BYTES: usize = (64 << 20) / 10_000;

/// A way between two nodes, one direction.
const WAY: Duration = Duration::from_millis(5);

fn key() -> Arc<NodeKey> {
    let mut secret = Zeroizing::new([0; 32]);
    SystemEntropy.fill(&mut secret[..]);
    Arc::new(NodeKey::from_secret(&secret).unwrap())
}

fn address(number: u32) -> SocketAddr {
    SocketAddr::from((0x0a00_0000_u32.saturating_add(number).to_be_bytes(), esp::PORT))
}

fn number(address: SocketAddr) -> u32 {
    let IpAddr::V4(address) = address.ip() else { panic!("{address}") };
    u32::from(address) - 0x0a00_0000
}

fn identity(key: &Arc<NodeKey>) -> Identity {
    Identity { keys: vec![Arc::clone(key)], psks: vec![Psk::none()] }
}

fn mesh(key: &Arc<NodeKey>, now: Now) -> Mesh<SystemEntropy> {
    let config = Config {
        vni: Vni::new(7).unwrap(),
        post_quantum: PostQuantum::Require,
        suites: Suites::new(Suite::ALL),
        // Those of eight workers.
        lanes: 128,
    };
    Mesh::new(config, identity(key), SystemEntropy, now.instant)
}

fn entry(number: u32, key: &Arc<NodeKey>) -> PeerEntry {
    let link = Arc::new(PeerLink::new(&name(number)));
    PeerEntry { address: address(number), keys: vec![*key.public()], link }
}

fn name(number: u32) -> String {
    format!("node{number}")
}

/// Takes a datagram as a worker and the machine do.
fn take(mesh: &mut Mesh<SystemEntropy>, mut datagram: Vec<u8>, now: Now, out: &mut Output) {
    if Kind::of(&datagram) == Kind::Handshake {
        return mesh.receive(&datagram, now, out);
    }
    let decoded = esp::decode(&datagram).unwrap();
    let slot = decoded.header.spi.slot();
    let incoming = mesh.shared().slots.load(slot).and_then(|slot| slot.clone()).unwrap();
    assert!(incoming.open(decoded, &mut datagram).is_ok());
    if incoming.hear() {
        mesh.heard(slot, now, out);
    }
}

/// Resident memory of this process.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the zero of the virtual clock, and a parameter")]
fn thousands_of_peers_have_sessions_after_a_round_trip_in_bounded_memory() {
    let start = Now { instant: Instant::now(), unix_nanos: 1_800_000_000_000_000_000 };
    let at = |age: Duration| Now {
        instant: start.instant + age,
        unix_nanos: start.unix_nanos + u64::try_from(age.as_nanos()).unwrap(),
    };
    let wanted = std::env::var("CULVERT_PEERS").ok().map(|text| text.parse().unwrap());
    let peers: u32 = wanted.unwrap_or(PEERS);
    let own = key();
    let keys: Vec<_> = (0..peers).map(|_| key()).collect();
    let mut node = mesh(&own, start);
    // What the library and the allocator take once.
    let mut peer = mesh(&keys[0], start);
    peer.set_table(identity(&keys[0]), vec![entry(peers, &own)], start, &mut Output::default());
    drop(peer);
    let before = resident();

    let entries: Vec<_> = (0..peers).map(|number| entry(number, &keys[number as usize])).collect();
    let links: Vec<_> = entries.iter().map(|entry| Arc::clone(&entry.link)).collect();
    let mut out = Output::default();
    node.set_table(identity(&own), entries, start, &mut out);
    // As after a restart: packets for all of them, before anybody has answered.
    for number in 0..peers {
        node.want(&name(number), start, &mut out);
    }
    let mut made = 0;
    let mut inits: VecDeque<_> =
        out.datagrams.drain(..).map(|init| (init, Duration::ZERO)).collect();
    while let Some(((to, init), mut moment)) = inits.pop_front() {
        let number = number(to);
        // Each peer lives for this handshake only: it is this node's memory that counts.
        let key = &keys[number as usize];
        let mut peer = mesh(key, start);
        peer.set_table(identity(key), vec![entry(peers, &own)], start, &mut Output::default());
        let mut said = Output::default();
        moment += WAY;
        take(&mut peer, init, at(moment), &mut said);
        while !said.datagrams.is_empty() {
            let mut heard = Output::default();
            moment += WAY;
            for (_, bytes) in said.datagrams.drain(..) {
                take(&mut node, bytes, at(moment), &mut heard);
            }
            for event in &heard.events {
                let What::Established(_, _, took) = event.what else { panic!("{event:?}") };
                assert_eq!((&event.peer, took), (&name(number), 2 * WAY), "a round trip");
                made += 1;
            }
            let (to_peer, to_others): (Vec<_>, Vec<_>) =
                heard.datagrams.into_iter().partition(|(to, _)| *to == address(number));
            inits.extend(to_others.into_iter().map(|init| (init, moment)));
            for (_, bytes) in to_peer {
                take(&mut peer, bytes, at(moment + WAY), &mut said);
            }
            moment += WAY;
        }
        let state = links[number as usize].state().unwrap();
        assert!(!state.is_shaking_hands && state.last_failure.is_none());
    }
    assert_eq!(made, peers as usize);
    assert!(!node.is_busy() && links.iter().all(|link| link.outgoing().is_some()));
    let grown = resident().saturating_sub(before);
    let each = grown / peers as usize;
    println!("{peers} peers: {} MiB, {each} bytes each", grown >> 20);
    assert!(each <= MOST_BYTES, "{} MiB, {each} bytes a peer", grown >> 20);
}
