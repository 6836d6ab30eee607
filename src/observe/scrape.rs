//! What metrics are made of: the node, its peers in numbers, and of some peers everything.

use std::collections::BTreeMap;

use culvert_dataplane::engine::Traffic;

use super::{PeerStatus, Status};

/// The daemon, as it is looked at. Peers are by far the most of a status where there are thousands,
/// and most who look want few of them or none.
pub trait Observed: Send + Sync {
    /// Everything.
    fn status(&self) -> Status;

    /// Everything but the peers.
    fn node(&self) -> Status;

    /// What metrics are made of. `choose` gets all peers and says, by their places, of which
    /// everything is wanted.
    fn scrape(&self, choose: &mut dyn FnMut(&[Tally<'_>]) -> Vec<usize>) -> Scrape;
}

/// What was counted of a peer.
#[derive(Clone, Copy, Debug)]
pub struct Tally<'a> {
    pub name: &'a str,
    pub egress: Traffic,
    pub ingress: Traffic,
}

/// What metrics are made of.
#[derive(Clone, Debug)]
pub struct Scrape {
    /// Everything but the peers.
    pub node: Status,
    pub totals: PeerTotals,
    /// Those that were chosen, in the order of their places.
    pub chosen: Vec<PeerStatus>,
}

/// All peers in numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PeerTotals {
    /// Those that answer questions.
    pub answering: usize,
    /// Those that do not, though they should.
    pub lost: usize,
    /// Those of which it is not known.
    pub unknown: usize,
    /// Source ports that lead nowhere, of all together.
    pub paths_lost: usize,
    /// Those with a session, by its suite.
    pub sealed: BTreeMap<String, usize>,
    /// Those without one, to which packets leave in the clear.
    pub plain: usize,
    /// Those without one, to which none leave.
    pub barred: usize,
    /// Age of the oldest session.
    pub oldest_session_seconds: Option<f64>,
}

impl PeerTotals {
    /// Counts one more of which it is known whether it has a session, by which suite, and whether
    /// packets may leave to it without.
    pub fn add_sealed(&mut self, suite: Option<&str>, may_be_plain: bool) {
        match suite {
            Some(suite) => match self.sealed.get_mut(suite) {
                Some(count) => *count += 1,
                None => {
                    self.sealed.insert(suite.to_owned(), 1);
                }
            },
            None if may_be_plain => self.plain += 1,
            None => self.barred += 1,
        }
    }

    /// Takes note of the age of a session.
    pub fn note_session(&mut self, age_seconds: f64) {
        let oldest = self.oldest_session_seconds.unwrap_or_default();
        self.oldest_session_seconds = Some(oldest.max(age_seconds));
    }
}
