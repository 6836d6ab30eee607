//! `keys`: whether this node's keys are those of the table, and peers shake hands.

use culvert_node::words::counted;

use crate::doctor::facts::Facts;
use crate::doctor::finding::Finding;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let Ok(status) = &facts.daemon else {
        return vec![Finding::skip("the daemon knows it, and does not answer")];
    };
    let sealed = &status.sealed;
    if ["off", ""].contains(&sealed.mode.as_str()) {
        return vec![Finding::skip("nothing is sealed: sealed.mode is off")];
    }
    let mut findings: Vec<Finding> = Vec::new();
    findings.extend(
        sealed
            .error
            .as_ref()
            .map(|error| Finding::fail(error, "culvert keys show says what the table should have")),
    );
    findings.extend(sealed.failing.iter().map(|why| {
        Finding::fail(
            format!("no session: {why}"),
            "compare culvert keys show there with the entry of the table",
        )
    }));
    if findings.is_empty() {
        let sealed_peers = status.peers.iter().filter(|peer| peer.sealed.is_some()).count();
        let (mode, all) = (&sealed.mode, status.peers.len());
        findings.push(Finding::ok(format!(
            "{mode}; sessions with {sealed_peers} of {}",
            counted(all, "node")
        )));
    }
    super::some(findings)
}
