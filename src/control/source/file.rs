//! The table file as a source.

use std::path::PathBuf;

use super::{Candidate, Link, Snapshot, Update};
use crate::control::table_file::{Fault, TableFile};
use crate::engine::Overlay;

/// Reads the file, and again whenever it is another or somebody asks.
pub(super) async fn follow(path: PathBuf, overlay: Overlay, local: String, mut link: Link) {
    let mut file = TableFile::new(&path);
    loop {
        let update = match file.read(&overlay, &local) {
            Ok(members) => {
                let nodes = members.entries().iter().cloned();
                let nodes = nodes.map(|entry| Candidate { since: 0, entry }).collect();
                Update::Snapshot(Snapshot { nodes, ..Snapshot::default() })
            }
            Err(Fault::Unreadable(complaint)) => Update::Lost(complaint.to_string()),
            Err(Fault::Wrong(complaint)) => Update::Refused(complaint.to_string()),
        };
        link.say(update).await;
        tokio::select! {
            () = file.changed() => {}
            asked = link.wishes.wait_for(|wishes| wishes.reloads != file.reloads) => match asked {
                Ok(wishes) => file.reloads = wishes.reloads,
                Err(_nobody) => return,
            }
        }
    }
}
