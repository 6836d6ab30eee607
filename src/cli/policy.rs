//! `culvert policy`: words and help.

mod hits;

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use culvert_node::words::counted;
use culvert_policy::judge::{Opinion, Packet, Traffic};
use culvert_policy::matrix::{Cell, Difference, Matrix, Place};
use culvert_policy::object::PodAddresses;
use culvert_policy::plan::Direction;
use culvert_policy::{Judge, World, notes};
use overlay_proto::Protocol;
use serde_json::{Value, json};

use super::say;
use crate::control::policy::directory;

/// What the JSON of these commands is counted by: it grows when a key goes or means something else.
const SCHEMA: u32 = 1;

/// Ends `diff` with this when something differs, so that a script can tell it from a failure.
const DIFFERENT: u8 = 3;

const ABOUT: &str = "\
A directory has the objects of a cluster as files (*.yaml, *.yml, *.json): NetworkPolicy and
ClusterNetworkPolicy, and the Pods, Namespaces and Nodes that they are about. What a cluster has
comes into one by

  kubectl get netpol,pods,ns,nodes -A -o yaml > DIR/cluster.yaml
  kubectl get clusternetworkpolicies -o yaml > DIR/cluster-policies.yaml

But for `hits`, nothing is asked of a daemon or a cluster here, and nothing is changed. So a policy
can be tried out before anybody is cut off by it:

  culvert policy check new/             is it understood, and does it mean anybody?
  culvert policy diff now/ new/         who can speak no longer, and who can now?
  culvert policy explain new/ shop/web shop/db --port 5432
                                        which rule allows it, or which nearly does?
  culvert policy matrix new/ --html policies.html
                                        who may speak with whom, to look at and to show";

