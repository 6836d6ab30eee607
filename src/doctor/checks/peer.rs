//! `peer`: whether each peer answers through the tunnel.

use culvert_netlink::{Neighbour, Standing};
use culvert_node::words::counted;

use crate::doctor::facts::{Asked, Facts};
use crate::doctor::finding::{Finding, Verdict};
use crate::observe::PeerTable;

/// Peers that answer are listed one by one if there are so many at most.
const LISTED: usize = 8;

/// Whom a peer was heard from within so many seconds had its VNI and keys right.
const LATELY: f64 = 60.0;

/// Checks of this node whose failure keeps questions, or the answers to them, from their way.
const ON_THE_WAY: [&str; 13] = [
    "daemon",
    "devices",
    "routes",
    "rules",
    "input",
    "output",
    "rp_filter",
    "conntrack",
    "receive",
    "tun",
    "drops",
    "port",
    "address_elsewhere",
];

/// Checks that may find nothing although a rule of this node drops what comes and goes.
const FIREWALLS: [&str; 2] = ["input", "output"];

pub(super) fn check(facts: &Facts, before: &[Finding]) -> Vec<Finding> {
    let peers = match &facts.peers {
        Some(Ok(peers)) => peers,
        Some(Err(why)) => return vec![Finding::skip(why)],
        None => return vec![Finding::skip("peers were not asked: --peers")],
    };
    if peers.is_empty() {
        return vec![Finding::skip("there is no other node")];
    }
    let mut findings: Vec<Finding> =
        peers.iter().filter_map(|peer| trouble(facts, before, peer)).collect();
    let answering: Vec<&Asked> = peers.iter().filter(|peer| answered(peer) > 0).collect();
    findings.extend(answering.iter().filter_map(|peer| unwell(facts, peer)));
    if answering.len() <= LISTED {
        findings.extend(answering.iter().map(|peer| {
            let times = peer.questions.iter().filter_map(|question| question.answered);
            let best = times.min().unwrap_or_default();
            let failing = told(facts, peer).and_then(|told| told.failing.as_ref());
            let own = match failing {
                Some(failing) if failing.is_empty() => {
                    "; its own doctor fails nothing, and did not ask its pods"
                }
                Some(_) | None => "",
            };
            let found = format!("answers in {:.1} ms{own}", best.as_secs_f64() * 1e3);
            Finding::ok(found).about(&peer.name)
        }));
    } else {
        let (answer, all) = (answering.len(), peers.len());
        findings.push(Finding::ok(format!("{answer} of {} answer", counted(all, "node"))));
    }
    findings
}

/// What a peer has said of itself.
fn told<'a>(facts: &'a Facts, peer: &Asked) -> Option<&'a PeerTable> {
    let tables = facts.tables.as_ref()?.as_ref().ok()?;
    tables.iter().find(|table| table.node == peer.name)
}

/// What is wrong with a peer that answers, as it says itself.
fn unwell(facts: &Facts, peer: &Asked) -> Option<Finding> {
    let told = told(facts, peer)?;
    let failing = told.failing.as_deref().unwrap_or_default().join(", ");
    let found = match (told.is_ready, failing.as_str()) {
        (Some(false), "") => {
            "it answers, and says that it is not ready, now and half a second ago; it \
                              looks at itself every ten"
                .to_owned()
        }
        (Some(false), failing) => {
            format!("it answers, and says that it is not ready; its own doctor fails: {failing}")
        }
        (_, "") => return None,
        // Of whomever: this node may be well with it.
        (_, "drops") => "it answers, and its own doctor fails: drops (of the last 15 s)".to_owned(),
        (_, failing) => format!(
            "it answers, and its own doctor fails: {failing}; what is for its pods may not arrive there \
             (it looks every 5 s)"
        ),
    };
    let remedy = format!("culvert doctor on {} says more", peer.name);
    Some(Finding::warn(found, remedy).about(&peer.name))
}

pub(super) fn answered(peer: &Asked) -> usize {
    peer.questions.iter().filter(|question| question.answered.is_some()).count()
}

