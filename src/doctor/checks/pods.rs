//! `pods`: whether each pod of this node has its address, and finds its way back.

use culvert_netlink::Standing;
use culvert_node::words::counted;

use crate::doctor::facts::{AskedPod, Facts};
use crate::doctor::finding::Finding;

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let pods = match &facts.pods {
        Ok(pods) => pods,
        Err(why) => return vec![Finding::skip(why)],
    };
    let mut findings: Vec<Finding> = pods.iter().filter_map(trouble).collect();
    if findings.is_empty() {
        findings.push(match pods.len() {
            0 => Finding::skip("there are none"),
            count => {
                let addresses = counted(count, "address");
                Finding::ok(format!("{addresses} of pods asked, and each answers"))
            }
        });
    }
    super::some(findings)
}

fn trouble(pod: &AskedPod) -> Option<Finding> {
    let AskedPod { name, address, gateway, port, mac, .. } = pod;
    let inside = |command: &str| format!("in the pod's namespace (nsenter -n -t PID): {command}");
    if pod.near && pod.far != Some(false) || pod.far == Some(true) {
        return None;
    }
    if !pod.is_plugged {
        let found = format!("{name} ({address}) has its interface down: {port} has no carrier");
        return Some(Finding::fail(
            found,
            inside("ip link set eth0 up, and its default route again"),
        ));
    }
    if pod.near {
        let found = format!(
            "{name} ({address}) answers within its subnet and not beyond: its default route is gone or \
             leads elsewhere, or its own firewall is in the way"
        );
        return Some(Finding::warn(found, inside(&format!("ip route add default via {gateway}"))));
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
            inside("nft list ruleset; ip neigh; ip address"),
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
