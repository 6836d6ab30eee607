//! A plan as an nftables table: the rules that decide about connections of this node's pods.
//!
//! The check is at the last hook before addresses are translated for the way out: after services
//! have become pods, before a pod has become its node, and on every way through the kernel, also
//! those that pass no `FORWARD` chain. Egress leads on to ingress, so no packet needs a mark.

mod check;
mod inline;
mod sets;

use std::collections::HashMap;
use std::sync::Arc;

use culvert_nft::{
    Base, Chain, ChainKind, Expression, Field, Hook, LedTo, Membership, Meta, Rate, Register,
    Report, Set, Table, TableFamily, Verdict,
};
use culvert_policy::plan::{Action, Class, Destination, Direction, End, Name, Peers, Plan, Rule};
use overlay_proto::Family;

pub(super) use self::check::NEIGHBOUR_DISCOVERY;
use self::check::{check, redirects};
use self::inline::{Matched, changed, peer_in, ports_of};
use self::sets::sets;

/// Its family: one table for IPv4 and IPv6.
pub(super) const FAMILY: TableFamily = TableFamily::Inet;

/// Name of the table, which is ours alone.
pub(super) const TABLE: &str = "culvert-policy";

/// Just before `NF_IP_PRI_NAT_SRC`.
const BEFORE_SOURCE_NAT: i32 = 99;

/// `NF_IP_PRI_FILTER`.
const FILTER: i32 = 0;

/// The group that what is dropped is told to.
pub(crate) const LOG_GROUP: u16 = 4790;

/// Bytes of a dropped packet that are told: headers of IPv6 and of what is behind it.
const SNAP_LEN: u32 = 128;

/// Drops of one class that are told; all of them are counted.
const RATE: Rate = Rate { per_second: 50, burst: 5 };

/// The chains that every table has.
const INGRESS: &str = "ingress";
const CLOSED: &str = "closed";
const MIDSTREAM: &str = "midstream";

/// Fields of IP headers, and of what is behind them.
const IPV4_SOURCE: Field = Field { base: Base::Network, offset: 12, len: 4 };
const IPV4_DESTINATION: Field = Field { base: Base::Network, offset: 16, len: 4 };
const IPV6_SOURCE: Field = Field { base: Base::Network, offset: 8, len: 16 };
const IPV6_DESTINATION: Field = Field { base: Base::Network, offset: 24, len: 16 };
const DESTINATION_PORT: Field = Field { base: Base::Transport, offset: 2, len: 2 };

/// What the table needs to know beside the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Name of the pods' bridge.
    pub(super) bridge: String,
    /// Whether the kernel can tell programs of packets.
    pub(super) logs: bool,
}

/// What was made before, of which what is the same is taken over.
pub(super) struct Before<'a> {
    plan: &'a Plan,
    sets: HashMap<&'a str, &'a Set>,
    chains: HashMap<&'a str, &'a LedTo>,
}

impl<'a> Before<'a> {
    /// The `table` that was made of `plan`, for the same place.
    pub(super) fn new(plan: &'a Plan, table: &'a Table) -> Self {
        Self {
            plan,
            sets: table.sets.iter().map(|set| (set.name.as_str(), set)).collect(),
            chains: table.led_to.iter().map(|chain| (chain.name.as_str(), chain)).collect(),
        }
    }

    /// Both halves of a set.
    fn halves(&self, name: &str) -> Option<[Set; 2]> {
        let [v4, v6] = FAMILIES.map(|family| self.sets.get(half(name, family).as_str()).copied());
        Some([v4?.clone(), v6?.clone()])
    }
}

/// The table that enforces `plan`.
pub(super) fn table(plan: &Plan, place: &Place, before: Option<&Before<'_>>) -> Table {
    Table {
        family: FAMILY,
        name: TABLE,
        sets: sets(plan, before),
        chains: vec![
            base("check", Hook::Postrouting, BEFORE_SOURCE_NAT, check()),
            base("redirects", Hook::Output, FILTER, redirects(&place.bridge)),
        ],
        led_to: chains(plan, place, before),
    }
}

/// Gives `chain` a rule that no kernel takes: one that reads more than a register has.
pub(super) fn spoil(table: &mut Table, chain: &str) {
    let too_long = Field { base: Base::Network, offset: 0, len: 255 };
    for chain in table.led_to.iter_mut().filter(|led_to| led_to.name == *chain) {
        let none_takes = vec![Expression::Payload(too_long, Register::One)];
        chain.rules = chain.rules.iter().cloned().chain([none_takes]).collect();
    }
}

