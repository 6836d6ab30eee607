//! How Culvert takes a longer table, and more peers at once.

pub(crate) mod peers;
mod tables;

use std::time::Duration;

use anyhow::Result;
use culvert_lab::interrupt;
use serde::Serialize;

use crate::programs::Programs;
use crate::progress::Progress;
use crate::settings::Effort;
use crate::usage;

#[cfg(feature = "sources")]
pub(crate) use tables::other;

/// What of it to measure, and of which programs.
pub(crate) struct Plan {
    pub(crate) programs: Programs,
    pub(crate) tables: bool,
    pub(crate) peers: bool,
}

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Growth {
    /// By the number of nodes in the table.
    pub(crate) tables: Vec<Point>,
    /// By the number of peers that talk at once.
    pub(crate) peers: Vec<Point>,
}

/// Throughput and memory at one size.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Point {
    pub(crate) size: u32,
    /// Gbit/s, by round.
    pub(crate) gbits: Vec<Option<f64>>,
    /// Resident memory of a daemon at the end, in MiB.
    pub(crate) memory_mib: Option<f64>,
    /// Seconds from the daemon's start until it was ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ready_seconds: Option<f64>,
}

impl Point {
    fn new(size: u32) -> Self {
        Self { size, gbits: Vec::new(), memory_mib: None, ready_seconds: None }
    }
}

impl Plan {
    pub(crate) fn steps(&self, settings: &Effort) -> usize {
        let sizes = self.tables_count(settings) + self.peers_count(settings);
        settings.growth_rounds * sizes
    }

    pub(crate) fn duration(&self, settings: &Effort) -> Duration {
        let each = settings.tcp.warm_up + settings.tcp.window;
        each * u32::try_from(self.steps(settings)).unwrap_or(u32::MAX)
    }

    /// Measures it; what fails is noted in `failures`, unless the user interrupts.
    pub(crate) fn measure(
        &self,
        settings: &Effort,
        progress: &mut Progress,
        failures: &mut Vec<String>,
    ) -> Result<Growth> {
        let mut growth = Growth::default();
        if self.tables {
            match tables::measure(&self.programs, settings, progress) {
                Ok(points) => growth.tables = points,
                Err(error) => failures.push(format!("growth of the table: {error:#}")),
            }
            interrupt::check()?;
        }
        if self.peers {
            match peers::measure(&self.programs, settings, progress) {
                Ok(points) => growth.peers = points,
                Err(error) => failures.push(format!("growth of peers: {error:#}")),
            }
            interrupt::check()?;
        }
        Ok(growth)
    }

    fn tables_count(&self, settings: &Effort) -> usize {
        if self.tables { settings.table_nodes.len() } else { 0 }
    }

    fn peers_count(&self, settings: &Effort) -> usize {
        if self.peers { settings.peers.len() } else { 0 }
    }
}

/// Resident memory of the process `id`.
fn memory_mib(id: u32) -> Result<f64> {
    Ok(usage::memory(id)?.resident as f64 / f64::from(1 << 20))
}
