//! `rules`: whether a rule leads packets of pods into another routing table.

use culvert_netlink::RuleLine;

use super::routes::is_by_rule;
use crate::app::{Examination, PROTOCOL};
use crate::doctor::facts::Facts;
use crate::doctor::finding::Finding;

/// The ranks of the kernel's own rules: `local` before all, `main` and `default` behind.
const OWN: [u32; 3] = [0, 32_766, 32_767];

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let kernel = match &facts.kernel {
        Ok(kernel) => kernel,
        Err(why) => return vec![Finding::skip(why)],
    };
    let mut findings: Vec<Finding> = Vec::new();
    for astray in kernel.astray.iter().filter(|astray| is_by_rule(kernel, astray)) {
        let table = astray.route.as_ref().map(|route| route.table);
        let leads = |rule: &&RuleLine| table.is_none() || rule.table == table;
        let rule = foreign(kernel, astray.is_v6).find(leads);
        let finding = match rule {
            Some(RuleLine { priority, text, is_v6, .. }) => {
                let family = if *is_v6 { "ip -6" } else { "ip" };
                Finding::fail(
                    format!("rule {priority}: {text} takes packets of pods"),
                    format!(
                        "remove it: {family} rule del priority {priority}, or have it leave out \
                             the pod networks"
                    ),
                )
            }
            None => Finding::fail(&astray.obstacle, "ip rule shows which: remove it"),
        };
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }
    if findings.is_empty() {
        let others = [false, true].map(|is_v6| foreign(kernel, is_v6).count());
        let others = others.iter().sum::<usize>();
        findings.push(Finding::ok(match others {
            0 => "the kernel's own alone".to_owned(),
            others => format!("{others} of other programs, and none takes packets of pods"),
        }));
    }
    super::some(findings)
}

/// The rules of a family that neither the kernel nor Culvert made.
pub(super) fn foreign(kernel: &Examination, is_v6: bool) -> impl Iterator<Item = &RuleLine> {
    kernel.rules.iter().filter(move |rule| {
        rule.is_v6 == is_v6 && rule.protocol != PROTOCOL && !OWN.contains(&rule.priority)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::said;
    use super::*;
    use crate::app::Astray;
    use crate::doctor::facts::fixture::healthy;
    use crate::doctor::finding::Verdict;

    fn with(rules: Vec<RuleLine>, astray: Astray) -> Facts {
        let kernel = Examination { rules, astray: vec![astray], ..Examination::default() };
        Facts { kernel: Ok(kernel), ..healthy() }
    }

    #[test]
    fn rule_is_told_from_a_route_and_named_with_its_remedy() {
        let rule = RuleLine {
            is_v6: false,
            priority: 100,
            protocol: 3,
            table: Some(77),
            text: "from 10.244.1.0/24 lookup 77".to_owned(),
        };
        let dropped = Astray {
            obstacle: "packets of pods are dropped".to_owned(),
            route: None,
            device: String::new(),
            is_v6: false,
        };
        let facts = with(vec![rule.clone()], dropped.clone());
        let found = &said("rules", &facts)[0];
        assert_eq!(found.verdict, Verdict::Fail);
        assert_eq!(found.found, "rule 100: from 10.244.1.0/24 lookup 77 takes packets of pods");
        assert!(found.remedy.as_ref().unwrap().contains("ip rule del priority 100"));
        assert_eq!(said("routes", &facts)[0].verdict, Verdict::Ok);
        // Without such a rule it is a route.
        let own = RuleLine { priority: 32_766, ..rule };
        let facts = with(vec![own], dropped);
        assert_eq!(said("rules", &facts)[0].verdict, Verdict::Ok);
        assert_eq!(said("routes", &facts)[0].verdict, Verdict::Fail);
    }
}
