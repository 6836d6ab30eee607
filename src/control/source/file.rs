//! The table file as a source.

use std::path::Path;

use super::{Link, Update};
use crate::control::table_file::{ReadError, TableFile};
use crate::platform::allocator;

/// Reads the file, and again whenever it is another or somebody asks.
pub(super) async fn follow(path: &Path, mut link: Link) {
    let mut file = TableFile::new(path);
    let mut reloads = 0;
    loop {
        // The disk, and a table of ten thousand nodes, may take their time.
        let read = tokio::task::spawn_blocking(move || {
            let read = file.read();
            allocator::give_back();
            (read, file)
        });
        let Ok((read, known)) = read.await else { return };
        file = known;
        link.say(match read {
            Ok(proposal) => Update::Everything(proposal),
            Err(ReadError::Unreadable(complaint)) => Update::Lost(complaint.to_string()),
            Err(ReadError::Malformed(complaint)) => Update::Refused(complaint.to_string()),
        })
        .await;
        tokio::select! {
            () = file.changed() => {}
            asked = link.requests.wait_for(|requests| requests.reloads != reloads) => match asked {
                Ok(requests) => reloads = requests.reloads,
                Err(_nobody) => return,
            }
        }
    }
}
