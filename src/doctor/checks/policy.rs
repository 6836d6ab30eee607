//! `policy`: whether the rules of network policies are in place.

use culvert_node::words::counted;

use crate::doctor::facts::Facts;
use crate::doctor::finding::Finding;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let Ok(status) = &facts.daemon else {
        return vec![Finding::skip("the daemon knows it, and does not answer")];
    };
    let policy = &status.policy;
    if policy.mode != "on" {
        return vec![Finding::skip("no policies are enforced: policy.mode is off")];
    }
    let mut findings: Vec<Finding> = Vec::new();
    let remedy = "culvert status says what the kernel refused; the log has its words";
    findings.extend(policy.error.as_ref().map(|error| Finding::fail(error, remedy)));
    findings.extend(policy.refused.iter().map(|refused| {
        Finding::fail(
            format!("the kernel refuses {refused}; its pods are closed"),
            "change the policy, or take it away",
        )
    }));
    findings.extend(policy.source_error.as_ref().map(|error| {
        Finding::warn(
            format!("{error}; what was read last stays in force"),
            "culvert policy check DIRECTORY names what is wrong with files",
        )
    }));
    if findings.is_empty() {
        let (count, isolated, source) = (policy.policies, policy.isolated, &policy.source);
        findings.push(Finding::ok(format!(
            "in force: {} from {source}, isolating {} here",
            counted(count, "policy"),
            counted(isolated, "address")
        )));
    }
    super::some(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::doctor::facts::fixture::healthy;
    use crate::doctor::finding::Verdict;
    use crate::observe::{PolicyStatus, Status};

    fn verdicts(policy: PolicyStatus) -> Vec<Verdict> {
        let facts = Facts { daemon: Ok(Status { policy, ..Status::default() }), ..healthy() };
        check(&facts).iter().map(|finding| finding.verdict).collect()
    }

    #[test]
    fn what_is_wrong_with_policies_is_told_from_what_is_off() {
        let on = PolicyStatus { mode: "on".to_owned(), ..PolicyStatus::default() };
        let refused = vec!["default/web: too many rules".to_owned()];
        let lost = Some("the API server is away".to_owned());
        for (policy, verdict) in [
            (PolicyStatus::default(), Verdict::Skip),
            (on.clone(), Verdict::Ok),
            (PolicyStatus { refused, ..on.clone() }, Verdict::Fail),
            (PolicyStatus { source_error: lost, ..on }, Verdict::Warn),
        ] {
            assert_eq!(verdicts(policy.clone()), [verdict], "{policy:?}");
        }
    }
}
