//! How fast pods come and go: our plugin beside the stock pair `bridge` and `host-local`.
//!
//! Owns the order of the run. Both contenders have a node of their own, a namespace, at the same
//! time; at each point a batch of one is followed by a batch of the other, and the next round
//! begins with the other one. The plugins are called as a container runtime calls them, by their
//! programs, with the pods' namespaces made before.

mod contender;
mod point;
mod report;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_lab::{Netns, interrupt};

pub(crate) use self::contender::clean;
use self::contender::{Contender, Kind};
use self::point::{Batch, Point, Present, measure};
use crate::cli::ChurnArgs;
use crate::programs::Programs;
use crate::progress::Progress;
use crate::session::{self, Findings};
use crate::target::Target;

/// How many pods are attached, or addresses held.
const ATTACHED: [usize; 3] = [0, 100, 250];
const HELD: usize = 4000;

/// How many calls are under way at once.
const AT_ONCE: [usize; 3] = [32, 8, 1];

/// Addresses of a /24 that pods may have.
const ROOM_OF_24: usize = 253;

/// Which points, and rounds and pods of one batch at each.
struct ChurnEffort {
    attached: Vec<usize>,
    held: Vec<usize>,
    at_once: Vec<usize>,
    rounds: usize,
    pods: usize,
}

impl ChurnEffort {
    fn of(args: &ChurnArgs) -> Self {
        let (rounds, pods) = if args.run.quick { (2, 32) } else { (4, 64) };
        Self {
            attached: chosen(&ATTACHED, &args.present),
            held: chosen(&[HELD], &args.present),
            at_once: chosen(&AT_ONCE, &args.at_once),
            rounds,
            pods,
        }
    }
}

/// What is `wanted` of all there is; all of it, unless something is.
fn chosen(all: &[usize], wanted: &[usize]) -> Vec<usize> {
    all.iter().copied().filter(|count| wanted.is_empty() || wanted.contains(count)).collect()
}

impl Findings for Vec<Point> {
    const KEY: &'static str = "points";
    const COMMAND: &'static str = "churn";

    fn text(&self) -> String {
        report::text(self)
    }

    fn targets(&self) -> Vec<Target> {
        report::targets(self)
    }
}

/// Measures what `args` ask for and prints it.
pub(crate) fn run(args: &ChurnArgs) -> Result<ExitCode> {
    let settings = ChurnEffort::of(args);
    let places = settings.attached.len() + settings.held.len();
    let steps = settings.rounds * settings.at_once.len() * Kind::ALL.len() * places;
    ensure!(steps > 0, "there is no such point: see `bench churn --help`");
    // As long as the stock pair takes here; the estimate follows the pace.
    let each = Duration::from_millis(60) * u32::try_from(settings.pods).unwrap_or(u32::MAX);
    let planned = each * u32::try_from(steps).unwrap_or(u32::MAX);
    session::run(&args.run, (steps, planned), |programs, progress| {
        clean()?;
        all_points(programs, &settings, progress, each)
    })
}

fn all_points(
    programs: &Programs,
    settings: &ChurnEffort,
    progress: &mut Progress,
    each: Duration,
) -> Result<Vec<Point>> {
    let mut points = Vec::new();
    if !settings.attached.is_empty() {
        progress.say("building two nodes with a /24 each");
        let mut contenders = Kind::ALL
            .into_iter()
            .map(|kind| Contender::new(kind, programs, "10.88.0.0/24", settings.pods))
            .collect::<Result<Vec<_>>>()?;
        for &present in &settings.attached {
            for &at_once in &settings.at_once {
                // A batch needs room for as many pods as are under way.
                let attached = present.min(ROOM_OF_24 - at_once.max(3));
                for contender in &mut contenders {
                    progress.say(&format!("{}: {attached} pods present", contender.name()));
                    contender.fill(attached)?;
                }
                let present = Present { pods: attached, attached: true };
                points.push(one_point(&contenders, present, at_once, settings, progress, each)?);
            }
        }
    }
    for &held in &settings.held {
        progress.say(&format!("building two nodes with a /20 each, and {held} addresses held"));
        let contenders = Kind::ALL
            .into_iter()
            .map(|kind| {
                let mut contender = Contender::new(kind, programs, "10.88.0.0/20", settings.pods)?;
                contender.hold(held)?;
                Ok(contender)
            })
            .collect::<Result<Vec<_>>>()?;
        for &at_once in &settings.at_once {
            let present = Present { pods: held, attached: false };
            points.push(one_point(&contenders, present, at_once, settings, progress, each)?);
        }
    }
    Ok(points)
}

fn one_point(
    contenders: &[Contender],
    present: Present,
    at_once: usize,
    settings: &ChurnEffort,
    progress: &mut Progress,
    each: Duration,
) -> Result<Point> {
    let mut batches: Vec<Vec<Batch>> = contenders.iter().map(|_| Vec::new()).collect();
    for round in 0..settings.rounds {
        for turn in 0..contenders.len() {
            interrupt::check()?;
            let place = (turn + round) % contenders.len();
            let contender = &contenders[place];
            progress.step(
                &format!(
                    "round {}: {}, {} present, {at_once} at once",
                    round + 1,
                    contender.name(),
                    present.pods
                ),
                each,
            );
            batches[place].push(measure(contender, settings.pods, at_once)?);
        }
    }
    let mut batches = batches.into_iter();
    let (stock, culvert) = (batches.next(), batches.next());
    let (stock, culvert) = stock.zip(culvert).context("two contenders")?;
    Ok(Point { present, at_once, stock, culvert })
}

/// Removes all of `namespaces`, and what is in them.
fn delete(namespaces: &[Netns]) -> Result<()> {
    namespaces.iter().try_for_each(Netns::delete)
}
