//! Questions that were sent, and whose answers are expected.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::FIRST_FOREIGN_SEQUENCE;
use crate::event::{Arrived, Form};
use crate::moment::Moment;

/// How many at most, and for how long. Older ones are forgotten.
const MAX_SENT: usize = 8192;
const MAX_AGE: Duration = Duration::from_secs(3);

/// A question that is to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planned {
    pub(crate) peer: IpAddr,
    pub(crate) path: u8,
    pub(crate) answer_path: u8,
    pub(crate) form: Form,
    pub(crate) kind: Kind,
}

/// What a question is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The regular one, as long as the path carries or short.
    Regular(Option<u16>),
    /// A lost path is looked at.
    Recheck,
    Trial,
    /// A search of that length, or short beside one.
    Search(u16, IsShort),
}

/// Which of the two questions of a step of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IsShort {
    Long,
    Short,
}

/// A question that was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) planned: Planned,
    pub(crate) nonce: u64,
    pub(crate) at: Moment,
}

/// The questions that wait for their answers, in the order of their numbers.
#[derive(Debug, Default)]
pub(crate) struct UnderWay {
    sent: BTreeMap<u32, Sent>,
    next: u32,
}

impl UnderWay {
    /// Takes note of a question that is sent now; gives its number.
    pub(crate) fn add(&mut self, planned: Planned, nonce: u64, now: Moment) -> u32 {
        // In the order of their numbers, but for once in two thousand million.
        while let Some(first) = self.sent.first_entry() {
            let is_old = now.since(first.get().at) > MAX_AGE;
            if !is_old && self.sent.len() < MAX_SENT {
                break;
            }
            self.sent.pop_first();
        }
        let sequence = self.next;
        self.next = (sequence + 1) % FIRST_FOREIGN_SEQUENCE;
        self.sent.insert(sequence, Sent { planned, nonce, at: now });
        sequence
    }

    /// The question that `arrived` answers, with its number. A second answer finds none.
    pub(crate) fn take(&mut self, arrived: &Arrived) -> Option<(u32, Sent)> {
        let sequence = self.number_of(arrived)?;
        let sent = *self.sent.get(&sequence)?;
        let Planned { peer, form, .. } = sent.planned;
        let is_right = sent.nonce == arrived.nonce && peer == arrived.peer && form == arrived.form;
        is_right.then(|| self.sent.remove(&sequence))?;
        Some((sequence, sent))
    }

    fn number_of(&self, arrived: &Arrived) -> Option<u32> {
        match arrived.form {
            Form::Stamp => Some(arrived.sequence),
            // ICMP has room for half of it.
            Form::Echo => {
                let half = low16(arrived.sequence);
                let is = |(sequence, sent): &(&u32, &Sent)| {
                    low16(**sequence) == half && sent.nonce == arrived.nonce
                };
                self.sent.iter().rev().find(is).map(|(sequence, _)| *sequence)
            }
        }
    }

    /// Expects no answer to that question any more.
    pub(crate) fn forget(&mut self, sequence: u32) -> Option<Sent> {
        self.sent.remove(&sequence)
    }

    /// Expects answers of those peers only.
    pub(crate) fn keep(&mut self, is_kept: impl Fn(IpAddr) -> bool) {
        self.sent.retain(|_, sent| is_kept(sent.planned.peer));
    }
}

const fn low16(number: u32) -> u32 {
    number & 0xffff
}
