//! What the daemon knows from its table source, from the first table to the present one.
//!
//! Owns the proposal, how the source stands, and the last good copy on disk; shows copies of them.
//! Never changes what is forwarded: it says what the table should be, and the daemon takes it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use culvert_dataplane::engine::{Membership, Overlay, Rejected};
use culvert_dataplane::platform::clock;

use super::last_good::{LastGood, When};
use super::view::Facts;
use crate::config::Config;
use crate::control::source::{
    self, Notebook, Parameters, Proposal, Reason, Source, Unsound, Update,
};
use crate::lifecycle::{Need, Readiness};

/// How long a start waits for the source before it goes by the last good table.
const PATIENCE: Duration = Duration::from_secs(3);

/// Time between two new tables at least: what changes meanwhile comes with the next, so that a
/// restless source costs a bounded part of one CPU.
const PACE: Duration = Duration::from_millis(50);

/// Whether the proposal is what the source has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Following {
    /// The source has told nothing yet.
    #[default]
    Waiting,
    /// It is.
    Current,
    /// The source is away; what it proposed before stays.
    Lost {
        /// The first moment without it.
        since: Instant,
        /// Why it cannot be followed.
        why: String,
    },
}

/// How source and proposal stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) following: Following,
    /// Why there is nothing to propose, though the source answers.
    pub(super) malformed: Option<String>,
    /// Why the newest proposal is not in force.
    pub(super) refused: Option<String>,
    /// What of the parameters that all nodes share this one does not go by.
    pub(super) differs: Option<String>,
    /// Why this node's own entry is not its own.
    pub(super) contested: Option<String>,
    /// Entries that were left out, and why.
    pub(super) left_out: Vec<String>,
}

/// Why a proposal cannot come into force on any machine: only another proposal helps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the source has not said what all nodes share")]
    NoParameters,
    #[error(
        "the source now says {0}, which this daemon cannot go by while it runs; restart it, or change \
         that back"
    )]
    OtherParameters(String),
    #[error(transparent)]
    Unsound(#[from] Unsound),
}

/// A table source and what it has told.
pub(super) struct Feed {
    config: Arc<Config>,
    source: Source,
    kind: String,
    proposal: Proposal,
    /// Whether the proposal is another than what is in force.
    pending: bool,
    standing: Standing,
    /// Entries of the proposal that were left out.
    rejected: Vec<String>,
    facts: Arc<Facts>,
    taken: Option<Instant>,
    last_good: LastGood,
}

impl Feed {
    pub(super) fn start(config: Arc<Config>, facts: Arc<Facts>) -> Self {
        let kind = source::describe(&config.table);
        let node = &config.node;
        Self {
            source: Source::start(&config),
            last_good: LastGood::new(node.state_dir.clone(), node.name.clone(), kind.clone()),
            config,
            kind,
            proposal: Proposal::default(),
            pending: false,
            standing: Standing::default(),
            rejected: Vec::new(),
            facts,
            taken: None,
        }
    }

    /// The source, to tell it something.
    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    /// What the source tells is understood as `config` says from now on, which names the same
    /// source.
    pub(super) fn go_by(&mut self, config: Arc<Config>) {
        self.config = config;
    }

    /// Where notes for people are taken.
    pub(super) fn notebook(&self) -> Notebook {
        self.source.notebook()
    }

    /// Why this node's own entry is not its own, by the source.
    pub(super) fn contested(&self) -> Option<&String> {
        self.standing.contested.as_ref()
    }

    /// Waits for a table that has this node. While the source is away, or has none that makes
    /// sense, that is the last good one.
    ///
    /// # Errors
    ///
    /// A table that makes no sense, and no last good one.
    pub(super) async fn first(&mut self, readiness: &Readiness) -> anyhow::Result<Membership> {
        let patience = tokio::time::sleep(PATIENCE);
        tokio::pin!(patience);
        let mut waited = false;
        loop {
            tokio::select! {
                _ = self.changed() => {}
                () = &mut patience, if !waited => waited = true,
            }
            let refusal = match self.members(None) {
                Ok(members) => return Ok(members),
                Err(refusal) => refusal,
            };
            if self.standing.following == Following::Current && self.proposal.file().is_some() {
                self.refused(Some(refusal.to_string()));
            }
            readiness.set(Need::Claims, self.standing.contested.clone());
            let Standing { following, malformed, refused, contested, .. } = &self.standing;
            let refused = malformed.as_ref().or(refused.as_ref());
            let is_away = match following {
                Following::Current => false,
                Following::Waiting => waited,
                Following::Lost { .. } => true,
            };
            let reason = match (contested, refused, following) {
                (Some(reason), _, _) | (_, Some(reason), _) => reason.clone(),
                (None, None, Following::Lost { why, .. }) => why.clone(),
                (None, None, Following::Waiting) => format!("{} has not answered yet", self.kind),
                (None, None, Following::Current) => refusal.to_string(),
            };
            let is_refused = refused.is_some();
            if (is_away || is_refused)
                && let Some(members) = self.last_good()
            {
                return Ok(members);
            }
            if is_refused {
                bail!(reason);
            }
            let why = format!("waiting for the subnet table: {reason}");
            if readiness.set(Need::Table, Some(why)) {
                tracing::warn!(reason, "waiting for the subnet table");
            }
        }
    }

