//! `rules`: whether a rule leads packets of pods into another routing table.

use std::net::IpAddr;

use culvert_netlink::RuleLine;
use ipnet::IpNet;

use super::routes::is_by_rule;
use crate::app::{Astray, Examination, PROTOCOL};
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
        let found: Vec<&RuleLine> = suspects(kernel, astray).filter(leads).collect();
        let finding = match found[..] {
            [rule] => one(rule),
            [] => {
                let family = if astray.is_v6 { "ip -6" } else { "ip" };
                let (_, to) = astray.ends;
                let shows = format!(
                    "{family} rule and {family} route show table all match {to} show which: remove it"
                );
                Finding::fail(&astray.obstacle, shows)
            }
            _ => one_of(&found),
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

/// A rule that takes packets.
fn one(rule: &RuleLine) -> Finding {
    let RuleLine { priority, text, is_v6, table, .. } = rule;
    let family = if *is_v6 { "ip -6" } else { "ip" };
    let shows = table.map_or_else(String::new, |table| {
        format!("; {family} route show table {table} shows where they go")
    });
    Finding::fail(
        format!("rule {priority}: {text} takes packets of pods"),
        format!(
            "remove it: {family} rule del priority {priority}, or have it leave out the pod \
             networks{shows}"
        ),
    )
}

/// Rules of which one drops packets; the kernel does not say which.
fn one_of(rules: &[&RuleLine]) -> Finding {
    let family = if rules.iter().any(|rule| rule.is_v6) { "ip -6" } else { "ip" };
    let name = |rule: &&RuleLine| format!("rule {}: {}", rule.priority, rule.text);
    let names: Vec<String> = rules.iter().map(name).collect();
    let tables = rules.iter().filter_map(|rule| rule.table);
    let shows: Vec<String> =
        tables.map(|table| format!("{family} route show table {table}")).collect();
    Finding::fail(
        format!("one of these drops packets of pods: {}", names.join("; ")),
        format!("see which ({}), and remove it: {family} rule del priority …", shows.join("; ")),
    )
}

/// The rules of other programs that may decide of the packet, or of the kernel's look back at its
/// sender.
pub(super) fn suspects<'a>(
    kernel: &'a Examination,
    astray: &'a Astray,
) -> impl Iterator<Item = &'a RuleLine> {
    let (source, destination) = astray.ends;
    foreign(kernel, astray.is_v6).filter(move |rule| {
        may_match(rule, source, Some(destination)) || may_match(rule, Some(destination), source)
    })
}

/// Whether a rule may be about packets with these ends: what else it asks for is not known here.
fn may_match(rule: &RuleLine, source: Option<IpAddr>, destination: Option<IpAddr>) -> bool {
    let words: Vec<&str> = rule.text.split(' ').collect();
    if words.first() == Some(&"not") {
        return true;
    }
    let fits = |word: &str, end: Option<IpAddr>| {
        let after = words.iter().position(|it| *it == word).and_then(|at| words.get(at + 1));
        let Some(after) = after else { return true };
        let network = after.parse::<IpNet>().or_else(|_| after.parse::<IpAddr>().map(IpNet::from));
        match (network, end) {
            (Ok(network), Some(end)) => network.contains(&end),
            // All, or an address that the kernel chooses.
            (Err(_), _) | (_, None) => true,
        }
    };
    fits("from", source) && fits("to", destination)
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
            ends: (Some([10, 244, 1, 2].into()), [10, 244, 2, 2].into()),
            is_v6: false,
        };
        // One about other packets is not accused, whatever comes first.
        let innocent = RuleLine {
            priority: 90,
            table: Some(55),
            text: "from 10.1.0.0/16 lookup 55".to_owned(),
            ..rule.clone()
        };
        let both = vec![innocent.clone(), rule.clone()];
        let found = &said("rules", &with(both, dropped.clone()))[0].found;
        assert_eq!(found, "rule 100: from 10.244.1.0/24 lookup 77 takes packets of pods");
        assert_eq!(said("rules", &with(vec![innocent], dropped.clone()))[0].verdict, Verdict::Ok);
        let all = RuleLine {
            priority: 95,
            text: "from all lookup 55".to_owned(),
            table: Some(55),
            ..rule.clone()
        };
        let several = said("rules", &with(vec![all, rule.clone()], dropped.clone())).remove(0);
        assert!(several.found.starts_with("one of these drops"), "{several:?}");
        assert!(several.remedy.unwrap().contains("ip route show table 77"));
        let facts = with(vec![rule.clone()], dropped.clone());
        let found = &said("rules", &facts)[0];
        assert_eq!(found.verdict, Verdict::Fail);
        assert_eq!(found.found, "rule 100: from 10.244.1.0/24 lookup 77 takes packets of pods");
        let remedy = found.remedy.as_ref().unwrap();
        assert!(remedy.contains("ip rule del priority 100"), "{remedy}");
        assert!(remedy.contains("ip route show table 77"), "{remedy}");
        assert_eq!(said("routes", &facts)[0].verdict, Verdict::Ok);
        // Without such a rule it is a route.
        let own = RuleLine { priority: 32_766, ..rule };
        let facts = with(vec![own], dropped);
        assert_eq!(said("rules", &facts)[0].verdict, Verdict::Ok);
        assert_eq!(said("routes", &facts)[0].verdict, Verdict::Fail);
    }
}
