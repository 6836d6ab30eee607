//! When a peer is looked at, and in what forms it is asked, by what is known of it.

use std::time::Duration;

use crate::PATHS;
use crate::event::{Form, State};
use crate::moment::Moment;
use crate::peer::{Knows, Peer, STAMP_TRIES};
use crate::search::BASE;

/// Regular questions of peers without traffic are so many times rarer.
pub(crate) const IDLE: u32 = 60;
/// A peer that is lost and has traffic is asked so many times more often.
const EAGER: u32 = 5;
/// Busy peers that are asked by every path within one interval. More of them share as many
/// questions.
const FULL_TURNS: u32 = 32;
/// How soon a busy peer is asked again at least, however short the interval is.
const LEAST_BUSY: Duration = Duration::from_millis(250);

/// In what forms the regular question is asked at `now`. What only the kernel answers is a packet
/// of the peer's traffic there, so that ICMP echo is for who has not answered otherwise.
pub(crate) fn forms(peer: &Peer, now: Moment) -> [Option<Form>; 2] {
    let tries = peer.stamp_tries < STAMP_TRIES || peer.stamp_due <= now;
    let stamp = peer.may_know_stamp
        && match peer.knows {
            Knows::Stamp | Knows::Nothing => true,
            Knows::Echo => tries,
        };
    // One that was lost may come back as an older version.
    let may_have_changed = peer.state.is_lost() && peer.next_path.is_multiple_of(4);
    let echo = !peer.may_know_stamp || peer.knows == Knows::Echo || may_have_changed;
    [stamp.then_some(Form::Stamp), echo.then_some(Form::Echo)]
}

/// In what forms a question of a trial is asked: of who has not answered anything yet in both, but
/// only the `first` of a moment by STAMP, since an older peer counts those.
pub(crate) fn trial_forms(peer: &Peer, first: bool) -> [Option<Form>; 2] {
    let stamp = match peer.knows {
        Knows::Stamp => true,
        Knows::Nothing => peer.may_know_stamp && first,
        Knows::Echo => false,
    };
    let echo = peer.knows != Knows::Stamp;
    [stamp.then_some(Form::Stamp), echo.then_some(Form::Echo)]
}

/// How long after a question a peer is asked the next one, where so many are busy.
pub(crate) fn interval_of(interval: Duration, busy: u32, peer: &Peer) -> Duration {
    match (peer.is_active, peer.state.is_lost()) {
        (true, false) if peer.is_busy => {
            let turn = interval * busy.max(FULL_TURNS) / FULL_TURNS;
            (turn / u32::from(PATHS)).max(LEAST_BUSY).min(interval)
        }
        (true, false) => interval,
        (true, true) => interval / EAGER,
        (false, false) => interval * IDLE,
        (false, true) => interval * (IDLE / 10),
    }
}

/// Whether it matters, and can be told, what the paths to a peer carry.
pub(crate) fn may_be_searched(peer: &Peer) -> bool {
    peer.is_active
        && peer.knows == Knows::Stamp
        && peer.state == State::Well
        && peer.route_mtu > BASE
}

/// When a peer wants to be looked at.
pub(crate) fn wake(peer: &Peer) -> Moment {
    let mut wake = peer.due;
    if peer.deadline != Moment::default() {
        wake = peer.deadline;
    }
    if let Some(trial) = &peer.trial {
        wake = trial.next;
    } else if let Some(search) = &peer.search {
        wake = wake.min(search.next);
    } else if may_be_searched(peer) {
        wake = wake.min(peer.search_due);
    }
    wake
}

/// Sees to it that a peer with which nothing could be done is not looked at again at once.
pub(crate) fn postpone(peer: &mut Peer, now: Moment) {
    let later = now + Duration::from_millis(100);
    peer.due = peer.due.max(later);
    peer.search_due = peer.search_due.max(later);
}

/// A part of `span` that follows from a number.
pub(crate) fn spread_over(span: Duration, number: u64) -> Duration {
    let span = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(number % span.max(1))
}
