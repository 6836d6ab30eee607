//! Handshakes as they are, and again with a right MAC, as a peer could send them that has the keys
//! and no manners: nothing comes of either, and nothing is held.

use std::cell::RefCell;
use std::sync::Arc;

use culvert_dataplane::platform::clock;
use culvert_seal::keys::{NodeKey, Psk};
use culvert_seal::mesh::{Config, Entropy, Identity, Mesh, Now, Output, PeerEntry};
use culvert_seal::noise::PostQuantum;
use culvert_seal::session::PeerLink;
use culvert_seal::{Pair, Suite, Suites};
use overlay_proto::Vni;
use overlay_proto::esp::handshake::{HEADER_LEN, Header, Message};
use zeroize::Zeroizing;

use crate::cluster::{VNI, endpoint};

/// Not random at all, so that a run can be seen again.
struct Zeros;

impl Entropy for Zeros {
    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.fill(0);
    }
}

fn key(byte: u8) -> Arc<NodeKey> {
    Arc::new(NodeKey::from_secret(&Zeroizing::new([byte; 32])).unwrap())
}

fn mesh(post_quantum: PostQuantum) -> (Mesh<Zeros>, Arc<PeerLink>) {
    let (config, started) = (
        Config {
            vni: Vni::new(VNI).unwrap(),
            post_quantum,
            suites: Suites::new(Suite::ALL),
            lanes: 32,
        },
        clock::now(),
    );
    let identity = Identity { keys: vec![key(1)], psks: vec![Psk::none()] };
    let mut mesh = Mesh::new(config, identity.clone(), Zeros, started);
    let link = Arc::new(PeerLink::new("node2"));
    let peer =
        PeerEntry { address: endpoint(2), keys: vec![*key(2).public()], link: Arc::clone(&link) };
    let now = Now { instant: started, unix_nanos: 1 };
    let mut out = Output::default();
    mesh.set_table(identity, vec![peer], now, &mut out);
    // So that answers, too, are of something.
    mesh.want("node2", now, &mut out);
    (mesh, link)
}

thread_local! {
    static MESHES: [RefCell<(Mesh<Zeros>, Arc<PeerLink>)>; 2] =
        [PostQuantum::Require, PostQuantum::Off].map(|it| RefCell::new(mesh(it)));
}

pub(crate) fn run(input: &[u8]) {
    let now = Now { instant: clock::now(), unix_nanos: 2 };
    let mut out = Output::default();
    MESHES.with(|meshes| {
        for mesh in meshes {
            let (mesh, link) = &mut *mesh.borrow_mut();
            mesh.receive(input, now, &mut out);
            assert!(out.datagrams.is_empty(), "whoever has no key gets no answer");
            if let Some((kind, body)) = input.split_first() {
                let datagram = with_mac(*kind, body);
                mesh.receive(&datagram, now, &mut out);
            }
            assert!(link.state().is_some_and(|state| state.session.is_none()));
            out.datagrams.clear();
        }
    });
}

fn with_mac(kind: u8, body: &[u8]) -> Vec<u8> {
    let message = Message::ALL[usize::from(kind) % Message::ALL.len()];
    let (own, peer) = (key(1).id(), key(2).id());
    let (initiator, responder) = match message {
        Message::Init => (peer, own),
        Message::Response | Message::Stale => (own, peer),
    };
    let (initiator, responder) = (*initiator.as_bytes(), *responder.as_bytes());
    let len = HEADER_LEN + body.len() + culvert_seal::MAC_LEN;
    let mut datagram = Header { initiator, responder, message }.encode(len).to_vec();
    datagram.extend_from_slice(body);
    let pair = Pair::new(&key(1), key(2).public()).unwrap();
    let mac = pair.mac(&datagram);
    datagram.extend_from_slice(&mac);
    datagram
}
