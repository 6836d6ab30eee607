//! The answering half: one in each worker.

use overlay_proto::oam::echo::Echo;
use overlay_proto::oam::{self, Ends, Message, Timestamp};
use overlay_proto::{DecodeError, InnerPacket};

use super::{ProbeArrival, Probes, Way, send};
use crate::engine::{DropReason, PeerIndex};
use crate::platform::clock;
use crate::port::UnderlayPort;
use crate::round::Env;
use crate::sealed::SealedWorker;

/// Takes what nodes say to each other out of what arrives.
pub(crate) struct Reflector {
    probes: Probes,
    packet: [u8; oam::MAX_LEN],
}

impl Reflector {
    pub(crate) fn new(probes: Probes) -> Self {
        Self { probes, packet: [0; oam::MAX_LEN] }
    }

    /// Takes a packet from the peer's bridge to ours. `worker` seals the answer, where the question
    /// was sealed.
    ///
    /// # Errors
    ///
    /// It is neither a question nor an answer.
    #[cold]
    #[inline(never)]
    pub(crate) fn take<T, U: UnderlayPort>(
        &mut self,
        env: &mut Env<'_, T, U>,
        peer: PeerIndex,
        packet: &InnerPacket<'_>,
        elapsed_ms: u64,
        worker: Option<&SealedWorker>,
    ) -> Result<(), DropReason> {
        let malformed = DropReason::Header(DecodeError::Flags);
        let received = Timestamp::from_unix_nanos(clock::unix_nanos());
        let message = oam::parse(packet).map_err(|_| malformed)?;
        let from = env.table.peer(peer);
        let (question, trace) = match message {
            Message::Question(question, trace) => (question, trace),
            Message::Answer(answer, trace) => {
                self.probes.hand_over(ProbeArrival::Answer {
                    peer: from.address(),
                    answer,
                    trace: trace.map(Into::into),
                    received: clock::now(),
                });
                return Ok(());
            }
        };
        let may_ask = from.paths.may_ask(elapsed_ms);
        env.counters.add_probe(may_ask);
        if !may_ask {
            return Ok(());
        }
        let ends = Ends { source: packet.destination(), destination: packet.source() };
        let mut answer = question.answer(packet.ttl());
        answer.digest = self.probes.digest();
        if let Some(trace) = trace {
            self.probes.hand_over(ProbeArrival::Trace {
                peer: from.address(),
                ends,
                answer,
                received,
                trace: trace.into(),
                room: packet.len(),
            });
            return Ok(());
        }
        (answer.received, answer.sent) =
            (received, Timestamp::from_unix_nanos(clock::unix_nanos()));
        // No answer without a trace is longer than any question.
        let Some(len) = answer.write(ends, None, &mut self.packet) else { return Err(malformed) };
        let way = Way { peer: from, path: question.route.answer_path, worker, now: env.now };
        let family = packet.family();
        if let Err(error) = send(&way, family, &self.packet[..len], &mut |path, transmit| {
            env.underlay.send(path, transmit)
        }) {
            tracing::debug!(?error, peer = %from.endpoint, "an answer could not be sent");
        }
        Ok(())
    }

    /// Whether a packet is the answer to ICMP echo of this daemon, and if so takes it.
    #[cold]
    #[inline(never)]
    pub(crate) fn takes_echo<T, U>(
        &self,
        env: &Env<'_, T, U>,
        peer: PeerIndex,
        packet: &InnerPacket<'_>,
    ) -> bool {
        let is_ours = |address| env.table.local().routers.contains(&address);
        let Some(echo) = Echo::parse_reply(packet).filter(|_| is_ours(packet.destination())) else {
            return false;
        };
        if echo.identifier != self.probes.identifier() {
            return false;
        }
        let peer = env.table.peer(peer).address();
        self.probes.hand_over(ProbeArrival::Echo { peer, echo, received: clock::now() });
        true
    }
}
