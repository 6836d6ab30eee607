//! `forward`: whether this machine forwards packets of pods, and its firewalls let them pass.

use culvert_nft::{Device, End, Hook, Obstacle, Packet, Rules, Stage, Transport, What};
use ipnet::IpNet;

use super::missing::{self, Part};
use super::passage::{self, ASKED, Case};
use crate::app::{self, Examination};
use crate::doctor::facts::{Expected, Facts};
use crate::doctor::finding::Finding;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let expected = match super::expected(facts) {
        Ok(expected) => expected,
        Err(skipped) => return skipped,
    };
    let (kernel, firewall) = match (&facts.kernel, &facts.firewall) {
        (Ok(kernel), Ok(firewall)) => (kernel, firewall),
        (Err(why), _) | (_, Err(why)) => return vec![Finding::skip(why)],
    };
    let mut findings = missing::of(facts, Part::Forward);
    let networks = &expected.setup.cluster_networks;
    let cases = cases(facts, expected, kernel);
    findings.extend(passage::through(firewall, &cases, "packets of pods", |by| {
        remedy(by, networks, &firewall.rules)
    }));
    findings.extend(translation(firewall, &cases));
    if findings.is_empty() {
        let has_chains = firewall.rules.has_chains();
        findings.push(Finding::ok(if has_chains {
            "packets of pods pass the chains of other programs"
        } else {
            "no chain of another program"
        }));
    }
    super::some(findings)
}

/// Packets in both directions and families: of all pods here with those of each node, with those of
/// all, and among each other. An address is known only as far as the subnet says it.
fn cases(facts: &Facts, expected: &Expected, kernel: &Examination) -> Vec<Case> {
    let setup = &expected.setup;
    let (bridge, tun) = (&setup.bridge, &setup.tun);
    let device = |name: &String| {
        let link = kernel.links.iter().find(|link| link.name == *name);
        Some(Device { index: link.map_or(0, |link| link.index), name: name.clone() })
    };
    let packet = |source: &IpNet, destination: &IpNet, input: &String, output: &String| Packet {
        source: any_of(source),
        destination: any_of(destination),
        transport: Transport::Any,
        input: device(input),
        output: device(output),
        mark: 0,
        is_tracked: true,
    };
    let ports = ports(kernel, bridge);
    let from_pods: Vec<Stage> = ports.iter().map(|port| Stage::entering(port)).collect();
    let to_pods: Vec<Stage> = ports.iter().map(|port| Stage::leaving(port)).collect();
    let routed = [Hook::Prerouting, Hook::Forward, Hook::Postrouting].map(Stage::Ip);
    let there: Vec<Stage> = from_pods
        .iter()
        .cloned()
        .chain([Hook::Prerouting, Hook::Input].map(Stage::Bridge))
        .chain([Stage::entering(bridge)])
        .chain(routed.clone())
        .chain([Stage::leaving(tun)])
        .collect();
    let back: Vec<Stage> = [Stage::entering(tun)]
        .into_iter()
        .chain(routed)
        .chain([Stage::leaving(bridge)])
        .chain([Hook::Output, Hook::Postrouting].map(Stage::Bridge))
        .chain(to_pods.iter().cloned())
        .collect();
    let hooks = [Hook::Prerouting, Hook::Forward, Hook::Postrouting];
    let link = kernel.links.iter().find(|link| link.name == *bridge);
    let filters = |is_ipv4| {
        let parameter = facts.parameter(app::frames_parameter(is_ipv4));
        link.is_some_and(|link| app::filters_frames(link, parameter, is_ipv4))
    };
    let mut cases = Vec::new();
    for own in &setup.local_subnets {
        let mut with = |remote: &IpNet, peer: Option<&String>| {
            let case = |stages: &[Stage], packet| Case {
                stages: stages.to_vec(),
                packet,
                peer: peer.cloned(),
            };
            cases.push(case(&there, packet(own, remote, bridge, tun)));
            cases.push(case(&back, packet(remote, own, tun, bridge)));
        };
        let is_like = |net: &&IpNet| net.addr().is_ipv4() == own.addr().is_ipv4();
        for network in setup.cluster_networks.iter().filter(is_like) {
            with(network, None);
        }
        let remote = expected
            .peers
            .iter()
            .flat_map(|peer| peer.subnets.iter().map(move |subnet| (subnet, &peer.name)));
        for (remote, name) in remote.filter(|(subnet, _)| is_like(subnet)).take(ASKED) {
            with(remote, Some(name));
        }
        let by_ip = hooks.map(Stage::Ip).into_iter().filter(|_| filters(own.addr().is_ipv4()));
        let bridged = hooks.map(Stage::Bridge).into_iter().chain(by_ip).collect();
        let among = Case { stages: bridged, packet: packet(own, own, bridge, bridge), peer: None };
        cases.push(among);
    }
    cases
}

/// Any address of a network.
fn any_of(network: &IpNet) -> End {
    End::within(network.network(), network.prefix_len())
}

