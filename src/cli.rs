//! The command line: words, help, and which part of the program they start.

mod ipam;
mod keys;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand, error::ErrorKind};

use crate::cni_install::{self, CniArgs};
use crate::config::{Config, Overrides};
use crate::inspect::{self, CaptureArgs, ExplainArgs, StatusArgs};
use crate::observe::{self, Format};
use crate::replay::{self, ReplayArgs};
use crate::{app, control};

/// A userspace pod-network overlay: pods on any node reach pods on any other, without a route on
/// the underlay.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 success, 1 failure, 2 a command line that makes no sense.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon of this node.
    Run(RunArgs),
    /// Show this node, its peers, and what was dropped and why.
    Status(StatusArgs),
    /// Check a configuration and its subnet table without starting anything.
    Check {
        #[command(flatten)]
        source: ConfigArgs,
    },
    /// Remove everything that a daemon made on this machine: devices, addresses, routes, rules.
    ///
    /// Stop the daemon first: beside one that runs, nothing is removed. Pods lose their network.
    Cleanup,
    /// Say what happens to a packet on this node, step by step.
    Explain(ExplainArgs),
    /// Show packets of the running daemon: both sides of the tunnel, with verdict and peer.
    Capture(CaptureArgs),
    /// Say what this node, or any other, would do with each packet of a capture.
    Replay(Box<ReplayArgs>),
    /// The addresses of this node's pods: list, check, free, import, rebuild.
    Ipam(ipam::IpamArgs),
    /// This node's keys for encryption: show, rotate, switch, retire.
    Keys(keys::KeysArgs),
    /// Install the CNI plugin for this node's container runtime, or remove it.
    Cni(CniArgs),
    /// Nodes and pods as network namespaces on this machine.
    #[cfg(feature = "lab")]
    Lab(culvert_lab::LabArgs),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// Configuration file; deploy/config.example.toml explains its keys.
    #[arg(
        long,
        env = "CULVERT_CONFIG",
        value_name = "FILE",
        default_value = "/etc/culvert/config.toml"
    )]
    config: PathBuf,
    /// Name of this node in the subnet table, instead of node.name.
    #[arg(long, env = "CULVERT_NODE_NAME", value_name = "NAME")]
    node_name: Option<String>,
    /// Directory of the admin socket and the node file, instead of node.run_dir.
    #[arg(long, env = "CULVERT_RUN_DIR", value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Directory of what survives a reboot, instead of node.state_dir.
    #[arg(long, env = "CULVERT_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Address to bind, instead of underlay.address.
    #[arg(long, env = "CULVERT_UNDERLAY_ADDRESS", value_name = "ADDRESS")]
    underlay_address: Option<IpAddr>,
    /// Where the subnet table comes from (file, etcd, kubernetes), instead of table.source.
    #[arg(long, env = "CULVERT_TABLE_SOURCE", value_name = "SOURCE")]
    table_source: Option<String>,
    /// Whether what nodes send one another is encrypted (off, prefer, require), instead of
    /// sealed.mode.
    #[arg(long, env = "CULVERT_SEALED_MODE", value_name = "MODE")]
    sealed_mode: Option<String>,
    /// URLs of etcd's members, separated by commas, instead of etcd.endpoints.
    #[arg(long, env = "CULVERT_ETCD_ENDPOINTS", value_name = "URLS", value_delimiter = ',')]
    etcd_endpoints: Vec<String>,
    /// How to reach the Kubernetes API, instead of kubernetes.kubeconfig.
    #[arg(long, env = "CULVERT_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    source: ConfigArgs,
    /// What to log: error, warn, info, debug, trace, or a filter such as culvert::control=debug.
    #[arg(long, env = "CULVERT_LOG", value_name = "FILTER", default_value = "info")]
    log: String,
    /// How log lines look.
    #[arg(long, env = "CULVERT_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t)]
    log_format: Format,
}

/// Does what the command line says.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no failure; clap knows which stream each belongs to.
            let _ = error.print();
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return ExitCode::from(if asked { 0 } else { 2 });
        }
    };
    let code = match execute(cli.command) {
        Ok(code) => code,
        // A reader that has seen enough, such as `head`, is no failure.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    };
    observe::finish_logging();
    code
}

fn execute(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(args) => {
            observe::start_logging(&args.log, args.log_format)?;
            let config = args.source.read()?;
            let runtime = runtime()?;
            let ended = runtime.block_on(app::run(config));
            // Whatever still waits for a disk or a lock does not hold up the end.
            runtime.shutdown_background();
            ended?;
        }
        Command::Status(args) => return inspect::run_status(&args),
        Command::Check { source } => {
            let config = source.read()?;
            let node = &config.node.name;
            let members = app::check(&config)?;
            match &members {
                Some(members) => {
                    say(format_args!("good: node {node} with {} peers", members.peers().count()))?;
                }
                None => say(format_args!("good: node {node}; its table's source was not asked"))?,
            }
            for hint in app::hints(&config, members.as_ref()) {
                say(format_args!("on this machine: {hint}"))?;
            }
        }
        Command::Cleanup => return cleanup(&app::cleanup()?),
        Command::Explain(args) => return inspect::run_explain(&args),
        Command::Capture(args) => return inspect::run_capture(&args),
        Command::Replay(args) => return replay::run(*args),
        Command::Ipam(args) => return ipam::run(&args),
        Command::Keys(args) => keys::run(&args)?,
        Command::Cni(args) => return cni_install::run(args),
        #[cfg(feature = "lab")]
        Command::Lab(args) => return culvert_lab::run(args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "culvert", &mut script);
            io::stdout().lock().write_all(&script)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl ConfigArgs {
    fn read(&self) -> anyhow::Result<Config> {
        let overrides = Overrides {
            node_name: self.node_name.clone(),
            run_dir: self.run_dir.clone(),
            state_dir: self.state_dir.clone(),
            underlay_address: self.underlay_address,
            table_source: self.table_source.clone(),
            sealed_mode: self.sealed_mode.clone(),
            etcd_endpoints: self.etcd_endpoints.clone(),
            kubeconfig: self.kubeconfig.clone(),
        };
        Ok(Config::read(&self.config, &overrides)?)
    }
}

fn cleanup(report: &control::node::Cleanup) -> anyhow::Result<ExitCode> {
    for action in &report.removed {
        say(action)?;
    }
    report.failed.iter().for_each(complain);
    if report.removed.is_empty() && report.failed.is_empty() {
        say("nothing to remove")?;
    }
    Ok(if report.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn say(text: impl Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

fn complain(error: &anyhow::Error) {
    observe::say_at_last(&format!("culvert: {error:#}"));
}

/// The control runtime: one thread, which packets never wait for.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