    /// The next change that may concern the table (`true`), or else how the source stands; what
    /// came with it is taken note of.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn changed(&mut self) -> bool {
        if let Some(taken) = self.taken {
            tokio::time::sleep_until((taken + PACE).into()).await;
        }
        loop {
            let updates = self.source.next().await;
            if updates.is_empty() {
                // The source has ended, which it does not before the daemon does.
                std::future::pending::<()>().await;
            }
            let (mut changed, mut stands) = (false, false);
            for update in updates {
                self.note(&update);
                // Every node of a cluster reports every few minutes, and nearly always what is
                // known: in a large one that is some dozens of times a second.
                stands |= !matches!(update, Update::Put(_) | Update::Remove(_));
                changed |= self.proposal.take(update);
            }
            if changed {
                self.taken = Some(clock::now());
                self.pending = true;
            }
            if changed || stands {
                self.publish();
                return changed;
            }
        }
    }

    /// The nodes that the table should have, with what they share. A daemon that runs, by
    /// `in_force`, goes by other parameters only if they are wider.
    ///
    /// # Errors
    ///
    /// The proposal cannot come into force.
    pub(super) fn members(&mut self, in_force: Option<&Overlay>) -> Result<Membership, Refusal> {
        let configured = source::configured(&self.config);
        let parameters =
            configured.or_else(|| self.proposal.parameters.clone()).ok_or(Refusal::NoParameters)?;
        if in_force.is_some_and(|in_force| !parameters.widens(&Parameters::of(in_force))) {
            return Err(Refusal::OtherParameters(parameters.to_string()));
        }
        let overlay = source::overlay(parameters, &self.config);
        let name = &self.config.node.name;
        let (members, rejected) = source::members(&self.proposal, &overlay, name)?;
        let describe =
            |node: Rejected| format!("node \"{}\": {}", node.name, Unsound::Entry(node.error));
        self.rejected = rejected.into_iter().map(describe).collect();
        self.publish();
        Ok(members)
    }

    /// Takes note that the proposal is in force, with `overlay`, and keeps it on disk.
    pub(super) async fn taken(&mut self, overlay: &Overlay) {
        self.pending = false;
        self.last_good.outdate();
        self.keep(overlay, When::Due).await;
    }

    /// Takes note why the newest proposal is not in force, or with `None` that it is.
    pub(super) fn refused(&mut self, reason: Option<String>) {
        if self.standing.refused != reason {
            match &reason {
                Some(reason) => {
                    tracing::error!(reason, "the new subnet table is refused; the old one stays");
                    self.notebook().note(Reason::TableRefused, reason.clone());
                }
                None => tracing::info!("the subnet table is no longer refused"),
            }
            self.standing.refused = reason;
            self.publish();
        }
    }

    /// Keeps what is in force on disk, if that is the proposal.
    pub(super) async fn keep(&mut self, overlay: &Overlay, when: When) {
        if !self.pending {
            self.last_good.keep(&self.proposal, overlay, when).await;
        }
    }

    fn last_good(&mut self) -> Option<Membership> {
        let proposed = std::mem::replace(&mut self.proposal, self.last_good.read()?);
        let Ok(members) = self.members(None) else {
            self.proposal = proposed;
            return None;
        };
        let nodes = members.peers().count() + 1;
        tracing::warn!(nodes, source = self.kind, "starting with the last good table");
        Some(members)
    }

    fn note(&mut self, update: &Update) {
        if let Update::Refused(reason) = update {
            self.notebook().note(Reason::TableRefused, reason.clone());
        }
        let Standing { following, malformed, differs, contested, .. } = &mut self.standing;
        match update {
            Update::Everything(_) => {
                if *following != Following::Current {
                    tracing::info!(source = self.kind, "following the subnet table");
                }
                *following = Following::Current;
                if malformed.take().is_some() {
                    tracing::info!(source = self.kind, "the subnet table can be read again");
                }
            }
            Update::Lost(reason) => {
                let since = match following {
                    Following::Lost { since, .. } => *since,
                    Following::Current => clock::now(),
                    Following::Waiting => self.facts.started(),
                };
                let lost = Following::Lost { since, why: reason.clone() };
                if *following != lost {
                    tracing::warn!(source = self.kind, reason, "the table source is away");
                    *following = lost;
                }
            }
            Update::Refused(reason) => {
                tracing::error!(reason, "the new subnet table is refused; the old one stays");
                *malformed = Some(reason.clone());
            }
            Update::Differs(reason) => {
                if let Some(reason) =
                    reason.as_ref().filter(|reason| differs.as_ref() != Some(*reason))
                {
                    tracing::error!(reason, "what all nodes share has changed");
                }
                if reason.is_none() && differs.is_some() {
                    tracing::info!("what all nodes share is what this daemon goes by again");
                }
                differs.clone_from(reason);
            }
            Update::Contested(reason) => contested.clone_from(reason),
            Update::Put(_) | Update::Remove(_) | Update::Unreadable { .. } => {}
        }
    }

    /// Shows how things stand, and logs what is left out newly.
    fn publish(&mut self) {
        let unreadable =
            self.proposal.unreadable().iter().map(|(key, why)| format!("{key}: {why}"));
        let left_out: Vec<String> = unreadable.chain(self.rejected.iter().cloned()).collect();
        if left_out != self.standing.left_out {
            let known: HashSet<&String> = self.standing.left_out.iter().collect();
            for entry in left_out.iter().filter(|entry| !known.contains(entry)) {
                tracing::warn!(entry, "left out of the subnet table");
            }
            let now: HashSet<&String> = left_out.iter().collect();
            for entry in self.standing.left_out.iter().filter(|entry| !now.contains(entry)) {
                tracing::info!(entry, "no longer left out of the subnet table");
            }
            self.standing.left_out = left_out;
        }
        self.facts.show_standing(self.standing.clone());
    }
}

#[cfg(test)]
mod tests;
