//! Questions about packets: those of people to a peer, and those of peers to this node.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_dataplane::engine::Owner;
use culvert_dataplane::platform::clock;
use culvert_dataplane::{Ask, Unsent, What};
use overlay_proto::oam::{self, Ends, Route, Timestamp};
use tokio::sync::oneshot;

use super::{Task, unsent};
use crate::app::probes::traces::Answered;
use crate::app::probes::{Command, Explained, both_speak_stamp, seed, traces};
use crate::app::senders;
use crate::explain;

/// How long an answer is waited for: the peer asks its kernel.
const TRACE_PATIENCE: Duration = Duration::from_secs(2);

/// Numbers of such questions: the last quarter of all.
const FIRST_TRACE: u32 = 3 << 30;

/// A question about a packet under way.
pub(super) struct Tracing {
    peer: IpAddr,
    name: String,
    nonce: u64,
    pub(super) deadline: Instant,
    reply: oneshot::Sender<anyhow::Result<Answered>>,
}

impl Task {
    pub(super) fn begin_trace(
        &mut self,
        question: &explain::Question,
        reply: oneshot::Sender<anyhow::Result<Answered>>,
    ) {
        let table = self.plane.table();
        let peer = match table.owner(question.destination) {
            Some(Owner::Peer(index)) => Some(table.peer(index).address()),
            Some(Owner::Local) | None => None,
        };
        let target = peer.and_then(|peer| self.target(peer));
        let (Some(local), Some((target, ends))) = (self.local.clone(), target) else {
            // There is no other node to ask.
            let _ = reply.send(Ok(Answered::default()));
            return;
        };
        let sequence = FIRST_TRACE | self.next_trace;
        self.next_trace = (self.next_trace + 1) % (1 << 30);
        let nonce = seed();
        let words = traces::ask(question);
        let route = Route { nonce, ..Route::default() };
        let question = self.question(sequence, route);
        let what = What::Stamp { question, outer_len: None, trace: Some(&words) };
        let peer = target.address;
        let sent = if both_speak_stamp(&local, &target) {
            self.plane.ask(&Ask { peer, ends, path: 0, what })
        } else {
            Err(Unsent::NoWay)
        };
        if let Err(error) = sent {
            // Whoever asked may have gone.
            let _ = reply.send(Err(anyhow::anyhow!(unsent(&error))));
            return;
        }
        let name = target.name.clone();
        let deadline = clock::now() + TRACE_PATIENCE;
        self.traces.insert(sequence, Tracing { peer, name, nonce, deadline, reply });
    }

    pub(super) fn take_trace(&mut self, peer: IpAddr, answer: &oam::Answer, words: &[u8]) {
        let is_right = |trace: &Tracing| trace.peer == peer && trace.nonce == answer.route.nonce;
        if self.traces.get(&answer.sequence).is_some_and(is_right)
            && let Some(trace) = self.traces.remove(&answer.sequence)
        {
            // Whoever asked may have gone.
            let _ = trace.reply.send(Ok(traces::read_answer(&trace.name, words)));
        }
    }

    pub(super) fn give_up_traces(&mut self) {
        let now = clock::now();
        let late = |trace: &Tracing| trace.deadline <= now || trace.reply.is_closed();
        for (_, trace) in self.traces.extract_if(|_, trace| late(trace)) {
            let why = format!("no answer of {}; `culvert ping` tells more", trace.name);
            let _ = trace.reply.send(Err(anyhow::anyhow!(why)));
        }
    }

    /// Finds out for a peer what this node does with a packet. The kernel is asked, which waits.
    pub(super) fn explain_to(
        &mut self,
        peer: IpAddr,
        ends: Ends,
        answer: oam::Answer,
        words: &[u8],
        room: usize,
    ) {
        let age = clock::now().saturating_duration_since(self.facts.started());
        let question = traces::read_question(words);
        // What a peer learns is what becomes of its own pods' packets.
        let table = self.plane.table();
        let is_senders = |question: &explain::Question| {
            let owner = table.owner(question.source);
            matches!(owner, Some(Owner::Peer(index)) if table.peer(index).address() == peer)
        };
        let Some(question) = question.filter(is_senders) else { return };
        if !self.asked.may(peer, age.as_secs()) {
            return;
        }
        // Whoever finds no place asks again.
        let Ok(place) = Arc::clone(&self.explaining).try_acquire_owned() else { return };
        let (explain, commands) = (Arc::clone(&self.explain), self.ways.own.clone());
        let facts = Arc::clone(&self.facts);
        tokio::task::spawn_blocking(move || {
            let failing = facts.checkup.failing();
            let mut explained = explain(&question);
            if let Ok(explained) = &mut explained {
                // It is the pod that answers, whose packet is the last that is explained.
                senders::ask(&table, question.destination, explained);
            }
            let trace = traces::answer(&explained, failing.as_deref(), room);
            drop(place);
            let explained = Explained { peer, ends, answer, trace };
            if let Some(commands) = commands.upgrade() {
                // Full: whoever asked asks again.
                let _ = commands.try_send(Command::Explained(Box::new(explained)));
            }
        });
    }

    pub(super) fn answer_trace(&self, explained: &Explained) {
        let Explained { peer, ends, answer, trace } = explained;
        let answer = oam::Answer {
            sent: Timestamp::from_unix_nanos(clock::unix_nanos()),
            digest: self.plane.probes().digest(),
            ..*answer
        };
        let what = What::Answer { answer, trace };
        let path = answer.route.answer_path;
        if let Err(error) = self.plane.ask(&Ask { peer: *peer, ends: *ends, path, what }) {
            tracing::debug!(?error, %peer, "an answer could not be sent");
        }
    }
}