/// The ports of pods.
fn ports(kernel: &Examination, bridge: &str) -> Vec<String> {
    let bridge = kernel.links.iter().find(|link| link.name == bridge).map(|link| link.index);
    let is_port = |link: &&culvert_netlink::Link| bridge.is_some() && link.controller == bridge;
    kernel.links.iter().filter(is_port).map(|link| link.name.clone()).collect()
}

/// Whoever gives packets between pods other addresses.
fn translation(firewall: &crate::doctor::facts::Firewall, cases: &[Case]) -> Vec<Finding> {
    let mut by: Vec<Obstacle> = Vec::new();
    for case in cases {
        for hook in [Hook::Prerouting, Hook::Postrouting] {
            if !case.stages.contains(&Stage::Ip(hook)) {
                continue;
            }
            if let Some(found) = firewall.rules.translation(hook, &case.packet)
                && !by.contains(&found)
            {
                by.push(found);
            }
        }
    }
    let finding = |by: &Obstacle| {
        let Obstacle { family, table, chain, .. } = by;
        Finding::warn(
            format!("{by} gives packets between pods other addresses: nobody sees who sends"),
            format!(
                "have it leave out the pod networks: nft -a list chain {family} {table} {chain}"
            ),
        )
    };
    by.iter().map(finding).collect()
}

/// The commands that let the pod networks pass.
fn remedy(by: &Obstacle, networks: &[IpNet], rules: &Rules) -> String {
    let Obstacle { family, table, chain, what } = by;
    if let What::Rule(handle) = what {
        return format!(
            "nft delete rule {family} {table} {chain} handle {handle}, if nobody needs it"
        );
    }
    let commands = networks.iter().filter_map(|network| {
        let is_ipv4 = network.addr().is_ipv4();
        // The tables of iptables-nft, which its own program should change.
        let program = match (*family, table.as_str(), chain.as_str()) {
            ("ip", "filter", "FORWARD") => Some("iptables"),
            ("ip6", "filter", "FORWARD") => Some("ip6tables"),
            _ => None,
        };
        match (*family, program) {
            ("ip", _) if !is_ipv4 => None,
            ("ip6", _) if is_ipv4 => None,
            (_, Some(program)) => {
                // Docker puts its own rules anew before all others of FORWARD, but for this chain.
                let users = "DOCKER-USER";
                let chain = if rules.has_chain(family, table, users) { users } else { "FORWARD" };
                Some(format!(
                    "{program} -I {chain} -s {network} -j ACCEPT; {program} -I {chain} -d {network} \
                     -j ACCEPT"
                ))
            }
            (_, None) => {
                let ip = if is_ipv4 { "ip" } else { "ip6" };
                let insert = format!("nft insert rule {family} {table} {chain} {ip}");
                Some(format!("{insert} saddr {network} accept; {insert} daddr {network} accept"))
            }
        }
    });
    commands.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::super::tests::said;
    use super::*;

    use crate::doctor::facts::Firewall;
    use crate::doctor::facts::fixture::healthy;
    use crate::doctor::finding::Verdict;

    fn by(family: &'static str, table: &str, chain: &str, what: What) -> Obstacle {
        Obstacle { family, table: table.to_owned(), chain: chain.to_owned(), what }
    }

    #[test]
    fn firewall_that_cannot_be_looked_at_is_not_called_a_pass() {
        let verdicts = |firewall| {
            let facts = Facts { firewall: Ok(firewall), ..healthy() };
            said("forward", &facts).into_iter().map(|it| it.verdict).collect::<Vec<_>>()
        };
        assert_eq!(verdicts(Firewall::default()), [Verdict::Ok]);
        let unread = vec!["iptables: permission denied".to_owned()];
        assert_eq!(verdicts(Firewall { unread, ..Firewall::default() }), [Verdict::Warn]);
        let legacy = vec!["iptables filter".to_owned()];
        assert_eq!(verdicts(Firewall { legacy, ..Firewall::default() }), [Verdict::Warn]);
    }

    #[test]
    fn remedy_is_written_for_the_program_that_made_the_chain() {
        let networks: Vec<IpNet> =
            vec!["10.244.0.0/16".parse().unwrap(), "fd00:10::/32".parse().unwrap()];
        let none = Rules::default();
        let remedy = |by: &Obstacle| remedy(by, &networks, &none);
        let docker = remedy(&by("ip", "filter", "FORWARD", What::Policy));
        assert_eq!(
            docker,
            "iptables -I FORWARD -s 10.244.0.0/16 -j ACCEPT; iptables -I FORWARD -d 10.244.0.0/16 -j \
             ACCEPT"
        );
        let both = remedy(&by("inet", "fw", "f", What::Policy));
        assert!(both.starts_with("nft insert rule inet fw f ip saddr 10.244.0.0/16 accept; "));
        assert!(both.contains("nft insert rule inet fw f ip6 daddr fd00:10::/32 accept"));
        let rule = remedy(&by("inet", "fw", "f", What::Rule(7)));
        assert!(rule.starts_with("nft delete rule inet fw f handle 7"));
    }
}