#[derive(Debug, Args)]
#[command(after_long_help = ABOUT, after_help = "Run with --help for how to get and try out policies.")]
pub(super) struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Say what is wrong with the objects of a directory, by file and field. Ends with 1 if
    /// something is.
    Check {
        /// The directory with the objects.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show who may speak with whom. Pods that no policy tells apart are one row and column.
    Matrix {
        /// The directory with the objects.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// Print JSON.
        #[arg(long, conflicts_with = "html")]
        json: bool,
        /// Write a page to this file instead.
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
        #[command(flatten)]
        traffic: TrafficArgs,
    },
    /// Show what a change opens (+) and closes (-). Ends with 3 if something differs.
    Diff {
        /// The directory with the objects as they are.
        old: PathBuf,
        /// The directory with the objects as they shall be.
        new: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show how often the rules on this node have matched, and which never did. The one command
    /// here that asks the daemon.
    Hits(hits::HitsArgs),
    /// Say why a connection is allowed or not: the policies that isolate each end, and the rule
    /// that decides or comes nearest. Ends with 1 if it is not allowed.
    Explain {
        /// The directory with the objects.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// Who begins: NAMESPACE/POD, or an address.
        from: String,
        /// Where it goes: NAMESPACE/POD, or an address.
        to: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        traffic: TrafficArgs,
    },
}

/// What a connection carries.
#[derive(Debug, Args)]
struct TrafficArgs {
    /// Port of the destination.
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Protocol of the port.
    #[arg(long, value_name = "PROTOCOL", value_enum, default_value_t, requires = "port")]
    proto: Proto,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Proto {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl TrafficArgs {
    fn traffic(&self) -> Option<Traffic> {
        let protocol = match self.proto {
            Proto::Tcp => Protocol::Tcp,
            Proto::Udp => Protocol::Udp,
            Proto::Sctp => Protocol::Sctp,
        };
        self.port.map(|port| Traffic::Port(protocol, port))
    }
}

pub(super) fn run(args: &PolicyArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        PolicyCommand::Check { directory, json } => check(directory, *json),
        PolicyCommand::Matrix { directory, json, html, traffic } => {
            let mut matrix = Matrix::new(&world(directory)?);
            let traffic = traffic.traffic();
            if let Some(traffic) = traffic {
                matrix = matrix.only(traffic);
            }
            if let Some(file) = html {
                let what = traffic.map_or(String::new(), |traffic| format!(", {traffic}"));
                let page = matrix.to_html(&format!("Who may speak with whom{what}"));
                std::fs::write(file, page)
                    .with_context(|| format!("writing {}", file.display()))?;
                say(format_args!("wrote {}", file.display()))?;
            } else if *json {
                say(pretty(&matrix_json(&matrix))?)?;
            } else {
                say(&matrix)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        PolicyCommand::Diff { old, new, json } => {
            let difference = Difference::between(&world(old)?, &world(new)?);
            if *json {
                say(pretty(&difference_json(&difference))?)?;
            } else {
                say(&difference)?;
            }
            let is_same = difference.is_empty();
            Ok(if is_same { ExitCode::SUCCESS } else { ExitCode::from(DIFFERENT) })
        }
        PolicyCommand::Hits(args) => hits::run(args),
        PolicyCommand::Explain { directory, from, to, json, traffic } => {
            explain(&world(directory)?, from, to, traffic.traffic(), *json)
        }
    }
}

/// The objects of a directory, whatever is wrong with some of them.
fn world(path: &Path) -> anyhow::Result<World> {
    let contents = directory::read(path)?;
    Ok(World::new(contents.objects))
}

fn check(path: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let contents = directory::read(path)?;
    let findings = contents.findings;
    let world = World::new(contents.objects);
    let notes = notes::notes(&world);
    let (network, cluster) = (world.network_policies().count(), world.cluster_policies().count());
    if json {
        let finding = |(file, it): &(PathBuf, culvert_policy::read::Finding)| {
            json!({
                "file": file, "object": it.object, "field": it.field, "value": it.value,
                "problem": it.problem, "remedy": it.remedy, "gravity": it.gravity.as_str(),
            })
        };
        let report = json!({
            "schema": SCHEMA,
            "network_policies": network,
            "cluster_network_policies": cluster,
            "pods": world.pods().count(),
            "findings": findings.iter().map(finding).collect::<Vec<_>>(),
            "notes": notes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        });
        say(pretty(&report)?)?;
    } else {
        for (file, finding) in &findings {
            say(format_args!("{}: {finding}", file.display()))?;
        }
        for note in &notes {
            say(format_args!("note: {note}"))?;
        }
        let word = if findings.is_empty() { "good" } else { "read" };
        say(format_args!(
            "{word}: {}, {}, {}",
            counted(network, "NetworkPolicy"),
            counted(cluster, "ClusterNetworkPolicy"),
            counted(world.pods().count(), "pod")
        ))?;
    }
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn explain(
    world: &World,
    from: &str,
    to: &str,
    traffic: Option<Traffic>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let (sources, destinations) = (end(world, from)?, end(world, to)?);
    let pair = |is_v4: bool| {
        let of = |all: &PodAddresses| all.iter().find(|it| it.is_ipv4() == is_v4);
        Some((of(&sources)?, of(&destinations)?))
    };
    let pairs: Vec<(IpAddr, IpAddr)> = [true, false].into_iter().filter_map(pair).collect();
    if pairs.is_empty() {
        bail!("{from} and {to} have no addresses of one family");
    }
    let judge = Judge::new(world);
    let traffic = traffic.unwrap_or(Traffic::Other);
    let (mut text, mut ways, mut allowed) = (String::new(), Vec::new(), true);
    for (source, destination) in pairs {
        let packet = Packet { source, destination, traffic };
        let verdict = judge.judge(packet);
        allowed &= verdict.is_allowed();
        let word = if verdict.is_allowed() { "allowed" } else { "denied" };
        let _ = writeln!(text, "{source} → {destination}, {traffic}: {word}");
        let mut ends = serde_json::Map::new();
        for direction in [Direction::Egress, Direction::Ingress] {
            let opinion = verdict.opinion(direction);
            let near = judge.near_misses(packet, direction);
            let near = if opinion.is_allowed() { Vec::new() } else { near };
            let _ = writeln!(text, "  {direction:<7}  {}{opinion}", pod(opinion));
            for near in &near {
                let _ = writeln!(text, "           near: {near}");
            }
            ends.insert(direction.to_string(), opinion_json(opinion, &near));
        }
        ways.push(json!({
            "source": source, "destination": destination, "allowed": verdict.is_allowed(),
            "egress": ends["egress"], "ingress": ends["ingress"],
        }));
    }
    if json {
        say(pretty(&json!({ "schema": SCHEMA, "traffic": traffic.to_string(), "ways": ways }))?)?;
    } else {
        say(text.trim_end())?;
    }
    Ok(if allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn pod(opinion: &Opinion) -> String {
    let pod = opinion.pod.as_ref();
    pod.map_or(String::new(), |(namespace, name)| format!("{namespace}/{name}: "))
}

fn opinion_json(opinion: &Opinion, near: &[culvert_policy::judge::NearMiss]) -> Value {
    json!({
        "pod": opinion.pod.as_ref().map(|(namespace, name)| format!("{namespace}/{name}")),
        "allowed": opinion.is_allowed(),
        "policies": opinion.isolated_by.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "why": opinion.to_string(),
        "near_misses": near.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

/// The addresses of one end that a person named.
fn end(world: &World, text: &str) -> anyhow::Result<PodAddresses> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok([address].into_iter().collect());
    }
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    let Some(pod) = world.pod(namespace, name) else {
        bail!("{text}: neither an address nor a pod of the directory; write NAMESPACE/POD");
    };
    if pod.addresses.is_empty() {
        bail!("{text}: the pod has no address; write status.podIPs into its object");
    }
    Ok(pod.addresses.clone())
}

fn matrix_json(matrix: &Matrix) -> Value {
    let mut cells = Vec::new();
    for (from, row) in matrix.cells.iter().enumerate() {
        for (to, cell) in row.iter().enumerate() {
            if let Some(cell) = cell {
                let mut it = cell_json(cell);
                it["from"] = from.into();
                it["to"] = to.into();
                cells.push(it);
            }
        }
    }
    let places: Vec<Value> = matrix.places.iter().map(place_json).collect();
    json!({ "schema": SCHEMA, "places": places, "cells": cells })
}

fn place_json(place: &Place) -> Value {
    match place {
        Place::Pods { namespace, names } => {
            let names: Vec<&str> = names.iter().map(|name| &**name).collect();
            json!({ "kind": "pods", "namespace": &**namespace, "pods": names })
        }
        Place::Nodes { names } => {
            let names: Vec<&str> = names.iter().map(|name| &**name).collect();
            json!({ "kind": "nodes", "nodes": names })
        }
        Place::Network(block) => {
            let except: Vec<String> = block.except.iter().map(ToString::to_string).collect();
            json!({ "kind": "network", "cidr": block.cidr.to_string(), "except": except })
        }
        Place::Elsewhere => json!({ "kind": "elsewhere" }),
    }
}

fn cell_json(cell: &Cell) -> Value {
    let text = |openings: &Option<_>| openings.as_ref().map(ToString::to_string);
    json!({ "ipv4": text(&cell.v4), "ipv6": text(&cell.v6) })
}

fn difference_json(difference: &Difference) -> Value {
    let change = |it: &culvert_policy::matrix::Change| {
        json!({
            "from": place_json(&it.from), "to": place_json(&it.to),
            "opened": cell_json(&it.opened), "closed": cell_json(&it.closed),
        })
    };
    let changes: Vec<Value> = difference.changes.iter().map(change).collect();
    json!({
        "schema": SCHEMA, "changes": changes,
        "pods_gone": difference.gone, "pods_new": difference.new,
    })
}

fn pretty(value: &Value) -> anyhow::Result<String> {
    serde_json::to_string_pretty(value).context("writing JSON")
}

#[cfg(test)]
mod tests;
