//! The run: networks up, rounds, growth, report.
//!
//! Owns the order of things. All networks exist side by side, and each measure goes through all of
//! them before the next one begins, so that a machine whose speed drifts does so to all alike.

use std::fs;
use std::io::{self, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use culvert_lab::{Netns, interrupt};

use crate::churn;
use crate::cli::CompareArgs;
use crate::growth;
use crate::machine::Machine;
use crate::metric::{Measure, Metric, Run};
use crate::micro;
use crate::mixed;
use crate::networks::{self, BASELINE, Culvert, Network, PREFIX, Recipe};
use crate::programs::Programs;
use crate::progress::Progress;
use crate::report::{Figures, NetworkFacts, Report, svg, table, targets};
use crate::settings::Effort;
use crate::traffic::pause;
use crate::usage;

/// Time between two runs, for what the first left in queues to drain.
const BREATH: Duration = Duration::from_millis(50);

/// What measuring the hot path takes.
const HOT_PATH_TIME: Duration = Duration::from_secs(1);

/// Measures what `args` ask for and prints it.
pub(crate) fn run(args: &CompareArgs) -> Result<ExitCode> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "this needs root: it makes network namespaces and devices (try `make bench`)"
    );
    let _alone = be_alone()?;
    interrupt::watch()?;
    let plan = Plan::of(args)?;
    let mut progress = Progress::new(plan.steps(), plan.duration());
    let report = plan.measure(&mut progress);
    progress.clear();
    let report = report?;

    print(&table::render(&report))?;
    let rows = targets::check(&report);
    print(&targets::render(&rows))?;
    if let Some(path) = &args.run.json {
        let json = serde_json::to_string_pretty(&report.to_json(&rows)).context("write JSON")?;
        write(path, &(json + "\n"))?;
    }
    if let Some(path) = &args.svg {
        write(path, &svg::draw(&report))?;
    }
    let failed = args.run.check && !rows.iter().all(targets::Row::is_reached);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Prints the networks and what they lack.
