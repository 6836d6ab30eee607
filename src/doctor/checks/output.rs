//! `output`: whether the daemon's datagrams get past the firewalls of this node.

use culvert_dataplane::platform::udp::SOCKET_MARK;
use culvert_nft::{Device, Hook, Obstacle, Packet, Stage, Transport, What};

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
    let cases = cases(expected, kernel);
    if cases.is_empty() {
        return vec![Finding::skip("there is no other node, or no address of this one")];
    }
    let what = "the tunnel's datagrams to other nodes";
    let remedy = |by: &Obstacle| {
        let (family, table, chain) = (by.family, &by.table, &by.chain);
        match by.what {
            What::Rule(handle) => {
                format!(
                    "nft delete rule {family} {table} {chain} handle {handle}, if nobody needs it"
                )
            }
            What::Policy | What::Unfollowed(..) => format!(
                "nft insert rule {family} {table} {chain} meta mark {SOCKET_MARK:#x} accept"
            ),
        }
    };
    let mut findings = passage::through(firewall, &cases, what, remedy);
    if findings.is_empty() {
        findings.push(Finding::ok(match expected.peers.len() {
            all if all > ASKED => {
                format!("the tunnel's datagrams may leave for the first {ASKED} of {all} nodes")
            }
            _ => "the tunnel's datagrams may leave".to_owned(),
        }));
    }
    findings
}

/// A datagram to each peer.
fn cases(expected: &Expected, kernel: &Examination) -> Vec<Case> {
    let Some(own) = expected.setup.address else { return Vec::new() };
    let ways = expected.peers.iter().zip(&kernel.ways).take(ASKED);
    let to = ways.map(|(peer, devices)| {
        let device = devices.first();
        let link = device.and_then(|name| kernel.links.iter().find(|link| link.name == *name));
        let leaves = device.map(|name| Stage::leaving(name));
        Case {
            stages: [Hook::Output, Hook::Postrouting]
                .map(Stage::Ip)
                .into_iter()
                .chain(leaves)
                .collect(),
            packet: Packet {
                source: own.into(),
                destination: peer.address.into(),
                transport: Transport::Udp { source: None, destination: peer.port },
                input: None,
                output: link.map(|link| Device { index: link.index, name: link.name.clone() }),
                mark: SOCKET_MARK,
                is_tracked: false,
            },
            peer: Some(peer.name.clone()),
        }
    });
    to.collect()
}
