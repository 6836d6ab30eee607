//! Questions that people ask: once by each of some paths, and then a second of waiting.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use culvert_probe::FIRST_FOREIGN_SEQUENCE;
use overlay_proto::oam::Digest;
use tokio::sync::oneshot;

use crate::observe::{PingPath, PingRound};

/// How long answers are waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Rounds at once; the admin socket has as many connections.
const MAX_ROUNDS: usize = 16;

/// Rounds that are under way.
#[derive(Default)]
pub(super) struct Pings {
    rounds: Vec<Round>,
    next: u32,
}

struct Round {
    peer: IpAddr,
    sent: HashMap<u32, (u64, Instant, usize)>,
    found: PingRound,
    deadline: Instant,
    reply: Option<oneshot::Sender<anyhow::Result<PingRound>>>,
}

/// One question of a round.
pub(super) struct Numbered {
    pub(super) sequence: u32,
    pub(super) nonce: u64,
}

impl Pings {
    /// Begins a round that [`add`](Self::add) fills.
    pub(super) fn begin(
        &mut self,
        peer: IpAddr,
        found: PingRound,
        now: Instant,
        reply: oneshot::Sender<anyhow::Result<PingRound>>,
    ) {
        if self.rounds.len() >= MAX_ROUNDS {
            // Whoever asked may have gone.
            let _ = reply.send(Err(anyhow::anyhow!("{MAX_ROUNDS} others ask at this moment")));
            return;
        }
        let deadline = now + PATIENCE;
        let sent = HashMap::new();
        self.rounds.push(Round { peer, sent, found, deadline, reply: Some(reply) });
    }

    /// Adds a question by a path to the newest round.
    pub(super) fn add(&mut self, path: PingPath, nonce: u64, now: Instant) -> Option<Numbered> {
        let sequence = self.number();
        let round = self.rounds.last_mut()?;
        round.sent.insert(sequence, (nonce, now, round.found.paths.len()));
        round.found.paths.push(path);
        Some(Numbered { sequence, nonce })
    }

    /// A number for a question that a person asks.
    pub(super) fn number(&mut self) -> u32 {
        let sequence = FIRST_FOREIGN_SEQUENCE | self.next;
        // The quarter after this is that of questions about packets.
        self.next = (self.next + 1) % (FIRST_FOREIGN_SEQUENCE / 2);
        sequence
    }

    /// Says why a question of the newest round was not sent.
    pub(super) fn refuse(&mut self, sequence: u32, why: String) {
        if let Some(round) = self.rounds.last_mut()
            && let Some((_, _, place)) = round.sent.remove(&sequence)
            && let Some(path) = round.found.paths.get_mut(place)
        {
            path.unsent = Some(why);
        }
    }

    /// Takes an answer, if it is one to these; `sequence` may be only the lower half.
    pub(super) fn answer(
        &mut self,
        peer: IpAddr,
        (sequence, nonce): (u32, u64),
        digest: Option<Digest>,
        received: Instant,
    ) -> Option<Duration> {
        for round in self.rounds.iter_mut().filter(|round| round.peer == peer) {
            let is = |(number, (known, ..)): (&u32, &(u64, Instant, usize))| {
                let same =
                    *number == sequence || (sequence <= 0xffff && *number & 0xffff == sequence);
                (same && *known == nonce).then_some(*number)
            };
            let Some(number) = round.sent.iter().find_map(is) else { continue };
            let (_, sent, place) = round.sent.remove(&number)?;
            let rtt = received.saturating_duration_since(sent);
            if let Some(path) = round.found.paths.get_mut(place) {
                path.rtt_us = u64::try_from(rtt.as_micros()).ok();
            }
            if let Some(digest) = digest {
                let [major, minor, patch] = digest.version;
                round.found.version = Some(format!("{major}.{minor}.{patch}"));
                round.found.table = Some(format!("{:08x}", digest.table));
            }
            return Some(rtt);
        }
        None
    }

    /// Ends the rounds that are complete or have waited for long enough.
    pub(super) fn finish(&mut self, now: Instant) {
        for round in &mut self.rounds {
            if (round.sent.is_empty() || round.deadline <= now)
                && let Some(reply) = round.reply.take()
            {
                // Whoever asked may have gone.
                let _ = reply.send(Ok(round.found.clone()));
            }
        }
        self.rounds.retain(|round| round.reply.is_some());
    }

    /// When the next round ends.
    pub(super) fn due(&self) -> Option<Instant> {
        self.rounds.iter().map(|round| round.deadline).min()
    }
}
