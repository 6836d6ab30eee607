//! Rules as programs write them, and what is said of packets.

use super::*;
use crate::attribute::Attributes;
use crate::expression::Expression;
use crate::operand::{Base, Comparison, Field, Membership};
use crate::table::Element;
use crate::verdict::Verdict;

const TABLE: &str = "fw";

/// A step that [`Expression`] does not have, as the kernel lists it.
fn step(name: &str, data: &Attributes) -> (String, Vec<u8>) {
    (name.to_owned(), data.0.clone())
}

fn steps(expressions: &[Expression]) -> Vec<(String, Vec<u8>)> {
    Rule::read(&message::rule(TABLE, "c", expressions).0).steps
}

/// The verdict with this code, to `chain` if it is a jump.
fn verdict(code: i32, chain: &str) -> (String, Vec<u8>) {
    let mut data = Attributes::default();
    data.number(1, 0);
    data.nested(2, |data| {
        data.nested(2, |verdict| {
            verdict.number(1, code.cast_unsigned());
            if !chain.is_empty() {
                verdict.text(2, chain);
            }
        });
    });
    step("immediate", &data)
}

fn jump(chain: &str) -> (String, Vec<u8>) {
    verdict(-3, chain)
}

fn accept() -> (String, Vec<u8>) {
    verdict(1, "")
}

fn drop() -> (String, Vec<u8>) {
    verdict(0, "")
}

/// A match of iptables.
fn extension(name: &str) -> (String, Vec<u8>) {
    let mut data = Attributes::default();
    data.text(1, name);
    step("match", &data)
}

/// `-m conntrack --ctstate`, as iptables gives it to the kernel.
fn connection_is(states: u16, inverse: bool) -> (String, Vec<u8>) {
    let mut info = [0; 160];
    for (at, value) in [(146, 1), (148, u16::from(inverse)), (150, states)] {
        info[at..at + 2].copy_from_slice(&u16::to_ne_bytes(value));
    }
    let mut data = Attributes::default();
    data.text(1, "conntrack");
    data.number(2, 3);
    data.bytes(3, &info);
    step("match", &data)
}

/// The steps of a rule, as the kernel lists them.
type Steps = Vec<(String, Vec<u8>)>;

/// Chains of an `inet` table, each with its rules; the first is called at the hook `forward`.
fn rules(drops: bool, chains: &[(&str, &[Steps])]) -> Rules {
    let mut rules = Rules::default();
    for (position, (name, given)) in chains.iter().enumerate() {
        let numbered = given.iter().zip(1..);
        let chain = Chain {
            hook: (position == 0).then_some((2, 0)),
            devices: Vec::new(),
            drops: drops && position == 0,
            rules: numbered.map(|(steps, handle)| Rule { handle, steps: steps.clone() }).collect(),
        };
        rules.chains.insert((1, TABLE.to_owned(), (*name).to_owned()), chain);
    }
    rules
}

fn end(address: &str) -> End {
    address.parse::<std::net::IpAddr>().unwrap().into()
}

fn packet() -> Packet {
    let device = |index, name: &str| Some(Device { index, name: name.to_owned() });
    Packet {
        source: end("10.244.1.2"),
        destination: end("10.244.2.2"),
        transport: Transport::Any,
        input: device(6, "v-net-0"),
        output: device(5, "culvert0"),
        mark: 0,
        is_tracked: true,
    }
}

fn fate(rules: &Rules) -> Fate {
    rules.fate(&Stage::Ip(Hook::Forward), &packet())
}

/// The same of a packet from any of a subnet.
fn fate_of_subnet(rules: &Rules) -> Fate {
    let source = End::within("10.244.1.0".parse().unwrap(), 24);
    rules.fate(&Stage::Ip(Hook::Forward), &Packet { source, ..packet() })
}

fn stopped_by(fate: Fate) -> What {
    let Fate::Stops(by) = fate else { panic!("{fate:?}") };
    by.what
}

