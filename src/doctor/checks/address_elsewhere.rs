//! `address_elsewhere`: whether the underlay address is this machine's, and nobody else's, and
//! those of peers are of one machine each.

use culvert_netlink::Detection;

use crate::doctor::facts::Facts;
use crate::doctor::finding::Finding;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let expected = match super::expected(facts) {
        Ok(expected) => expected,
        Err(skipped) => return skipped,
    };
    let kernel = match &facts.kernel {
        Ok(kernel) => kernel,
        Err(why) => return vec![Finding::skip(why)],
    };
    let Some(own) = expected.setup.address else {
        return vec![Finding::skip("the underlay address is not known")];
    };
    let Some(holder) = kernel.addresses.iter().find(|has| has.net.addr() == own) else {
        let remedy = format!(
            "put it back (ip address add {own}/LENGTH dev DEVICE), or correct the subnet table or \
             underlay.address"
        );
        return vec![Finding::fail(format!("no device of this machine has {own}"), remedy)];
    };
    let link = kernel.links.iter().find(|link| link.index == holder.link);
    let device = link.map_or("a device", |link| link.name.as_str());
    if holder.detection == Detection::Duplicate {
        let found = format!("the kernel found that another machine has {own}");
        let remedy = format!(
            "give one of them another address; then ip address del {} dev {device}, and add it \
             again",
            holder.net
        );
        return vec![Finding::fail(found, remedy)];
    }
    if let Err(why) = &facts.holders {
        let found = format!("{own} is on {device}; whether on another machine too: {why}");
        return vec![Finding::skip(found)];
    }
    let mut findings: Vec<Finding> = Vec::new();
    findings.extend(facts.holders_of(own).first().map(|mac| {
        let mac = facts.named(*mac, own);
        Finding::fail(
            format!("{own} is on {device}, and {mac} has it too: datagrams go now here, now there"),
            format!("ip neigh and the switch tell where {mac} is: give it another address"),
        )
    }));
    for peer in &expected.peers {
        let address = peer.address;
        if let Some(here) = kernel.addresses.iter().find(|has| has.net.addr() == address) {
            let link = kernel.links.iter().find(|link| link.index == here.link);
            let device = link.map_or("DEVICE", |link| link.name.as_str());
            let finding = Finding::fail(
                format!(
                    "{address} is {}'s by the table, and this machine has it too: what is for that \
                     node stays here",
                    peer.name
                ),
                format!("ip address del {} dev {device}, or correct the table", here.net),
            );
            findings.push(finding.about(&peer.name));
            continue;
        }
        if let [one, other, ..] = facts.holders_of(address)[..] {
            let [one, other] = [one, other].map(|mac| facts.named(mac, address));
            let finding = Finding::warn(
                format!(
                    "{address} is at {one} and at {other}: two machines, or one with two cards here"
                ),
                format!(
                    "ip -br link on {} shows which is its own; where the other is the switch tells: give \
                     it another address, then ip neigh flush {address}",
                    peer.name
                ),
            );
            findings.push(finding.about(&peer.name));
        }
    }
    if findings.is_empty() {
        let found = format!("{own} is on {device}, and nobody else says that he has it");
        findings.push(Finding::ok(found));
    }
    super::some(findings)
}

#[cfg(test)]
mod tests {
    use culvert_netlink::Address;
    use overlay_proto::Mac;

    use super::super::tests::said;
    use super::*;
    use crate::doctor::facts::fixture::healthy;
    use crate::doctor::finding::Verdict;
    use crate::platform::arp::Claim;

    #[test]
    fn address_at_two_machines_is_found_of_this_node_and_of_a_peer() {
        let with = |address: [u8; 4], machines: u8| {
            let claim = |last| {
                let mac = Mac::new([2, 0, 0, 0, 0, last]);
                Claim { address: address.into(), link: 2, mac }
            };
            let holders = Ok((0..machines).map(claim).collect());
            said("address_elsewhere", &Facts { holders, ..healthy() }).remove(0)
        };
        assert_eq!(with([192, 168, 1, 11], 0).verdict, Verdict::Ok);
        assert_eq!(with([192, 168, 1, 11], 1).verdict, Verdict::Fail);
        assert_eq!(with([192, 168, 1, 12], 1).verdict, Verdict::Ok, "it is itself");
        let two = with([192, 168, 1, 12], 2);
        assert_eq!((two.verdict, two.peer.as_deref()), (Verdict::Warn, Some("node2")));
        assert!(two.found.contains("02:00:00:00:00:00 and at 02:00:00:00:00:01"), "{two:?}");
    }

    #[test]
    fn machine_that_is_a_known_node_is_named() {
        let claim = |address: [u8; 4], last| {
            let mac = Mac::new([2, 0, 0, 0, 0, last]);
            Claim { address: address.into(), link: 2, mac }
        };
        let holders = Ok(vec![claim([192, 168, 1, 11], 7), claim([192, 168, 1, 13], 7)]);
        let taken = said("address_elsewhere", &Facts { holders, ..healthy() }).remove(0);
        assert!(taken.found.contains("and 02:00:00:00:00:07 (node3) has it too"), "{taken:?}");
    }

    #[test]
    fn address_of_a_peer_on_a_device_of_this_machine_fails() {
        let mut facts = healthy();
        let kernel = facts.kernel.as_mut().unwrap();
        let own = kernel.addresses[0].clone();
        kernel.addresses.push(Address { net: "192.168.1.12/24".parse().unwrap(), ..own });
        let finding = said("address_elsewhere", &facts).remove(0);
        assert_eq!((finding.verdict, finding.peer.as_deref()), (Verdict::Fail, Some("node2")));
        assert!(finding.remedy.unwrap().starts_with("ip address del 192.168.1.12/24 dev"));
    }
}
