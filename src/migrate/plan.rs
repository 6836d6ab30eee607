//! Steps that are said first, and done only if they are to be.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::observe::Document;

/// What is to be done, in this order.
pub(super) struct Plan {
    steps: Vec<Step>,
    /// What whoever runs it does next.
    next: String,
}

/// A step in words, and how it is done.
struct Step {
    what: String,
    act: Box<dyn FnOnce() -> Result<()>>,
}

/// What was done, or would be.
#[derive(Serialize)]
struct Told {
    applied: bool,
    steps: Vec<String>,
    next: String,
}

impl Plan {
    pub(super) fn new(next: String) -> Self {
        Self { steps: Vec::new(), next }
    }

    /// Adds a step.
    pub(super) fn then(&mut self, what: String, act: impl FnOnce() -> Result<()> + 'static) {
        self.steps.push(Step { what, act: Box::new(act) });
    }

    /// Does it, if `apply` says so, and tells.
    ///
    /// # Errors
    ///
    /// The first step that failed, by its words; those before it were done, and were told.
    pub(super) fn run(self, apply: bool, json: bool) -> Result<ExitCode> {
        let mut out = io::stdout().lock();
        let mut told = Told { applied: apply, steps: Vec::new(), next: self.next };
        for Step { what, act } in self.steps {
            if apply {
                act().with_context(|| what.clone())?;
            }
            if !json {
                writeln!(out, "{} {what}", if apply { "done:" } else { "would:" })?;
            }
            told.steps.push(what);
        }
        if json {
            writeln!(out, "{}", Document::first(&told).text()?)?;
            return Ok(ExitCode::SUCCESS);
        }
        if told.steps.is_empty() {
            writeln!(out, "nothing to do")?;
        }
        if apply || told.steps.is_empty() {
            writeln!(out, "next: {}", told.next)?;
        } else {
            writeln!(out, "nothing was changed; repeat with --apply")?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