fn perhaps_by(fate: Fate) -> What {
    let Fate::MayStop(by) = fate else { panic!("{fate:?}") };
    by.what
}

const SOURCE: Field = Field { base: Base::Network, offset: 12, len: 4 };

/// `ip saddr 10.244.0.0/16`, as `nft` writes it.
fn from_pods() -> Vec<(String, Vec<u8>)> {
    steps(&[
        Expression::Payload(Field { len: 2, ..SOURCE }, crate::Register::One),
        Expression::Compare(Comparison::Equal, vec![10, 244]),
    ])
}

fn entries(elements: impl IntoIterator<Item = Element>) -> Vec<Entry> {
    elements.into_iter().map(Entry::from).collect()
}

#[test]
fn no_rules_let_everything_pass() {
    assert_eq!(fate(&Rules::default()), Fate::Passes);
    assert_eq!(fate(&rules(false, &[("f", &[])])), Fate::Passes);
}

#[test]
fn policy_drops_what_no_rule_accepts() {
    let other = steps(&Expression::input_name(Comparison::Equal, "docker0"));
    let chain = rules(true, &[("f", &[[other, vec![accept()]].concat()])]);
    assert_eq!(stopped_by(fate(&chain)), What::Policy);
    // What is for the other family sees nothing of this one.
    assert_eq!(chain.fate(&Stage::Ip(Hook::Input), &packet()), Fate::Passes);
}

#[test]
fn rule_that_accepts_the_pod_networks_opens_the_chain() {
    let chain = rules(true, &[("f", &[[from_pods(), vec![accept()]].concat()])]);
    assert_eq!(fate(&chain), Fate::Passes);
    let mut foreign = packet();
    foreign.source = end("10.245.1.2");
    assert!(matches!(chain.fate(&Stage::Ip(Hook::Forward), &foreign), Fate::Stops(_)));
}

#[test]
fn rule_that_drops_is_named_by_its_handle() {
    let chain =
        rules(false, &[("f", &[vec![step("counter", &Attributes::default())], vec![drop()]])]);
    assert_eq!(stopped_by(fate(&chain)), What::Rule(2));
}

#[test]
fn chains_that_are_jumped_to_are_followed_and_returned_from() {
    let user = [vec![verdict(-5, "")], vec![drop()]];
    let chain = rules(true, &[("f", &[vec![jump("user")], vec![accept()]]), ("user", &user)]);
    assert_eq!(fate(&chain), Fate::Passes);
    let chain = rules(false, &[("f", &[vec![jump("user")]]), ("user", &[vec![drop()]])]);
    let Fate::Stops(by) = fate(&chain) else { panic!("it passes") };
    assert_eq!(by.to_string(), "chain inet fw user (rule 1)");
    // Who is gone to with `goto` comes back to whoever called, here the policy.
    let chain = rules(true, &[("f", &[vec![verdict(-4, "user")], vec![accept()]]), ("user", &[])]);
    assert_eq!(stopped_by(fate(&chain)), What::Policy);
}

#[test]
fn what_is_not_understood_is_never_called_a_pass() {
    let unknown = extension("conntrack");
    let may_drop = rules(false, &[("f", &[vec![unknown.clone(), drop()]])]);
    let What::Unfollowed(1, why) = perhaps_by(fate(&may_drop)) else { panic!("{may_drop:?}") };
    assert_eq!(why, "match conntrack of iptables");
    let may_accept = rules(true, &[("f", &[vec![unknown.clone(), accept()]])]);
    assert_eq!(perhaps_by(fate(&may_accept)), What::Policy);
    let jumps = rules(false, &[("f", &[vec![unknown, jump("user")]]), ("user", &[vec![drop()]])]);
    assert!(matches!(perhaps_by(fate(&jumps)), What::Unfollowed(1, _)));
    let lost = rules(false, &[("f", &[vec![jump("nowhere")]])]);
    assert!(matches!(perhaps_by(fate(&lost)), What::Unfollowed(..)));
    let odd =
        rules(false, &[("f", &[vec![step("from the future", &Attributes::default()), drop()]])]);
    assert!(matches!(perhaps_by(fate(&odd)), What::Unfollowed(..)));
    // Whatever the rule asks, it drops either way.
    let both = rules(true, &[("f", &[vec![extension("limit"), drop()]])]);
    assert_eq!(stopped_by(fate(&both)), What::Policy);
}

