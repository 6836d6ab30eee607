//! What has to change for a table that the kernel has to become another one: as little as can be,
//! so that counters and connections of everything else go on.

use std::collections::BTreeMap;

use crate::batch::Batch;
use crate::elements::Elements;
use crate::table::{Chain, Set, Table};

/// What makes one table of another, in two transactions.
#[must_use]
pub struct Update {
    /// Sets and chains that come, of which nothing knows yet.
    pub first: Batch,
    /// Everything else.
    pub then: Batch,
}

impl Update {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first.is_empty() && self.then.is_empty()
    }
}

impl Batch {
    /// What makes `new` of `old`, which the kernel has: elements of sets that changed, rules of
    /// chains that changed, and the sets and chains that come and go. Empty, if they are the same.
    ///
    /// None where a set or a base chain of the same name is another kind of thing: then the table
    /// has to be replaced.
    ///
    // kernel: a packet goes by the rules of the generation at which it came to the base chain, but
    // looks into sets and maps as they are at that moment. While a transaction is committed, an old
    // rule may so be led by a new element to a chain that is empty in its generation, and then the
    // policy of the base chain decides. So chains are there, with their rules, before any element
    // leads to them.
    pub fn update(old: &Table, new: &Table) -> Option<Update> {
        let table = new.name;
        if old.family != new.family || old.name != table || !same_hooks(old, new) {
            return None;
        }
        let (old_sets, new_sets) = (sets(old), sets(new));
        for (name, set) in &new_sets {
            if old_sets.get(name).is_some_and(|old| !is_same_kind(old, set)) {
                return None;
            }
        }
        let (mut first, mut batch) = (Self::new(new.family), Self::new(new.family));
        for (name, set) in &new_sets {
            if !old_sets.contains_key(name) {
                first.create_set(table, set);
            }
        }
        let (old_rules, new_rules): (BTreeMap<_, _>, BTreeMap<_, _>) =
            (old.rules().collect(), new.rules().collect());
        for chain in new.led_to.iter().filter(|chain| !old_rules.contains_key(chain.name.as_str()))
        {
            first.create_chain(table, chain);
        }
        for (name, set) in &new_sets {
            match old_sets.get(name) {
                Some(old) => batch.update_elements(table, Some(old), set),
                None => first.update_elements(table, None, set),
            }
        }
        for (chain, rules) in new.rules() {
            match old_rules.get(chain) {
                Some(old) if std::ptr::eq(*old, rules) || *old == rules => {}
                Some(_other) => {
                    batch.remove_rules(table, chain);
                    batch.add_rules(table, chain, rules);
                }
                None => first.add_rules(table, chain, rules),
            }
        }
        // Nothing leads to these chains any more but one another, so all their rules go first.
        let gone: Vec<_> =
            old_rules.keys().filter(|chain| !new_rules.contains_key(*chain)).collect();
        for chain in &gone {
            batch.remove_rules(table, chain);
        }
        for (name, set) in &old_sets {
            if set.decides && !new_sets.contains_key(name) {
                batch.remove_set(table, name);
            }
        }
        for chain in gone {
            batch.remove_chain(table, chain);
        }
        for (name, set) in &old_sets {
            if !set.decides && !new_sets.contains_key(name) {
                batch.remove_set(table, name);
            }
        }
        Some(Update { first, then: batch })
    }

    fn update_elements(&mut self, table: &str, old: Option<&Set>, new: &Set) {
        let none = Elements::default();
        let old = old.map_or(&none, |old| &old.elements);
        // The same value most of the time, of which that alone is looked at.
        if *old == new.elements {
            return;
        }
        // Ends of intervals depend on one another: another end is another interval.
        if new.is_interval && !old.is_empty() {
            self.clear(table, &new.name);
            self.add_all(table, new);
            return;
        }
        self.remove_elements(table, &new.name, &old.without(&new.elements));
        self.add_elements(table, &new.name, &new.elements.without(old));
    }
}

/// Whether the base chains are at the same places.
fn same_hooks(old: &Table, new: &Table) -> bool {
    let place = |chain: &Chain| (chain.name, chain.kind, chain.hook, chain.priority);
    old.chains.len() == new.chains.len()
        && old.chains.iter().zip(&new.chains).all(|(old, new)| place(old) == place(new))
}

fn sets(table: &Table) -> BTreeMap<&str, &Set> {
    table.sets.iter().map(|set| (set.name.as_str(), set)).collect()
}

