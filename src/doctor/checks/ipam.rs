//! `ipam`: whether the address store says what the node is like.

use culvert_node::words::counted;

use crate::doctor::facts::Facts;
use crate::doctor::finding::Finding;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let check = match &facts.ipam {
        Ok(check) => check,
        Err(why) => return vec![Finding::skip(why)],
    };
    if let Some(why) = &check.not_compared {
        return vec![Finding::skip(format!("nothing was compared, because {why}"))];
    }
    let mut findings: Vec<Finding> = check
        .findings
        .iter()
        .map(|finding| {
            let about = finding.address.map_or_else(String::new, |address| format!("{address} "));
            Finding::fail(
                format!("{about}{}", finding.what),
                "as it says; culvert ipam check lists all",
            )
        })
        .collect();
    if findings.is_empty() {
        findings.push(Finding::ok(format!(
            "{}, each with its pod",
            counted(check.addresses, "address")
        )));
    }
    super::some(findings)
}
