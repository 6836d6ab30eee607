//! The facts about the machine that figures are worth nothing without.

use std::fs;
use std::process::Command;
use std::thread;

use serde::Serialize;

/// What the figures were measured on and of.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) architecture: String,
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_bytes: u64,
    /// Load average over the last minute when the run began.
    pub(crate) load: Option<f64>,
    /// When the run was made, as whoever started it said.
    pub(crate) date: Option<String>,
    pub(crate) culvert_version: &'static str,
    /// The commit of the working directory, with `+` if files differ from it.
    pub(crate) commit: Option<String>,
}

impl Machine {
    /// This machine, on `date`.
    pub(crate) fn facts(date: Option<String>) -> Self {
        let uname = rustix::system::uname();
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            kernel: uname.release().to_string_lossy().into_owned(),
            architecture: uname.machine().to_string_lossy().into_owned(),
            cpu: cpu_model(&read("/proc/cpuinfo")).unwrap_or_else(|| "unknown".to_owned()),
            cores: thread::available_parallelism().map_or(1, Into::into),
            memory_bytes: memory_bytes(&read("/proc/meminfo")).unwrap_or_default(),
            load: read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()),
            date,
            culvert_version: env!("CARGO_PKG_VERSION"),
            commit: commit(),
        }
    }

    /// One line about it.
    pub(crate) fn summary(&self) -> String {
        // GiB, because that is how memory is sold.
        let memory = self.memory_bytes as f64 / f64::from(1 << 30);
        format!(
            "{} × {}, {memory:.0} GiB, Linux {}; Culvert {}{}{}",
            self.cores,
            self.cpu,
            self.kernel,
            self.culvert_version,
            self.commit.as_ref().map(|commit| format!(" at {commit}")).unwrap_or_default(),
            self.date.as_ref().map(|date| format!("; {date}")).unwrap_or_default(),
        )
    }

    /// A warning, if something else keeps the machine busy.
    pub(crate) fn warning(&self) -> Option<String> {
        let load = self.load.filter(|load| *load > 0.3)?;
        Some(format!(
            "other programs keep this machine busy (load {load}): expect noise, trust ratios only"
        ))
    }
}

fn cpu_model(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changed.is_empty() { commit } else { commit + "+" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_found_in_the_kernel_s_words() {
        assert_eq!(cpu_model("processor\t: 0\nmodel name\t: A B\n").as_deref(), Some("A B"));
        assert_eq!(memory_bytes("MemTotal:       2 kB\n"), Some(2048));
        assert_eq!(cpu_model(""), None);
    }
}
