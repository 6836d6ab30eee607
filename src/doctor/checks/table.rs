//! `table`: whether the newest subnet table is in force, and others have the same.

use culvert_node::words::counted;

use crate::doctor::facts::Facts;
use crate::doctor::finding::Finding;
use crate::observe::PeerTable;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let status = match (&facts.daemon, &facts.expected) {
        (Ok(status), _) => status,
        (Err(_), Ok(expected)) => {
            let nodes = counted(expected.peers.len() + 1, "node");
            return vec![Finding::ok(format!("a daemon would take it: {nodes}"))];
        }
        (Err(_), Err(why)) => return vec![Finding::skip(why)],
    };
    let table = &status.table;
    let mut findings = Vec::new();
    findings.extend(table.error.as_ref().map(|error| {
        Finding::fail(
            format!("the newest table is refused, and the one before is in force: {error}"),
            "correct it; culvert check says the same",
        )
    }));
    findings.extend(table.contested.as_ref().map(|why| {
        Finding::fail(format!("this node's own entry: {why}"), "correct this node's entry")
    }));
    findings.extend(table.source_error.as_ref().map(|error| {
        Finding::warn(
            format!("{} is away, and changes are not heard: {error}", table.source),
            "see whether the source answers from this node",
        )
    }));
    findings.extend(
        table
            .left_out
            .iter()
            .map(|why| Finding::warn(format!("an entry was left out: {why}"), "correct the entry")),
    );
    let compared = compared(&table.hash, facts.tables.as_ref());
    findings.extend(compared.differing);
    if findings.is_empty() {
        let (hash, nodes) = (&table.hash, counted(table.nodes, "node"));
        findings.push(match &compared.summary {
            Ok(summary) => Finding::ok(format!("{hash}, {nodes}; {summary}")),
            Err(_) => Finding::ok(format!("{hash}, {nodes}, in force here")),
        });
        findings.extend(compared.summary.err().map(Finding::skip));
    }
    super::some(findings)
}

/// How peers' tables compare with ours.
struct Compared {
    differing: Vec<Finding>,
    /// In words, where none differs; or why nothing was compared.
    summary: Result<String, String>,
}

fn compared(own: &str, tables: Option<&Result<Vec<PeerTable>, String>>) -> Compared {
    let tables = match tables {
        Some(Ok(tables)) => tables,
        Some(Err(why)) => {
            let summary = Err(format!("peers could not be asked for theirs: {why}"));
            return Compared { differing: Vec::new(), summary };
        }
        None => {
            let summary = Ok("peers were not asked for theirs: --peers".to_owned());
            return Compared { differing: Vec::new(), summary };
        }
    };
    let said: Vec<(&PeerTable, &String)> =
        tables.iter().filter_map(|peer| Some((peer, peer.table.as_ref()?))).collect();
    let (same, differs): (Vec<_>, Vec<_>) = said.iter().partition(|(_, table)| *table == own);
    let is_odd = differs.len() > 1 && same.is_empty();
    let differing = differs.iter().map(|(peer, table)| {
        let odd = if is_odd { "; this node's is the odd one" } else { "" };
        Finding::warn(
            format!("its table is {table}, ours {own}{odd}"),
            "compare what both are told: culvert status there and here has the source, and what was \
             refused or left out",
        )
        .about(&peer.node)
    });
    let summary = match (same.len(), tables.len()) {
        (_, 0) => Ok("there is no other node".to_owned()),
        (0, all) => Err(format!(
            "of {} none says which table it has, so nothing was compared",
            counted(all, "peer")
        )),
        (same, all) if same == all => Ok(format!("the same on all {}", counted(all, "peer"))),
        (same, all) => {
            Ok(format!("the same on {same} of {}, and the others do not say", counted(all, "peer")))
        }
    };
    Compared { differing: differing.collect(), summary }
}

#[cfg(test)]
mod tests {
    use super::super::tests::said;
    use super::*;
    use crate::doctor::facts::fixture::healthy;
    use crate::doctor::finding::Verdict;

    fn with(tables: [Option<&str>; 2]) -> Vec<Finding> {
        let mut facts = healthy();
        facts.daemon.as_mut().unwrap().table.hash = "9f31c2aa".to_owned();
        let of = facts.tables.as_mut().unwrap().as_mut().unwrap();
        for (peer, table) in of.iter_mut().zip(tables) {
            peer.table = table.map(str::to_owned);
        }
        said("table", &facts)
    }

    #[test]
    fn peer_with_another_table_is_named_and_silence_is_no_agreement() {
        let same = with([Some("9f31c2aa"), Some("9f31c2aa")]);
        assert!(same[0].found.ends_with("the same on all 2 peers"), "{same:?}");
        let silent = with([Some("9f31c2aa"), None]);
        assert_eq!(silent[0].verdict, Verdict::Ok);
        assert!(silent[0].found.contains("1 of 2 peers, and the others do not say"), "{silent:?}");
        let nobody = with([None, None]);
        assert_eq!(
            nobody[0].found,
            format!("9f31c2aa, {}, in force here", counted(0_usize, "node"))
        );
        assert_eq!(nobody[1].verdict, Verdict::Skip);
        assert!(nobody[1].found.ends_with("nothing was compared"), "{nobody:?}");
        let other = with([Some("9f31c2aa"), Some("77aa0100")]);
        assert_eq!(other[0].peer.as_deref(), Some("node3"));
        assert_eq!(other[0].found, "its table is 77aa0100, ours 9f31c2aa");
        let odd = with([Some("77aa0100"), Some("77aa0100")]);
        assert!(odd.iter().all(|finding| finding.found.ends_with("the odd one")), "{odd:?}");
        let unasked = said("table", &Facts { tables: None, ..healthy() });
        assert!(unasked[0].found.contains("--peers"), "{unasked:?}");
    }
}
