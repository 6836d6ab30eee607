//! Paths that carry less than their routes promise: which claims are asked about, and what is
//! believed.
//!
//! Pure: takes `now`, and leaves the asking to its caller. Anybody can claim that a path is narrow
//! (an ICMP error), so a claim is only the reason to ask the path itself, see
//! [`path_carries`](culvert_dataplane::platform::udp::path_carries). What the path has answered is
//! believed, and asked for again before it grows old. Claims cost a bounded number of questions,
//! however many arrive.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Questions under way at once, of all peers.
const MAX_QUESTIONS: usize = 16;

/// How long after an answer that contradicted a claim the same peer's path is not asked again.
const REST: Duration = Duration::from_secs(10);

/// How long an answer is believed before the path is asked again. The kernel has ten minutes.
const RENEWAL: Duration = Duration::from_secs(5 * 60);

/// How long after a claim that proved wrong no further one toward the same peer is worth a line in
/// the log.
const SILENCE: Duration = Duration::from_secs(60 * 60);

/// Does a packet of this length get to the peer?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// The peer.
    pub peer: IpAddr,
    /// Length of an underlay packet, in bytes.
    pub packet_len: u16,
    /// What somebody claims that the path carries; none when nobody did, and only the answer is
    /// old.
    claimed: Option<u16>,
}

/// What an answer changes, and what there is to say of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// The path carries so many bytes, fewer than was believed.
    Narrower(u16),
    /// The path is as wide as its route again.
    AsWideAsRoute,
    /// Somebody claimed that the path carries only so many bytes, which is not true.
    FalseClaim(u16),
}

/// What is known of the paths that anybody ever claimed to be narrow.
#[derive(Debug, Default)]
pub(crate) struct NarrowPaths {
    paths: HashMap<IpAddr, Path>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Path {
    believed: Option<Belief>,
    is_asked: bool,
    /// Since when claims have been wrong.
    contradicted: Option<Instant>,
    /// When a wrong claim was last told of.
    told: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Belief {
    mtu: u16,
    renew: Instant,
}

impl NarrowPaths {
    /// What to ask because somebody claims that packets to `peer` may have `claimed` bytes at most,
    /// while the route says `route`; nothing if the claim changes nothing or it is too early.
    pub(crate) fn on_claim(
        &mut self,
        peer: IpAddr,
        claimed: u16,
        route: u16,
        now: Instant,
    ) -> Option<Question> {
        let is_free = self.questions() < MAX_QUESTIONS;
        let path = self.paths.entry(peer).or_default();
        let present = path.believed.map_or(route, |believed| believed.mtu.min(route));
        let rests = path
            .contradicted
            .is_some_and(|contradicted| now.saturating_duration_since(contradicted) < REST);
        if claimed >= present || path.is_asked || rests || !is_free {
            return None;
        }
        path.is_asked = true;
        Some(Question { peer, packet_len: present, claimed: Some(claimed) })
    }

    /// The next path to ask again, if it is time for one; `route` tells the MTU of a peer's route.
    pub(crate) fn poll_question(
        &mut self,
        now: Instant,
        route: impl Fn(IpAddr) -> u16,
    ) -> Option<Question> {
        if self.questions() >= MAX_QUESTIONS {
            return None;
        }
        self.paths.iter_mut().find_map(|(peer, path)| {
            let believed = path.believed.filter(|believed| believed.renew <= now)?;
            if path.is_asked {
                return None;
            }
            path.is_asked = true;
            // One byte more than is believed: where that passes, the path has become wider.
            let packet_len = believed.mtu.saturating_add(1).min(route(*peer));
            Some(Question { peer: *peer, packet_len, claimed: None })
        })
    }

    /// Takes the answer: what the path carries if that is less than was asked, or that it carries
    /// it. `None` where asking failed, which says nothing.
    pub(crate) fn on_answer(
        &mut self,
        question: Question,
        answer: Option<Answer>,
        now: Instant,
    ) -> Option<Finding> {
        let path = self.paths.get_mut(&question.peer)?;
        path.is_asked = false;
        match answer {
            Some(Answer::Only(mtu)) => {
                let before = path.believed.replace(Belief { mtu, renew: now + RENEWAL });
                path.contradicted = None;
                (before.is_none_or(|before| before.mtu != mtu)).then_some(Finding::Narrower(mtu))
            }
            Some(Answer::Enough) => match question.claimed {
                None => path.believed.take().map(|_| Finding::AsWideAsRoute),
                Some(claimed) => {
                    path.contradicted = Some(now);
                    let silent =
                        path.told.is_some_and(|told| now.saturating_duration_since(told) < SILENCE);
                    if silent {
                        return None;
                    }
                    path.told = Some(now);
                    Some(Finding::FalseClaim(claimed))
                }
            },
            None => {
                path.contradicted = Some(now);
                if let Some(believed) = &mut path.believed {
                    believed.renew = now + REST;
                }
                None
            }
        }
    }

    /// Has every narrow path asked again soon: routes have changed.
    pub(crate) fn outdate(&mut self, now: Instant) {
        for believed in self.paths.values_mut().filter_map(|path| path.believed.as_mut()) {
            believed.renew = believed.renew.min(now);
        }
    }

    /// Forgets the paths to everybody whom `is_peer` does not know.
    pub(crate) fn retain(&mut self, is_peer: impl Fn(IpAddr) -> bool) {
        self.paths.retain(|peer, _| is_peer(*peer));
    }

    /// The peers of which somebody has claimed that the path is narrow.
    pub(crate) fn peers(&self) -> impl Iterator<Item = IpAddr> {
        self.paths.keys().copied()
    }

    /// What the path to `peer` carries, if that is less than its route says.
    pub(crate) fn mtu(&self, peer: IpAddr) -> Option<u16> {
        Some(self.paths.get(&peer)?.believed?.mtu)
    }

    fn questions(&self) -> usize {
        self.paths.values().filter(|path| path.is_asked).count()
    }
}

/// What asking a path came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A machine on the path says that it carries only so many bytes.
    Only(u16),
    /// Nobody on the path says that the packet is too long.
    Enough,
}

#[cfg(test)]
mod tests {
    use super::*;
    use culvert_dataplane::platform::clock;