/// What is wrong with a peer that answers nothing.
fn trouble(facts: &Facts, before: &[Finding], peer: &Asked) -> Option<Finding> {
    let Asked { name, port, .. } = peer;
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
    let own = own_failures(before, name).join(", ");
    // Where this machine has the peer's address it is its own kernel that refuses.
    let finding = if peer.is_refused && !own.contains("address_elsewhere") {
        refused(facts, peer)
    } else if !own.is_empty() {
        let error = error.map_or_else(String::new, |error| format!(" ({error})"));
        // A failure has been counted already; whether this is another one is not known.
        Finding::warn(
            format!(
                "no answer{error}; it follows from what this node itself fails above, or may: {own}"
            ),
            format!("mend that first, and run this again; then culvert doctor on {name}"),
        )
    } else if before.iter().any(|finding| is_drop_of(finding, name)) {
        Finding::fail(
            "no answer, and this node drops what it sends: see drops above",
            format!("what drops says above; culvert doctor on {name} has its side"),
        )
    } else if let Some(error) = error {
        Finding::fail(
            format!("no answer: the kernel of this node does not send the question ({error})"),
            "rules and routes above find nothing: a firewall of what this machine sends, or a policy of \
             IPsec: nft list ruleset; ip xfrm policy",
        )
    } else if peer.is_heard {
        Finding::warn(
            "it sends, and answers no question: it drops what comes from this node, or a firewall there \
             refuses what is for its bridge",
            format!("culvert doctor on {name}: its checks drops, forward and input say which"),
        )
    } else {
        let causes = causes(facts, before, peer).join(", ");
        let there = format!("culvert doctor on {name} says which");
        Finding::fail(
            format!("no answer on UDP {port}, and nobody refuses: {causes}"),
            match silent(facts) {
                1 => there,
                all => {
                    format!("none of {all} peers answers: see this node's cable and link; {there}")
                }
            },
        )
    };
    Some(finding.about(name))
}

/// The checks that fail on this node, each once, if their failure may be why the peer is not heard.
fn own_failures(before: &[Finding], name: &str) -> Vec<&'static str> {
    let is_own = |finding: &&Finding| {
        finding.verdict == Verdict::Fail
            && ON_THE_WAY.contains(&finding.check)
            && finding.peer.as_ref().is_none_or(|peer| peer == name)
            && !is_drop_of(finding, name)
    };
    let mut own: Vec<&str> = before.iter().filter(is_own).map(|finding| finding.check).collect();
    own.dedup();
    own
}

/// Whether it is of what the peer sends and this node drops, which either of them may have wrong.
fn is_drop_of(finding: &Finding, name: &str) -> bool {
    finding.check == "drops"
        && finding.verdict == Verdict::Fail
        && finding.peer.as_deref() == Some(name)
}

/// How many peers were asked, if none of them answers; else one, which stands for itself.
fn silent(facts: &Facts) -> usize {
    let peers = facts.peers.as_ref().and_then(|peers| peers.as_deref().ok()).unwrap_or_default();
    let asked = peers.iter().filter(|peer| !peer.questions.is_empty()).count();
    let is_silent = |peer: &Asked| answered(peer) == 0 && !peer.is_refused && !peer.is_heard;
    if peers.iter().filter(|peer| !peer.questions.is_empty()).all(is_silent) { asked } else { 1 }
}

