//! One run of a command that measures: what it needs, what it prints and writes, how it ends.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_lab::interrupt;
use serde::Serialize;
use serde_json::json;

use crate::cli::RunArgs;
use crate::compare::{be_alone, print, write};
use crate::machine::Machine;
use crate::programs::Programs;
use crate::progress::Progress;
use crate::target::Target;

/// What a command finds.
pub(crate) trait Findings: Serialize {
    /// What it is in JSON; `make bench-COMMAND` measures it.
    const KEY: &'static str;
    const COMMAND: &'static str;

    /// The figures, for people.
    fn text(&self) -> String;

    /// What must be reached.
    fn targets(&self) -> Vec<Target>;
}

/// Has `measure` find what there is to find, in so many steps that take about `planned`, and prints
/// it.
pub(crate) fn run<F: Findings>(
    args: &RunArgs,
    (steps, planned): (usize, Duration),
    measure: impl FnOnce(&Programs, &mut Progress) -> Result<F>,
) -> Result<ExitCode> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "this needs root: it makes network namespaces and devices (try `make bench-{}`)",
        F::COMMAND
    );
    let _alone = be_alone()?;
    interrupt::watch()?;
    let programs = Programs::of(args.culvert.as_deref())?;
    let machine = Machine::facts(args.date.clone());
    let mut progress = Progress::new(steps, planned);
    if let Some(warning) = machine.warning() {
        progress.say(&warning);
    }
    let found = measure(&programs, &mut progress);
    progress.clear();
    let found = found?;
    let targets = found.targets();
    print(&report(&machine, &found, &targets))?;
    if let Some(path) = &args.json {
        let all = json!({ "machine": machine, F::KEY: found, "targets": targets });
        write(path, &(serde_json::to_string_pretty(&all).context("write JSON")? + "\n"))?;
    }
    let failed = args.check && !targets.iter().all(|target| target.is_reached);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn report(machine: &Machine, found: &impl Findings, targets: &[Target]) -> String {
    let mut text = format!("\n{}\n\n", machine.summary());
    if let Some(warning) = machine.warning() {
        let _ = writeln!(text, "Careful: {warning}.\n");
    }
    let _ = writeln!(text, "{}\n", found.text().trim_end());
    for target in targets {
        let _ = writeln!(text, "  {target}");
    }
    text
}
