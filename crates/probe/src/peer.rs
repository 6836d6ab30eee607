//! One peer: what is known of it, and what it is next asked for.

use std::net::IpAddr;
use std::time::Duration;

use crate::event::{Entry, State};
use crate::moment::Moment;
use crate::search::Search;
use crate::trial::Trial;
use crate::{PATHS, View};

/// How often a peer is tried by STAMP before it counts as one that does not know it.
pub(crate) const STAMP_TRIES: u8 = 3;

/// The answer to a peer's last question is expected no sooner than after this, and no later.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(1));

/// What goes up with each loss that nothing came of, and down by one with each answer.
const NOISE: u8 = 8;

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    /// Its place in the agenda, and when it is to be looked at by that.
    pub(crate) turn: u32,
    pub(crate) wake: Moment,
    pub(crate) spread: u32,
    /// Number of the regular question that is not answered yet.
    pub(crate) awaited: u32,
    /// When it is asked next.
    pub(crate) due: Moment,
    /// Until when it counts as one with traffic.
    pub(crate) active_until: Moment,
    /// When its MTU is looked at next.
    pub(crate) search_due: Moment,
    /// When a peer that is asked by ICMP echo is tried by STAMP again.
    pub(crate) stamp_due: Moment,
    /// Until when hints are not looked at again.
    pub(crate) hint_rest: Moment,
    /// Until when the answer to the regular question is waited for; the start if for none.
    pub(crate) deadline: Moment,
    pub(crate) trial: Option<Box<Trial>>,
    pub(crate) search: Option<Box<Search>>,
    rtt_us: u32,
    pub(crate) route_mtu: u16,
    /// What the paths carry; 0 is what the route promises.
    pub(crate) mtu: u16,
    pub(crate) lost: u16,
    pub(crate) lost_answers: u16,
    pub(crate) next_path: u8,
    pub(crate) next_recheck: u8,
    /// The path that carries least, of those that were looked at.
    pub(crate) narrow_path: u8,
    noise: u8,
    pub(crate) stamp_tries: u8,
    pub(crate) knows: Knows,
    pub(crate) may_know_stamp: bool,
    pub(crate) is_active: bool,
    pub(crate) is_busy: bool,
    pub(crate) is_mtu_known: bool,
    /// Whether the regular question that is awaited was as long as the paths carry.
    pub(crate) is_awaited_long: bool,
    pub(crate) state: State,
}

/// What a peer is known to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Knows {
    /// Nothing yet.
    Nothing,
    /// STAMP.
    Stamp,
    /// ICMP echo, and so far not STAMP.
    Echo,
}

impl Peer {
    pub(crate) fn new(entry: &Entry) -> Self {
        Self {
            address: entry.address,
            turn: 0,
            wake: Moment::default(),
            #[expect(clippy::cast_possible_truncation, reason = "half of a hash is one")]
            spread: entry.spread as u32,
            awaited: 0,
            due: Moment::default(),
            active_until: Moment::default(),
            search_due: Moment::default(),
            stamp_due: Moment::default(),
            hint_rest: Moment::default(),
            deadline: Moment::default(),
            trial: None,
            search: None,
            rtt_us: 0,
            route_mtu: entry.route_mtu,
            mtu: 0,
            lost: 0,
            lost_answers: 0,
            next_path: 0,
            next_recheck: 0,
            narrow_path: 0,
            noise: 0,
            stamp_tries: 0,
            knows: Knows::Nothing,
            may_know_stamp: entry.may_know_stamp,
            is_active: false,
            is_busy: false,
            is_mtu_known: false,
            is_awaited_long: false,
            state: State::Unknown,
        }
    }

    pub(crate) fn view(&self) -> View {
        View {
            state: self.state,
            lost_paths: self.lost,
            lost_answers: self.lost_answers,
            mtu: (self.mtu != 0).then_some(self.mtu),
            is_mtu_known: self.is_mtu_known,
            rtt: (self.rtt_us != 0).then(|| Duration::from_micros(self.rtt_us.into())),
        }
    }

    /// What the paths carry, as far as is known.
    pub(crate) fn present_mtu(&self) -> u16 {
        if self.mtu == 0 { self.route_mtu } else { self.mtu }
    }

    /// How long an answer is waited for, at least `least`.
    pub(crate) fn patience(&self, least: Duration) -> Duration {
        let expected = Duration::from_micros(u64::from(self.rtt_us) * 4);
        expected.clamp(least, PATIENCE.1)
    }

    /// The same of a regular question.
    pub(crate) fn regular_patience(&self) -> Duration {
        self.patience(PATIENCE.0)
    }

    /// Takes a round trip into the mean (RFC 6298 §2).
    pub(crate) fn note_rtt(&mut self, rtt: Duration) {
        let rtt = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).max(1);
        self.rtt_us = match self.rtt_us {
            0 => rtt,
            mean => mean - mean / 8 + rtt / 8,
        };
    }

    /// Whether single losses have been so frequent that they say little.
    pub(crate) fn is_noisy(&self) -> bool {
        self.noise >= NOISE
    }

    pub(crate) fn note_noise(&mut self) {
        self.noise = self.noise.saturating_add(NOISE);
    }

    pub(crate) fn note_quiet(&mut self) {
        self.noise = self.noise.saturating_sub(1);
    }

    /// The next path by turns of those in `among`, from `next` on.
    pub(crate) fn turn(among: u16, next: &mut u8) -> Option<u8> {
        let path = (0..PATHS).map(|step| (*next + step) % PATHS).find(|path| has(among, *path))?;
        *next = (path + 1) % PATHS;
        Some(path)
    }
}

/// Whether a set of paths has this one.
pub(crate) const fn has(paths: u16, path: u8) -> bool {
    paths & bit(path) != 0
}

/// The set of this path.
pub(crate) const fn bit(path: u8) -> u16 {
    1 << (path % PATHS)
}

/// Every path of a set.
pub(crate) fn each(paths: u16) -> impl Iterator<Item = u8> {
    (0..PATHS).filter(move |path| has(paths, *path))
}