#[test]
fn kube_proxys_rule_about_invalid_packets_drops_none_that_begins_a_connection() {
    const INVALID: u16 = 1;
    const RELATED_OR_ESTABLISHED: u16 = 0b110;
    const NEW: u16 = 0b1000;
    let given =
        |states, inverse| rules(false, &[("f", &[vec![connection_is(states, inverse), drop()]])]);
    assert_eq!(fate(&given(INVALID, false)), Fate::Passes);
    assert_eq!(fate(&given(RELATED_OR_ESTABLISHED, false)), Fate::Passes);
    assert!(matches!(fate(&given(RELATED_OR_ESTABLISHED, true)), Fate::Stops(_)));
    assert!(matches!(fate(&given(NEW, false)), Fate::Stops(_)));
    let untracked = Packet { is_tracked: false, ..packet() };
    let stage = Stage::Ip(Hook::Forward);
    assert_eq!(given(NEW, false).fate(&stage, &untracked), Fate::Passes);
    assert!(matches!(given(1 << 8, false).fate(&stage, &untracked), Fate::Stops(_)));
    // Whether a connection is translated is not known.
    assert!(matches!(fate(&given(1 << 7, false)), Fate::MayStop(_)));
}

#[test]
fn unknown_mark_of_another_rule_is_not_taken_for_none() {
    let mut set = Attributes::default();
    set.number(2, 3);
    set.number(3, 1);
    let marked = [steps(&Expression::mark_is(0)), vec![accept()]].concat();
    let chain = rules(true, &[("f", std::slice::from_ref(&marked))]);
    assert_eq!(fate(&chain), Fate::Passes);
    let chain = rules(true, &[("f", &[vec![step("meta", &set)], marked])]);
    assert_eq!(perhaps_by(fate(&chain)), What::Policy);
}

#[test]
fn ports_and_states_are_known_of_tunnel_datagrams() {
    let datagram = Packet {
        transport: Transport::Udp { source: None, destination: 4790 },
        is_tracked: false,
        ..packet()
    };
    let port = |offset| Field { base: Base::Transport, offset, len: 2 };
    let to = [
        steps(&Expression::upper_protocol_is(17)),
        steps(&Expression::field_is(port(2), &4790_u16.to_be_bytes())),
        vec![drop()],
    ];
    let chain = rules(false, &[("f", &[to.concat()])]);
    assert!(matches!(chain.fate(&Stage::Ip(Hook::Forward), &datagram), Fate::Stops(_)));
    // Of a pod's packet nobody knows what it carries.
    assert!(matches!(fate(&chain), Fate::MayStop(_)));
    let from = [steps(&Expression::field_is(port(0), &[1, 2])), vec![drop()]].concat();
    let chain = rules(false, &[("f", &[from])]);
    assert!(matches!(chain.fate(&Stage::Ip(Hook::Forward), &datagram), Fate::MayStop(_)));
    let tracked = [steps(&Expression::is_tracked()), vec![drop()]].concat();
    let chain = rules(false, &[("f", &[tracked])]);
    assert_eq!(chain.fate(&Stage::Ip(Hook::Forward), &datagram), Fate::Passes);
    assert!(matches!(fate(&chain), Fate::Stops(_)));
}

