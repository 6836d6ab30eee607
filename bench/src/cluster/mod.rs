//! What one node costs and asks for in a large cluster, and what each feature that watches adds.
//!
//! One real daemon follows a stand-in for the Kubernetes API that tells of ten thousand nodes,
//! 150,000 pods and 5,000 policies, and of as many changes as such a cluster has.

mod stage;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::cli::ClusterArgs;
use crate::programs::Programs;
use crate::progress::Progress;
use crate::session::{self, Findings};
use crate::target::Target;
use stage::Stage;

/// What a daemon follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Following {
    /// The nodes alone.
    Nodes,
    /// Nodes, and all that policies are made of.
    Policies,
}

impl Following {
    const ALL: [Self; 2] = [Self::Nodes, Self::Policies];

    const fn name(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Policies => "nodes and policies",
        }
    }
}

/// What one daemon takes.
#[derive(Clone, Copy, Debug, Serialize)]
struct Taken {
    following: Following,
    /// From its start until it was ready, with rules in force where there are policies.
    ready_seconds: f64,
    /// What it had used of a processor by then.
    ready_cpu_seconds: f64,
    /// What the API server had sent it by then, in MiB.
    ready_mib: f64,
    /// Its resident memory after the changes, and the most that it ever was, in MiB.
    resident_mib: f64,
    peak_mib: f64,
    /// What it used of a processor while the cluster changed, in ms a second.
    changing_cpu_ms: f64,
    /// What the API server sent it meanwhile, in KiB a second.
    changing_kib: f64,
}

/// One of the figures.
type Figure = fn(&Taken) -> f64;

#[derive(Clone, Debug, Serialize)]
struct Found {
    nodes: usize,
    pods: usize,
    policies: usize,
    changes_per_second: stage::Rates,
    taken: Vec<Taken>,
}

impl Findings for Found {
    const KEY: &'static str = "cluster";
    const COMMAND: &'static str = "cluster";

    fn text(&self) -> String {
        let mut text = format!(
            "{} nodes, {} pods, {} policies; each second {} nodes report and {} pods change\n\n",
            self.nodes,
            self.pods,
            self.policies,
            self.changes_per_second.nodes,
            self.changes_per_second.pods
        );
        let mut row = |name: &str, values: Vec<String>| {
            let _ = write!(text, "  {name:<44}");
            for value in values {
                let _ = write!(text, " {value:>20}");
            }
            text.push('\n');
        };
        row("a node that follows", Following::ALL.map(|it| it.name().to_owned()).to_vec());
        let figures: [(&str, Figure); 7] = [
            ("start until ready, s", |taken| taken.ready_seconds),
            ("CPU time of that, s", |taken| taken.ready_cpu_seconds),
            ("sent by the API server for that, MiB", |taken| taken.ready_mib),
            ("resident memory, MiB", |taken| taken.resident_mib),
            ("most resident memory ever, MiB", |taken| taken.peak_mib),
            ("CPU time while the cluster changes, ms/s", |taken| taken.changing_cpu_ms),
            ("sent by the API server meanwhile, KiB/s", |taken| taken.changing_kib),
        ];
        for (name, figure) in figures {
            row(name, self.taken.iter().map(|taken| format!("{:.1}", figure(taken))).collect());
        }
        text
    }

    fn targets(&self) -> Vec<Target> {
        Vec::new()
    }
}

/// Measures what `args` ask for and prints it.
pub(crate) fn run(args: &ClusterArgs) -> Result<ExitCode> {
    let changing = Duration::from_secs(if args.run.quick { 15 } else { 60 });
    let plan = (1 + Following::ALL.len(), (Duration::from_secs(40) + changing) * 2);
    session::run(&args.run, plan, |programs, progress| measure(programs, changing, progress))
}

fn measure(programs: &Programs, changing: Duration, progress: &mut Progress) -> Result<Found> {
    progress.step("telling the API server of a cluster", Duration::from_secs(20));
    let mut stage = Stage::build(programs)?;
    let mut taken = Vec::new();
    for following in Following::ALL {
        let step = format!("a node that follows {}", following.name());
        progress.step(&step, Duration::from_secs(30) + changing);
        taken.push(stage.measure(following, changing)?);
    }
    Ok(Found {
        nodes: stage::NODES,
        pods: stage::PODS,
        policies: stage::POLICIES,
        changes_per_second: stage::RATES,
        taken,
    })
}
