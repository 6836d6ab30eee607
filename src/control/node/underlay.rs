//! Whether tunnel datagrams would leave for other nodes, and theirs end here.
//!
//! One peer that no route leads to is that peer's matter; where none has a way, the node carries
//! nothing between nodes, whatever its own devices look like. Pure but for the asking.

use std::collections::{HashMap, HashSet};

use culvert_netlink::{Flow, RouteAnswer, route_refusal};

use super::NodeSpec;

/// What to ask the kernel: datagrams to peers, and the last one to this node's own address.
pub(super) fn questions(spec: &NodeSpec) -> Vec<Flow> {
    let to_peers = spec.peers.iter().copied();
    let own = spec.peers.first().and_then(|peer| peer.source);
    to_peers.chain(own.map(Flow::to)).collect()
}

/// What is wrong, by the kernel's answers to `questions`, and what to do; `running` are the indexes
/// of devices that carry packets.
pub(super) fn fault(
    questions: &[Flow],
    answers: &[RouteAnswer],
    indexes: &HashMap<String, u32>,
    running: &HashSet<u32>,
) -> Option<String> {
    let name = |index: &u32| {
        let named = indexes.iter().find(|(_name, is)| *is == index);
        named.map_or_else(|| format!("device {index}"), |(name, _index)| name.clone())
    };
    let (own, to_peers) = answers.split_last()?;
    let address = questions.last()?.destination;
    let family = if address.is_ipv4() { "ip" } else { "ip -6" };
    if !matches!(own, RouteAnswer::Local) {
        return Some(format!(
            "datagrams of other nodes to {address} do not end on this node: no device has the address, \
             the routing table `local` lacks it, or a rule comes before; see `{family} address`, `{family} \
             route show table local` and `{family} rule`, and put the address on its device (again), or \
             correct the subnet table or underlay.address"
        ));
    }
    let faults: Option<Vec<String>> = to_peers
        .iter()
        .map(|answer| match answer {
            RouteAnswer::Local => None,
            RouteAnswer::Out(path) if path.links.iter().any(|link| running.contains(link)) => None,
            RouteAnswer::Out(path) => {
                let devices: Vec<String> = path.links.iter().map(name).collect();
                Some(format!("{} is down or has no carrier", devices.join(", ")))
            }
            RouteAnswer::Refused(error) => Some(format!("no route: {}", route_refusal(error))),
        })
        .collect();
    let why = faults?.into_iter().next()?;
    let first = questions.first()?.destination;
    Some(format!(
        "no datagram leaves for any other node ({why}): see `{family} route get {first} from {address}`, \
         and bring the device of the underlay up or put its route back"
    ))
}

#[cfg(test)]
mod tests {
    use culvert_netlink::{Error, Path, Route};

    use super::super::fixture::{route, spec};
    use super::*;

    fn by(link: u32) -> RouteAnswer {
        let route = Route { link: Some(link), ..route() };
        RouteAnswer::Out(Path { route, links: vec![link] })
    }

    fn refused() -> RouteAnswer {
        let cause = std::io::Error::other("Network is unreachable");
        RouteAnswer::Refused(Error::new("look up", "a route", cause))
    }

    /// What is said of a node with two peers, whose device 7 is down.
    fn said(answers: [RouteAnswer; 3]) -> Option<String> {
        let own = "192.168.1.11".parse().ok();
        let peers = ["192.168.1.12", "192.168.1.13"].map(|peer| peer.parse().unwrap());
        let peers = peers.map(|peer| Flow { source: own, ..Flow::to(peer) });
        let questions = questions(&NodeSpec { peers: peers.into(), ..spec() });
        assert_eq!(questions.len(), 3);
        let indexes = [("eth0", 7), ("eth1", 8)].map(|(name, index)| (name.to_owned(), index));
        fault(&questions, &answers, &indexes.into(), &[8].into())
    }

    #[test]
    fn one_peer_that_can_be_sent_to_is_enough() {
        assert_eq!(said([by(8), by(8), RouteAnswer::Local]), None);
        assert_eq!(said([refused(), by(8), RouteAnswer::Local]), None);
        assert_eq!(said([by(7), RouteAnswer::Local, RouteAnswer::Local]), None);
        assert_eq!(fault(&[], &[], &HashMap::new(), &HashSet::new()), None);
    }

    #[test]
    fn underlay_that_leads_nowhere_is_named_with_the_remedy() {
        let down = said([by(7), refused(), RouteAnswer::Local]).unwrap();
        for words in [
            "(eth0 is down or has no carrier)",
            "`ip route get 192.168.1.12 from 192.168.1.11`",
            "bring the device of the underlay up",
        ] {
            assert!(down.contains(words), "{words:?} is not in {down}");
        }
        let lost = said([refused(), refused(), RouteAnswer::Local]).unwrap();
        assert!(lost.contains("(no route: Network is unreachable)"), "{lost}");
        for own in [by(8), refused()] {
            let deaf = said([by(8), by(8), own]).unwrap();
            assert!(deaf.contains("to 192.168.1.11 do not end on this node"), "{deaf}");
        }
    }
}
