//! `path`: whether every one of the sixteen source ports gets through, in both directions.

use std::collections::BTreeSet;

use culvert_dataplane::SENDERS;
use culvert_node::words::counted;

use super::peer::answered;
use crate::doctor::facts::{Asked, Facts, Question};
use crate::doctor::finding::{Finding, Verdict};

/// Checks of this node whose findings may be why questions were lost on every path.
const BEFORE_THE_UNDERLAY: [&str; 3] = ["devices", "routes", "rules"];

pub(super) fn check(facts: &Facts, before: &[Finding]) -> Vec<Finding> {
    let peers = match &facts.peers {
        Some(Ok(peers)) => peers,
        Some(Err(why)) => return vec![Finding::skip(why)],
        None => return vec![Finding::skip("peers were not asked: --peers")],
    };
    let ports = facts.expected.as_ref().map_or(&[][..], |it| &it.setup.source_ports);
    let answering = || peers.iter().filter(|peer| answered(peer) > 0);
    let own = before.iter().find(|finding| {
        [Verdict::Fail, Verdict::Warn].contains(&finding.verdict)
            && BEFORE_THE_UNDERLAY.contains(&finding.check)
    });
    let own = own.map(|finding| finding.check);
    let mut findings: Vec<Finding> =
        answering().flat_map(|peer| losses(peer, ports, own)).collect();
    let whole = answering().filter(|peer| peer.all_paths).count();
    if findings.is_empty() {
        findings.push(match whole {
            0 if answering().next().is_some() => {
                Finding::skip("there are too many nodes to ask each by every path")
            }
            0 => Finding::skip("no peer answers"),
            nodes => Finding::ok(format!("all {SENDERS} to {}, and back", counted(nodes, "node"))),
        });
    }
    super::some(findings)
}

/// What is lost toward a peer, by path. `own` is what this node itself has wrong before the
/// underlay.
fn losses(peer: &Asked, ports: &[u16], own: Option<&str>) -> Vec<Finding> {
    let lost = |question: &&Question| question.is_lost();
    let all = |path: fn(&Question) -> usize| -> BTreeSet<usize> {
        // Those of which nothing came through.
        let got: BTreeSet<usize> =
            peer.questions.iter().filter(|it| it.answered.is_some()).map(path).collect();
        peer.questions.iter().filter(lost).map(path).filter(|path| !got.contains(path)).collect()
    };
    let random =
        peer.questions.iter().any(|question| question.answered.is_some() && question.is_lost());
    let ours = all(|question| question.ours);
    let theirs = all(|question| question.theirs);
    let is_whole = |it: &&Question| ours.contains(&it.ours) || theirs.contains(&it.theirs);
    let (lost, asked) = (peer.questions.iter().filter(lost).count(), peer.questions.len());
    let whole = peer.questions.iter().filter(|it| it.answered.is_none()).filter(is_whole).count();
    // A path that is broken loses what takes it and nothing else; chance loses here and there.
    if lost > whole || random {
        let among = ours.iter().map(|path| format!(", all on path {} among them", path + 1));
        let asked = counted(asked, "question");
        let found = format!("lost: {lost} of {asked}{}", among.collect::<String>());
        let remedy = match own {
            Some(own) => format!("it may follow from {own} above: mend that, and run this again"),
            None => {
                "the underlay loses packets: ip -s link shows where, or run this again".to_owned()
            }
        };
        return vec![Finding::warn(found, remedy).about(&peer.name)];
    }
    let mut findings = Vec::new();
    for path in &ours {
        let number = path + 1;
        let port = ports.get(*path);
        let port = port.map_or_else(String::new, |port| format!(" (source port {port})"));
        findings.push(Finding::fail(
            format!("path {number} of {SENDERS}{port} loses everything"),
            format!("a link or a firewall between drops UDP from this port to {}", peer.address),
        ));
    }
    for path in theirs.iter().filter(|_| ours.is_empty()) {
        let number = path + 1;
        findings.push(Finding::fail(
            format!("path {number} of its {SENDERS} back to this node loses everything"),
            format!("culvert doctor --peers on {} says by which port", peer.name),
        ));
    }
    findings.into_iter().map(|finding| finding.about(&peer.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::said;
    use super::*;
    use crate::doctor::facts::fixture::healthy;

    fn with_lost(is_lost: impl Fn(usize, &Question) -> bool) -> Finding {
        let mut facts = healthy();
        let peer = &mut facts.peers.as_mut().unwrap().as_mut().unwrap()[0];
        for (number, question) in peer.questions.iter_mut().enumerate() {
            if is_lost(number, question) {
                question.answered = None;
            }
        }
        said("path", &facts).remove(0)
    }

    #[test]
    fn lost_path_is_told_from_a_lost_way_back_and_from_chance() {
        let ours = with_lost(|_, question| question.ours == 7);
        assert_eq!(ours.found, "path 8 of 16 (source port 40007) loses everything");
        assert_eq!((ours.verdict, ours.peer.as_deref()), (Verdict::Fail, Some("node2")));
        let theirs = with_lost(|_, question| question.theirs == 3);
        assert_eq!(theirs.found, "path 4 of its 16 back to this node loses everything");
        let chance = with_lost(|number, _| number == 9);
        assert_eq!(chance.verdict, Verdict::Warn);
        let both = with_lost(|number, question| question.ours == 7 || number == 0);
        assert_eq!(both.verdict, Verdict::Warn);
        assert_eq!(both.found, "lost: 3 of 32 questions, all on path 8 among them");
        let mut facts = healthy();
        let peer = &mut facts.peers.as_mut().unwrap().as_mut().unwrap()[0];
        peer.questions[5].answered = Some(std::time::Duration::from_millis(1030));
        let repeated = said("path", &facts).remove(0);
        assert_eq!(
            (repeated.verdict, repeated.found.as_str()),
            (Verdict::Warn, "lost: 1 of 32 questions")
        );
        assert!(repeated.remedy.unwrap().starts_with("the underlay loses packets"));
        // Where this node was in its own way, the underlay is not accused.
        facts.kernel.as_mut().unwrap().underlay = Some("no datagram leaves".to_owned());
        let own = said("path", &facts).remove(0);
        assert!(own.remedy.unwrap().starts_with("it may follow from routes above"));
        assert_eq!(with_lost(|_, _| false).verdict, Verdict::Ok);
    }
}
