//! `bench handshakes`: how many sessions a node makes in a second, and what each takes of memory.
//!
//! The machine that makes sessions runs alone on one thread, as in the daemon, without sockets; its
//! peers' part is done in between and not counted.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use culvert_dataplane::platform::clock;
use culvert_seal::keys::{NodeKey, Psk};
use culvert_seal::mesh::{Config, Entropy as _, Identity, Mesh, Now, Output, PeerEntry};
use culvert_seal::mesh::{Role, SystemEntropy, What};
use culvert_seal::noise::PostQuantum;
use culvert_seal::session::PeerLink;
use culvert_seal::{Suite, Suites};
use overlay_proto::Vni;
use overlay_proto::esp::{self, Kind};
use zeroize::Zeroizing;

use crate::usage;

/// The node in its peers' tables.
const OWN: u32 = u32::MAX;

#[derive(Debug, Args)]
pub(crate) struct HandshakesArgs {
    /// Peers that get a session at once.
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    peers: u32,
    /// Without ML-KEM.
    #[arg(long)]
    no_post_quantum: bool,
}

/// A node without sockets, and the time that it has worked for.
struct Node {
    mesh: Mesh<SystemEntropy>,
    worked: Duration,
}

/// What one role came to.
struct Outcome {
    role: Role,
    made: u32,
    table: Duration,
    worked: Duration,
    bytes: u64,
}

pub(crate) fn run(args: &HandshakesArgs) -> Result<ExitCode> {
    let post_quantum = if args.no_post_quantum { PostQuantum::Off } else { PostQuantum::Require };
    let mut out = io::stdout().lock();
    for role in [Role::Initiator, Role::Responder] {
        let Outcome { role, made, table, worked, bytes } = measure(role, args.peers, post_quantum)?;
        writeln!(
            out,
            "{}: {made} sessions in {:.2} s of one thread, {:.0} in a second; {:.2} s before for \
             the table; {:.0} bytes of memory for each, {:.1} MiB for all",
            role.as_str(),
            worked.as_secs_f64(),
            f64::from(made) / worked.as_secs_f64(),
            table.as_secs_f64(),
            bytes as f64 / f64::from(made.max(1)),
            bytes as f64 / f64::from(1 << 20),
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

/// How many handshakes a thread makes in a second, of so many.
pub(crate) fn per_second(role: Role, peers: u32) -> Result<f64> {
    let outcome = measure(role, peers, PostQuantum::Require)?;
    Ok(f64::from(outcome.made) / outcome.worked.as_secs_f64())
}

fn measure(role: Role, peers: u32, post_quantum: PostQuantum) -> Result<Outcome> {
    let own = key()?;
    let keys = (0..peers).map(|_| key()).collect::<Result<Vec<_>>>()?;
    let mut node = Node { mesh: mesh(&own, post_quantum)?, worked: Duration::ZERO };
    // What the library takes once.
    peer(&keys[0], &own, post_quantum)?;
    let before = usage::memory(std::process::id())?.resident;
    let numbered = (0..peers).zip(&keys);
    let entries: Vec<_> = numbered.map(|(number, key)| entry(number, key)).collect();
    let mut out = Output::default();
    node.works(|mesh| mesh.set_table(identity(&own), entries, now(), &mut out));
    let table = std::mem::take(&mut node.worked);
    let mut made = 0;
    let has_begun = |out: &Output| {
        let events = out.events.iter();
        events.filter(|event| matches!(event.what, What::Established(..))).count()
    };
    for (number, key) in (0..peers).zip(&keys) {
        let mut peer = Node { mesh: peer(key, &own, post_quantum)?, worked: Duration::ZERO };
        let mut said = Output::default();
        let mut waiting = match role {
            Role::Initiator => {
                node.works(|mesh| mesh.want(&name(number), now(), &mut said));
                peer.answers(std::mem::take(&mut said.datagrams))?
            }
            Role::Responder => {
                peer.works(|mesh| mesh.want(&name(OWN), now(), &mut said));
                said
            }
        };
        while !waiting.datagrams.is_empty() {
            let heard = node.answers(waiting.datagrams)?;
            made += has_begun(&heard);
            waiting = peer.answers(heard.datagrams)?;
        }
    }
    ensure!(made == peers as usize, "only {made} of {peers} peers got a session");
    let bytes = usage::memory(std::process::id())?.resident.saturating_sub(before);
    Ok(Outcome { role, made: peers, table, worked: node.worked, bytes })
}

impl Node {
    fn works(&mut self, what: impl FnOnce(&mut Mesh<SystemEntropy>)) {
        let began = clock::now();
        what(&mut self.mesh);
        self.worked += began.elapsed();
    }

    /// Takes datagrams as a worker and the machine do.
    fn answers(&mut self, datagrams: Vec<(SocketAddr, Vec<u8>)>) -> Result<Output> {
        let mut out = Output::default();
        for (_, mut datagram) in datagrams {
            if Kind::of(&datagram) == Kind::Handshake {
                self.works(|mesh| mesh.receive(&datagram, now(), &mut out));
                continue;
            }
            let decoded = esp::decode(&datagram)?;
            let slot = decoded.header.spi.slot();
            let incoming = self.mesh.shared().slots.load(slot).and_then(|slot| slot.clone());
            let incoming = incoming.context("a datagram of no session")?;
            incoming.open(decoded, &mut datagram)?;
            if incoming.hear() {
                self.works(|mesh| mesh.heard(slot, now(), &mut out));
            }
        }
        Ok(out)
    }
}

fn now() -> Now {
    Now { instant: clock::now(), unix_nanos: clock::unix_nanos() }
}

fn key() -> Result<Arc<NodeKey>> {
    let mut secret = Zeroizing::new([0; 32]);
    SystemEntropy.fill(&mut secret[..]);
    Ok(Arc::new(NodeKey::from_secret(&secret)?))
}

fn identity(key: &Arc<NodeKey>) -> Identity {
    Identity { keys: vec![Arc::clone(key)], psks: vec![Psk::none()] }
}

fn mesh(key: &Arc<NodeKey>, post_quantum: PostQuantum) -> Result<Mesh<SystemEntropy>> {
    let config = Config {
        vni: Vni::new(1)?,
        post_quantum,
        suites: Suites::new(Suite::ALL),
        // Those of four workers, as on a machine with two processors.
        lanes: 64,
    };
    Ok(Mesh::new(config, identity(key), SystemEntropy, clock::now()))
}

/// A peer that knows the node alone.
fn peer(
    key: &Arc<NodeKey>,
    node: &Arc<NodeKey>,
    post_quantum: PostQuantum,
) -> Result<Mesh<SystemEntropy>> {
    let mut mesh = mesh(key, post_quantum)?;
    mesh.set_table(identity(key), vec![entry(OWN, node)], now(), &mut Output::default());
    Ok(mesh)
}

fn entry(number: u32, key: &Arc<NodeKey>) -> PeerEntry {
    let address = SocketAddr::from((number.to_be_bytes(), esp::PORT));
    PeerEntry { address, keys: vec![*key.public()], link: Arc::new(PeerLink::new(&name(number))) }
}

fn name(number: u32) -> String {
    format!("node{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_role_makes_as_many_sessions_as_there_are_peers() {
        for role in [Role::Initiator, Role::Responder] {
            let outcome = measure(role, 5, PostQuantum::Require).unwrap();
            assert_eq!(outcome.made, 5);
            assert!(outcome.worked > Duration::ZERO && outcome.table > Duration::ZERO);
        }
    }
}
