//! `neighbours`: whether the kernel knows at which hardware addresses the peers of the link are.

use culvert_netlink::Standing;
use culvert_node::words::counted;

use crate::doctor::facts::{Facts, Neighbours};
use crate::doctor::finding::Finding;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let expected = match super::expected(facts) {
        Ok(expected) => expected,
        Err(skipped) => return skipped,
    };
    let Neighbours { device, known } = match &facts.neighbours {
        Ok(neighbours) => neighbours,
        Err(why) => return vec![Finding::skip(why)],
    };
    let of = |address| known.iter().find(|neighbour| neighbour.address == address);
    let mut findings = Vec::new();
    let mut seen = 0_usize;
    for peer in &expected.peers {
        let Some(neighbour) = of(peer.address) else { continue };
        let address = peer.address;
        let finding = match (neighbour.standing, neighbour.mac) {
            (Standing::Known, _) => {
                seen += 1;
                continue;
            }
            (Standing::Silent, _) => Finding::fail(
                format!("nobody on {device} answers who has {address}"),
                "see whether that machine is up and on this link, and whether the table has its address",
            ),
            (Standing::Fixed, mac) => {
                let mac = mac.map_or_else(|| "nowhere".to_owned(), |mac| facts.named(mac, address));
                Finding::warn(
                    format!(
                        "somebody wrote down that {address} is at {mac}, and so the kernel never asks: \
                         right only if it is"
                    ),
                    format!("ip neigh del {address} dev {device}, and it asks"),
                )
            }
        };
        findings.push(finding.about(&peer.name));
    }
    if findings.is_empty() {
        findings.push(match seen {
            0 => Finding::skip(format!("no peer was heard of on {device} itself")),
            seen => {
                let peers = counted(seen, "peer");
                Finding::ok(format!("{peers} of {device} known by their own answers"))
            }
        });
    }
    super::some(findings)
}

#[cfg(test)]
mod tests {
    use culvert_netlink::Neighbour;

    use super::super::tests::said;
    use super::*;
    use crate::doctor::facts::fixture::healthy;
    use crate::doctor::finding::Verdict;

    #[test]
    fn only_what_peers_said_themselves_is_good() {
        let with = |standing| {
            let mut facts = healthy();
            let address = "192.168.1.12".parse().unwrap();
            facts.neighbours.as_mut().unwrap().known =
                vec![Neighbour { address, mac: None, standing }];
            said("neighbours", &facts).remove(0)
        };
        assert_eq!(with(Standing::Known).verdict, Verdict::Ok);
        let silent = with(Standing::Silent);
        assert_eq!((silent.verdict, silent.peer.as_deref()), (Verdict::Fail, Some("node2")));
        assert_eq!(with(Standing::Fixed).verdict, Verdict::Warn);
        assert_eq!(said("neighbours", &healthy())[0].verdict, Verdict::Skip);
    }
}
