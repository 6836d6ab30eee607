//! CPU time and memory: of the whole machine, and of daemons.
//!
//! Owns reading `/proc`. The machine's busy time covers what no process is charged with, such as
//! the softirqs that move packets through the kernel.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// CPU time that was used up to some moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuTime {
    /// By everything on the machine.
    pub(crate) machine: Duration,
    /// By the daemons that were asked about.
    pub(crate) daemons: Duration,
}

impl CpuTime {
    /// What the machine and `daemons`, process ids, have used so far.
    pub(crate) fn so_far(daemons: &[u32]) -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        let machine = busy_ticks(&stat).context("find the CPU times in /proc/stat")?;
        let mut own = 0;
        for id in daemons {
            let path = format!("/proc/{id}/stat");
            let stat = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
            own += process_ticks(&stat).with_context(|| format!("find CPU times in {path}"))?;
        }
        Ok(Self { machine: duration(machine), daemons: duration(own) })
    }

    /// What was used since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            machine: self.machine.saturating_sub(earlier.machine),
            daemons: self.daemons.saturating_sub(earlier.daemons),
        }
    }
}

/// Resident memory of a process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    /// The most that it ever was.
    pub(crate) peak: u64,
}

/// The memory of the process `id`.
pub(crate) fn memory(id: u32) -> Result<Memory> {
    let path = format!("/proc/{id}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    resident(&status).with_context(|| format!("find VmRSS and VmHWM in {path}"))
}

fn duration(ticks: u64) -> Duration {
    Duration::from_secs(ticks)
        / u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100)
}

/// User, nice, system, irq and softirq: all but idle, waiting for devices, and time that went to
/// another machine on the same host (proc(5)).
fn busy_ticks(stat: &str) -> Option<u64> {
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = all.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    [0, 1, 2, 5, 6].iter().map(|index| fields.get(*index)).sum()
}

/// Fields 14 and 15, user and system time, counted behind the name in parentheses (proc(5)).
fn process_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11).map(str::parse::<u64>);
    Some(fields.next()?.ok()? + fields.next()?.ok()?)
}

fn resident(status: &str) -> Option<Memory> {
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    };
    Some(Memory { resident: bytes("VmRSS:")?, peak: bytes("VmHWM:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_time_leaves_out_idle_iowait_and_steal() {
        let stat = "cpu  10 1 20 900 50 3 4 70 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(busy_ticks(stat), Some(38));
        assert_eq!(busy_ticks("intr 1"), None);
    }

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194304 100 0 0 0 31 11 0 0 20 0 1 0 5 6 7";
        assert_eq!(process_ticks(stat), Some(42));
        assert_eq!(process_ticks("7 (a) S 1"), None);
    }

    #[test]
    fn resident_memory_is_in_bytes() {
        assert_eq!(
            resident("VmHWM:\t 20000 kB\nVmRSS:\t   12345 kB\n"),
            Some(Memory { resident: 12_641_280, peak: 20_480_000 })
        );
        assert_eq!(resident("VmPeak:\t 9 kB\n"), None);
    }
}
