//! The table file as a source.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Candidate, Link, Parameters, Proposal, Update};
use crate::config::Config;
use crate::control::table_file::{Fault, TableFile};
use crate::engine::{Membership, NodeEntry};

/// Reads the file, and again whenever it is another or somebody asks.
pub(super) async fn follow(path: PathBuf, config: Config, mut link: Link) {
    let mut file = TableFile::new(&path);
    let local = &config.node.name;
    // A configuration with a table file has them.
    let Some(parameters) = Parameters::configured(&config) else { return };
    let overlay = parameters.overlay(&config);
    // What was told, until something else was.
    let mut told: Option<Membership> = None;
    loop {
        match file.read(&overlay, local) {
            Ok(members) => {
                if let Some(update) = news(told.as_ref(), &members) {
                    link.say(update).await;
                }
                told = Some(members);
            }
            Err(fault) => {
                told = None;
                link.say(match fault {
                    Fault::Unreadable(complaint) => Update::Lost(complaint.to_string()),
                    Fault::Wrong(complaint) => Update::Refused(complaint.to_string()),
                })
                .await;
            }
        }
        tokio::select! {
            () = file.changed() => {}
            asked = link.wishes.wait_for(|wishes| wishes.reloads != file.reloads) => match asked {
                Ok(wishes) => file.reloads = wishes.reloads,
                Err(_nobody) => return,
            }
        }
    }
}

/// What to tell of `members`: the one change since what was told, or everything; nothing if it is the
/// same. Several changes of a file belong together, and must come into force together.
fn news(told: Option<&Membership>, members: &Membership) -> Option<Update> {
    let candidate = |entry: &Arc<NodeEntry>| Candidate { since: 0, entry: Arc::clone(entry) };
    if let Some(told) = told {
        let (old, new) = (told.entries(), members.entries());
        let front = old.iter().zip(new).take_while(|(old, new)| old == new).count();
        let (old, new) = (&old[front..], &new[front..]);
        let pairs = old.iter().rev().zip(new.iter().rev());
        let back = pairs.take_while(|(old, new)| old == new).count();
        match (&old[..old.len() - back], &new[..new.len() - back]) {
            ([], []) => return None,
            ([], [node]) => return Some(Update::Put(candidate(node))),
            ([node], []) => return Some(Update::Remove(node.name.clone())),
            ([old], [new]) if old.name == new.name => return Some(Update::Put(candidate(new))),
            _ => {}
        }
    }
    let nodes = members.entries().iter().map(candidate);
    Some(Update::Everything(Proposal::of_nodes(nodes)))
}

#[cfg(test)]
mod tests {
    use overlay_proto::Vni;

    use super::*;
    use crate::engine::{Foreign, Overlay, Speech};

    fn members(numbers: &[u8]) -> Membership {
        let networks = vec!["10.244.0.0/16".parse().unwrap()];
        let vni = Vni::new(1).unwrap();
        let overlay = Overlay { vni, networks, port: 4790, foreign: Foreign::default() };
        let node = |number: &u8| NodeEntry {
            name: format!("node{}", number % 100),
            address: [192, 168, 1, *number].into(),
            subnets: vec![format!("10.244.{number}.0/24").parse().unwrap()],
            speech: Speech::default(),
        };
        Membership::check(overlay, "node1", numbers.iter().map(node).collect()).unwrap()
    }

    #[test]
    fn news_make_of_what_was_told_what_there_is() {
        let tables: [&[u8]; 9] = [
            &[1, 2, 3],
            &[1, 2, 3],
            &[1, 102, 3],
            &[1, 102, 3, 4],
            &[3, 1, 102],
            &[1],
            &[4, 1, 5],
            &[1, 5, 4],
            &[1, 4],
        ];
        let mut proposal = Proposal::default();
        let mut told: Option<Membership> = None;
        for numbers in tables {
            let members = members(numbers);
            if let Some(update) = news(told.as_ref(), &members) {
                proposal.take(update);
            }
            let mut whole = Proposal::default();
            whole.take(news(None, &members).unwrap());
            assert_eq!(proposal, whole, "{numbers:?}");
            told = Some(members);
        }
        assert_eq!(news(told.as_ref(), &members(&[1, 4])), None);
        assert!(matches!(news(told.as_ref(), &members(&[1, 104])), Some(Update::Put(_))));
        assert!(matches!(news(told.as_ref(), &members(&[4, 1])), Some(Update::Everything(_))));
    }
}
