//! What this process takes of the machine, as /proc has it.

use std::fs;
use std::time::Duration;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// What a process takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// CPU time, its own and the kernel's for it.
    pub(crate) cpu: Duration,
    pub(crate) resident_bytes: u64,
    pub(crate) virtual_bytes: u64,
    pub(crate) open_files: u64,
    /// None if there is no limit.
    pub(crate) open_files_limit: Option<u64>,
    pub(crate) threads: u64,
}

/// What this process takes; none where /proc cannot be read.
pub(crate) fn usage() -> Option<Usage> {
    let stat = Stat::parse(&fs::read_to_string("/proc/self/stat").ok()?)?;
    // One of them is the directory that is being read.
    let open_files = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
    Some(Usage {
        cpu: Duration::from_millis(
            stat.ticks.saturating_mul(1000) / clock_ticks_per_second().max(1),
        ),
        resident_bytes: stat.resident_pages.saturating_mul(page_size() as u64),
        virtual_bytes: stat.virtual_bytes,
        open_files: open_files as u64,
        open_files_limit: getrlimit(Resource::Nofile).current,
        threads: stat.threads,
    })
}

/// What proc_pid_stat(5) has of it.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    ticks: u64,
    threads: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The program's name may contain anything, parentheses too. The fields are numbered from 1,
        // and the first behind it is the third.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            ticks: field(14)?.saturating_add(field(15)?),
            threads: field(20)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_a_name_with_parentheses() {
        let text = "4711 (a) b (c) S 1 4711 4711 0 -1 4194560 300 0 0 0 250 50 0 0 20 0 9 0 1234 \
                    104857600 2560 18446744073709551615 1 1 0";
        let expected =
            Stat { ticks: 300, threads: 9, virtual_bytes: 100 << 20, resident_pages: 2560 };
        assert_eq!(Stat::parse(text), Some(expected));
        assert_eq!(Stat::parse("4711 (short) S 1"), None);
    }

    #[test]
    fn this_process_has_memory_threads_and_files() {
        let usage = usage().unwrap();
        assert!(usage.resident_bytes > 1 << 20 && usage.virtual_bytes >= usage.resident_bytes);
        assert!(usage.threads >= 1 && usage.open_files >= 3, "{usage:?}");
    }
}
