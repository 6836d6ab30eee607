//! `pods`: whether each pod of this node has its address alone, and finds its way back.

use std::net::IpAddr;

use culvert_netlink::Standing;
use culvert_node::words::counted;

use crate::doctor::facts::{AskedPod, Facts};
use crate::doctor::finding::Finding;
use crate::platform::arp::Claim;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let pods = match &facts.pods {
        Ok(pods) => pods,
        Err(why) => return vec![Finding::skip(why)],
    };
    let claims = facts.pod_holders.as_deref().unwrap_or_default();
    let mut findings = twice(pods);
    findings.extend(claims.iter().filter_map(|claim| taken(facts, pods, claim)));
    findings.extend(pods.iter().filter_map(trouble));
    if findings.is_empty() {
        findings.push(match (pods.len(), &facts.pod_holders) {
            (0, _) => Finding::skip("there are none"),
            (count, Ok(_)) => {
                let addresses = counted(count, "address");
                Finding::ok(format!("{addresses} of pods asked, and each answers, by its own port"))
            }
            (count, Err(why)) => {
                let addresses = counted(count, "address");
                Finding::ok(format!(
                    "{addresses} of pods asked, and each answers; whether another pod has one too: {why}"
                ))
            }
        });
    }
    super::some(findings)
}

/// Addresses that were given to two pods.
fn twice(pods: &[AskedPod]) -> Vec<Finding> {
    let mut sorted: Vec<&AskedPod> = pods.iter().collect();
    sorted.sort_by_key(|pod| pod.address);
    let pairs = sorted.windows(2).filter(|pair| pair[0].address == pair[1].address);
    let finding = |pair: &[&AskedPod]| {
        let AskedPod { name, port, address, .. } = pair[0];
        let (other, its) = (&pair[1].name, &pair[1].port);
        Finding::fail(
            format!("{address} was given to two pods: {name} ({port}) and {other} ({its})"),
            "delete one of them, so that it is plugged in anew",
        )
    };
    pairs.map(finding).collect()
}

/// What is wrong if somebody says that he has an address, and it is another's.
fn taken(facts: &Facts, pods: &[AskedPod], claim: &Claim) -> Option<Finding> {
    let is_its = |pod: &&AskedPod| pod.address == claim.address;
    let owner = pods.iter().find(is_its)?;
    // Who was given it by a note has been named.
    if pods.iter().filter(is_its).any(|pod| pod.link == claim.link) {
        return None;
    }
    let AskedPod { name, port, address, .. } = owner;
    let links = facts.kernel.as_ref().map_or(&[][..], |kernel| &kernel.links);
    let device = links.iter().find(|link| link.index == claim.link);
    let device = device.map_or("another port", |link| link.name.as_str());
    let taker = pods.iter().find(|pod| pod.link == claim.link);
    Some(match taker {
        Some(taker) => Finding::fail(
            format!(
                "{address} is of {name} ({port}), and {} ({device}) has it too: what either sends the \
                 other does not arrive",
                taker.name
            ),
            format!(
                "take it from {}: {}",
                taker.name,
                inside(
                    taker,
                    &format!("ip address del {address}{} dev eth0", len(facts, *address))
                )
            ),
        ),
        None => Finding::fail(
            format!(
                "{address} is of {name} ({port}), and {} behind {device} has it too",
                claim.mac
            ),
            format!("give it another address, or take {device} out of the bridge"),
        ),
    })
}

/// A command that is to be run where the pod is.
fn inside(pod: &AskedPod, command: &str) -> String {
    let way = pod.way_in.as_deref().unwrap_or("nsenter -n -t PID");
    format!("in the pod's namespace ({way}): {command}")
}

/// The length of the subnet that has the address, which pods write behind theirs.
fn len(facts: &Facts, address: IpAddr) -> String {
    let subnets = facts.expected.as_ref().map_or(&[][..], |it| &it.setup.local_subnets);
    let subnet = subnets.iter().find(|subnet| subnet.contains(&address));
    subnet.map_or_else(String::new, |subnet| format!("/{}", subnet.prefix_len()))
}

fn trouble(pod: &AskedPod) -> Option<Finding> {
    let AskedPod { name, address, gateway, port, mac, .. } = pod;
    if pod.near && pod.far != Some(false) || pod.far == Some(true) {
        return None;
    }
    if let Some(why) = &pod.unasked {
        return Some(Finding::skip(format!("{name} ({address}) could not be asked: {why}")));
    }
    if !pod.is_plugged {
        let found = format!("{name} ({address}) has its interface down: {port} has no carrier");
        return Some(Finding::fail(
            found,
            inside(pod, "ip link set eth0 up, and its default route again"),
        ));
    }
    if pod.near {
        let found = format!(
            "{name} ({address}) answers within its subnet and not beyond: its default route is gone or \
             leads elsewhere, or its own firewall is in the way"
        );
        let remedy = format!(
            "ip route; without a default: ip route add default via {gateway}; else nft list ruleset"
        );
        return Some(Finding::warn(found, inside(pod, &remedy)));
    }
    let standing = pod.neighbour.map(|neighbour| (neighbour.standing, neighbour.mac));
    Some(match standing {
        Some((Standing::Fixed, known)) if known != Some(*mac) => {
            let known = known.map_or_else(|| "nowhere".to_owned(), |known| known.to_string());
            Finding::fail(
                format!(
                    "{name} ({address}) gets nothing: somebody wrote down {known} for it, not {mac}"
                ),
                format!("ip neigh del {address} dev BRIDGE, with the name of the pods' bridge"),
            )
        }
        Some((Standing::Silent, _)) => Finding::fail(
            format!(
                "{name} does not answer who has {address}: its address or its interface is gone"
            ),
            "delete the pod, so that it is plugged in anew",
        ),
        Some(_) | None => Finding::warn(
            format!(
                "{name} ({address}) answers nothing: a firewall of its own, or a wrong entry for its \
                 gateway {gateway}"
            ),
            inside(pod, "nft list ruleset; ip neigh; ip address"),
        ),
    })
}

