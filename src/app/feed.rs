//! What the daemon knows from its table source, from the first table to the present one.
//!
//! Owns the roll of nodes, the last good copy on disk, and what is shown of both. Never changes what
//! is forwarded: it says what the table should be, and the daemon takes it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use overlay_proto::Vni;

use super::view::Facts;
use crate::config::{Config, TableSource};
use crate::control::source::{self, Roll, Saved, Shared, Source, Update};
use crate::engine::{Membership, TableError};
use crate::lifecycle::{Readiness, State};
use crate::platform::clock;

/// How long a start waits for the source before it goes by the last good table.
const PATIENCE: Duration = Duration::from_secs(3);

/// Time between two new tables at least: what changes meanwhile comes with the next, so that a
/// restless source costs a bounded part of one CPU.
const PACE: Duration = Duration::from_millis(50);

/// Time between two copies of a large table on disk at least. What is lost with a machine is this much of the
/// cluster's changes, and only until the source answers.
const SAVE_EVERY: Duration = Duration::from_secs(10);

/// Tables of up to so many nodes are kept whenever they change: that is a few kilobytes.
const SMALL: usize = 256;

/// A table source and what it has told.
pub(super) struct Feed {
    source: Source,
    kind: String,
    roll: Roll,
    facts: Arc<Facts>,
    node: String,
    state_dir: PathBuf,
    /// Entries that were left out of the present table.
    rejected: Vec<String>,
    /// What was logged as left out already.
    reported: BTreeSet<String>,
    /// Whether the configuration leaves what all nodes share to the source, and what that says.
    adopts: bool,
    shared: Option<Shared>,
    taken: Option<Instant>,
    saved: Option<Instant>,
    unsaved: bool,
    file: bool,
}

impl Feed {
    pub(super) fn start(config: &Config, facts: Arc<Facts>) -> Self {
        Self {
            source: Source::start(config),
            kind: source::describe(&config.table),
            roll: Roll::default(),
            facts,
            node: config.node.name.clone(),
            state_dir: config.node.state_dir.clone(),
            rejected: Vec::new(),
            reported: BTreeSet::new(),
            adopts: config.network.cidrs.is_empty(),
            shared: None,
            taken: None,
            saved: None,
            unsaved: false,
            file: matches!(config.table, TableSource::File { .. }),
        }
    }

    /// The source, to tell it something.
    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    /// Why this node's own entry is not its own, by the source.
    pub(super) fn contested(&self) -> Option<String> {
        self.facts.table(|table| table.contested.clone())
    }

    /// Waits for a table that has this node. While the source is away, that is the last good one.
    /// Completes `config` by what all nodes share, where it leaves that to the source.
    ///
    /// # Errors
    ///
    /// A table file that makes no sense, or that is not there and never was.
    pub(super) async fn first(
        &mut self,
        config: &mut Config,
        readiness: &Readiness,
    ) -> anyhow::Result<Membership> {
        let patience = tokio::time::sleep(PATIENCE);
        tokio::pin!(patience);
        let mut waited = false;
        loop {
            let updates = tokio::select! {
                updates = self.source.next() => {
                    anyhow::ensure!(!updates.is_empty(), "the table source ended; this is a bug");
                    updates
                }
                () = &mut patience, if !waited => {
                    waited = true;
                    Vec::new()
                }
            };
            for update in updates {
                if let Update::Refused(reason) = update {
                    bail!(reason);
                }
                if let Update::Snapshot(snapshot) = &update {
                    adopt(config, snapshot.shared.as_ref())?;
                }
                self.note(&update);
                self.roll.take(update);
            }
            let (current, lost, contested) = self.facts.table(|table| {
                (table.current, table.source_error.clone(), table.contested.clone())
            });
            let known = self.members(config);
            if let Ok(members) = known {
                return Ok(members);
            }
            if (lost.is_some() || waited) && !current {
                if let Some(members) = self.last_good(config)? {
                    return Ok(members);
                }
                if let (true, Some(reason)) = (self.file, &lost) {
                    bail!(reason.clone());
                }
            }
            let reason = match (contested, lost, known) {
                (Some(reason), _, _) | (None, Some(reason), _) => reason,
                (None, None, Err(_)) if self.roll.nodes().next().is_none() => {
                    format!("{} has not answered yet", self.kind)
                }
                (None, None, Err(error)) => describe(&error),
                (None, None, Ok(_)) => String::new(),
            };
            let reason = format!("waiting for the subnet table: {reason}");
            if readiness.set(State::NotReady(reason.clone())) {
                tracing::warn!(reason, "not ready");
            }
        }
    }

