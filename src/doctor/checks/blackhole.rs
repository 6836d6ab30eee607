//! `blackhole`: whether full packets arrive where small ones do.

use culvert_node::words::counted;

use crate::doctor::facts::{Asked, Facts, Sizes};
use crate::doctor::finding::Finding;
use crate::observe::PeerStatus;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let peers = match &facts.peers {
        Some(Ok(peers)) => peers,
        Some(Err(why)) => return vec![Finding::skip(why)],
        None => return vec![Finding::skip("peers were not asked: --peers")],
    };
    let judged: Vec<(&Asked, Sizes)> =
        peers.iter().filter_map(|peer| Some((peer, peer.sizes?))).collect();
    let mut findings: Vec<Finding> = judged
        .iter()
        .filter(|(_, sizes)| sizes.is_black_hole())
        .map(|(peer, sizes)| {
            let found = format!(
                "packets of {} bytes vanish on the way, and small ones do not; nobody says so",
                sizes.full
            );
            let remedy = "have the routers between send ICMP \"fragmentation needed\"; or set \
                          underlay.mtu on every node to what the underlay carries, restart the \
                          daemons, and start pods anew, which keep their MTU";
            Finding::fail(found, remedy).about(&peer.name)
        })
        .collect();
    // What the daemon has found by itself it has healed: packets are cut to fit. The hole is there.
    let status = facts.daemon.as_ref().ok();
    let healed = status.into_iter().flat_map(|status| &status.peers).filter(|peer| {
        let is_judged = findings.iter().any(|finding| finding.peer.as_ref() == Some(&peer.name));
        peer.path.mtu_from == PROBED && !is_judged
    });
    let healed: Vec<Finding> = healed.map(|peer| healed_by_probes(facts, peer)).collect();
    findings.extend(healed);
    let answered = judged.iter().filter(|(_, sizes)| sizes.full_answered).count();
    if findings.is_empty() {
        findings.push(match (answered, judged.len()) {
            (0, 0) => Finding::skip("no peer was asked: too many, or none with a bridge like ours"),
            (0, _) => {
                Finding::skip(
                    "no peer's kernel says what arrives: it limits its ICMP errors, or nothing reaches it",
                )
            }
            (answered, _) => {
                let nodes = counted(peers.len(), "node");
                Finding::ok(format!("full packets arrive at {answered} of {nodes}"))
            }
        });
    }
    super::some(findings)
}

/// What a status says of an MTU that questions have found, and no ICMP error.
const PROBED: &str = "probed";

/// A hole that the daemon goes round.
fn healed_by_probes(facts: &Facts, peer: &PeerStatus) -> Finding {
    let full = facts.expected.as_ref().map_or(0, |expected| expected.setup.mtu);
    let fits = peer.mtu;
    let found = format!(
        "packets of {full} bytes vanish on the way, and nobody says so; the daemon found that {fits} \
         arrive, and has pods send no longer ones"
    );
    let remedy = "nothing, if pods may be that narrow; else have the routers between send ICMP \
                  \"fragmentation needed\", or carry more";
    Finding::warn(found, remedy).about(&peer.name)
}

#[cfg(test)]
mod tests {
    use super::super::tests::said;
    use super::*;
    use crate::doctor::facts::fixture::healthy;
    use crate::doctor::finding::Verdict;

    fn with(small_answered: bool, full_answered: bool) -> Verdict {
        let mut facts = healthy();
        for peer in facts.peers.as_mut().unwrap().as_mut().unwrap() {
            peer.sizes = Some(Sizes { full: 1464, small_answered, full_answered });
        }
        said("blackhole", &facts)[0].verdict
    }

    #[test]
    fn only_full_packets_that_vanish_are_a_black_hole() {
        assert_eq!(with(true, true), Verdict::Ok);
        assert_eq!(with(true, false), Verdict::Fail);
        assert_eq!(with(false, false), Verdict::Skip);
        assert_eq!(
            said("blackhole", &Facts { peers: None, ..healthy() })[0].verdict,
            Verdict::Skip
        );
    }

    #[test]
    fn hole_that_the_daemon_has_found_is_not_called_gone() {
        let mut facts = healthy();
        let peer = &mut facts.daemon.as_mut().unwrap().peers[0];
        (peer.mtu, peer.path.mtu_from) = (1364, "probed".to_owned());
        let found = said("blackhole", &facts).remove(0);
        assert_eq!((found.verdict, found.peer.as_deref()), (Verdict::Warn, Some("node2")));
        assert!(found.found.starts_with("packets of 1464 bytes vanish"), "{found:?}");
        assert!(found.found.contains("found that 1364 arrive"), "{found:?}");
        // While it is named as it is, it is not named twice.
        let peers = facts.peers.as_mut().unwrap().as_mut().unwrap();
        peers[0].sizes = Some(Sizes { full: 1464, small_answered: true, full_answered: false });
        let found = said("blackhole", &facts);
        assert_eq!((found.len(), found[0].verdict), (1, Verdict::Fail), "{found:?}");
    }
}
