//! The command line: words, help, and which part of the program they start.

mod complete;
mod ipam;
mod keys;
mod policy;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, error::ErrorKind};
use culvert_node::words::counted;

use crate::cni_install::{self, CniArgs};
use crate::config::{Config, Overrides};
use crate::doctor::{self, DoctorArgs};
use crate::inspect::{
    self, CaptureArgs, ExplainArgs, FlowsArgs, PingArgs, StatusArgs, SupportArgs, TopArgs,
    TraceArgs,
};
use crate::lifecycle::{Signals, Supervisor};
#[cfg(feature = "databases")]
use crate::manifest::{self, KubernetesArgs};
#[cfg(feature = "databases")]
use crate::migrate::{self, MigrateArgs};
use crate::observe::{self, Format};
use crate::reach::{self, TestArgs};
use crate::replay::{self, ReplayArgs};
use crate::ui::{self, UiArgs};
use crate::{app, control, kubectl};

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
    Cleanup {
        /// Go on until a signal comes, when everything is removed: for a container that would be
        /// started again if it ended.
        #[arg(long)]
        stay: bool,
    },
    /// Say what happens to a packet on this node, step by step.
    Explain(ExplainArgs),
    /// Ask a peer inside the tunnel: whether it answers, by which paths, and how fast.
    Ping(PingArgs),
    /// Follow a packet and the answer to it through both nodes; the other one is asked.
    Trace(TraceArgs),
    /// Look for what is in the way of packets on this node, and say what mends it.
    Doctor(DoctorArgs),
    /// Try whether every pod reaches every other: in a lab, in containers, in a cluster.
    Test(TestArgs),
    /// Show on a page what daemons know of one another: of this node, a lab, a cluster.
    Ui(UiArgs),
    /// Show packets of the running daemon: both sides of the tunnel, with verdict and peer.
    Capture(CaptureArgs),
    /// Show who talks to whom through this node: addresses, ports, peer, verdict, packets, bytes.
    Flows(FlowsArgs),
    /// Show which pods, peers or flows move most, again and again.
    Top(TopArgs),
    /// Say what this node, or any other, would do with each packet of a capture.
    Replay(Box<ReplayArgs>),
    /// The addresses of this node's pods: list, check, free, import, rebuild.
    Ipam(ipam::IpamArgs),
    /// This node's keys for encryption: show, rotate, switch, retire.
    Keys(keys::KeysArgs),
    /// Network policies: check, matrix, diff, explain of a directory, and the hits on this node.
    Policy(policy::PolicyArgs),
    /// Install the CNI plugin for this node's container runtime, or remove it.
    Cni(CniArgs),
    /// Print what installs Culvert in a Kubernetes cluster.
    #[cfg(feature = "databases")]
    Kubernetes(KubernetesArgs),
    /// Have a cluster come over from another network, node by node, under traffic.
    #[cfg(feature = "databases")]
    Migrate(MigrateArgs),
    /// Nodes and pods as network namespaces on this machine.
    #[cfg(feature = "lab")]
    Lab(culvert_lab::LabArgs),
    /// Write what a helper would ask for into one file: no keys, no passwords, no packets.
    Support(SupportArgs),
    /// Print a completion script for a shell.
    ///
    /// `make install` puts those of bash, zsh and fish where they are found. By hand, for bash:
    /// source <(culvert completions bash)
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
    /// Where metrics and health are served, or off, instead of observe.address.
    #[arg(long, env = "CULVERT_OBSERVE_ADDRESS", value_name = "ADDRESS:PORT")]
    observe_address: Option<String>,
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
    /// Where the service manager listens. Set by systemd.
    #[arg(long, env = "NOTIFY_SOCKET", value_name = "SOCKET", hide = true)]
    notify_socket: Option<OsString>,
    /// How often the service manager wants a sign of life, in microseconds. Set by systemd.
    #[arg(long, env = "WATCHDOG_USEC", value_name = "MICROSECONDS", hide = true)]
    watchdog_usec: Option<u64>,
    /// The process that is to give it. Set by systemd.
    #[arg(long, env = "WATCHDOG_PID", value_name = "PID", hide = true)]
    watchdog_pid: Option<u32>,
}

/// The whole command line, for what describes it: manual pages.
#[must_use]
pub fn command() -> clap::Command {
    complete::command()
}

/// The completion script for `shell`.
///
/// # Errors
///
/// There is none for this shell.
pub fn completion(shell: clap_complete::Shell) -> io::Result<Vec<u8>> {
    complete::script(shell)
}

/// Does what the command line says.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if let Some(code) = complete::answer(&args) {
        return code;
    }
    let args = match kubectl::is_meant(&args).then(|| kubectl::of_the_cluster(&args)) {
        Some(None) => return end(kubectl::run(args)),
        Some(Some(own)) => own,
        None => args,
    };
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no failure; clap knows which stream each belongs to.
            let _ = error.print();
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return ExitCode::from(if asked { 0 } else { 2 });
        }
    };
    end(execute(cli.command))
}

