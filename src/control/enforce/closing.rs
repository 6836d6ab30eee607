//! A plan without what the kernel refuses: whoever that was for is closed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use culvert_policy::plan::{Destination, Name, Peers, Plan, Rule, Target};

/// What the kernel has refused, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The policies, as users know them.
    pub(crate) policies: BTreeSet<String>,
    /// Pods that neither send nor receive because of it, by their addresses.
    pub(crate) closed: BTreeSet<IpAddr>,
    /// In the kernel's words.
    pub(crate) why: String,
}

/// The plan without the set or the chain called `name` and all that needs it; none, if the plan has
/// no such thing. Pods whose class needs it are closed in both directions.
pub(super) fn without(plan: &Plan, name: &str, why: &str) -> Option<(Plan, Refusal)> {
    let base = name.strip_suffix("-4").or_else(|| name.strip_suffix("-6")).unwrap_or(name);
    let is_named = |found: &Name| [name, base].contains(&found.as_str());
    let chains: BTreeSet<Name> = plan
        .chains
        .iter()
        .filter(|(chain, found)| {
            is_named(chain) || found.rules.iter().any(|rule| needs(rule, is_named))
        })
        .map(|(chain, _)| chain.clone())
        .collect();
    let classes: BTreeSet<Name> = plan
        .classes
        .iter()
        .filter(|(class, found)| {
            is_named(class) || found.steps.iter().any(|step| chains.contains(step))
        })
        .map(|(class, _)| class.clone())
        .collect();
    let mut less = plan.clone();
    let is_set = less.pods.keys().any(is_named)
        || less.nets.keys().any(is_named)
        || less.ports.keys().any(is_named)
        || less.named_ports.keys().any(is_named);
    if chains.is_empty() && classes.is_empty() && !is_set {
        return None;
    }
    less.pods.retain(|set, _| !is_named(set));
    less.nets.retain(|set, _| !is_named(set));
    less.ports.retain(|set, _| !is_named(set));
    less.named_ports.retain(|set, _| !is_named(set));
    let policies = chains.iter().flat_map(|chain| policies(chain, &plan.chains[chain].rules));
    let policies = policies.collect();
    less.chains.retain(|chain, _| !chains.contains(chain));
    less.classes.retain(|class, _| !classes.contains(class));
    let mut closed = BTreeSet::new();
    for targets in [&plan.ingress, &plan.egress] {
        closed.extend(targets.iter().filter_map(|(address, target)| match target {
            Target::Class(class) if classes.contains(class) => Some(*address),
            Target::Class(_) | Target::Closed => None,
        }));
    }
    for address in &closed {
        less.ingress.insert(*address, Target::Closed);
        less.egress.insert(*address, Target::Closed);
    }
    Some((less, Refusal { policies, closed, why: why.to_owned() }))
}

fn needs(rule: &Rule, is_named: impl Fn(&Name) -> bool) -> bool {
    let by_peers = match &rule.peers {
        Peers::Any => false,
        Peers::Pods(set) | Peers::Net(set) => is_named(set),
    };
    by_peers
        || match &rule.to {
            Destination::Any => false,
            Destination::Ports(set) | Destination::Named(set) => is_named(set),
        }
}

/// The policies that a chain is of: by the comments on its rules, or else by its name.
fn policies(chain: &Name, rules: &[Rule]) -> Vec<String> {
    let mut found: Vec<_> = rules
        .iter()
        .map(|rule| rule.comment.rsplit_once(' ').map_or(&*rule.comment, |(policy, _)| policy))
        .map(str::to_owned)
        .collect();
    found.dedup();
    if found.is_empty() { vec![chain.to_string()] } else { found }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::enforce::fixture::plan;

    #[test]
    fn refused_set_closes_the_pods_of_its_policies_and_no_others() {
        let plan = plan();
        let set = plan.ports.keys().next().unwrap().clone();
        let (less, refusal) = without(&plan, set.as_str(), "too large").unwrap();
        assert_eq!(refusal.policies, BTreeSet::from(["default/server".to_owned()]));
        let own = ["10.244.1.2", "fd00:10:244:1::2"].map(|text| text.parse::<IpAddr>().unwrap());
        assert_eq!(refusal.closed, own.into());
        for address in own {
            assert_eq!(less.ingress[&address], Target::Closed);
            assert_eq!(less.egress[&address], Target::Closed);
        }
        assert!(less.chains.is_empty() && less.classes.is_empty() && less.ports.is_empty());
        let other: IpAddr = [10, 244, 1, 3].into();
        assert!(!less.ingress.contains_key(&other) && !less.egress.contains_key(&other));
    }

    #[test]
    fn set_is_known_by_the_name_of_each_of_its_halves() {
        let plan = plan();
        let set = plan.pods.keys().next().unwrap();
        for half in ["-4", "-6"] {
            let (less, _) = without(&plan, &format!("{set}{half}"), "no").unwrap();
            assert!(!less.pods.contains_key(set));
        }
    }

    #[test]
    fn what_is_of_no_policy_closes_nobody() {
        assert_eq!(without(&plan(), "check", "no expression fib"), None);
    }
}
