//! `culvert policy hits`: which rules of policies have matched on this node, and which never.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use culvert_node::node_file::DEFAULT_RUN_DIR;
use serde::Serialize;

use crate::cli::say;
use crate::observe::{self, PolicyStatus};

/// The form of the JSON: grows when a program that reads it would have to change.
const SCHEMA: u32 = 1;

/// What `culvert policy hits` takes.
#[derive(Debug, Args)]
#[command(after_help = NOTE)]
pub(super) struct HitsArgs {
    /// Only rules that have matched nothing.
    #[arg(long)]
    unused: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Directory of the daemon's admin socket.
    #[arg(long, env = "CULVERT_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,
}

const NOTE: &str = "\
Rules of the policies that apply to a pod of this node are shown, with what they have matched since the
daemon's start: the first packet of each connection, and every packet that a rule drops. Figures are up
to ten seconds old. A rule that is unused here may be used on another node.

Exit codes: 0 done; 1 no daemon answers, or no policies are enforced; 2 a command line that makes no sense.";

/// What has matched on a node.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Hits {
    schema: u32,
    /// By name.
    rules: Vec<Rule>,
    /// What no rule has allowed, by direction and the policies that isolate; and what else drops.
    drops: Vec<Sum>,
    /// What passed, and what policies that are only being tried out would have dropped.
    audited: Vec<Sum>,
}

/// A rule of a policy.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Rule {
    /// The policy: `NAMESPACE/NAME`, `admin:NAME` or `baseline:NAME`.
    policy: String,
    /// Its place there, such as `ingress[0]`.
    rule: String,
    packets: u64,
    is_unused: bool,
}

/// Packets by what has counted them.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Sum {
    by: String,
    packets: u64,
}

pub(super) fn run(args: &HitsArgs) -> anyhow::Result<ExitCode> {
    let status = observe::query(&args.run_dir)?.policy;
    anyhow::ensure!(status.mode == "on", "no policies are enforced on this node (policy.mode)");
    let hits = Hits::of(status, args.unused);
    if args.json {
        say(serde_json::to_string_pretty(&hits)?)?;
    } else {
        say(hits.text().trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Hits {
    fn of(status: PolicyStatus, unused_alone: bool) -> Self {
        let rules = status.hits.into_iter().map(|(comment, packets)| {
            let (policy, rule) = comment.rsplit_once(' ').unwrap_or((&comment, ""));
            let is_unused = packets == 0;
            Rule { policy: policy.to_owned(), rule: rule.to_owned(), packets, is_unused }
        });
        let rules = rules.filter(|rule| rule.is_unused || !unused_alone).collect();
        let sums = |sums: BTreeMap<String, u64>| {
            let some = sums.into_iter().filter(|(_, packets)| *packets > 0 && !unused_alone);
            some.map(|(by, packets)| Sum { by, packets }).collect()
        };
        Self { schema: SCHEMA, rules, drops: sums(status.drops), audited: sums(status.audited) }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if self.rules.is_empty() {
            text.push_str("no rules\n");
        } else {
            let mut table = Table::new();
            table.load_preset(presets::NOTHING);
            table.set_header(["policy", "rule", "packets"]);
            for Rule { policy, rule, packets, is_unused } in &self.rules {
                let packets = if *is_unused { "unused".to_owned() } else { packets.to_string() };
                table.add_row([policy, rule, &packets]);
            }
            if let Some(column) = table.column_mut(2) {
                column.set_cell_alignment(CellAlignment::Right);
            }
            let _ = writeln!(text, "{}", table.trim_fmt());
        }
        for (what, sums) in [("dropped", &self.drops), ("would be dropped", &self.audited)] {
            for Sum { by, packets } in sums {
                let _ = writeln!(text, "{what}, {by}: {packets}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> PolicyStatus {
        let map = |items: &[(&str, u64)]| {
            items.iter().map(|(name, packets)| ((*name).to_owned(), *packets)).collect()
        };
        PolicyStatus {
            mode: "on".to_owned(),
            hits: map(&[("shop/web ingress[0]", 7), ("shop/web ingress[1]", 0)]),
            drops: map(&[("ingress shop/web", 3), ("closed", 0)]),
            audited: map(&[("egress shop/try", 4)]),
            ..PolicyStatus::default()
        }
    }

    #[test]
    fn rules_are_shown_by_policy_and_those_without_a_match_as_unused() {
        let text = Hits::of(status(), false).text();
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["shop/web", "ingress[0]", "7"]);
        assert_eq!(lines[2], ["shop/web", "ingress[1]", "unused"]);
        assert_eq!(lines[3].join(" "), "dropped, ingress shop/web: 3");
        assert_eq!(lines[4].join(" "), "would be dropped, egress shop/try: 4");
        assert_eq!(lines.len(), 5, "{text}");
    }

    #[test]
    fn unused_rules_can_be_shown_alone() {
        let hits = Hits::of(status(), true);
        assert_eq!((hits.rules.len(), hits.drops.len()), (1, 0));
        assert_eq!(hits.rules[0].rule, "ingress[1]");
        assert!(hits.rules[0].is_unused);
    }
}
