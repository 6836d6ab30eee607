//! Keys of sessions from a file, with which a replay opens what is sealed.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use culvert_dataplane::engine::{SealedMode, Sealing, Table};
use culvert_node::bounded_file;
use culvert_seal::SessionKey;
use culvert_seal::mesh::Shared;
use culvert_seal::session::PeerLink;
use overlay_proto::esp::Slot;
use zeroize::Zeroizing;

use crate::app::Offline;

/// The sessions that come in at a node, as a key log has them.
pub(super) struct Sessions {
    pub(super) shared: Arc<Shared>,
    /// The table, in which the peers that have sessions seal.
    pub(super) table: Table,
    pub(super) slots: HashSet<Slot>,
}

impl Sessions {
    /// Reads the lines of `path` that are of sessions toward the node of `offline`. Those toward
    /// others are passed over, and so are empty lines and comments.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or a line is none of a key log.
    pub(super) fn read(path: &Path, offline: &Offline) -> anyhow::Result<Self> {
        let port = offline.sealed_port().context(
            "--key-file: sealed.mode is \"off\", and this node opens nothing; set it to \"prefer\"",
        )?;
        let text = bounded_file::read_text(path, bounded_file::LARGE).map(Zeroizing::new);
        let text = text.with_context(|| format!("reading {}", path.display()))?;
        let (shared, mut slots) = (Arc::<Shared>::default(), HashSet::new());
        let mut links = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let place = || format!("{}:{}", path.display(), number + 1);
            let key = SessionKey::parse(line).with_context(|| {
                format!("{}: this is no line that sealed.key_log has written", place())
            })?;
            if key.destination.is_some_and(|to| to != offline.address()) {
                continue;
            }
            let Some(source) = key.source else {
                bail!("{}: write the sender's address instead of \"*\"", place());
            };
            // What another node sends, or one that has left, no peer of this table sealed.
            let Some(peer) = offline.table.sender(source) else { continue };
            let name = offline.table.peer(peer).name();
            let link = links.entry(name).or_insert_with(|| Arc::new(PeerLink::new(name)));
            let incoming = key.incoming(Arc::clone(link)).with_context(place)?;
            slots.insert(incoming.slot());
            shared.slots.install(Arc::new(incoming));
        }
        let sealing = Sealing::new(SealedMode::Prefer, port).with_links(links.into_values());
        Ok(Self { shared, table: offline.table.clone().seal(&sealing), slots })
    }
}
