//! The rules of everybody, and what they do with one packet.
//!
//! Owns reading every chain, rule, set and map of the namespace, whoever made it, and following a
//! packet through them as far as what its rules ask is known. What is not known makes both ends
//! possible, and is named: a rule that nobody understands never counts as one that lets a packet
//! pass. Never changes anything.

mod evaluate;
mod packet;
mod registers;
mod set;
mod translation;
mod walk;

use std::collections::{BTreeMap, BTreeSet};

use crate::attribute;
use crate::error::Result;
use crate::expression::{EXPRESSION_DATA, EXPRESSION_NAME};
use crate::message;
use crate::socket::{Socket, request};
use crate::table::Hook;

use set::{Entry, Set};

pub use packet::{Device, End, Packet, Transport};
pub use translation::{Redirection, Target};
pub use walk::{Fate, Obstacle, Stage, What};

/// `NFTA_HOOK_DEV` and `NFTA_HOOK_DEVS`.
const HOOK_DEVICE: u16 = 3;
const HOOK_DEVICES: u16 = 4;

/// `NFTA_RULE_HANDLE`.
const RULE_HANDLE: u16 = 3;

/// Family, table and name of a chain or a set.
type Key = (u8, String, String);

/// `NFPROTO_NETDEV` and `NFPROTO_BRIDGE`.
const NETDEV: u8 = 5;
const BRIDGE: u8 = 7;

/// All chains of a namespace with their rules, and the sets that rules ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    chains: BTreeMap<Key, Chain>,
    sets: BTreeMap<Key, Set>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Chain {
    /// Number of its hook and priority there, of one that the kernel calls.
    hook: Option<(u32, i32)>,
    /// The devices that it is called for, of a chain of the family `netdev`.
    devices: Vec<String>,
    drops: bool,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    handle: u64,
    /// Names and data of its expressions.
    steps: Vec<(String, Vec<u8>)>,
}

impl Socket {
    /// Every rule of the namespace with what belongs to it, but for the tables that `is_known`
    /// says are to be left out, by family and name. The tables of iptables-legacy are not among
    /// them.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or the tables change faster than they can be listed.
    pub fn rules(&mut self, is_known: impl Fn(&str, &str) -> bool) -> Result<Rules> {
        let mut rules = Rules::default();
        let all = |kind| request("list", "the rules of all tables", 0, kind, &[]);
        let key = |family: u8, attributes: &[u8], name: u16| {
            let table = attribute::text(attributes, message::TABLE)?;
            let key = (family, table, attribute::text(attributes, name)?);
            (!is_known(family_name(family), &key.1)).then_some(key)
        };
        for found in self.0.dump(&all(message::GET_CHAIN))? {
            let attributes = &found.attributes;
            let Some(key) = key(found.family, attributes, message::CHAIN_NAME) else { continue };
            rules.chains.insert(key, Chain::read(attributes));
        }
        for found in self.0.dump(&all(message::GET_RULE))? {
            let attributes = &found.attributes;
            let key = key(found.family, attributes, message::RULE_CHAIN);
            if let Some(chain) = key.and_then(|key| rules.chains.get_mut(&key)) {
                chain.rules.push(Rule::read(attributes));
            }
        }
        self.read_sets(&mut rules)?;
        Ok(rules)
    }

    /// The sets that are looked into.
    fn read_sets(&mut self, rules: &mut Rules) -> Result<()> {
        let mut asked = BTreeSet::new();
        for ((family, table, _), chain) in &rules.chains {
            for (name, data) in chain.rules.iter().flat_map(|rule| &rule.steps) {
                if name == "lookup"
                    && let Some(set) = attribute::text(data, evaluate::LOOKUP_SET)
                {
                    asked.insert((*family, table.clone(), set));
                }
            }
        }
        for (family, table, name) in asked {
            let target = format!("set {name} of table {table}");
            // Table and set have the same attributes in both.
            let named = message::set_name(&table, &name).0;
            let ask = |kind| request("list", &target, family, kind, &named);
            let Some(found) = self.0.query(&ask(message::GET_SET))? else { continue };
            let mut set = Set::read(&found.attributes);
            for some in self.0.dump(&ask(message::GET_ELEMENTS))? {
                set.entries.extend(Entry::read_all(&some.attributes));
            }
            rules.sets.insert((family, table, name), set);
        }
        Ok(())
    }
}