#[cfg(test)]
mod tests {
    use culvert_netlink::Neighbour;
    use overlay_proto::Mac;

    use super::super::tests::said;
    use super::*;
    use crate::doctor::facts::fixture::healthy;
    use crate::doctor::finding::Verdict;

    fn with(change: impl Fn(&mut AskedPod)) -> (Verdict, String) {
        let mut facts = healthy();
        change(&mut facts.pods.as_mut().unwrap()[0]);
        let finding = said("pods", &facts).remove(0);
        (finding.verdict, finding.found)
    }

    #[test]
    fn address_of_two_pods_names_both() {
        let mut facts = healthy();
        let pods = facts.pods.as_mut().unwrap();
        pods[1].address = pods[0].address;
        let given = said("pods", &facts).remove(0);
        assert_eq!(given.verdict, Verdict::Fail);
        let words = "10.244.1.2 was given to two pods: pod2 (culv2) and pod3 (culv3)";
        assert_eq!(given.found, words);

        let claim = |link| Claim { address: [10, 244, 1, 2].into(), link, mac: Mac::new([2; 6]) };
        let with = |claims: &[Claim]| {
            said("pods", &Facts { pod_holders: Ok(claims.to_vec()), ..healthy() }).remove(0)
        };
        assert_eq!(with(&[claim(2)]).verdict, Verdict::Ok, "its own");
        let taken = with(&[claim(2), claim(3)]);
        assert_eq!(taken.verdict, Verdict::Fail);
        assert!(taken.found.starts_with("10.244.1.2 is of pod2 (culv2), and pod3 ("), "{taken:?}");
        let del = "(nsenter -n -t PID): ip address del 10.244.1.2/24 dev eth0";
        assert!(taken.remedy.unwrap().ends_with(del));
        let mut known = Facts { pod_holders: Ok([claim(2), claim(3)].into()), ..healthy() };
        known.pods.as_mut().unwrap()[1].way_in = Some("nsenter -n -t 4711".to_owned());
        let known = said("pods", &known).remove(0);
        assert!(known.remedy.unwrap().contains("(nsenter -n -t 4711): ip address del"));
        let stranger = with(&[claim(9)]);
        assert!(stranger.found.contains("02:02:02:02:02:02 behind another port"), "{stranger:?}");
        let unasked = Facts { pod_holders: Err("no right to it".to_owned()), ..healthy() };
        let unasked = said("pods", &unasked).remove(0);
        assert!(unasked.found.ends_with("has one too: no right to it"), "{unasked:?}");
    }

    #[test]
    fn silence_of_a_pod_is_judged_by_what_else_is_known() {
        let silent = |pod: &mut AskedPod| (pod.near, pod.far) = (false, Some(false));
        let neighbour =
            |pod: &AskedPod, standing, mac| Some(Neighbour { address: pod.address, mac, standing });
        assert_eq!(with(|_| {}).0, Verdict::Ok);
        assert_eq!(with(|pod| pod.far = None).0, Verdict::Ok, "nothing beyond to ask from");
        let (verdict, found) = with(|pod| pod.far = Some(false));
        assert!(verdict == Verdict::Warn && found.contains("default route"), "{found}");
        let (verdict, found) = with(|pod| {
            silent(pod);
            pod.unasked = Some("Too many open files".to_owned());
        });
        assert!(
            verdict == Verdict::Skip && found.contains("could not be asked: Too many"),
            "{found}"
        );
        let (verdict, found) = with(|pod| {
            silent(pod);
            pod.is_plugged = false;
        });
        assert!(verdict == Verdict::Fail && found.contains("interface down"), "{found}");
        let (verdict, found) = with(|pod| {
            silent(pod);
            pod.neighbour = neighbour(pod, Standing::Silent, None);
        });
        assert!(verdict == Verdict::Fail && found.contains("who has 10.244.1.2"), "{found}");
        let (verdict, found) = with(|pod| {
            silent(pod);
            pod.neighbour = neighbour(pod, Standing::Fixed, Some(Mac::new([2; 6])));
        });
        assert!(verdict == Verdict::Fail && found.contains("02:02:02"), "{found}");
        let (verdict, found) = with(|pod| {
            silent(pod);
            pod.neighbour = neighbour(pod, Standing::Known, Some(pod.mac));
        });
        assert!(verdict == Verdict::Warn && found.contains("answers nothing"), "{found}");
    }
}
