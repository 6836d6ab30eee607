//! `clock`: whether this machine knows what time it is. Certificates of etcd and Kubernetes, and
//! leases, go by it. Peers say theirs with each answer (`--peers`).

use culvert_node::words::counted;

use crate::doctor::facts::Facts;
use crate::doctor::finding::Finding;
use crate::observe::PeerTable;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let clock = &facts.clock;
    let mut findings = apart(facts);
    if let Some((file, ahead)) = &clock.future {
        let found = format!(
            "{} was written {} seconds later than now: this clock, or that of who wrote it, is wrong",
            file.display(),
            ahead.as_secs()
        );
        findings.push(Finding::fail(
            found,
            format!(
                "compare date here and on another node; if this one is wrong: timedatectl set-ntp true; \
                 else touch {}",
                file.display()
            ),
        ));
    }
    if findings.is_empty() {
        let compared = readings(facts).count();
        findings.push(match (&clock.is_synchronised, compared) {
            (Ok(true), 0) => Finding::ok("kept right, as the kernel is told"),
            (_, 1..) => {
                Finding::ok(format!("as that of {}, within {FAR:.0} s", counted(compared, "peer")))
            }
            (Ok(false), _) => Finding::skip(
                "nobody tells the kernel that he keeps it right, and there is nothing to compare it with",
            ),
            (Err(why), _) => Finding::skip(why),
        });
    }
    super::some(findings)
}

/// Seconds that a clock may be off: far more than an answer takes, and than programs mind.
const FAR: f64 = 5.0;

/// The peers that say what time it is, and by how many seconds they are ahead of this node.
fn readings(facts: &Facts) -> impl Iterator<Item = (&PeerTable, f64)> {
    let answers = facts.tables.as_ref().and_then(|tables| tables.as_deref().ok());
    answers.unwrap_or_default().iter().filter_map(|peer| Some((peer, peer.clock_ahead?)))
}

/// Peers whose clocks are far from this node's; if most are, it is this node's that is wrong.
fn apart(facts: &Facts) -> Vec<Finding> {
    let far: Vec<_> = readings(facts).filter(|(_, ahead)| ahead.abs() > FAR).collect();
    let all = readings(facts).count();
    let words = |seconds: f64| {
        let side = if seconds > 0.0 { "ahead of" } else { "behind" };
        format!("{:.0} seconds {side}", seconds.abs())
    };
    let remedy =
        "timedatectl set-ntp true, and wait until it agrees: certificates and leases go by it";
    if let [(_, ahead), _, ..] = far[..]
        && far.len() * 2 > all
    {
        let found = format!("{} that of {} of {}", words(-ahead), far.len(), counted(all, "peer"));
        return vec![Finding::warn(found, remedy)];
    }
    let finding = |(peer, ahead): &(&PeerTable, f64)| {
        let found = format!("its clock is {} this node's", words(*ahead));
        Finding::warn(found, format!("there: {remedy}")).about(&peer.node)
    };
    far.iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::said;
    use crate::doctor::facts::fixture::healthy;
    use crate::doctor::finding::Verdict;

    #[test]
    fn clock_that_differs_from_the_others_is_named() {
        let with = |ahead: [Option<f64>; 2]| {
            let mut facts = healthy();
            let peers = facts.tables.as_mut().unwrap().as_mut().unwrap();
            peers.iter_mut().zip(ahead).for_each(|(peer, ahead)| peer.clock_ahead = ahead);
            said("clock", &facts).remove(0)
        };
        assert_eq!(with([Some(0.2), Some(-0.3)]).found, "as that of 2 peers, within 5 s");
        assert_eq!(with([None, None]).found, "kept right, as the kernel is told");
        let one = with([Some(0.1), Some(-90.0)]);
        assert_eq!((one.verdict, one.peer.as_deref()), (Verdict::Warn, Some("node3")));
        assert_eq!(one.found, "its clock is 90 seconds behind this node's");
        let own = with([Some(3600.0), Some(3601.0)]);
        assert_eq!(own.found, "3600 seconds behind that of 2 of 2 peers");
        assert_eq!(own.peer, None);
    }
}