/// The code of a command that has ended, and what there is to say of it.
fn end(result: anyhow::Result<ExitCode>) -> ExitCode {
    let code = match result {
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
            let supervisor = args.supervisor()?;
            let look = args.source.look(&config);
            let source = args.source;
            let reread = Arc::new(move || source.read());
            let ended = runtime.block_on(app::run(config, reread, supervisor, look));
            // Whatever still waits for a disk or a lock does not hold up the end.
            runtime.shutdown_background();
            ended?;
        }
        Command::Status(args) => return inspect::run_status(&args),
        Command::Check { source } => return check(&source.read()?),
        Command::Cleanup { stay } => {
            let code = cleanup(&app::cleanup()?)?;
            if stay && code == ExitCode::SUCCESS {
                say("everything is removed; waiting for a signal")?;
                runtime()?.block_on(async {
                    Signals::new()?.stop.next().await;
                    io::Result::Ok(())
                })?;
            }
            return Ok(code);
        }
        Command::Explain(args) => return inspect::run_explain(&args),
        Command::Ping(args) => return inspect::run_ping(&args),
        Command::Trace(args) => return inspect::run_trace(&args),
        Command::Doctor(args) => return doctor::run(&args),
        Command::Test(args) => return reach::run(&args),
        Command::Ui(args) => return ui::run(&args),
        Command::Capture(args) => return inspect::run_capture(&args),
        Command::Flows(args) => return inspect::run_flows(&args),
        Command::Top(args) => return inspect::run_top(&args),
        Command::Replay(args) => return replay::run(*args),
        Command::Ipam(args) => return ipam::run(&args),
        Command::Keys(args) => keys::run(&args)?,
        Command::Policy(args) => return policy::run(&args),
        Command::Cni(args) => return cni_install::run(args),
        #[cfg(feature = "databases")]
        Command::Kubernetes(args) => return manifest::run(args),
        #[cfg(feature = "databases")]
        Command::Migrate(args) => return migrate::run(args),
        #[cfg(feature = "lab")]
        Command::Lab(args) => return culvert_lab::run(args),
        Command::Support(args) => return inspect::run_support(&args),
        Command::Completions { shell } => {
            io::stdout().lock().write_all(&complete::script(shell)?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl RunArgs {
    /// The service manager that started this process, if one did.
    fn supervisor(&self) -> anyhow::Result<Supervisor> {
        let Some(socket) = self.notify_socket.as_ref().filter(|socket| !socket.is_empty()) else {
            return Ok(Supervisor::default());
        };
        let is_meant = self.watchdog_pid.is_none_or(|pid| pid == std::process::id());
        let watchdog = self.watchdog_usec.filter(|usec| is_meant && *usec > 0);
        Supervisor::open(socket, watchdog.map(Duration::from_micros)).with_context(|| {
            format!("opening the service manager's socket {} (NOTIFY_SOCKET)", socket.display())
        })
    }
}

impl ConfigArgs {
    /// What doctor finds on the node that the daemon is of.
    fn look(&self, config: &Config) -> app::Look {
        let (path, name) = (self.config.clone(), self.node_name.clone());
        let run_dir = config.node.run_dir.clone();
        Box::new(move || doctor::failing(&path, name.as_deref(), &run_dir))
    }

    fn read(&self) -> anyhow::Result<Config> {
        let overrides = Overrides {
            node_name: self.node_name.clone(),
            run_dir: self.run_dir.clone(),
            state_dir: self.state_dir.clone(),
            underlay_address: self.underlay_address,
            observe_address: self.observe_address.clone(),
            table_source: self.table_source.clone(),
            sealed_mode: self.sealed_mode.clone(),
            etcd_endpoints: self.etcd_endpoints.clone(),
            kubeconfig: self.kubeconfig.clone(),
        };
        Ok(Config::read(&self.config, &overrides)?)
    }
}

/// Says what the daemon would end at, which is no success; else that it would start, and what it
/// would say of this machine.
fn check(config: &Config) -> anyhow::Result<ExitCode> {
    let members = app::check(config)?;
    let app::OnMachine { faults, hints } = app::on_machine(config, members.as_ref());
    if faults.is_empty() {
        let node = &config.node.name;
        match &members {
            Some(members) => {
                say(format_args!(
                    "good: node {node} with {}",
                    counted(members.peers().count(), "peer")
                ))?;
            }
            None => say(format_args!("good: node {node}; its table's source was not asked"))?,
        }
    }
    for fault in &faults {
        complain(&anyhow::anyhow!("no daemon starts on this machine: {fault}"));
    }
    for hint in hints {
        say(format_args!("on this machine: {hint}"))?;
    }
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