    /// The next change that may concern the table; what came with it is taken note of.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn changed(&mut self) -> bool {
        if let Some(taken) = self.taken {
            tokio::time::sleep_until((taken + PACE).into()).await;
        }
        let updates = self.source.next().await;
        if updates.is_empty() {
            // The source has ended, which it does not before the daemon does.
            std::future::pending::<()>().await;
        }
        let mut changed = false;
        for update in updates {
            self.note(&update);
            changed |= self.roll.take(update);
        }
        if changed {
            self.taken = Some(clock::now());
        }
        self.show_left_out();
        changed
    }

    /// Widens the pod networks of `config` as the source says, where they are the source's.
    pub(super) fn widen(&self, config: &mut Config) {
        if let (true, Some(shared)) = (self.adopts, &self.shared)
            && config.network.cidrs != shared.cidrs
        {
            tracing::info!(cidrs = ?shared.cidrs, "the pod networks have changed");
            config.network.cidrs.clone_from(&shared.cidrs);
        }
    }

    /// The nodes that the table should have.
    ///
    /// # Errors
    ///
    /// This node has no part in it.
    pub(super) fn members(&mut self, config: &Config) -> Result<Membership, TableError> {
        let (members, rejected) = self.roll.members(&source::overlay(config), &self.node)?;
        self.rejected = rejected
            .into_iter()
            .map(|node| format!("node \"{}\": {}", node.name, describe(&node.error)))
            .collect();
        self.show_left_out();
        Ok(members)
    }

    /// Takes note that the table is in force, so that it is kept: at once, unless it is large.
    pub(super) async fn in_force(&mut self, config: &Config) {
        self.unsaved = true;
        let small = self.roll.nodes().nth(SMALL).is_none();
        self.save(config, small).await;
    }

    /// Keeps the table on disk if it is another and it is time, or must be `at_once`.
    pub(super) async fn save(&mut self, config: &Config, at_once: bool) {
        let now = clock::now();
        let recently = |saved| now.saturating_duration_since(saved) < SAVE_EVERY;
        if !self.unsaved || (!at_once && self.saved.is_some_and(recently)) {
            return;
        }
        self.unsaved = false;
        self.saved = Some(now);
        let shared = Shared {
            cidrs: config.network.cidrs.clone(),
            vni: config.network.vni.get(),
            port: config.underlay.port,
        };
        let saved = Saved::of(&self.node, &self.kind, shared, &self.roll);
        let state_dir = self.state_dir.clone();
        let written = tokio::task::spawn_blocking(move || saved.write(&state_dir)).await;
        if let Err(error) = written.map_err(anyhow::Error::new).and_then(std::convert::identity) {
            tracing::warn!(error = format!("{error:#}"), "the last good table is not kept");
        }
    }

    fn last_good(&mut self, config: &mut Config) -> anyhow::Result<Option<Membership>> {
        let saved = match Saved::read(&self.state_dir, &self.node, &self.kind) {
            Ok(Some(saved)) => saved,
            Ok(None) => return Ok(None),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the last good table is of no use");
                return Ok(None);
            }
        };
        let snapshot = saved.snapshot();
        adopt(config, snapshot.shared.as_ref())?;
        self.roll.take(Update::Snapshot(snapshot));
        let members = self.members(config).ok();
        if let Some(members) = &members {
            let nodes = members.peers().count() + 1;
            tracing::warn!(nodes, source = self.kind, "starting with the last good table");
        }
        Ok(members)
    }

    fn note(&mut self, update: &Update) {
        let now = clock::now();
        if let Update::Snapshot(snapshot) = update {
            self.shared.clone_from(&snapshot.shared);
        }
        self.facts.table(|table| match update {
            Update::Snapshot(_) => {
                if !table.current {
                    tracing::info!(source = self.kind, "following the subnet table");
                }
                table.current = true;
                table.source_error = None;
                table.error = None;
            }
            Update::Lost(reason) => {
                if table.source_error.as_ref() != Some(reason) {
                    tracing::warn!(source = self.kind, reason, "the table source is away");
                }
                if std::mem::replace(&mut table.current, false) {
                    table.current_until = Some(now);
                }
                table.source_error = Some(reason.clone());
            }
            Update::Refused(error) => {
                tracing::error!(error, "the new subnet table is refused; the old one stays");
                table.error = Some(error.clone());
            }
            Update::Differs(reason) => {
                if let Some(reason) = reason
                    && table.differs.as_ref() != Some(reason)
                {
                    tracing::error!(reason, "what all nodes share has changed");
                }
                table.differs.clone_from(reason);
            }
            Update::Contested(reason) => {
                if let Some(reason) = reason
                    && table.contested.as_ref() != Some(reason)
                {
                    tracing::error!(reason, "this node's entry is not its own");
                }
                table.contested.clone_from(reason);
            }
            Update::Put(_) | Update::Remove(_) | Update::Foreign { .. } => {}
        });
    }

    /// Shows what is left out, and logs what is so newly.
    fn show_left_out(&mut self) {
        let foreign = self.roll.foreign().iter().map(|(key, why)| format!("{key}: {why}"));
        let left_out: Vec<String> = foreign.chain(self.rejected.iter().cloned()).collect();
        if left_out.len() == self.reported.len()
            && left_out.iter().all(|entry| self.reported.contains(entry))
        {
            return;
        }
        for entry in left_out.iter().filter(|entry| !self.reported.contains(*entry)) {
            tracing::warn!(entry, "left out of the subnet table");
        }
        self.reported = left_out.iter().cloned().collect();
        self.facts.table(|table| table.left_out = left_out);
    }
}

/// A fault with its value and its remedy.
pub(super) fn describe(error: &TableError) -> String {
    format!("{} {error}; {}", error.value, error.remedy())
}

/// Completes the configuration by what all nodes share.
fn adopt(config: &mut Config, shared: Option<&Shared>) -> anyhow::Result<()> {
    if let Some(shared) = shared
        && config.network.cidrs.is_empty()
    {
        config.network.cidrs.clone_from(&shared.cidrs);
        config.network.vni = Vni::new(shared.vni).context("the network's VNI in the source")?;
        config.underlay.port = shared.port;
    }
    Ok(())
}