/// Why nothing is heard of a peer: what is not ruled out by what is known here.
fn causes(facts: &Facts, before: &[Finding], peer: &Asked) -> Vec<String> {
    let status = facts.daemon.as_ref().ok();
    let known = status.and_then(|status| status.peers.iter().find(|it| it.name == peer.name));
    let is_lately = |seconds: f64| seconds <= LATELY;
    let is_heard = known.and_then(|peer| peer.last_heard_seconds).is_some_and(is_lately);
    let is_sealing = status.is_some_and(|it| !["off", ""].contains(&it.sealed.mode.as_str()));
    let is_off_link = facts.neighbours.as_ref().is_ok_and(|neighbours| {
        let is_its = |it: &&Neighbour| it.address == peer.address;
        let found = neighbours.known.iter().find(is_its);
        found.is_some_and(|it| it.standing == Standing::Silent)
    });
    let mut causes: Vec<String> = Vec::new();
    if is_off_link {
        return vec![
            "nobody on the link answers who has its address (neighbours above): its machine is \
                     off, or its cable is out"
                .to_owned(),
        ];
    }
    causes.push("its daemon is stopped".to_owned());
    causes.push("its table lacks this node".to_owned());
    causes.push(match known.and_then(|peer| peer.last_heard_seconds).filter(|_| is_heard) {
        None => "it has another VNI".to_owned(),
        Some(ago) => format!("it has another VNI since it was last heard, {ago:.0} s ago"),
    });
    match known.and_then(|peer| peer.session_error.as_ref()) {
        Some(error) => causes.push(format!("there is no session with it ({error})")),
        None if is_sealing && known.is_none_or(|peer| peer.sealed.is_none()) => {
            causes.push("it has other keys".to_owned());
        }
        None if !is_sealing => causes.push("it takes only what is sealed".to_owned()),
        None => {}
    }
    let is_unsure = |finding: &&Finding| {
        FIREWALLS.contains(&finding.check)
            && [Verdict::Warn, Verdict::Skip].contains(&finding.verdict)
    };
    let doubt = before.iter().find(is_unsure).map(|finding| {
        format!("a firewall of this node that was not followed drops it ({})", finding.check)
    });
    causes.extend(doubt);
    causes.push("or something between drops".to_owned());
    causes
}