fn base(name: &'static str, hook: Hook, priority: i32, rules: Vec<Vec<Expression>>) -> Chain {
    Chain { name, kind: ChainKind::Filter, hook, priority, rules }
}

/// Name of the half of a set that is for `family`.
fn half(name: &str, family: Family) -> String {
    match family {
        Family::V4 => format!("{name}-4"),
        Family::V6 => format!("{name}-6"),
    }
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

fn verdict(verdict: Verdict) -> Expression {
    Expression::Verdict(verdict)
}

fn goto(chain: &str) -> Expression {
    verdict(Verdict::Goto(chain.to_owned()))
}

fn jump(chain: &str) -> Expression {
    verdict(Verdict::Jump(chain.to_owned()))
}

const DROP: [Expression; 2] = [Expression::Counter, Expression::Verdict(Verdict::Drop)];
const ACCEPT: Expression = Expression::Verdict(Verdict::Accept);

fn is_family(family: Family) -> [Expression; 2] {
    match family {
        Family::V4 => Expression::is_ipv4(),
        Family::V6 => Expression::is_ipv6(),
    }
}

const fn source(family: Family) -> Field {
    match family {
        Family::V4 => IPV4_SOURCE,
        Family::V6 => IPV6_SOURCE,
    }
}

const fn destination(family: Family) -> Field {
    match family {
        Family::V4 => IPV4_DESTINATION,
        Family::V6 => IPV6_DESTINATION,
    }
}

/// The register behind an address of `family`.
const fn behind_address(family: Family) -> Register {
    match family {
        Family::V4 => Register::Word(1),
        Family::V6 => Register::Word(4),
    }
}

/// The register behind an address of `family` and a protocol.
const fn behind_protocol(family: Family) -> Register {
    match family {
        Family::V4 => Register::Word(2),
        Family::V6 => Register::Word(5),
    }
}

/// Goes by the map of a direction.
fn decide(family: Family, field: Field, direction: Direction) -> Vec<Expression> {
    let steps = [
        Expression::Payload(field, Register::One),
        Expression::Decide(half(direction.as_str(), family)),
    ];
    [&is_family(family)[..], &steps].concat()
}

fn chains(plan: &Plan, place: &Place, before: Option<&Before<'_>>) -> Vec<LedTo> {
    let chain = |name: &str, rules: Vec<Vec<Expression>>| LedTo {
        name: name.to_owned(),
        rules: rules.into(),
    };
    let ingress = FAMILIES
        .map(|family| decide(family, destination(family), Direction::Ingress))
        .into_iter()
        .chain([vec![ACCEPT]]);
    let midstream = FAMILIES.into_iter().flat_map(|family| {
        [source(family), destination(family)].map(|field| {
            let isolated = half("isolated", family);
            let is_end = Expression::field_in(field, Membership::Inside, &isolated);
            [&is_family(family)[..], &is_end, &DROP].concat()
        })
    });
    let mut chains = vec![
        chain(INGRESS, ingress.collect()),
        chain(MIDSTREAM, midstream.collect()),
        chain(CLOSED, place.deny(CLOSED)),
    ];
    let had = |name: &Name, is_same: &dyn Fn(&Plan) -> bool| {
        let before = before.filter(|before| is_same(before.plan))?;
        before.chains.get(name.as_str()).map(|chain| LedTo::clone(chain))
    };
    let changed = before.map(|before| changed(before.plan, plan)).unwrap_or_default();
    for (name, policy) in &plan.chains {
        let is_same = |before: &Plan| {
            before.chains.get(name).is_some_and(|had| Arc::ptr_eq(&had.rules, &policy.rules))
                && !changed.is_in(&policy.rules)
        };
        chains.push(had(name, &is_same).unwrap_or_else(|| {
            let rules = policy.rules.iter();
            let rules = rules.flat_map(|rule| place.rule(plan, policy.direction, rule));
            chain(name.as_str(), rules.collect())
        }));
    }
    for (name, class) in &plan.classes {
        let is_same = |before: &Plan| before.classes.get(name) == Some(class);
        let new = || chain(name.as_str(), place.class(name.as_str(), class));
        chains.push(had(name, &is_same).unwrap_or_else(new));
    }
    chains
}

/// What allowed by one direction is.
fn pass(direction: Direction) -> Expression {
    match direction {
        Direction::Ingress => ACCEPT,
        Direction::Egress => goto(INGRESS),
    }
}

impl Place {
    fn class(&self, name: &str, class: &Class) -> Vec<Vec<Expression>> {
        let mut rules: Vec<_> = class.steps.iter().map(|step| vec![jump(step.as_str())]).collect();
        match class.end {
            End::Deny => rules.extend(self.deny(name)),
            End::Audit => {
                rules.extend(self.log(name));
                rules.push(vec![Expression::Counter, pass(class.direction)]);
            }
            End::Accept => rules.push(vec![pass(class.direction)]),
        }
        rules
    }

    /// Tells of what it drops, not too often.
    fn deny(&self, name: &str) -> Vec<Vec<Expression>> {
        let mut rules = self.log(name);
        rules.push(DROP.to_vec());
        rules
    }

    fn log(&self, prefix: &str) -> Vec<Vec<Expression>> {
        if !self.logs {
            return Vec::new();
        }
        let report = Report { group: LOG_GROUP, prefix: prefix.to_owned(), snap_len: SNAP_LEN };
        vec![vec![Expression::Limit(RATE), Expression::Log(report)]]
    }

    /// A rule, once for each family that its sets have.
    fn rule(&self, plan: &Plan, direction: Direction, rule: &Rule) -> Vec<Vec<Expression>> {
        let is_for_both = matches!(
            (&rule.peers, &rule.to),
            (Peers::Any, Destination::Any | Destination::Ports(_))
        );
        let matches = if is_for_both {
            vec![to_ports(plan, &rule.to)]
        } else {
            let families = FAMILIES.into_iter();
            families.filter_map(|family| match_in(plan, family, direction, rule)).collect()
        };
        let comment = Expression::Comment(rule.comment.to_string());
        let with = |matching: &[Expression], steps: &[Expression]| {
            [matching, steps, std::slice::from_ref(&comment)].concat()
        };
        let each = matches.iter().flat_map(|matching| match rule.action {
            Action::Accept => vec![with(matching, &[Expression::Counter, pass(direction)])],
            Action::Pass => {
                vec![with(matching, &[Expression::Counter, verdict(Verdict::Return)])]
            }
            Action::Deny => {
                let log = self.log(&rule.comment);
                let log = log.into_iter().map(|log| [matching.as_slice(), &log].concat());
                log.chain([with(matching, &DROP)]).collect()
            }
        });
        each.collect()
    }
}

/// What a rule matches of one family; none, if that is nothing.
fn match_in(
    plan: &Plan,
    family: Family,
    direction: Direction,
    rule: &Rule,
) -> Option<Vec<Expression>> {
    let peer = match direction {
        Direction::Ingress => source(family),
        Direction::Egress => destination(family),
    };
    let mut steps = is_family(family).to_vec();
    let set = match &rule.peers {
        Peers::Any => None,
        Peers::Pods(set) => Some(set),
        Peers::Net(set) => match peer_in(plan, set, family) {
            Matched::Nothing => return None,
            Matched::One(net) => {
                steps.extend(net.is(peer));
                None
            }
            Matched::Set => Some(set),
        },
    };
    if let Some(set) = set {
        let set = half(set.as_str(), family);
        steps.extend(Expression::field_in(peer, Membership::Inside, &set));
    }
    match &rule.to {
        Destination::Named(set) => steps.extend([
            Expression::Payload(destination(family), Register::One),
            Expression::Meta(Meta::UpperProtocol, behind_address(family)),
            Expression::Payload(DESTINATION_PORT, behind_protocol(family)),
            Expression::Lookup(Membership::Inside, half(set.as_str(), family)),
        ]),
        Destination::Any | Destination::Ports(_) => steps.extend(to_ports(plan, &rule.to)),
    }
    Some(steps)
}

/// What goes to the ports that a set has, of whatever family.
fn to_ports(plan: &Plan, to: &Destination) -> Vec<Expression> {
    let Destination::Ports(set) = to else { return Vec::new() };
    if let Some((protocol, port)) = ports_of(plan, set) {
        let is_port = Expression::field_is(DESTINATION_PORT, &port.to_be_bytes());
        return [&Expression::upper_protocol_is(protocol.number())[..], &is_port].concat();
    }
    vec![
        Expression::Meta(Meta::UpperProtocol, Register::One),
        Expression::Payload(DESTINATION_PORT, Register::Word(1)),
        Expression::Lookup(Membership::Inside, set.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::enforce::fixture::plan;

    fn place(logs: bool) -> Place {
        Place { bridge: "v-net-0".to_owned(), logs }
    }

    fn rules<'a>(table: &'a Table, name: &str) -> &'a [Vec<Expression>] {
        &table.led_to.iter().find(|chain| chain.name == name).unwrap().rules
    }

    #[test]
    fn table_has_the_chains_of_the_plan_and_three_of_its_own() {
        let plan = plan();
        let table = table(&plan, &place(true), None);
        let names: Vec<_> = table.led_to.iter().map(|chain| chain.name.as_str()).collect();
        let class = plan.classes.keys().next().unwrap().as_str();
        assert_eq!(names, ["ingress", "midstream", "closed", "i-default/server", class]);
        assert_eq!(
            table.chains.iter().map(|chain| chain.name).collect::<Vec<_>>(),
            ["check", "redirects"]
        );
        // One of the two rules of the policy is for each family, the other for the one that its
        // network has.
        assert_eq!(rules(&table, "i-default/server").len(), 3);
        // Both say themselves what they are for: thousands of sets would take the kernel seconds.
        let is_of_rule = |set: &Set| set.name.starts_with("net-") || set.name.starts_with("port-");
        assert!(!table.sets.iter().any(is_of_rule));
        // The step, what is told, what is dropped.
        assert_eq!(rules(&table, class).len(), 3);
    }

    #[test]
    fn kernel_that_tells_no_program_gets_all_other_rules() {
        let has_log = |table: &Table| {
            let mut rules = table.led_to.iter().flat_map(|chain| chain.rules.iter());
            rules.any(|rule| rule.iter().any(|step| matches!(step, Expression::Log(_))))
        };
        assert!(has_log(&table(&plan(), &place(true), None)));
        assert!(!has_log(&table(&plan(), &place(false), None)));
    }

    #[test]
    fn what_is_the_same_is_taken_over_and_what_is_not_is_made_anew() {
        let (old, mut new) = (plan(), plan());
        let table_of_old = table(&old, &place(true), None);
        let before = Before::new(&old, &table_of_old);
        // Other values that say the same, and a set and a chain that say something else.
        assert_eq!(table(&new, &place(true), Some(&before)), table_of_old);
        let (set, addresses) = new.pods.iter_mut().next().unwrap();
        addresses.v4 = [[10, 244, 9, 9].into()].into();
        let (set, chain) = (set.clone(), new.chains.keys().next().unwrap().clone());
        new.chains.get_mut(&chain).unwrap().rules = [].into();
        let table_of_new = table(&new, &place(true), Some(&before));
        assert_eq!(table_of_new, table(&new, &place(true), None));
        assert_ne!(table_of_new, table_of_old);
        assert!(rules(&table_of_new, chain.as_str()).is_empty());
        let of_set = |table: &Table| {
            let name = half(set.as_str(), Family::V4);
            table.sets.iter().find(|set| set.name == name).unwrap().elements.clone()
        };
        assert_ne!(of_set(&table_of_new), of_set(&table_of_old));
        // The very values, where the plan has them.
        let again = table(&old, &place(true), Some(&before));
        let rules = |table: &Table| {
            let name = old.chains.keys().next().unwrap().as_str();
            table.led_to.iter().find(|chain| chain.name == name).unwrap().rules.clone()
        };
        assert!(Arc::ptr_eq(&rules(&again), &rules(&table_of_old)));
    }

    #[test]
    fn every_name_that_a_rule_speaks_of_is_there() {
        let table = table(&plan(), &place(true), None);
        let sets: Vec<_> = table.sets.iter().map(|set| set.name.as_str()).collect();
        let chains: Vec<_> = table.led_to.iter().map(|chain| chain.name.as_str()).collect();
        let led_to = table.led_to.iter().flat_map(|chain| chain.rules.iter());
        let rules = table.chains.iter().flat_map(|chain| &chain.rules).chain(led_to);
        for step in rules.flatten() {
            if let Expression::Lookup(_, set) | Expression::Decide(set) = step {
                assert!(sets.contains(&set.as_str()), "{set}");
            }
            if let Expression::Verdict(Verdict::Goto(chain) | Verdict::Jump(chain)) = step {
                assert!(chains.contains(&chain.as_str()), "{chain}");
            }
        }
        let elements = table.sets.iter().flat_map(|set| set.elements.iter());
        for verdict in elements.filter_map(|element| element.verdict.clone()) {
            assert!(matches!(&verdict, Verdict::Goto(chain) if chains.contains(&chain.as_str())));
        }
    }
}
