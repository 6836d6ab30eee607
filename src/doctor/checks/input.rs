//! `input`: whether datagrams of other nodes get past the firewalls of this one.

use culvert_nft::{Device, Hook, Packet, Stage, Transport};

use super::passage::{self, ASKED, Case};
use crate::app::Examination;
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
    let ports: Vec<String> = expected.setup.underlay_ports.iter().map(u16::to_string).collect();
    let ports = ports.join(", ");
    let cases = cases(expected, kernel);
    if cases.is_empty() {
        return vec![Finding::skip("there is no other node, or no address of this one")];
    }
    let what = format!("datagrams of other nodes to UDP {ports}");
    let remedy = |by: &culvert_nft::Obstacle| {
        let (family, table, chain) = (by.family, &by.table, &by.chain);
        match (&by.what, family, table.as_str()) {
            (culvert_nft::What::Rule(handle), ..) => {
                format!(
                    "nft delete rule {family} {table} {chain} handle {handle}, if nobody needs it"
                )
            }
            (_, "ip", "filter") => format!("iptables -I {chain} -p udp --dport {ports} -j ACCEPT"),
            _ => format!("nft insert rule {family} {table} {chain} udp dport {{ {ports} }} accept"),
        }
    };
    let mut findings = passage::through(firewall, &cases, &what, remedy);
    if findings.is_empty() {
        findings.push(Finding::ok(match expected.peers.len() {
            all if all > ASKED => {
                format!("UDP {ports} is open to the first {ASKED} of {all} nodes")
            }
            _ => format!("UDP {ports} is open to the other nodes"),
        }));
    }
    findings
}

/// A datagram of each peer to each of our ports.
fn cases(expected: &Expected, kernel: &Examination) -> Vec<Case> {
    let setup = &expected.setup;
    let Some(own) = setup.address else { return Vec::new() };
    let holder = kernel.addresses.iter().find(|has| has.net.addr() == own);
    let link = holder.and_then(|has| kernel.links.iter().find(|link| link.index == has.link));
    let input = link.map(|link| Device { index: link.index, name: link.name.clone() });
    let arrives = input.iter().map(|device| Stage::entering(&device.name));
    let stages: Vec<Stage> =
        arrives.chain([Hook::Prerouting, Hook::Input].map(Stage::Ip)).collect();
    let of = |peer: &crate::observe::PeerStatus, port: u16| Case {
        stages: stages.clone(),
        packet: Packet {
            source: peer.address.into(),
            destination: own.into(),
            transport: Transport::Udp { source: None, destination: port },
            input: input.clone(),
            output: None,
            mark: 0,
            // Ours is the first chain that they pass, and says so.
            is_tracked: false,
        },
        peer: Some(peer.name.clone()),
    };
    let peers = expected.peers.iter().take(ASKED);
    peers
        .flat_map(|peer| setup.underlay_ports.iter().map(move |port| (peer, *port)))
        .map(|(peer, port)| of(peer, port))
        .collect()
}
