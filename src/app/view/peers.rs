//! What is shown of a peer: its traffic, its paths, its session.

use std::time::Instant;

use culvert_dataplane::engine::{Peer, Seal};
use culvert_probe::{PATHS, State};
use culvert_seal::mesh::{PeerState, SessionState};
use culvert_seal::noise::PostQuantum;

use super::{Facts, locked};
use crate::app::path_mtus::MtuOrigin;
use crate::observe::{
    LostPath, PathStatus, PeerStatus, PeerTotals, SessionStatus, Spoken, Tally, Told,
};

/// What is shown of `peers`, with what is known of the paths to them.
pub(super) fn with_paths<'a>(
    peers: impl Iterator<Item = &'a Peer>,
    facts: &Facts,
    now: Instant,
) -> impl Iterator<Item = PeerStatus> {
    let age = now.saturating_duration_since(facts.started).as_secs_f64();
    let ports = facts.plane.get().map(|plane| plane.source_ports()).unwrap_or_default();
    peers.map(move |peer| PeerStatus {
        path: path_status(peer, facts, &ports, now),
        ..peer_status(peer, age, now)
    })
}

/// What was counted of a peer.
pub(super) fn tally(peer: &Peer) -> Tally<'_> {
    Tally { name: peer.name(), egress: peer.counters.egress(), ingress: peer.counters.ingress() }
}

/// Counts what is known of the paths to all `peers`.
pub(super) fn count_paths(peers: usize, facts: &Facts, totals: &mut PeerTotals) {
    if let Some((known, _)) = facts.probes.get() {
        for view in locked(known).prober.views() {
            match view.state {
                State::Well => totals.answering += 1,
                State::Silent | State::Refused => totals.lost += 1,
                State::Unknown => {}
            }
            totals.paths_lost += view.lost_paths.count_ones() as usize;
        }
    }
    totals.unknown = peers.saturating_sub(totals.answering + totals.lost);
}

/// Counts the sessions with `peers`.
pub(super) fn count_sessions(peers: &[Peer], now: Instant, totals: &mut PeerTotals) {
    for peer in peers {
        match &peer.seal {
            Seal::Keyed(keyed) => {
                let outgoing = keyed.link.outgoing();
                let suite = outgoing.as_ref().map(|it| it.suite().as_str());
                totals.add_sealed(suite, keyed.may_leave_plain());
                let session = keyed.link.state().unwrap_or_default().session;
                if let Some(session) = session {
                    totals.note_session(now.saturating_duration_since(session.began).as_secs_f64());
                }
            }
            Seal::Plain => totals.add_sealed(None, true),
            Seal::NoKey => totals.add_sealed(None, false),
        }
    }
}

/// What is known of the paths to a peer.
fn path_status(peer: &Peer, facts: &Facts, ports: &[u16], now: Instant) -> PathStatus {
    let known = facts.probes.get().map(|(known, _)| {
        let known = locked(known);
        let address = peer.address();
        (known.prober.view(address).unwrap_or_default(), known.digests.get(&address).copied())
    });
    let (view, digest) = known.unwrap_or_default();
    let origin = locked(&facts.mtu_origins).get(&peer.address()).copied();
    let numbers = |paths: u16| (0..PATHS).filter(move |path| paths & (1 << path) != 0);
    PathStatus {
        state: match view.state {
            State::Unknown => "unknown",
            State::Well => "answers",
            State::Silent => "silent",
            State::Refused => "refused",
        }
        .to_owned(),
        lost: numbers(view.lost_paths)
            .map(|path| LostPath {
                path: path + 1,
                port: ports.get(usize::from(path)).copied().unwrap_or_default(),
            })
            .collect(),
        lost_of_peer: numbers(view.lost_answers).map(|path| path + 1).collect(),
        rtt_seconds: view.rtt.map(|rtt| rtt.as_secs_f64()),
        mtu_from: origin.unwrap_or(MtuOrigin::Route).as_str().to_owned(),
        told: digest.map(|(at, digest)| {
            let [major, minor, patch] = digest.version;
            Told {
                seconds_ago: now.saturating_duration_since(at).as_secs_f64(),
                version: format!("{major}.{minor}.{patch}"),
                table: format!("{:08x}", digest.table),
                ready: digest.is_ready,
                peers_lost: digest.peers_lost,
                drops_per_second: digest.drops,
                mtu: digest.mtu,
            }
        }),
    }
}

pub(in crate::app) fn peer_status(peer: &Peer, age_seconds: f64, now: Instant) -> PeerStatus {
    let plain = Spoken::Plain(peer.codec.kind());
    let (codec, port) = match &peer.seal {
        Seal::Keyed(keyed) if !keyed.may_leave_plain() => (Spoken::Esp, keyed.endpoint.port()),
        Seal::Keyed(_) | Seal::Plain => (plain, peer.endpoint.port()),
        Seal::NoKey => (Spoken::Esp, peer.endpoint.port()),
    };
    let state = match &peer.seal {
        Seal::Keyed(keyed) => keyed.link.state().unwrap_or_default(),
        Seal::Plain | Seal::NoKey => PeerState::default(),
    };
    PeerStatus {
        name: peer.name().to_owned(),
        address: peer.address(),
        subnets: peer.subnets().to_vec(),
        codec,
        port,
        sealed: match &peer.seal {
            Seal::Keyed(keyed) => keyed.link.outgoing().as_ref().map(|it| it.suite().to_string()),
            Seal::Plain | Seal::NoKey => None,
        },
        path: PathStatus::default(),
        plain: match &peer.seal {
            Seal::Keyed(keyed) => keyed.may_leave_plain(),
            Seal::Plain => true,
            Seal::NoKey => false,
        },
        session: state.session.map(|session| session_status(&session, now)),
        session_error: state.last_failure.map(|failure| failure.to_string()),
        mtu: peer.mtu.get(),
        egress: peer.counters.egress(),
        ingress: peer.counters.ingress(),
        last_heard_seconds: peer.counters.last_heard_ms().map(|ms| {
            let heard = std::time::Duration::from_millis(ms).as_secs_f64();
            (age_seconds - heard).max(0.0)
        }),
    }
}

fn session_status(session: &SessionState, now: Instant) -> SessionStatus {
    SessionStatus {
        suite: session.suite.to_string(),
        post_quantum: session.post_quantum == PostQuantum::Require,
        role: session.role.as_str().to_owned(),
        age_seconds: now.saturating_duration_since(session.began).as_secs_f64(),
        renewal_in_seconds: session.renew_at.saturating_duration_since(now).as_secs_f64(),
        with_former_key: !session.is_with_first_key,
    }
}