#[test]
fn sets_are_looked_into() {
    let asks = [steps(&Expression::field_in(SOURCE, Membership::Inside, "pods")), vec![accept()]];
    let with = |set: Set| {
        let mut rules = rules(true, &[("f", &[asks.concat()])]);
        rules.sets.insert((1, TABLE.to_owned(), "pods".to_owned()), set);
        fate(&rules)
    };
    let one = |key: [u8; 4]| Set { entries: entries([Element::of(&[&key])]), ..Set::default() };
    assert_eq!(with(one([10, 244, 1, 2])), Fate::Passes);
    assert_eq!(stopped_by(with(one([10, 244, 1, 3]))), What::Policy);
    assert_eq!(stopped_by(with(Set::default())), What::Policy);
    let interval = |first: [u8; 4], last: [u8; 4]| Set {
        flags: message::FLAG_INTERVAL,
        entries: entries(Element::interval(&first, &last)),
        ..Set::default()
    };
    assert_eq!(with(interval([10, 244, 0, 0], [10, 244, 255, 255])), Fate::Passes);
    assert!(matches!(with(interval([10, 245, 0, 0], [10, 245, 255, 255])), Fate::Stops(_)));
    assert!(matches!(with(interval([10, 1, 0, 0], [10, 2, 255, 255])), Fate::Stops(_)));
}

#[test]
fn verdicts_of_our_own_expressions_are_read() {
    let dropping = steps(&[Expression::Counter, Expression::Verdict(Verdict::Drop)]);
    assert_eq!(stopped_by(fate(&rules(false, &[("f", &[dropping])]))), What::Rule(1));
    let rejecting = steps(&[Expression::RejectHost]);
    assert_eq!(stopped_by(fate(&rules(false, &[("f", &[rejecting])]))), What::Rule(1));
}

#[test]
fn what_depends_on_bytes_that_are_not_known_may_be_dropped() {
    let from = |address: [u8; 4]| {
        let asks = [
            Expression::Payload(SOURCE, crate::Register::One),
            Expression::Compare(Comparison::Equal, address.to_vec()),
        ];
        rules(false, &[("f", &[[steps(&asks), vec![drop()]].concat()])])
    };
    assert!(matches!(fate_of_subnet(&from([10, 244, 1, 7])), Fate::MayStop(_)));
    assert_eq!(fate_of_subnet(&from([10, 244, 3, 7])), Fate::Passes);
    let net = [
        Expression::Payload(Field { len: 3, ..SOURCE }, crate::Register::One),
        Expression::Compare(Comparison::Equal, vec![10, 244, 1]),
    ];
    let all = rules(false, &[("f", &[[steps(&net), vec![drop()]].concat()])]);
    assert!(matches!(fate_of_subnet(&all), Fate::Stops(_)));

    let asks = [steps(&Expression::field_in(SOURCE, Membership::Inside, "some")), vec![drop()]];
    let with = |flags: u32, elements: Vec<Element>| {
        let mut rules = rules(false, &[("f", &[asks.concat()])]);
        let set = Set { flags, entries: entries(elements), ..Set::default() };
        rules.sets.insert((1, TABLE.to_owned(), "some".to_owned()), set);
        fate_of_subnet(&rules)
    };
    assert!(matches!(with(0, vec![Element::of(&[&[10, 244, 1, 9]])]), Fate::MayStop(_)));
    assert_eq!(with(0, vec![Element::of(&[&[10, 244, 2, 9]])]), Fate::Passes);
    let interval = |first: [u8; 4], last: [u8; 4]| {
        let elements = Element::interval(&first, &last).into_iter().collect();
        with(message::FLAG_INTERVAL, elements)
    };
    assert!(matches!(interval([10, 244, 0, 0], [10, 244, 9, 255]), Fate::Stops(_)));
    assert!(matches!(interval([10, 244, 1, 128], [10, 244, 9, 255]), Fate::MayStop(_)));
    assert_eq!(interval([10, 244, 2, 0], [10, 244, 2, 255]), Fate::Passes);
}

