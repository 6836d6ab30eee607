//! Network policies: what they cost traffic and pods, and how soon a change is in force.
//!
//! Two clusters of two nodes exist at once, of which one enforces policies and one does not; what
//! is compared between them is measured in turns.

mod adds;
mod changes;
mod flows;
mod late;
pub(crate) mod objects;
mod prober;
mod report;
mod stage;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::cli::PolicyArgs;
use crate::programs::Programs;
use crate::progress::Progress;
use crate::session::{self, Findings};
use crate::statistics::{Summary, ratio};
use crate::target::Target;
use crate::traffic::tcp::{self, Stream, Timing};
use changes::{Storm, Took};
use stage::{Stage, Start};

/// How much of everything.
#[derive(Clone, Copy, Debug, Serialize)]
struct Amount {
    rounds: usize,
    #[serde(skip)]
    tcp: Timing,
    changes: usize,
    #[serde(skip)]
    storm: Duration,
    cuts: usize,
    adds: usize,
    late: usize,
}

impl Amount {
    const fn full() -> Self {
        let ms = Duration::from_millis;
        let tcp = Timing { warm_up: ms(200), window: ms(800) };
        let storm = Duration::from_secs(10);
        Self { rounds: 15, tcp, changes: 100, storm, cuts: 5, adds: 100, late: 1000 }
    }

    const fn quick() -> Self {
        let ms = Duration::from_millis;
        let tcp = Timing { warm_up: ms(100), window: ms(400) };
        let storm = Duration::from_secs(5);
        Self { rounds: 5, tcp, changes: 30, storm, cuts: 2, adds: 20, late: 100 }
    }
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
struct Found {
    amount: Amount,
    /// Gbit/s from node to node, by round: without and with policies.
    gbits: [Vec<f64>; 2],
    /// Nanoseconds for the first datagram of a flow on one node, by round: policies off; on, but
    /// none on the pod; on, and five on the pod.
    new_flow_ns: [Vec<f64>; 3],
    /// The same for a datagram of an established flow.
    old_flow_ns: [Vec<f64>; 3],
    /// Milliseconds from a change of a policy until it was in force.
    changes: Took,
    /// The same while a hundred other changes are made each second.
    storm: Storm,
    /// A daemon's start with all policies and pods.
    start: Start,
    /// Milliseconds from a change until an established flow was cut, among 100,000 others.
    cuts: Took,
    tracked_flows: u64,
    /// Milliseconds of ADD: without and with policies.
    add_ms: [Vec<f64>; 2],
    /// Resident bytes of a daemon for each pod of another node.
    bytes_a_pod: f64,
    late: late::Late,
}

/// The quotient of the medians of rounds.
fn of_rounds(figure: &[f64], baseline: &[f64]) -> f64 {
    let some = |values: &[f64]| values.iter().copied().map(Some).collect::<Vec<_>>();
    ratio(&some(figure), &some(baseline)).unwrap_or(f64::NAN)
}

fn median(values: &[f64]) -> f64 {
    Summary::of(values.iter().copied()).map_or(f64::NAN, |summary| summary.median)
}

impl Findings for Found {
    const KEY: &'static str = "policies";
    const COMMAND: &'static str = "policy";

    fn text(&self) -> String {
        report::text(self)
    }

    fn targets(&self) -> Vec<Target> {
        report::targets(self)
    }
}

/// Measures what `args` ask for and prints it.
pub(crate) fn run(args: &PolicyArgs) -> Result<ExitCode> {
    let amount = if args.run.quick { Amount::quick() } else { Amount::full() };
    let plan = (9, Duration::from_secs(if args.run.quick { 60 } else { 300 }));
    session::run(&args.run, plan, |programs, progress| measure(programs, amount, progress))
}

fn measure(programs: &Programs, amount: Amount, progress: &mut Progress) -> Result<Found> {
    let seconds = Duration::from_secs;
    progress.say("building a cluster without policies");
    let off = Stage::build("pol-off", programs, false)?;
    progress.say("building one with 1,000 policies and 10,000 pods");
    let on = Stage::build("pol-on", programs, true)?;
    progress.step("pods of other nodes: memory", seconds(5));
    let bytes_a_pod = on.load()?;

    // Before connections are tracked by the hundred thousand, through which an ADD has to go.
    progress.step("pods that start", seconds(20));
    let add_ms = adds::measure(&off, &on, amount.adds)?;
    progress.step("established traffic from node to node", seconds(35));
    let mut gbits = [Vec::new(), Vec::new()];
    let pairs = [&off, &on].map(|stage| (stage.client().clone(), stage.far().clone()));
    for round in 0..amount.rounds {
        for turn in 0..2 {
            let which = (turn + round) % 2;
            let (from, to) = &pairs[which];
            let moved = tcp::bulk(&[Stream { from, to }], amount.tcp, &[])?;
            gbits[which].push(moved.gbits());
        }
    }
    progress.step("new flows on one node", seconds(20));
    let (new_flow_ns, old_flow_ns) = flows::measure(&off, &on, amount.rounds)?;
    progress.step("changes of a policy", seconds(60));
    let changes = changes::measure(&on, amount.changes)?;
    progress.step("the same among a hundred others a second", seconds(10));
    let storm = changes::storm(&on, amount.storm)?;
    progress.step("connections that are cut among many", seconds(20));
    let (cuts, tracked_flows) = changes::cut(&on, amount.cuts)?;
    progress.step("a start with everything", seconds(20));
    let start = on.restart()?;
    drop(off);
    progress.step("pods of which the source tells late", seconds(120));
    let late = late::measure(&on, amount.late)?;
    Ok(Found {
        amount,
        gbits,
        new_flow_ns,
        old_flow_ns,
        changes,
        storm,
        start,
        cuts,
        tracked_flows,
        add_ms,
        bytes_a_pod,
        late,
    })
}
