//! `peer`: whether each peer answers through the tunnel.

use culvert_node::words::counted;

use crate::doctor::facts::{Asked, Facts};
use crate::doctor::finding::Finding;
use crate::observe::PeerTable;

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
    let mut findings: Vec<Finding> = peers.iter().filter_map(|peer| trouble(facts, peer)).collect();
    let answering: Vec<&Asked> = peers.iter().filter(|peer| answered(peer) > 0).collect();
    findings.extend(unready(facts, &answering));
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

/// Peers that answer, and say that they are not ready.
fn unready(facts: &Facts, answering: &[&Asked]) -> Vec<Finding> {
    let said = facts.tables.as_ref().and_then(|tables| tables.as_deref().ok()).unwrap_or_default();
    let unready = said.iter().filter(|peer| peer.is_ready == Some(false));
    let finding = |peer: &PeerTable| {
        let remedy = format!("culvert doctor on {} says what is in its way", peer.node);
        Finding::warn("it answers, and says that it is not ready", remedy).about(&peer.node)
    };
    unready
        .filter(|peer| answering.iter().any(|asked| asked.name == peer.node))
        .map(finding)
        .collect()
}

pub(super) fn answered(peer: &Asked) -> usize {
    peer.questions.iter().filter(|question| question.answered.is_some()).count()
}

/// What is wrong with a peer that answers nothing.
fn trouble(facts: &Facts, peer: &Asked) -> Option<Finding> {
    let Asked { name, port, .. } = peer;
    let there = format!("culvert doctor on {name}: its checks daemon, drops and input say which");
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
        refused(facts, peer)
    } else if let Some(error) = error {
        Finding::fail(
            format!("no answer: the kernel of this node does not send the question ({error})"),
            "rules and routes above say why; otherwise a firewall of what this machine sends, or a policy \
             of IPsec: nft list ruleset; ip xfrm policy",
        )
    } else if peer.is_heard {
        Finding::warn(
            "it sends, and answers no question: it drops what comes from this node, or a firewall there \
             refuses what is for its bridge",
            format!("culvert doctor on {name}: its checks drops, forward and input say which"),
        )
    } else {
        Finding::fail(
            format!(
                "no answer on UDP {port}, and nobody refuses: its daemon is stopped, its table lacks \
                 this node, it has another VNI or other keys, or something between drops"
            ),
            there,
        )
    };
    Some(finding.about(name))
}

/// A peer whose address is of somebody who says that nobody has the port: its own kernel, unless
/// another machine has the address too.
fn refused(facts: &Facts, peer: &Asked) -> Finding {
    let Asked { name, address, port, is_heard, .. } = peer;
    let start = format!("start it on {name}: systemctl start culvert");
    let holders = facts.holders_of(*address);
    if let [one, other, ..] = holders[..] {
        return Finding::fail(
            format!(
                "no answer; {address} is at {one} and at {other}, and one of these says \"port \
                 unreachable\" of UDP {port}: two machines have the address"
            ),
            format!(
                "ip -br link on {name} shows which is its own: give the other machine another address, \
                 then ip neigh flush {address}"
            ),
        );
    }
    let refuses = format!("its kernel says \"port unreachable\" of UDP {port}");
    if *is_heard {
        return Finding::fail(
            format!(
                "no answer; {refuses}, and yet it sends: another machine has {address}, or its daemon \
                     has just been restarted"
            ),
            format!(
                "run this again; then compare ip neigh show {address} with ip -br link on {name}"
            ),
        );
    }
    let known = facts.neighbours.as_ref().ok().and_then(|neighbours| {
        neighbours.known.iter().find(|neighbour| neighbour.address == *address)?.mac
    });
    let mac = known.or_else(|| holders.first().copied());
    let remedy = match mac {
        Some(mac) => format!(
            "{start}; if it runs there, whoever answers at {mac} has its address: ip -br link on {name}"
        ),
        None => format!("{start}; if it runs there, another machine has {address}"),
    };
    Finding::fail(format!("no answer; {refuses}: no daemon there"), remedy)
}

#[cfg(test)]
mod tests {
    use overlay_proto::Mac;

    use super::super::tests::said;
    use super::*;
    use crate::doctor::facts::fixture::healthy;
    use crate::doctor::finding::Verdict;
    use crate::platform::arp::Claim;

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
    fn peer_that_is_not_ready_is_named_though_it_answers() {
        let mut facts = healthy();
        facts.tables.as_mut().unwrap().as_mut().unwrap()[1].is_ready = Some(false);
        let finding = said("peer", &facts).remove(0);
        assert_eq!((finding.verdict, finding.peer.as_deref()), (Verdict::Warn, Some("node3")));
    }

    #[test]
    fn refusal_by_one_of_two_machines_is_not_called_a_missing_daemon() {
        let mut facts = healthy();
        let peer = &mut facts.peers.as_mut().unwrap().as_mut().unwrap()[0];
        peer.questions.iter_mut().for_each(|question| question.answered = None);
        peer.is_refused = true;
        let claim = |last| Claim {
            address: [192, 168, 1, 12].into(),
            link: 2,
            mac: Mac::new([2, 0, 0, 0, 0, last]),
        };
        facts.holders = Ok([1, 2].map(claim).into());
        let found = said("peer", &facts).remove(0).found;
        assert!(found.contains("two machines have the address"), "{found}");
        assert!(!found.contains("no daemon"), "{found}");
    }

    #[test]
    fn silence_is_judged_by_what_else_is_known() {
        let refused = silent(|peer| peer.is_refused = true);
        assert!(refused.found.contains("port unreachable"), "{refused:?}");
        assert!(refused.remedy.as_ref().unwrap().starts_with("start it on node2: systemctl"));
        let heard = silent(|peer| (peer.is_refused, peer.is_heard) = (true, true));
        assert!(heard.found.contains("another machine has 192.168.1.12"), "{heard:?}");
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
