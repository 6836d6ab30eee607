//! The notes that were seen on pods' ports, for ports that lose theirs.
//!
//! The notes are the truth about running pods, and nobody has a reason to take one away: the plugin
//! writes it once, and it goes with its device. Without it the pod would be taken for a stranger's,
//! and its source check be removed. So what was there a moment ago counts, and is put back. What is
//! changed into another note counts as changed. Pure.

use std::collections::BTreeMap;

use culvert_netlink::{Link, LinkKind};
use culvert_node::pod_port::{DEVICE_GROUP, PodPort};

use super::observe::is_port_name;

/// Notes by the index of their port, which the kernel gives to no other device.
#[derive(Default)]
pub(super) struct Notes(BTreeMap<u32, String>);

/// A note that is to be put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LostNote {
    pub(super) device: String,
    pub(super) note: String,
}

impl Notes {
    /// Remembers the notes on `links`, all devices there are; gives those that lost theirs what
    /// they had, and returns that.
    pub(super) fn keep(&mut self, links: &mut [Link]) -> Vec<LostNote> {
        let mut before = std::mem::take(&mut self.0);
        let mut lost = Vec::new();
        for link in links.iter_mut().filter(|link| link.kind == LinkKind::Veth) {
            if PodPort::from_note(&link.name, &link.alias).is_none() {
                let Some(note) = before.remove(&link.index) else { continue };
                lost.push(LostNote { device: link.name.clone(), note: note.clone() });
                link.alias = note;
            }
            self.0.insert(link.index, link.alias.clone());
        }
        lost
    }
}

impl Notes {
    /// Takes what is known of `pods` otherwise for their notes, with the options that their ports
    /// among `links` have now.
    pub(super) fn learn(&mut self, links: &[Link], pods: Vec<PodPort>) {
        for pod in pods {
            let Some(link) = links.iter().find(|link| link.name == pod.device) else { continue };
            let options = link.port.unwrap_or_default();
            let pod = PodPort { hairpin: options.hairpin, isolated: options.isolated, ..pod };
            self.0.extend(pod.note().map(|note| (link.index, note)));
        }
    }
}

/// The ports of pods that carry frames and whose note is gone, and nobody knows what it said.
pub(super) fn noteless(links: &[Link]) -> Vec<String> {
    links
        .iter()
        .filter(|link| link.kind == LinkKind::Veth && link.up && link.controller.is_some())
        .filter(|link| link.group == DEVICE_GROUP && is_port_name(&link.name))
        .filter(|link| PodPort::from_note(&link.name, &link.alias).is_none())
        .map(|link| link.name.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use culvert_netlink::BridgePort;

    use super::*;

    const NOTE: &str = "culvert pod 0a:58:0a:f4:01:02 checked 10.244.1.2";

    fn port(index: u32, alias: &str) -> Link {
        Link {
            index,
            name: format!("culv{index}"),
            kind: LinkKind::Veth,
            alias: alias.into(),
            up: true,
            controller: Some(2),
            group: DEVICE_GROUP,
            ..Link::default()
        }
    }

    #[test]
    fn note_that_somebody_removed_or_replaced_is_known_and_to_be_put_back() {
        let mut notes = Notes::default();
        assert_eq!(notes.keep(&mut [port(5, NOTE), port(6, "")]), []);
        let expected = LostNote { device: "culv5".into(), note: NOTE.into() };
        for other in ["", "culvert pod", "mine"] {
            let mut links = [port(6, ""), port(5, other)];
            assert_eq!(notes.keep(&mut links), std::slice::from_ref(&expected), "{other:?}");
            assert_eq!(links[1].alias, NOTE);
            assert_eq!(links[0].alias, "", "nothing is known of it");
        }
    }

    #[test]
    fn note_that_was_lost_before_is_learned_with_the_options_of_its_port() {
        let options = BridgePort { hairpin: true, ..BridgePort::default() };
        let mut links = [Link { port: Some(options), ..port(5, "") }];
        let mut notes = Notes::default();
        assert_eq!(notes.keep(&mut links), []);
        notes.learn(&links, PodPort::from_note("culv5", NOTE).into_iter().collect());
        let note = NOTE.replace("checked", "checked hairpin") + "/32";
        assert_eq!(notes.keep(&mut links), [LostNote { device: "culv5".into(), note }]);
        assert_eq!(noteless(&links), [""; 0]);
    }

    #[test]
    fn note_goes_with_its_device_and_gives_way_to_another() {
        let mut notes = Notes::default();
        let other = NOTE.replace("10.244.1.2", "10.244.1.3");
        notes.keep(&mut [port(5, NOTE)]);
        assert_eq!(notes.keep(&mut [port(5, &other)]), []);
        assert_eq!(notes.keep(&mut [port(5, "")])[0].note, other);
        assert_eq!(notes.keep(&mut []), []);
        assert_eq!(notes.keep(&mut [port(5, "")]), []);
    }

    #[test]
    fn port_without_a_note_is_named_unless_it_is_being_made_or_somebody_elses() {
        assert_eq!(noteless(&[port(5, ""), port(6, NOTE)]), ["culv5"]);
        for fine in [
            Link { up: false, ..port(5, "") },
            Link { group: 0, ..port(5, "") },
            Link { name: "veth5".into(), ..port(5, "") },
            Link { controller: None, ..port(5, "") },
        ] {
            assert_eq!(noteless(&[fine]), [""; 0]);
        }
    }
}
