//! `conntrack`: whether tunnel datagrams are kept out of connection tracking, and it has room.

use super::missing::{self, Part};
use crate::doctor::facts::Facts;
use crate::doctor::finding::Finding;

/// Percent of the room that is used up when it is said, and when it is too late soon.
const NOTED: u64 = 80;
const FULL: u64 = 98;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    if let Err(why) = &facts.kernel {
        return vec![Finding::skip(why)];
    }
    let mut findings = missing::of(facts, Part::Conntrack);
    let tracked = match &facts.tracked {
        Ok(tracked) => tracked,
        Err(why) => {
            findings.push(Finding::skip(format!("how full the table of connections is: {why}")));
            return findings;
        }
    };
    let Some([count, most]) = *tracked else {
        if findings.is_empty() {
            let found = "the table inet culvert is in place; nothing is tracked here";
            findings.push(Finding::ok(found));
        }
        return findings;
    };
    let percent = count.saturating_mul(100).checked_div(most).unwrap_or_default();
    let found = format!("room for connections: {count} of {most} used");
    let remedy = format!(
        "raise it: sysctl -w net.netfilter.nf_conntrack_max={}; conntrack -L shows whose they are",
        most.saturating_mul(2)
    );
    match percent {
        FULL.. => findings.push(Finding::fail(found + ": new ones are dropped", remedy)),
        NOTED.. => findings.push(Finding::warn(found, remedy)),
        _ if findings.is_empty() => {
            findings.push(Finding::ok(format!("tunnel datagrams are not tracked; {found}")));
        }
        _ => {}
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::tests::said;
    use super::*;
    use crate::doctor::facts::fixture::healthy;
    use crate::doctor::finding::Verdict;

    #[test]
    fn table_that_cannot_be_looked_at_is_not_called_empty() {
        let with = |tracked| said("conntrack", &Facts { tracked, ..healthy() }).remove(0);
        let unread = with(Err("permission denied".to_owned()));
        assert_eq!(unread.verdict, Verdict::Skip, "{unread:?}");
        assert_eq!(with(Ok(None)).verdict, Verdict::Ok);
    }

    #[test]
    fn full_table_fails_and_a_filling_one_warns() {
        for (count, verdict) in
            [(10, Verdict::Ok), (850, Verdict::Warn), (985, Verdict::Fail), (1000, Verdict::Fail)]
        {
            let facts = Facts { tracked: Ok(Some([count, 1000])), ..healthy() };
            assert_eq!(said("conntrack", &facts)[0].verdict, verdict, "{count}");
        }
    }
}
