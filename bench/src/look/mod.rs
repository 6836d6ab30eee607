//! Looking at a node: how long that takes, and what it costs those who are looked at.
//!
//! `culvert doctor` on a node and among a thousand peers, a scrape of a node that knows ten
//! thousand, and traffic while `culvert flows` or `culvert top` run and while they do not.

mod doctor;
mod report;
mod scrape;
mod watchers;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::cli::LookArgs;
use crate::programs::Programs;
use crate::progress::Progress;
use crate::session::{self, Findings};
use crate::target::Target;
use crate::traffic::tcp::Timing;

/// How much of everything.
#[derive(Clone, Copy, Debug, Serialize)]
struct Amount {
    /// Calls of doctor, of each kind.
    calls: usize,
    scrapes: usize,
    /// Rounds of traffic.
    rounds: usize,
    #[serde(skip)]
    tcp: Timing,
    #[serde(skip)]
    udp_trial: Duration,
}

impl Amount {
    const fn full() -> Self {
        let ms = Duration::from_millis;
        // Whoever looks is told once a second.
        let tcp = Timing { warm_up: ms(200), window: ms(1000) };
        Self { calls: 11, scrapes: 51, rounds: 40, tcp, udp_trial: ms(150) }
    }

    const fn quick() -> Self {
        Self { calls: 5, scrapes: 11, rounds: 10, ..Self::full() }
    }

    /// About how long it takes.
    fn duration(&self) -> Duration {
        let calls = Duration::from_secs(8) * u32::try_from(self.calls).unwrap_or_default();
        let scrapes = scrape::APART * u32::try_from(self.scrapes).unwrap_or_default();
        let rounds = watchers::duration(self) * u32::try_from(self.rounds).unwrap_or_default();
        calls + scrapes + rounds + Duration::from_secs(40)
    }
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
struct Found {
    amount: Amount,
    doctor: Vec<doctor::Calls>,
    scrapes: scrape::Scrapes,
    traffic: watchers::Traffic,
}

impl Findings for Found {
    const KEY: &'static str = "look";
    const COMMAND: &'static str = "look";

    fn text(&self) -> String {
        report::text(self)
    }

    fn targets(&self) -> Vec<Target> {
        report::targets(self)
    }
}

/// Measures what `args` ask for and prints it.
pub(crate) fn run(args: &LookArgs) -> Result<ExitCode> {
    let amount = if args.run.quick { Amount::quick() } else { Amount::full() };
    let plan = (2 + amount.rounds, amount.duration());
    session::run(&args.run, plan, |programs, progress| measure(programs, amount, progress))
}

fn measure(programs: &Programs, amount: Amount, progress: &mut Progress) -> Result<Found> {
    let calls = Duration::from_secs(8) * u32::try_from(amount.calls).unwrap_or_default();
    progress.step("doctor, alone and among a thousand peers", calls);
    let doctor = doctor::measure(programs, amount.calls)?;
    let scrapes = scrape::APART * u32::try_from(amount.scrapes).unwrap_or_default();
    progress.step("scrapes with ten thousand nodes", scrapes);
    let scrapes = scrape::measure(programs, amount.scrapes)?;
    let traffic = watchers::measure(programs, &amount, progress)?;
    Ok(Found { amount, doctor, scrapes, traffic })
}