#[test]
fn frames_are_followed_where_bridges_and_devices_have_chains() {
    let of_ipv4 = [
        Expression::Payload(Field { base: Base::Network, offset: 9, len: 1 }, crate::Register::One),
        Expression::Compare(Comparison::Equal, vec![6]),
    ];
    let mut chains = rules(false, &[("f", &[[steps(&of_ipv4), vec![drop()]].concat()])]);
    let (_, mut chain) = chains.chains.pop_first().unwrap();
    chain.devices = vec!["eth0".to_owned()];
    chain.hook = Some((0, 0));
    let tcp = Packet { transport: Transport::Tcp { source: 1, destination: 2 }, ..packet() };
    for (family, is_bridge) in [(BRIDGE, true), (NETDEV, false)] {
        let key = (family, TABLE.to_owned(), "f".to_owned());
        let rules = Rules { chains: [(key, chain.clone())].into(), ..Rules::default() };
        assert_eq!(rules.fate(&Stage::Ip(Hook::Prerouting), &tcp), Fate::Passes);
        let on_bridge = rules.fate(&Stage::Bridge(Hook::Prerouting), &tcp);
        let at_device = rules.fate(&Stage::entering("eth0"), &tcp);
        assert_eq!(matches!(on_bridge, Fate::Stops(_)), is_bridge, "{on_bridge:?}");
        assert_eq!(matches!(at_device, Fate::Stops(_)), !is_bridge, "{at_device:?}");
        assert_eq!(rules.fate(&Stage::entering("eth1"), &tcp), Fate::Passes);
        assert_eq!(rules.fate(&Stage::leaving("eth0"), &tcp), Fate::Passes);
        let unknown = rules.fate(&Stage::Bridge(Hook::Prerouting), &packet());
        assert_eq!(matches!(unknown, Fate::MayStop(_)), is_bridge, "{unknown:?}");
    }
}

#[test]
fn rule_that_translates_a_packet_for_certain_is_named() {
    let masquerade = step("masq", &Attributes::default());
    let some = [from_pods(), vec![masquerade.clone()]].concat();
    let found = rules(false, &[("f", &[some])]).translation(Hook::Forward, &packet());
    assert_eq!(found.unwrap().what, What::Rule(1));
    let perhaps = vec![extension("conntrack"), masquerade];
    assert_eq!(rules(false, &[("f", &[perhaps])]).translation(Hook::Forward, &packet()), None);
}

/// `ip daddr vmap @services`, as `nft` writes it.
fn by_destination() -> Steps {
    let destination = Field { base: Base::Network, offset: 16, len: 4 };
    steps(&[
        Expression::Payload(destination, crate::Register::One),
        Expression::Decide("services".to_owned()),
    ])
}

/// Rules with a map that leads destinations to verdicts.
fn with_map(chains: &[(&str, &[Steps])], map: &[([u8; 4], Verdict)]) -> Rules {
    let mut rules = rules(false, chains);
    let element = |(key, to): &([u8; 4], Verdict)| Element::of(&[key]).deciding(to.clone());
    let set = Set { flags: 8, entries: entries(map.iter().map(element)), ..Set::default() };
    rules.sets.insert((1, TABLE.to_owned(), "services".to_owned()), set);
    rules
}