impl Rules {
    /// Whether the kernel calls any chain.
    #[must_use]
    pub fn has_chains(&self) -> bool {
        self.chains.values().any(|chain| chain.hook.is_some())
    }

    /// Whether there is a chain of that name, whoever leads packets to it.
    #[must_use]
    pub fn has_chain(&self, family: &str, table: &str, name: &str) -> bool {
        let is_it =
            |(its, of, called): &Key| family_name(*its) == family && of == table && called == name;
        self.chains.keys().any(is_it)
    }

    /// The chains at a hook that packets of the family pass, in any order.
    fn at(&self, hook: Hook, is_ipv4: bool) -> impl Iterator<Item = &Key> {
        self.called(move |family, chain| {
            is_passed(family, is_ipv4) && chain.is_called_at(hook.number())
        })
    }

    /// The chains at a hook that frames of bridges pass.
    fn at_bridge(&self, hook: Hook) -> impl Iterator<Item = &Key> {
        self.called(move |family, chain| family == BRIDGE && chain.is_called_at(hook.number()))
    }

    /// The chains that what comes in by a device passes, or what leaves by it.
    fn at_device(&self, device: &str, comes_in: bool) -> impl Iterator<Item = &Key> {
        // `NF_NETDEV_INGRESS` and `NF_NETDEV_EGRESS`.
        let hook = u32::from(!comes_in);
        self.called(move |family, chain| {
            let is_its = chain.devices.iter().any(|name| name == device);
            family == NETDEV && chain.is_called_at(hook) && is_its
        })
    }

    fn called(&self, is_called: impl Fn(u8, &Chain) -> bool) -> impl Iterator<Item = &Key> {
        let chains =
            self.chains.iter().filter(move |((family, ..), chain)| is_called(*family, chain));
        chains.map(|(key, _)| key)
    }
}

/// Whether chains of the family see packets of IPv4, or of IPv6.
fn is_passed(family: u8, is_ipv4: bool) -> bool {
    const INET: u8 = 1;
    [INET, if is_ipv4 { 2 } else { 10 }].contains(&family)
}

/// What the program `nft` calls a family.
pub(crate) const fn family_name(family: u8) -> &'static str {
    match family {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "of another family:",
    }
}

impl Chain {
    fn read(attributes: &[u8]) -> Self {
        let hook = attribute::find(attributes, message::CHAIN_HOOK).and_then(|hook| {
            let number = attribute::number(hook, message::HOOK_NUMBER)?;
            let priority = attribute::number(hook, message::HOOK_PRIORITY)?;
            Some((number, priority.cast_signed()))
        });
        let policy = attribute::number(attributes, message::CHAIN_POLICY);
        let called = attribute::find(attributes, message::CHAIN_HOOK).unwrap_or_default();
        let mut devices: Vec<String> = attribute::text(called, HOOK_DEVICE).into_iter().collect();
        let several = attribute::find(called, HOOK_DEVICES).unwrap_or_default();
        for (_, name) in attribute::parse(several) {
            let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
            devices.push(String::from_utf8_lossy(&name[..end]).into_owned());
        }
        let drops = policy == Some(crate::hooks::POLICY_DROP);
        Self { hook, devices, drops, rules: Vec::new() }
    }

    fn is_called_at(&self, hook: u32) -> bool {
        self.hook.is_some_and(|(at, _)| at == hook)
    }
}

impl Rule {
    fn read(attributes: &[u8]) -> Self {
        let handle = attribute::find(attributes, RULE_HANDLE)
            .and_then(|handle| Some(u64::from_be_bytes(handle.try_into().ok()?)));
        let list = attribute::find(attributes, message::RULE_EXPRESSIONS).unwrap_or_default();
        let steps = attribute::parse(list).map(|(_, step)| {
            let name = attribute::text(step, EXPRESSION_NAME).unwrap_or_default();
            (name, attribute::find(step, EXPRESSION_DATA).unwrap_or_default().to_vec())
        });
        Self { handle: handle.unwrap_or_default(), steps: steps.collect() }
    }
}

#[cfg(test)]
mod tests;