/// Whether the two differ in their elements at most.
fn is_same_kind(old: &Set, new: &Set) -> bool {
    old.key == new.key
        && old.is_interval == new.is_interval
        && old.can_expire == new.can_expire
        && old.decides == new.decides
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expression::Expression;
    use crate::message;
    use crate::table::{ChainKind, Element, Hook, KeyPart, LedTo, TableFamily};
    use crate::verdict::Verdict;

    fn set(name: &str, elements: &[[u8; 4]]) -> Set {
        Set {
            name: name.to_owned(),
            key: vec![KeyPart::Ipv4Address],
            is_interval: false,
            can_expire: false,
            decides: false,
            elements: elements.iter().map(|key| Element::of(&[key])).collect(),
        }
    }

    fn led_to(name: &str, rules: usize) -> LedTo {
        LedTo { name: name.to_owned(), rules: vec![vec![Expression::Counter]; rules].into() }
    }

    fn table(sets: Vec<Set>, chains: Vec<LedTo>) -> Table {
        Table {
            family: TableFamily::Inet,
            name: "t",
            sets,
            chains: vec![Chain {
                name: "check",
                kind: ChainKind::Filter,
                hook: Hook::Postrouting,
                priority: 99,
                rules: vec![vec![Expression::Decide("map".to_owned())]],
            }],
            led_to: chains,
        }
    }

    fn map(verdict: &str) -> Set {
        let element = Element::of(&[&[10, 0, 0, 1]]).deciding(Verdict::Goto(verdict.to_owned()));
        Set { decides: true, elements: [element].into_iter().collect(), ..set("map", &[]) }
    }

    fn kinds(batch: &Batch) -> Vec<u8> {
        batch.messages.iter().map(|message| message.message().kind.to_be_bytes()[1]).collect()
    }

    #[test]
    fn same_table_needs_nothing() {
        let one = table(vec![set("a", &[[1; 4]])], vec![led_to("c", 1)]);
        assert!(Batch::update(&one, &one.clone()).unwrap().is_empty());
    }

    #[test]
    fn changed_set_changes_by_its_elements() {
        let old = table(vec![set("a", &[[1; 4], [2; 4]])], vec![led_to("c", 1)]);
        let new = table(vec![set("a", &[[2; 4], [3; 4]])], vec![led_to("c", 1)]);
        let batch = Batch::update(&old, &new).unwrap();
        assert!(batch.first.is_empty());
        assert_eq!(kinds(&batch.then), [message::DELETE_ELEMENTS, message::NEW_ELEMENTS]);
    }

    #[test]
    fn interval_set_is_filled_anew() {
        let with = |last: u8| {
            let interval = Element::interval(&[10, 0, 0, 0], &[10, 0, 0, last]);
            let elements = interval.into_iter().collect();
            table(vec![Set { is_interval: true, elements, ..set("net", &[]) }], Vec::new())
        };
        let batch = Batch::update(&with(7), &with(9)).unwrap();
        assert_eq!(kinds(&batch.then), [message::DELETE_ELEMENTS, message::NEW_ELEMENTS]);
        let named = message::all_elements("t", "net").0;
        assert_eq!(batch.then.messages[0].message().attributes, named, "all of them");
    }

    #[test]
    fn chain_is_there_before_a_map_leads_to_it_and_goes_after_it_does() {
        let old = table(vec![map("before")], vec![led_to("before", 1)]);
        let new = table(vec![map("after")], vec![led_to("after", 1)]);
        let update = Batch::update(&old, &new).unwrap();
        // With its rules, in a transaction of its own.
        assert_eq!(kinds(&update.first), [message::NEW_CHAIN, message::NEW_RULE]);
        let expected = [
            message::DELETE_ELEMENTS,
            message::NEW_ELEMENTS,
            message::DELETE_RULE,
            message::DELETE_CHAIN,
        ];
        assert_eq!(kinds(&update.then), expected);
    }

    #[test]
    fn changed_chain_gets_its_rules_anew_and_no_other() {
        let old = table(Vec::new(), vec![led_to("a", 1), led_to("b", 1)]);
        let new = table(Vec::new(), vec![led_to("a", 1), led_to("b", 2)]);
        let batch = Batch::update(&old, &new).unwrap();
        let expected = [message::DELETE_RULE, message::NEW_RULE, message::NEW_RULE];
        assert_eq!(kinds(&batch.then), expected);
    }

    #[test]
    fn set_of_another_kind_needs_another_table() {
        let old = table(vec![set("a", &[])], Vec::new());
        let other = Set { key: vec![KeyPart::Ipv6Address], ..set("a", &[]) };
        assert!(Batch::update(&old, &table(vec![other], Vec::new())).is_none());
    }
}