/// A peer whose address is of somebody who says that nobody has the port: its own kernel, unless
/// another machine has the address too.
fn refused(facts: &Facts, peer: &Asked) -> Finding {
    let Asked { name, address, port, is_heard, .. } = peer;
    let start = format!("start it on {name}: systemctl start culvert");
    let holders = facts.holders_of(*address);
    if let [one, other, ..] = holders[..] {
        let [one, other] = [one, other].map(|mac| facts.named(mac, *address));
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
        Some(mac) => {
            let mac = facts.named(mac, *address);
            format!(
                "{start}; if it runs there, whoever answers at {mac} has its address: ip -br link on \
                 {name}"
            )
        }
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
    fn peer_whose_own_doctor_fails_is_not_called_well() {
        let mut facts = healthy();
        let tables = facts.tables.as_mut().unwrap().as_mut().unwrap();
        tables[0].failing = Some(vec!["forward".to_owned()]);
        tables[1].failing = None;
        let findings = said("peer", &facts);
        assert_eq!(
            (findings[0].verdict, findings[0].peer.as_deref()),
            (Verdict::Warn, Some("node2"))
        );
        assert!(findings[0].found.contains("its own doctor fails: forward"), "{findings:?}");
        let of_node3 = findings.last().unwrap();
        assert_eq!(of_node3.found, "answers in 1.0 ms", "it has not said how it is");
        let well = said("peer", &healthy()).remove(0);
        assert!(well.found.ends_with("fails nothing, and did not ask its pods"), "{well:?}");
    }

    #[test]
    fn failure_of_this_node_is_the_likelier_cause_of_a_peers_silence() {
        let mut facts = healthy();
        let peer = &mut facts.peers.as_mut().unwrap().as_mut().unwrap()[0];
        peer.questions.iter_mut().for_each(|question| question.answered = None);
        peer.is_heard = false;
        let of_peer = |facts: &Facts| said("peer", facts).remove(0);
        facts.kernel.as_mut().unwrap().underlay = Some("no datagram leaves".to_owned());
        let own = of_peer(&facts);
        assert_eq!(own.verdict, Verdict::Warn, "one cause is one failure");
        assert!(own.found.ends_with("this node itself fails above, or may: routes"), "{own:?}");
        assert!(own.remedy.as_ref().unwrap().starts_with("mend that first"), "{own:?}");
        // What concerns another peer alone is no reason.
        let kernel = facts.kernel.as_mut().unwrap();
        kernel.underlay = None;
        kernel.refused = vec![([192, 168, 1, 13].into(), "No route to host".to_owned())];
        assert!(of_peer(&facts).found.contains("its daemon is stopped"));
        kernel_of(&mut facts).refused = vec![([192, 168, 1, 12].into(), "No route".to_owned())];
        assert!(of_peer(&facts).found.ends_with("routes"));
        // Nor is anything of this node, where the peer's kernel answers.
        facts.peers.as_mut().unwrap().as_mut().unwrap()[0].is_refused = true;
        assert!(of_peer(&facts).found.contains("no daemon there"));
        // But this one is.
        let kernel = kernel_of(&mut facts);
        let address = kernel.addresses[0].clone();
        let net = "192.168.1.12/24".parse().unwrap();
        kernel.addresses.push(culvert_netlink::Address { net, ..address });
        assert!(of_peer(&facts).found.ends_with("routes, address_elsewhere"));
    }

    #[test]
    fn what_a_peer_sends_and_this_node_drops_is_no_failure_of_this_node() {
        let mut facts = healthy();
        let peer = &mut facts.peers.as_mut().unwrap().as_mut().unwrap()[0];
        peer.questions.iter_mut().for_each(|question| question.answered = None);
        peer.is_heard = false;
        let drop = Finding { check: "drops", ..Finding::fail("vni", "").about("node2") };
        let of_node2 = |before: &[Finding]| check(&facts, before).remove(0);
        assert!(of_node2(std::slice::from_ref(&drop)).found.ends_with("see drops above"));
        let of_all = Finding { peer: None, ..drop };
        assert!(of_node2(&[of_all]).found.contains("this node itself fails above, or may"));
    }

    fn kernel_of(facts: &mut Facts) -> &mut crate::app::Examination {
        facts.kernel.as_mut().unwrap()
    }

    #[test]
    fn only_causes_that_are_not_ruled_out_are_named() {
        let with = |change: &dyn Fn(&mut Facts)| {
            let mut facts = healthy();
            let peer = &mut facts.peers.as_mut().unwrap().as_mut().unwrap()[0];
            peer.questions.iter_mut().for_each(|question| question.answered = None);
            peer.is_heard = false;
            let status = facts.daemon.as_mut().unwrap();
            status.peers[0].last_heard_seconds = None;
            change(&mut facts);
            said("peer", &facts).remove(0)
        };
        let plain = with(&|_| {});
        assert!(plain.found.contains("another VNI") && !plain.found.contains("keys"), "{plain:?}");
        assert!(!plain.found.contains("a firewall of this node"), "{plain:?}");
        let heard = with(&|facts| {
            facts.daemon.as_mut().unwrap().peers[0].last_heard_seconds = Some(5.0);
        });
        assert!(heard.found.contains("another VNI since it was last heard, 5 s ago"), "{heard:?}");
        let sealing = with(&|facts| {
            facts.daemon.as_mut().unwrap().sealed.mode = "require".to_owned();
        });
        assert!(sealing.found.contains("other keys"), "{sealing:?}");
        let failed = with(&|facts| {
            let why = Some("the peer does not answer handshakes".to_owned());
            facts.daemon.as_mut().unwrap().peers[0].session_error = why;
        });
        assert!(failed.found.contains("no session with it (the peer does not"), "{failed:?}");
        let unread = with(&|facts| facts.firewall = Err("no right to it".to_owned()));
        assert!(unread.found.contains("not followed drops it (input)"), "{unread:?}");
        let off = with(&|facts| {
            let (address, mac) = ([192, 168, 1, 12].into(), None);
            let entry = Neighbour { address, mac, standing: Standing::Silent };
            facts.neighbours.as_mut().unwrap().known = vec![entry];
        });
        assert!(off.found.contains("its cable is out") && !off.found.contains("VNI"), "{off:?}");
        let all = with(&|facts| {
            for peer in facts.peers.as_mut().unwrap().as_mut().unwrap() {
                peer.questions.iter_mut().for_each(|question| question.answered = None);
                peer.is_heard = false;
            }
        });
        assert!(all.remedy.unwrap().starts_with("none of 2 peers answers"));
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