#[test]
fn maps_are_followed_to_where_they_lead() {
    let goto = |chain: &str| Verdict::Goto(chain.to_owned());
    let chains: &[(&str, &[Steps])] = &[("f", &[by_destination()]), ("bad", &[vec![drop()]])];
    let leads = |map: &[([u8; 4], Verdict)]| fate(&with_map(chains, map));
    assert_eq!(leads(&[]), Fate::Passes, "an empty map");
    assert_eq!(leads(&[([10, 244, 2, 9], goto("bad"))]), Fate::Passes, "another key");
    assert_eq!(stopped_by(leads(&[([10, 244, 2, 2], Verdict::Drop)])), What::Rule(1));
    let Fate::Stops(by) = leads(&[([10, 244, 2, 2], goto("bad"))]) else { panic!("it passes") };
    assert_eq!((by.chain.as_str(), by.what), ("bad", What::Rule(1)));
    // Of a subnet it is not known which address it is.
    let rules = with_map(chains, &[([10, 244, 2, 2], goto("bad"))]);
    let destination = End::within("10.244.2.0".parse().unwrap(), 24);
    let fate = rules.fate(&Stage::Ip(Hook::Forward), &Packet { destination, ..packet() });
    assert_eq!(perhaps_by(fate), What::Unfollowed(1, "map services".to_owned()));
    // A map that could not be read.
    let unread = Rules { sets: BTreeMap::new(), ..rules };
    let what = What::Unfollowed(1, "map services".to_owned());
    let fate = unread.fate(&Stage::Ip(Hook::Forward), &packet());
    assert_eq!(perhaps_by(fate), what);
}

/// `numgen random mod COUNT vmap { 0 : goto end0, … }`, as kube-proxy writes it for endpoints.
fn at_random(count: u32, set: &str) -> Steps {
    let mut random = Attributes::default();
    for (kind, value) in [(1, 1), (2, count), (3, 1), (4, 0)] {
        random.number(kind, value);
    }
    let choose = step("numgen", &random);
    [vec![choose], steps(&[Expression::Decide(set.to_owned())])].concat()
}

/// `dnat to ADDRESS:PORT`, as `nft` writes it.
fn to(address: [u8; 4], port: u16) -> Steps {
    steps(&[
        Expression::Load(address.to_vec()),
        Expression::LoadSecond(port.to_be_bytes().to_vec()),
        Expression::TranslateDestination { is_ipv4: true },
    ])
}

#[test]
fn service_leads_to_its_endpoints() {
    let goto = |chain: &str| Verdict::Goto(chain.to_owned());
    let service = [10, 244, 2, 2];
    let ends = |count: u32, known: u32| {
        let chains: &[(&str, &[Steps])] = &[
            ("f", &[vec![jump("services")]]),
            ("services", &[by_destination()]),
            ("web", &[at_random(count, "ends")]),
            ("end0", &[to([10, 244, 1, 7], 8080)]),
            ("end1", &[to([10, 244, 3, 7], 8080)]),
        ];
        let mut rules = with_map(chains, &[(service, goto("web"))]);
        let element = |number: u32| {
            Element::of(&[&number.to_ne_bytes()]).deciding(goto(&format!("end{number}")))
        };
        let set = Set { flags: 8, entries: entries((0..known).map(element)), ..Set::default() };
        rules.sets.insert((1, TABLE.to_owned(), "ends".to_owned()), set);
        rules
    };
    let targets = |rules: &Rules, packet: &Packet| {
        let (found, is_sure) = rules.redirections(Hook::Forward, packet);
        let address = |it: Redirection| it.to.unwrap().address.unwrap().to_string();
        (found.into_iter().map(address).collect::<Vec<_>>(), is_sure)
    };
    let (one, two) = ("10.244.1.7".to_owned(), "10.244.3.7".to_owned());
    assert_eq!(targets(&ends(1, 1), &packet()), (vec![one.clone()], true));
    assert_eq!(targets(&ends(2, 2), &packet()), (vec![one.clone(), two], true));
    // It may also go where it was sent.
    assert_eq!(targets(&ends(2, 1), &packet()), (vec![one], false));
    let other = Packet { destination: end("10.244.2.3"), ..packet() };
    assert_eq!(targets(&ends(1, 1), &other), (vec![], false));
    let (found, _) = ends(1, 1).redirections(Hook::Forward, &packet());
    assert_eq!((found[0].by.chain.as_str(), found[0].to.unwrap().port), ("end0", Some(8080)));
    // That is no drop, and nothing that was not followed.
    assert_eq!(fate(&ends(2, 2)), Fate::Passes);
}