pub(crate) fn list() -> Result<ExitCode> {
    let nowhere = Programs { culvert: "culvert".into(), plugin: "culvert-cni".into() };
    let mut text = String::new();
    for recipe in networks::recipes(&nowhere) {
        let state = recipe.missing().unwrap_or_else(|| recipe.about());
        text += &format!("{:22} {state}\n", recipe.name());
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Removes every lab that is named as the bench names its own.
pub(crate) fn clean() -> Result<ExitCode> {
    let _alone = be_alone()?;
    churn::clean()?;
    let names = Netns::names()?;
    let labs = names.iter().filter_map(|name| {
        let rest = name.strip_prefix(PREFIX)?;
        let lab = rest.split("-node").next()?.trim_end_matches("-switch");
        Some(format!("{PREFIX}{lab}"))
    });
    let mut labs: Vec<String> = labs.collect();
    labs.sort_unstable();
    labs.dedup();
    for name in &labs {
        culvert_lab::down(name)?;
        print(&format!("{name} is gone\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What will be measured.
struct Plan {
    settings: Effort,
    machine: Machine,
    recipes: Vec<Box<dyn Recipe>>,
    skipped: Vec<String>,
    runs: Vec<Run>,
    mixed: mixed::Plan,
    growth: growth::Plan,
    hot_path: bool,
}

impl Plan {
    fn of(args: &CompareArgs) -> Result<Self> {
        let mut settings = if args.run.quick { Effort::quick() } else { Effort::full() };
        settings.rounds = args.rounds.unwrap_or(settings.rounds).max(1);
        let programs = match &args.run.culvert {
            Some(path) => Programs::at(path)?,
            None => Programs::build()?,
        };
        let mut recipes = networks::recipes(&programs);
        let skipped = choose(&mut recipes, &args.only)?;
        let mut builds = vec![(targets::CULVERT.to_owned(), programs.clone())];
        for also in &args.also {
            let (name, path) = also.split_once('=').context("--also takes NAME=PATH")?;
            let others = Programs::at(Path::new(path))?;
            let recipe = Culvert::new(name, &others).with_about(&format!("culvert of {path}"));
            recipes.push(Box::new(recipe));
            builds.push((name.to_owned(), others));
        }
        let wanted =
            |measure: &Measure| args.measures.is_empty() || args.measures.contains(measure);
        let runs: Vec<Run> = <Measure as clap::ValueEnum>::value_variants()
            .iter()
            .filter(|measure| wanted(measure))
            .flat_map(|measure| measure.runs())
            .collect();
        builds.retain(|(name, _)| {
            wanted(&Measure::Mixed) && recipes.iter().any(|recipe| recipe.name() == name)
        });
        if runs.is_empty() {
            recipes.clear();
        }
        Ok(Self {
            mixed: mixed::Plan { builds },
            growth: growth::Plan {
                programs,
                tables: wanted(&Measure::Tables),
                peers: wanted(&Measure::Peers),
            },
            hot_path: wanted(&Measure::HotPath),
            machine: Machine::facts(args.run.date.clone()),
            settings,
            recipes,
            skipped,
            runs,
        })
    }

    fn steps(&self) -> usize {
        self.settings.rounds * self.runs.len() * self.recipes.len()
            + self.mixed.steps(&self.settings)
            + self.growth.steps(&self.settings)
            + usize::from(self.hot_path)
    }

    fn duration(&self) -> Duration {
        let each: Duration =
            self.runs.iter().map(|run| run.duration(&self.settings) + BREATH).sum();
        let count = u32::try_from(self.settings.rounds * self.recipes.len()).unwrap_or(u32::MAX);
        let hot_path = if self.hot_path { HOT_PATH_TIME } else { Duration::ZERO };
        each * count
            + self.mixed.duration(&self.settings)
            + self.growth.duration(&self.settings)
            + hot_path
    }

    fn measure(&self, progress: &mut Progress) -> Result<Report> {
        if let Some(warning) = self.machine.warning() {
            progress.say(&warning);
        }
        let mut failures = Vec::new();
        let mut networks = Vec::new();
        for recipe in &self.recipes {
            progress.say(&format!("building {}", recipe.name()));
            match Network::up(recipe.as_ref()) {
                Ok(network) => networks.push(network),
                Err(error) => {
                    interrupt::check()?;
                    failures.push(format!("{}: {error:#}", recipe.name()));
                }
            }
        }
        let mut figures = Figures::new(self.settings.rounds);
        for round in 0..self.settings.rounds {
            self.round(round, &networks, &mut figures, &mut failures, progress)?;
        }
        let mut facts = networks.iter().map(NetworkFacts::of).collect();
        // What follows is measured on networks of its own, and idle daemons are not quite idle.
        drop(networks);
        self.mixed.measure(&self.settings, progress, &mut figures, &mut facts, &mut failures)?;
        let growth = self.growth.measure(&self.settings, progress, &mut failures)?;
        let hot_path = if self.hot_path {
            progress.step("codec and lookup", HOT_PATH_TIME);
            Some(micro::hot_path(HOT_PATH_TIME))
        } else {
            None
        };
        Ok(Report {
            machine: self.machine.clone(),
            settings: self.settings.clone(),
            networks: facts,
            skipped: self.skipped.clone(),
            figures,
            growth,
            hot_path,
            failures,
        })
    }

    /// Every run on every network once.
    fn round(
        &self,
        round: usize,
        networks: &[Network],
        figures: &mut Figures,
        failures: &mut Vec<String>,
        progress: &mut Progress,
    ) -> Result<()> {
        for (index, run) in self.runs.iter().enumerate() {
            // Nobody is always the first, or always behind the same other.
            for turn in 0..networks.len() {
                let network = &networks[(turn + round + index) % networks.len()];
                let what = format!("round {}: {}, {}", round + 1, run.title(), network.name);
                progress.step(&what, run.duration(&self.settings) + BREATH);
                let last = figures.latest(&network.name, run.metric());
                match run.on(network, &self.settings, last) {
                    Ok(found) => found.into_iter().for_each(|(metric, value)| {
                        figures.add(&network.name, metric, round, value);
                    }),
                    Err(error) => {
                        interrupt::check()?;
                        failures.push(format!("{what}: {error:#}"));
                    }
                }
                pause(BREATH)?;
            }
        }
        for network in networks.iter().filter(|network| !network.daemons.is_empty()) {
            let sizes =
                network.daemons.iter().map(|id| usage::memory(*id).map(|memory| memory.resident));
            match sizes.collect::<Result<Vec<u64>>>() {
                Ok(sizes) => {
                    let largest = sizes.into_iter().max().unwrap_or_default();
                    let mib = largest as f64 / f64::from(1 << 20);
                    figures.add(&network.name, Metric::DaemonMemory, round, mib);
                }
                Err(error) => failures.push(format!(
                    "round {}: a daemon of {} has ended: {error:#}",
                    round + 1,
                    network.name
                )),
            }
        }
        Ok(())
    }
}

/// Leaves of `recipes` those that `only` names, all if it names none, and that can be built.
/// Returns what was left out for want of a program.
fn choose(recipes: &mut Vec<Box<dyn Recipe>>, only: &[String]) -> Result<Vec<String>> {
    for name in only {
        if !recipes.iter().any(|recipe| recipe.name() == name) {
            let names: Vec<&str> = recipes.iter().map(|recipe| recipe.name()).collect();
            bail!("there is no network `{name}`; there are {}", names.join(", "));
        }
    }
    if !only.is_empty() {
        recipes.retain(|recipe| {
            recipe.name() == BASELINE || only.iter().any(|name| name == recipe.name())
        });
    }
    let mut skipped = Vec::new();
    for recipe in recipes.iter() {
        if let Some(missing) = recipe.missing() {
            ensure!(only.is_empty(), "{}: {missing}", recipe.name());
            skipped.push(format!("{}: {missing}", recipe.name()));
        }
    }
    recipes.retain(|recipe| recipe.missing().is_none());
    Ok(skipped)
}

/// Keeps a second bench from taking the first one's networks for leftovers. The name of the socket
/// goes with the process.
pub(crate) fn be_alone() -> Result<UnixListener> {
    let name = SocketAddr::from_abstract_name("culvert-bench").context("name a socket")?;
    UnixListener::bind_addr(&name).map_err(|error| {
        if error.kind() == io::ErrorKind::AddrInUse {
            return anyhow!("another bench is running");
        }
        anyhow::Error::new(error).context("bind a socket")
    })
}

pub(crate) fn print(text: &str) -> Result<()> {
    io::stdout().lock().write_all(text.as_bytes()).context("write to standard output")
}

pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