    const ROUTE: u16 = 1500;

    fn peer(number: u8) -> IpAddr {
        [192, 168, 1, number].into()
    }

    fn ask(paths: &mut NarrowPaths, claimed: u16, now: Instant) -> Question {
        paths.on_claim(peer(2), claimed, ROUTE, now).expect("a question")
    }

    #[test]
    fn a_claim_alone_changes_nothing() {
        let now = clock::now();
        let mut paths = NarrowPaths::default();
        let question = ask(&mut paths, 1300, now);
        assert_eq!((question.peer, question.packet_len), (peer(2), ROUTE));
        assert_eq!(paths.mtu(peer(2)), None);
        let finding = paths.on_answer(question, Some(Answer::Enough), now);
        assert_eq!(finding, Some(Finding::FalseClaim(1300)));
        assert_eq!(paths.mtu(peer(2)), None);
    }

    #[test]
    fn what_the_path_answers_is_believed_and_not_what_was_claimed() {
        let now = clock::now();
        let mut paths = NarrowPaths::default();
        let question = ask(&mut paths, 600, now);
        let finding = paths.on_answer(question, Some(Answer::Only(1400)), now);
        assert_eq!(finding, Some(Finding::Narrower(1400)));
        assert_eq!(paths.mtu(peer(2)), Some(1400));
        // The next narrow link on the same path shows once packets fit the first.
        let question = ask(&mut paths, 1300, now);
        assert_eq!(question.packet_len, 1400);
        paths.on_answer(question, Some(Answer::Only(1300)), now);
        assert_eq!(paths.mtu(peer(2)), Some(1300));
        assert_eq!(paths.on_claim(peer(2), 1300, ROUTE, now), None, "known already");
    }

    #[test]
    fn a_flood_of_claims_costs_a_few_questions_and_one_line_in_the_log() {
        let mut now = clock::now();
        let mut paths = NarrowPaths::default();
        let (mut questions, mut lines) = (0, 0);
        for _ in 0..100_000 {
            now += Duration::from_millis(1);
            if let Some(question) = paths.on_claim(peer(2), 1000, ROUTE, now) {
                questions += 1;
                let finding = paths.on_answer(question, Some(Answer::Enough), now);
                lines += usize::from(finding.is_some());
            }
        }
        assert_eq!((questions, lines), (10, 1));
    }

    #[test]
    fn few_paths_are_asked_at_once() {
        let now = clock::now();
        let mut paths = NarrowPaths::default();
        let mut questions: Vec<_> =
            (0..=255).filter_map(|n| paths.on_claim(peer(n), 1000, ROUTE, now)).collect();
        assert_eq!(questions.len(), MAX_QUESTIONS);
        paths.on_answer(questions.pop().unwrap(), None, now);
        assert!(paths.on_claim(peer(255), 1000, ROUTE, now).is_some());
        assert_eq!(paths.on_claim(peer(254), 1000, ROUTE, now), None);
    }

    #[test]
    fn what_is_believed_is_asked_again_and_forgotten_once_it_is_no_longer_true() {
        let now = clock::now();
        let mut paths = NarrowPaths::default();
        let question = ask(&mut paths, 1400, now);
        paths.on_answer(question, Some(Answer::Only(1400)), now);
        assert_eq!(paths.poll_question(now, |_| ROUTE), None);
        let later = now + RENEWAL;
        let question = paths.poll_question(later, |_| ROUTE).unwrap();
        assert_eq!(question.packet_len, 1401);
        assert_eq!(paths.poll_question(later, |_| ROUTE), None, "it is being asked");
        assert_eq!(paths.on_answer(question, Some(Answer::Only(1400)), later), None);
        assert_eq!(paths.poll_question(later, |_| ROUTE), None, "it is fresh again");
        paths.outdate(later);
        let question = paths.poll_question(later, |_| ROUTE).unwrap();
        // That asking failed says nothing.
        assert_eq!(paths.on_answer(question, None, later), None);
        assert_eq!(paths.mtu(peer(2)), Some(1400));
        let question = paths.poll_question(later + REST, |_| ROUTE).unwrap();
        let finding = paths.on_answer(question, Some(Answer::Enough), later);
        assert_eq!(finding, Some(Finding::AsWideAsRoute));
        assert_eq!(paths.mtu(peer(2)), None);
    }

    #[test]
    fn nodes_that_left_are_forgotten() {
        let now = clock::now();
        let mut paths = NarrowPaths::default();
        let question = ask(&mut paths, 1400, now);
        paths.retain(|address| address != peer(2));
        assert_eq!(paths.on_answer(question, Some(Answer::Only(1400)), now), None);
        assert_eq!(paths.mtu(peer(2)), None);
    }
}
