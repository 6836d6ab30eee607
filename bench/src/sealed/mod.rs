//! `bench sealed`: what has to hold of sealed mode and has a time to hold in.
//!
//! Daemons as a user runs them, and beside some of them peers by the thousand in this process. All
//! of it shares this machine's processors; so these are bounds from above.

mod crowd;
mod load;
mod many;
mod pair;
mod report;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use culvert_seal::mesh::Role;
use serde::Serialize;

use crate::cli::SealedArgs;
use crate::handshakes;
use crate::programs::Programs;
use crate::progress::Progress;
use crate::session::{self, Findings};
use crate::target::Target;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Handshakes a second on one thread.
    Handshakes,
    /// A daemon that is killed, until packets flow again.
    Kill,
    /// Forged INITs.
    Flood,
    /// Peers by the thousand, until all have sessions.
    Growth,
    /// Renewals under load.
    Renewals,
    /// Lanes that take different times.
    Lanes,
}

/// How much of everything.
#[derive(Clone, Copy, Debug, Serialize)]
struct Amount {
    handshakes: u32,
    kills: usize,
    flood_rounds: usize,
    #[serde(skip)]
    flood: Duration,
    peers: u32,
    renewals: u32,
    /// A session is renewed after 100 to 120 s.
    #[serde(skip)]
    renewing: Duration,
    #[serde(skip)]
    lanes: Duration,
}

impl Amount {
    const fn full() -> Self {
        let seconds = Duration::from_secs;
        Self {
            handshakes: 10_000,
            kills: 20,
            flood_rounds: 10,
            flood: seconds(10),
            peers: 10_000,
            renewals: 1000,
            renewing: seconds(125),
            lanes: seconds(20),
        }
    }

    /// Renewals have their time, and so are left out.
    const fn quick() -> Self {
        let seconds = Duration::from_secs;
        Self {
            handshakes: 1000,
            kills: 5,
            flood_rounds: 3,
            flood: seconds(3),
            peers: 2000,
            renewals: 0,
            renewing: Duration::ZERO,
            lanes: seconds(5),
        }
    }
}

/// Forged INITs a second.
const RATES: [u32; 4] = [0, 10_000, 50_000, 100_000];

/// How much longer the slowest lane takes than the quickest.
const SPREAD: Duration = Duration::from_millis(50);

/// What was found of what was asked for.
#[derive(Clone, Debug, Default, Serialize)]
struct Found {
    /// Handshakes a second of one thread: begun, and answered.
    handshakes: Option<[f64; 2]>,
    killed: Option<pair::Killed>,
    floods: Vec<pair::Flooded>,
    growth: Option<many::Growth>,
    renewals: Option<many::Renewals>,
    lanes: Option<many::Lanes>,
}

impl Findings for Found {
    const KEY: &'static str = "sealed";
    const COMMAND: &'static str = "sealed";

    fn text(&self) -> String {
        report::text(self)
    }

    fn targets(&self) -> Vec<Target> {
        report::targets(self)
    }
}

/// Measures what `args` ask for and prints it.
pub(crate) fn run(args: &SealedArgs) -> Result<ExitCode> {
    let amount = if args.run.quick { Amount::quick() } else { Amount::full() };
    let plan = (9, Duration::from_secs(if args.run.quick { 60 } else { 360 }));
    session::run(&args.run, plan, |programs, progress| {
        measure(programs, amount, &args.only, progress)
    })
}

fn measure(
    programs: &Programs,
    amount: Amount,
    only: &[Part],
    progress: &mut Progress,
) -> Result<Found> {
    let seconds = Duration::from_secs;
    let wanted = |part: Part| only.is_empty() || only.contains(&part);
    let mut found = Found::default();
    if wanted(Part::Handshakes) {
        progress.step("handshakes on one thread", seconds(10));
        let rate = |role| handshakes::per_second(role, amount.handshakes);
        found.handshakes = Some([rate(Role::Initiator)?, rate(Role::Responder)?]);
    }
    if wanted(Part::Kill) || wanted(Part::Flood) {
        let pair = pair::Pair::build(programs)?;
        if wanted(Part::Kill) {
            progress.step("a daemon that is killed", seconds(30));
            found.killed = Some(pair.kill(amount.kills)?);
        }
        if wanted(Part::Flood) {
            for rate in RATES {
                progress.step(&format!("{rate} forged INITs a second"), seconds(20));
                found.floods.push(pair.flood(rate, amount.flood, amount.flood_rounds)?);
            }
        }
    }
    if wanted(Part::Growth) {
        progress.step(&format!("sessions with {} peers", amount.peers), seconds(40));
        found.growth = Some(many::growth(programs, amount.peers)?);
    }
    if wanted(Part::Renewals) && amount.renewals > 0 {
        progress.step("renewals under load", amount.renewing);
        found.renewals = Some(many::renewals(programs, amount.renewals, amount.renewing)?);
    }
    if wanted(Part::Lanes) {
        progress.step("lanes that take different times", amount.lanes);
        found.lanes = Some(many::lanes(programs, SPREAD, amount.lanes)?);
    }
    Ok(found)
}
