//! `peer`: whether each peer answers through the tunnel.

use culvert_node::words::counted;

use crate::doctor::facts::{Asked, Facts};
use crate::doctor::finding::Finding;

/// Peers that answer are listed one by one if there are so many at most.
const LISTED: usize = 8;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let peers = match &facts.peers {
        Some(Ok(peers)) => peers,
        Some(Err(why)) => return vec![Finding::skip(why)],
        None => return vec![Finding::skip("peers were not asked: --peers")],
    };
    if peers.is_empty() {
        return vec![Finding::skip("there is no other node")];
    }
    let mut findings: Vec<Finding> = peers.iter().filter_map(trouble).collect();
    let answering: Vec<&Asked> = peers.iter().filter(|peer| answered(peer) > 0).collect();
    if answering.len() <= LISTED {
        findings.extend(answering.iter().map(|peer| {
            let times = peer.questions.iter().filter_map(|question| question.answered);
            let best = times.min().unwrap_or_default();
            Finding::ok(format!("answers in {:.1} ms", best.as_secs_f64() * 1e3)).about(&peer.name)
        }));
    } else {
        let (answer, all) = (answering.len(), peers.len());
        findings.push(Finding::ok(format!("{answer} of {} answer", counted(all, "node"))));
    }
    findings
}

pub(super) fn answered(peer: &Asked) -> usize {
    peer.questions.iter().filter(|question| question.answered.is_some()).count()
}

/// What is wrong with a peer that answers nothing.
fn trouble(peer: &Asked) -> Option<Finding> {
    let port = peer.port;
    let there = format!("look there: culvert doctor on {}", peer.name);
    if let (Some(why), 0) = (&peer.unasked, answered(peer)) {
        let found = format!("it could not be asked: {why}; ulimit -n");
        return Some(Finding::skip(found).about(&peer.name));
    }
    if peer.questions.is_empty() {
        let why = "this node and it have no pods of one family, so it cannot be asked";
        return Some(Finding::skip(why).about(&peer.name));
    }
    if answered(peer) > 0 {
        return None;
    }
    let error = peer.questions.iter().find_map(|question| question.error.as_ref());
    let finding = if peer.is_refused {
        Finding::fail(
            format!(
                "no answer; its kernel says \"port unreachable\" of UDP {port}: no daemon there"
            ),
            format!("start it on {}: systemctl start culvert", peer.name),
        )
    } else if let Some(error) = error {
        Finding::fail(
            format!("no answer: the kernel of this node does not send the question ({error})"),
            "rules and routes above say why; otherwise a firewall of what this machine sends, or a policy \
             of IPsec: nft list ruleset; ip xfrm policy",
        )
    } else if peer.is_heard {
        Finding::warn(
            "it sends, and answers no question: a firewall there may refuse what is for its bridge",
            there,
        )
    } else {
        Finding::fail(
            format!(
                "no answer on UDP {port}, and nobody refuses: its daemon is stopped, its table lacks \
                 this node, it has other keys, or something between drops"
            ),
            there,
        )
    };
    Some(finding.about(&peer.name))
}

#[cfg(test)]
mod tests {
    use super::super::tests::said;
    use super::*;

    use crate::doctor::facts::fixture::healthy;
    use crate::doctor::finding::Verdict;

    fn silent(change: impl Fn(&mut Asked)) -> Finding {
        let mut facts = healthy();
        let peer = &mut facts.peers.as_mut().unwrap().as_mut().unwrap()[0];
        for question in &mut peer.questions {
            question.answered = None;
        }
        peer.is_heard = false;
        change(peer);
        said("peer", &facts).remove(0)
    }

    #[test]
    fn silence_is_judged_by_what_else_is_known() {
        let refused = silent(|peer| peer.is_refused = true);
        assert!(refused.found.contains("port unreachable"), "{refused:?}");
        assert_eq!((refused.verdict, refused.peer.as_deref()), (Verdict::Fail, Some("node2")));
        assert_eq!(silent(|peer| peer.is_heard = true).verdict, Verdict::Warn);
        let error = silent(|peer| peer.questions[0].error = Some("No route to host".to_owned()));
        assert!(error.found.contains("(No route to host)"), "{error:?}");
        assert!(silent(|_| {}).found.contains("nobody refuses"));
        assert_eq!(silent(|peer| peer.questions.clear()).verdict, Verdict::Skip);
        let unasked = silent(|peer| peer.unasked = Some("Too many open files".to_owned()));
        assert_eq!(unasked.verdict, Verdict::Skip);
        assert!(unasked.found.contains("ulimit -n"), "{unasked:?}");
    }
}
