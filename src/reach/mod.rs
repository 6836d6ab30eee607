//! `culvert test`: whether every pod reaches every other, in a lab, in containers, in a cluster.
//!
//! Owns the plan (who asks whom), the programs that it starts inside pods, and the report. What is
//! asked and answered there is in the crate `culvert-reach`, by this same program: so all a pod
//! needs is one file. Three modules know how a program is run inside a pod, and nothing else of it.

mod compose;
mod inside;
mod kubernetes;
#[cfg(feature = "lab")]
mod lab;
mod plan;
mod report;
mod run;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use self::plan::Pod;

/// What the program ends with when something was tried and did not work.
const FAILED: u8 = 3;

/// What `culvert test` takes.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct TestArgs {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Each pod asks each other one, in every family that both have: a small datagram, a TCP connection, a
datagram that fills a packet, a longer one in fragments, and 256 KiB over TCP. The server has to see
the asker's own address. Of more than 64 pods, each asks 63.

Exit codes: 0 everything worked; 3 something was tried and did not; 1 it could not be tried; 2 a
command line that makes no sense.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Between the pods of a lab.
    #[cfg(feature = "lab")]
    Lab(lab::LabPlace),
    /// Between the pods of docker-compose.yml.
    Compose(compose::ComposePlace),
    /// Between pods that are made for it on every node of a cluster, and a service over them.
    Kubernetes(kubernetes::KubernetesPlace),
    /// Inside a pod: answer.
    #[command(hide = true)]
    Answer(inside::AnswerArgs),
    /// Inside a pod: ask, and print what was found.
    #[command(hide = true)]
    Ask(inside::AskArgs),
}

/// How it is tried and told.
#[derive(Clone, Debug, Args)]
struct Manner {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// How long each answer may take, in milliseconds.
    #[arg(
        long, value_name = "MILLISECONDS", default_value_t = 1000,
        value_parser = clap::value_parser!(u64).range(1..=60_000)
    )]
    patience: u64,
}

/// Where pods are.
#[derive(Debug)]
struct Place {
    /// What it is called, for the report.
    name: String,
    pods: Vec<Pod>,
    /// Services that lead to some of the pods.
    services: Vec<Service>,
    answering: Answering,
}

/// Something that is no pod and is asked too.
#[derive(Clone, Debug)]
struct Service {
    name: String,
    address: SocketAddr,
}

/// Who starts the ends that answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answering {
    /// This program, for as long as the test lasts.
    Started,
    /// They are what the pods run, on the port that is the default.
    There,
}

/// Runs the command.
///
/// # Errors
///
/// It could not be tried.
pub(crate) fn run(args: &TestArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        #[cfg(feature = "lab")]
        Command::Lab(place) => try_out(place.place()?, &place.manner),
        Command::Compose(place) => try_out(place.place()?, &place.manner),
        Command::Kubernetes(place) => {
            let deployed = place.deploy()?;
            let tried = deployed.place().and_then(|found| try_out(found, &place.manner));
            let removed = deployed.remove();
            tried.and_then(|code| removed.map(|()| code))
        }
        Command::Answer(args) => inside::answer(args).map(|()| ExitCode::SUCCESS),
        Command::Ask(args) => inside::ask(args).map(|()| ExitCode::SUCCESS),
    }
}

fn try_out(place: Place, manner: &Manner) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        place.pods.len() > 1 || !place.services.is_empty(),
        "there are not two pods to try it between"
    );
    let report = run::run(&place, manner)?;
    report.print(manner)?;
    Ok(if report.is_good() { ExitCode::SUCCESS } else { FAILED.into() })
}

/// Words of a command line.
fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}
