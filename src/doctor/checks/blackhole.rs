//! `blackhole`: whether full packets arrive where small ones do.

use culvert_node::words::counted;

use crate::doctor::facts::{Asked, Facts, Sizes};
use crate::doctor::finding::Finding;

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
}
