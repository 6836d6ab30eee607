//! What people are told of peers and paths: how it is now, of whatever has changed.

use std::collections::BTreeMap;

use culvert_probe::{Event, View};

use crate::control::source::Reason;

/// Names in one text.
const NAMED: usize = 5;

/// A peer, and how it is.
pub(super) struct Peer<'a> {
    pub(super) name: &'a str,
    pub(super) view: View,
}

/// Notes of what `events` are about, as it is now.
pub(super) fn notes(
    events: &[Event],
    mut peers: Vec<Peer<'_>>,
    ports: &[u16],
) -> BTreeMap<Reason, String> {
    peers.sort_by_key(|peer| peer.name);
    let mut notes = BTreeMap::new();
    for event in events {
        match event {
            Event::Lost(..) | Event::Back(_) => {
                let lost = peers.iter().filter(|peer| peer.view.state.is_lost());
                match listed(lost.map(|peer| peer.name.to_owned())) {
                    Some(names) => {
                        notes.insert(Reason::PeerUnreachable, format!("no answer from {names}"))
                    }
                    None => notes.insert(Reason::PeersReachable, "all peers answer".to_owned()),
                };
            }
            Event::Paths(..) => {
                let lost = peers.iter().filter(|peer| peer.view.lost_paths != 0).map(|peer| {
                    let of = |place: &(usize, &u16)| peer.view.lost_paths & (1 << place.0) != 0;
                    let ports =
                        ports.iter().enumerate().filter(of).map(|(_, port)| port.to_string());
                    format!("{} from {}", peer.name, ports.collect::<Vec<_>>().join(", "))
                });
                if let Some(paths) = listed(lost) {
                    let text = format!("source ports that lead nowhere: to {paths}");
                    notes.insert(Reason::PathLost, text);
                }
            }
            Event::Mtu(..) => {
                let narrow = peers
                    .iter()
                    .filter_map(|peer| Some(format!("{} ({} bytes)", peer.name, peer.view.mtu?)));
                let text = match listed(narrow) {
                    Some(names) => format!("less than the route promises fits to {names}"),
                    None => "what routes promise fits to all peers".to_owned(),
                };
                notes.insert(Reason::PathMtu, text);
            }
        }
    }
    notes
}

/// The first names, and how many more there are; nothing of none.
fn listed(names: impl Iterator<Item = String>) -> Option<String> {
    let mut names: Vec<String> = names.collect();
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    let text = names.join("; ");
    match (names.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(text),
        (false, more) => Some(format!("{text} and {more} more")),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use culvert_probe::State;

    use super::*;

    const ANY: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn peer(name: &str, view: View) -> Peer<'_> {
        Peer { name, view }
    }

    #[test]
    fn a_note_says_how_it_is_now_and_is_short() {
        let silent = || View { state: State::Silent, ..View::default() };
        let names: Vec<String> = (1..=9).map(|number| format!("node{number}")).collect();
        let lost = || names.iter().map(|name| peer(name, silent())).collect();
        let found = notes(&[Event::Lost(ANY, State::Silent), Event::Back(ANY)], lost(), &[]);
        let expected = "no answer from node1; node2; node3; node4; node5 and 4 more".to_owned();
        assert_eq!(found, [(Reason::PeerUnreachable, expected)].into());
        let found = notes(&[Event::Back(ANY)], vec![peer("node2", View::default())], &[]);
        assert_eq!(found, [(Reason::PeersReachable, "all peers answer".to_owned())].into());

        let narrow = View { lost_paths: 0b101, mtu: Some(1364), ..View::default() };
        let events = [Event::Paths(ANY, 0b101, 0), Event::Mtu(ANY, Some(1364))];
        let found = notes(&events, vec![peer("node3", narrow)], &[5000, 5001, 5002]);
        let paths = "source ports that lead nowhere: to node3 from 5000, 5002".to_owned();
        let mtu = "less than the route promises fits to node3 (1364 bytes)".to_owned();
        assert_eq!(found, [(Reason::PathLost, paths), (Reason::PathMtu, mtu)].into());
    }
}
