//! What rules have counted, since the daemon's start.
//!
//! The kernel begins anew with each chain that is written again, so what it had counted before is
//! kept here. What it counts between the last look and the new chain is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use culvert_nft::Counted;
use culvert_policy::Plan;
use culvert_policy::plan::{Class, End};

/// Packets by names.
pub(super) type Sums = BTreeMap<String, u64>;

/// The counters of rules of policies, of what drops by itself, and of what would.
#[derive(Debug, Default)]
pub(super) struct Counters {
    hits: Counter,
    drops: Counter,
    audited: Counter,
}

/// The counters of one kind.
#[derive(Debug, Default)]
struct Counter {
    /// What the kernel said last, and what it said before it began anew.
    last: Sums,
    before: Sums,
}

impl Counters {
    /// Takes what the kernel says of every rule of `plan`.
    pub(super) fn take(&mut self, counted: &[Counted], plan: &Plan) {
        let (mut hits, mut drops, mut audited) = (Sums::new(), Sums::new(), Sums::new());
        for rule in counted {
            // What is let through without a rule of a policy is no drop, nor is what the node
            // itself would have told pods; and classes that let everything else pass count nothing.
            if ["check", "redirects"].contains(&rule.chain.as_str()) {
                continue;
            }
            let (place, name) = match (&rule.comment, plan.classes.get(rule.chain.as_str())) {
                (Some(comment), _) => (&mut hits, comment.clone()),
                (None, Some(class)) => {
                    let place = if class.end == End::Audit { &mut audited } else { &mut drops };
                    (place, format!("{} {}", class.direction, policies(class)))
                }
                (None, None) => (&mut drops, rule.chain.clone()),
            };
            *place.entry(name).or_default() += rule.packets;
        }
        self.hits.take(hits);
        self.drops.take(drops);
        self.audited.take(audited);
    }

    /// What rules have matched.
    pub(super) fn hits(&self) -> Sums {
        self.hits.sums()
    }

    /// What was dropped, by the policies that isolate, or else by what dropped it.
    pub(super) fn drops(&self) -> Sums {
        self.drops.sums()
    }

    /// What policies that are only being tried out would have dropped.
    pub(super) fn audited(&self) -> Sums {
        self.audited.sums()
    }
}

/// The policies of a class, as users know them.
pub(super) fn policies(class: &Class) -> String {
    let names = class.steps.iter().map(|step| {
        let name = step.as_str();
        name.split_once('-').map_or(name, |(_direction, policy)| policy)
    });
    names.collect::<Vec<_>>().join(", ")
}

impl Counter {
    fn take(&mut self, now: Sums) {
        for (name, last) in mem::replace(&mut self.last, now) {
            match self.last.get(&name) {
                Some(packets) if *packets >= last => {}
                Some(_) => *self.before.entry(name).or_default() += last,
                None => {}
            }
        }
        let there: BTreeSet<&String> = self.last.keys().collect();
        self.before.retain(|name, _| there.contains(name));
    }

    fn sums(&self) -> Sums {
        let sum = |(name, packets): (&String, &u64)| {
            (name.clone(), packets + self.before.get(name).copied().unwrap_or_default())
        };
        self.last.iter().map(sum).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(items: &[(&str, u64)]) -> Sums {
        items.iter().map(|(name, packets)| ((*name).to_owned(), *packets)).collect()
    }

    #[test]
    fn what_was_counted_before_a_chain_was_written_again_counts() {
        let mut counter = Counter::default();
        for (now, expected) in [(5, 5), (7, 7), (2, 9), (2, 9), (0, 9), (4, 13)] {
            counter.take(sums(&[("a", now), ("b", 1)]));
            assert_eq!(counter.sums(), sums(&[("a", expected), ("b", 1)]), "{now}");
        }
    }

    #[test]
    fn rule_that_goes_is_forgotten() {
        let mut counter = Counter::default();
        for now in [5, 1] {
            counter.take(sums(&[("a", now)]));
        }
        counter.take(Sums::new());
        assert_eq!((counter.sums(), counter.before.len()), (Sums::new(), 0));
        counter.take(sums(&[("a", 1)]));
        assert_eq!(counter.sums(), sums(&[("a", 1)]));
    }

    #[test]
    fn rules_go_by_their_comments_and_drops_by_their_chains() {
        let rule = |chain: &str, comment: Option<&str>| Counted {
            chain: chain.to_owned(),
            comment: comment.map(str::to_owned),
            packets: 2,
            ..Counted::default()
        };
        let mut counters = Counters::default();
        counters.take(
            &[
                rule("i-a", Some("a/b ingress[0]")),
                rule("i-a", Some("a/b ingress[0]")),
                rule("i-12", None),
                rule("check", None),
            ],
            &Plan::default(),
        );
        assert_eq!(counters.hits(), sums(&[("a/b ingress[0]", 4)]));
        assert_eq!(counters.drops(), sums(&[("i-12", 2)]));
        assert_eq!(counters.audited(), Sums::new());
    }
}
