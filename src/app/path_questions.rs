//! Asking paths what they carry: the driver of [`NarrowPaths`].

use std::net::{IpAddr, SocketAddr};

use culvert_dataplane::PathClaim;
use culvert_dataplane::engine::Membership;
use culvert_dataplane::platform::{clock, udp};
use tokio::task::JoinSet;

use crate::control::narrow_paths::{Answer, Finding, NarrowPaths, Question};

/// Paths that turned out narrower than their routes, and those that are being asked.
#[derive(Debug, Default)]
pub(super) struct PathQuestions {
    known: NarrowPaths,
    asked: JoinSet<(Question, Option<Answer>)>,
}

impl PathQuestions {
    /// What the path to `peer` carries, if that is less than its route says.
    pub(super) fn mtu(&self, peer: IpAddr) -> Option<u16> {
        self.known.mtu(peer)
    }

    /// The peers of which somebody has claimed that the path is narrow.
    pub(super) fn peers(&self) -> impl Iterator<Item = IpAddr> {
        self.known.peers()
    }

    /// Considers what somebody claims of the path to a peer, whose route says `route`. Questions
    /// leave from this node's address `from`.
    pub(super) fn on_claim(
        &mut self,
        PathClaim { peer, mtu }: PathClaim,
        route: u16,
        from: IpAddr,
        members: &Membership,
    ) {
        let question = self.known.on_claim(peer, mtu, route, clock::now());
        question.into_iter().for_each(|question| self.ask(question, from, members));
    }

    /// Asks the paths again of which it is no longer certain that they are narrow.
    pub(super) fn renew(
        &mut self,
        route: impl Fn(IpAddr) -> u16,
        from: IpAddr,
        members: &Membership,
    ) {
        let now = clock::now();
        while let Some(question) = self.known.poll_question(now, &route) {
            self.ask(question, from, members);
        }
    }

    /// Takes note that routes have changed, and with them perhaps paths.
    pub(super) fn outdate(&mut self) {
        self.known.outdate(clock::now());
    }

    /// Forgets the paths to nodes that have left.
    pub(super) fn retain(&mut self, is_peer: impl Fn(IpAddr) -> bool) {
        self.known.retain(is_peer);
    }

    /// Waits for an answer that changes what is known.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn changed(&mut self) {
        loop {
            let Some(answered) = self.asked.join_next().await else {
                return std::future::pending().await;
            };
            if let Ok((question, answer)) = answered
                && self.take(question, answer)
            {
                return;
            }
        }
    }

    fn ask(&mut self, question: Question, from: IpAddr, members: &Membership) {
        let Question { peer, packet_len, .. } = question;
        let Some(node) = members.peers().find(|node| node.address == peer) else {
            self.take(question, None);
            return;
        };
        let to = SocketAddr::new(peer, members.tunnel_to(node).port);
        self.asked.spawn_blocking(move || match udp::path_carries(from, to, packet_len) {
            Ok(Some(mtu)) => (question, Some(Answer::Only(mtu))),
            Ok(None) => (question, Some(Answer::Enough)),
            Err(error) => {
                tracing::debug!(%error, peer = %to, "asking what the path carries failed");
                (question, None)
            }
        });
    }

    /// Takes an answer; says whether it changes what is known.
    fn take(&mut self, question: Question, answer: Option<Answer>) -> bool {
        let peer = question.peer;
        match self.known.on_answer(question, answer, clock::now()) {
            Some(Finding::Narrower(mtu)) => {
                tracing::info!(%peer, mtu, "the path to a peer is narrower than its route");
                true
            }
            Some(Finding::AsWideAsRoute) => {
                tracing::info!(%peer, "the path to a peer is as wide as its route again");
                true
            }
            Some(Finding::FalseClaim(mtu)) => {
                tracing::warn!(
                    %peer,
                    mtu,
                    "an ICMP error says that the path to a peer carries only this much; no machine \
                     on the path confirms it, and nothing changes"
                );
                false
            }
            None => false,
        }
    }
}
