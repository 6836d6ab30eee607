//! Which allocations may go because their pods are gone, although nobody called DEL.
//!
//! Owns the decision and remembers since when each pod has been gone. Time and what the kernel says
//! are arguments. An address goes when its pod has been gone for the grace time without a break; or
//! at once, if it was handed out before the machine was started, since no pod outlives that.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::live::Pulse;
use super::ports::Survey;
use super::record::Record;
use super::schema::Restored;
use super::{Error, Store};

/// How long a pod must have been gone.
///
/// A runtime that tears a pod down removes its namespace before or after it calls DEL, seconds
/// apart at most; one that is being restarted comes back within minutes and calls DEL then.
pub const GRACE: Duration = Duration::from_secs(300);

/// What is remembered between two looks.
#[derive(Debug)]
pub struct Sweep {
    grace: Duration,
    boot: String,
    has_examined: bool,
    gone_since: HashMap<IpAddr, (Record, Instant)>,
}

/// What one look has led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// What was freed.
    pub freed: Vec<Record>,
    /// How many addresses of running pods the store had lost, and has again.
    pub adopted: usize,
    /// What was done about a store that was lost altogether.
    pub restored: Option<Restored>,
}

impl Sweep {
    /// A sweep in the boot called `boot` (see [`boot_id`](super::boot_id)) that waits for `grace`.
    #[must_use]
    pub fn new(boot: String, grace: Duration) -> Self {
        Self { grace, boot, has_examined: false, gone_since: HashMap::new() }
    }

    /// Takes in what was seen at `now` and says which of it may go.
    pub fn due(&mut self, seen: &[(Record, Pulse)], now: Instant) -> Vec<Record> {
        let mut earlier = std::mem::take(&mut self.gone_since);
        let mut due = Vec::new();
        for (record, pulse) in seen {
            match pulse {
                Pulse::Alive => {}
                Pulse::Gone | Pulse::Unknown | Pulse::Elsewhere
                    if self.is_of_earlier_boot(record) =>
                {
                    due.push(record.clone());
                }
                // The daemon's network namespace is the node's. What was attached in another one
                // was attached before the node was started anew, as containers that play nodes are.
                Pulse::Gone | Pulse::Elsewhere => {
                    let address = record.allocation.address;
                    let since = earlier
                        .remove(&address)
                        .filter(|(gone, _)| gone == record)
                        .map_or(now, |(_, since)| since);
                    if now.saturating_duration_since(since) >= self.grace {
                        due.push(record.clone());
                    }
                    self.gone_since.insert(address, (record.clone(), since));
                }
                // Not even its namespace is known: `culvert ipam free` is for a person to call.
                Pulse::Unknown => {}
            }
        }
        due
    }

    /// Looks at every allocation of the store under `state_dir` and frees those that may go. Before
    /// that, a store that was lost is made anew, and what it lacks is written down. Blocks on the
    /// file and on the kernel.
    ///
    /// # Errors
    ///
    /// An unusable store, or a kernel that does not answer; nothing is freed then.
    pub fn run(
        &mut self,
        state_dir: &Path,
        survey: &mut dyn Survey,
        now: Instant,
    ) -> Result<Swept, Error> {
        let Some(mut store) = Store::open_unless_unused(state_dir, survey)? else {
            return Ok(Swept::default());
        };
        if !self.has_examined {
            // The whole file, so that damage is known before a pod meets it.
            store = store.examined(survey)?;
            self.has_examined = true;
        }
        let adopted = store.adopt(survey)?;
        let restored = store.restored().cloned();
        let records = store.records()?;
        let ports = survey.look()?;
        let seen: Vec<_> = records
            .into_iter()
            .map(|record| {
                let pulse = match Pulse::of(&record, &ports) {
                    // Of a node that was started anew, and yet somebody keeps it.
                    Pulse::Elsewhere if record.netns.is_there() == Some(true) => Pulse::Alive,
                    pulse @ (Pulse::Alive | Pulse::Gone | Pulse::Unknown | Pulse::Elsewhere) => {
                        pulse
                    }
                };
                (record, pulse)
            })
            .collect();
        let due = self.due(&seen, now);
        let freed = if due.is_empty() { due } else { store.release_unchanged(&due)? };
        Ok(Swept { freed, adopted, restored })
    }

    fn is_of_earlier_boot(&self, record: &Record) -> bool {
        !record.boot.is_empty() && !self.boot.is_empty() && record.boot != self.boot
    }
}
