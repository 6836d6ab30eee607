//! `culvert lab …`: the lab on the command line.
//!
//! Owns arguments and words. What they do is in the other files.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use serde_json::{Value, json};

use super::builder::LabBuilder;
use super::fault::Fault;
use super::files;
use super::netns::Netns;
use super::network::Lab;
use super::output::Output;
use super::plan::{Families, Place, Underlay};
use super::{DEFAULT_NAME, demo, interrupt, policy, relay, teardown};

/// Nodes and pods as network namespaces on this machine.
#[derive(Debug, Args)]
pub struct LabArgs {
    /// Name of the lab; its namespaces are NAME-node1, NAME-node1-pod1 and so on.
    #[arg(long, global = true, value_name = "NAME", default_value = DEFAULT_NAME)]
    name: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build nodes, start a daemon on each, and attach pods.
    Up(Shape),
    /// Run a command at a node, in a pod, or on the switch, and pass on its exit code.
    ///
    /// At a node and in its pods, `culvert` is the lab's own program and finds the node's daemon
    /// and configuration by itself: `culvert lab exec node1 -- culvert status`.
    Exec {
        /// Where: node1, node1-pod1, or switch.
        place: String,
        /// The command and its arguments.
        #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Show nodes, daemons, and pods with their addresses.
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the network configuration that a container runtime on a node hands to culvert-cni.
    ///
    /// To call the plugin by hand, run it on the node with this on standard input and CNI_COMMAND,
    /// CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME and CNI_PATH in the environment.
    CniConf {
        /// The node.
        node: String,
    },
    /// Break one thing, to see what Culvert says of it.
    ///
    /// What is broken stays so until `culvert lab mend`; `culvert lab status` shows it. Several
    /// things may be broken at once.
    #[command(after_help = BREAK_EXAMPLES)]
    Break {
        #[command(subcommand)]
        fault: Fault,
    },
    /// Be the relay that delays what a node sends; `break delay` starts it.
    #[command(hide = true)]
    Relay {
        /// The node.
        node: String,
        /// How long, in milliseconds.
        ms: u32,
    },
    /// Take back everything that `break` has broken, and start the daemons that it has killed.
    Mend,
    /// Remove everything that belongs to the lab, also after a crash.
    Down,
    /// Build a lab, show that pods reach one another, and remove it.
    Demo(Shape),
}

const BREAK_EXAMPLES: &str = "\
Examples:
  A daemon dies:
    culvert lab break kill node2
    culvert lab exec node1 -- culvert doctor --peers
    culvert lab mend
  One of the sixteen paths from node1 loses everything:
    culvert lab exec node1 -- culvert explain 10.244.1.2 10.244.2.2     (says the source port)
    culvert lab break lose node1 --source-port PORT
  A firewall, such as Docker's:
    culvert lab break docker node2

docs/troubleshooting.md has an exercise for each.";

#[derive(Debug, Args)]
struct Shape {
    /// Number of nodes.
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    nodes: u16,
    /// Number of pods on each node.
    #[arg(long, value_name = "COUNT", default_value_t = 2)]
    pods: u16,
    /// Give pods IPv6 addresses instead of IPv4 ones.
    #[arg(long, conflicts_with = "dual_stack")]
    ipv6: bool,
    /// Give pods IPv4 and IPv6 addresses.
    #[arg(long)]
    dual_stack: bool,
    /// Seal what nodes send one another: authenticated and encrypted.
    #[arg(long)]
    sealed: bool,
    /// Directory with network policies to enforce. The lab writes an object for each pod there,
    /// labelled with pod=NAME and node=NAME, and removes it in the end.
    #[arg(long, value_name = "DIR")]
    policy: Option<PathBuf>,
    /// One more label for a pod, for policies.
    #[arg(long = "label", value_name = "POD=KEY=VALUE", requires = "policy")]
    labels: Vec<String>,
    /// Family that nodes reach one another by.
    #[arg(long, value_name = "FAMILY", default_value = "ipv4")]
    underlay: Underlay,
    /// MTU of the underlay, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 1500)]
    underlay_mtu: u16,
    /// The daemon's program, if it is not this one.
    #[arg(long, value_name = "PATH")]
    culvert: Option<PathBuf>,
    /// The plugin's program, if it is not beside the daemon's.
    #[arg(long, value_name = "PATH")]
    culvert_cni: Option<PathBuf>,
}

impl Shape {
    fn builder(self, name: &str) -> Result<LabBuilder> {
        let families = match (self.ipv6, self.dual_stack) {
            (false, false) => Families::Ipv4,
            (true, _) => Families::Ipv6,
            (false, true) => Families::Dual,
        };
        let mut builder = Lab::builder(name)
            .nodes(self.nodes)
            .pods(self.pods)
            .families(families)
            .underlay(self.underlay.into())
            .underlay_mtu(self.underlay_mtu);
        if self.sealed {
            builder = builder.sealed("require");
        }
        for label in &self.labels {
            let (pod, key, value) = policy::parse_label(label)?;
            builder = builder.label(&pod, &key, &value);
        }
        if let Some(directory) = &self.policy {
            builder = builder.policies(directory)?;
        }
        if let Some(path) = self.culvert {
            builder = builder.culvert(path);
        }
        if let Some(path) = self.culvert_cni {
            builder = builder.plugin(path);
        }
        Ok(builder)
    }
}

/// Does what `args` say.
///
/// # Errors
///
/// It could not be done; what was begun is undone.
pub fn run(args: LabArgs) -> Result<ExitCode> {
    let out = Output::new();
    let name = args.name;
    match args.command {
        Command::Up(shape) => up(&name, shape, out),
        Command::Exec { place, command } => exec(&name, &place, &command),
        Command::Status { json } => status(&name, json, out),
        Command::CniConf { node } => cni_conf(&name, &node, out),
        Command::Break { fault } => {
            let lab = Lab::open(&name)?;
            let fault = lab.inflict(&fault)?;
            out.line(&fault)?;
            let option = files::option(&name);
            out.line(format_args!("culvert lab mend{option} takes it back"))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Relay { node, ms } => {
            relay::run(&node, Duration::from_millis(ms.into()))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Mend => mend(&name, out),
        Command::Down => down(&name, out),
        Command::Demo(shape) => {
            interrupt::watch()?;
            demo::run(shape.builder(&name)?, out)
        }
    }
}

fn up(name: &str, shape: Shape, out: Output) -> Result<ExitCode> {
    interrupt::watch()?;
    let builder = shape.builder(name)?.progress(move |what| {
        let _ = out.line(format_args!("{what} …"));
    });
    let mut lab = builder.up()?;
    out.line("")?;
    show(&lab, out)?;
    out.heading("Try")?;
    for line in hints(&lab) {
        out.line(format_args!("  {line}"))?;
    }
    lab.keep();
    Ok(ExitCode::SUCCESS)
}

/// What to type next.
fn hints(lab: &Lab) -> Vec<String> {
    let option = files::option(&lab.plan().name);
    let mut hints = Vec::new();
    let pods = lab.pods();
    if let [first, .., last] = pods.as_slice()
        && let Some(address) = last.addresses().first()
    {
        let (from, to) = (first.name(), address.addr());
        hints.push(format!("culvert lab exec{option} {from} -- ping {to}"));
    }
    if let Some(node) = lab.nodes().first() {
        hints.push(format!("culvert lab exec{option} {} -- ip route", node.name()));
        hints.push(format!("culvert lab exec{option} {} -- culvert status", node.name()));
        hints.push(format!("culvert lab exec{option} {} -- culvert doctor --peers", node.name()));
        hints.push(format!("culvert test lab{option}"));
        hints.push(format!("culvert ui lab{option}"));
        hints.push(format!("culvert lab break{option} --help"));
        hints.push(format!("tail -f {}", node.log_path().display()));
    }
    hints.push(format!("culvert lab down{option}"));
    hints
}

fn mend(name: &str, out: Output) -> Result<ExitCode> {
    let mended = Lab::open(name)?.mend()?;
    if mended.is_empty() {
        out.line("nothing was broken")?;
    }
    for fault in mended {
        out.line(format_args!("mended {fault}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn exec(name: &str, place: &str, command: &[OsString]) -> Result<ExitCode> {
    let lab = Lab::open(name)?;
    let netns = find(&lab, place)?;
    let (program, arguments) = command.split_first().context("name a command")?;
    let mut command = netns.command(program);
    if let Ok(Place::Node(node) | Place::Pod(node, _)) = self::place(&lab, place) {
        command.envs(lab.node(node).environment()?);
    }
    // This process becomes the command, so signals, terminal and exit code are the command's.
    let error = command.args(arguments).exec();
    if error.kind() == io::ErrorKind::NotFound {
        bail!("`ip` is missing: install the package iproute2");
    }
    Err(error).context("run `ip netns exec`")
}

/// The place that `text` names, as itself or as its namespace.
fn place(lab: &Lab, text: &str) -> Result<Place> {
    lab.without_prefix(text).parse()
}

/// The namespace that `text` means; the error for one that does not exist lists those that do.
fn find(lab: &Lab, text: &str) -> Result<Netns> {
    match place(lab, text) {
        Ok(place) => lab.netns(place),
        Err(error) => {
            let places: Vec<String> = lab.places()?.iter().map(ToString::to_string).collect();
            bail!("{error}; this lab has {}", places.join(", "))
        }
    }
}

fn status(name: &str, json: bool, out: Output) -> Result<ExitCode> {
    let lab = Lab::open(name)?;
    if json {
        out.line(format_args!("{:#}", describe(&lab)?))?;
    } else {
        show(&lab, out)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show(lab: &Lab, out: Output) -> Result<()> {
    let plan = lab.plan();
    out.line(format_args!(
        "lab `{}`: {} pods over an {} underlay of MTU {}\n",
        plan.name, plan.families, plan.underlay, plan.underlay_mtu
    ))?;
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["NAMESPACE", "ADDRESS", "DAEMON"]);
    for node in lab.nodes() {
        let standing = node.standing().as_str();
        let daemon = match node.pid() {
            Some(pid) => format!("{pid}, {standing}"),
            None => standing.to_owned(),
        };
        table.add_row([node.netns().name(), &node.address().to_string(), &daemon]);
        for pod in node.pods() {
            let addresses: Vec<String> =
                pod.addresses().iter().map(|net| net.addr().to_string()).collect();
            table.add_row([pod.netns().name(), &addresses.join(", "), ""]);
        }
    }
    for line in table.lines() {
        out.line(line.trim_end())?;
    }
    let faults = lab.faults()?;
    if !faults.is_empty() {
        let option = files::option(&plan.name);
        out.heading(format_args!("Broken, until `culvert lab mend{option}`"))?;
        for fault in faults {
            out.line(format_args!("  {fault}"))?;
        }
    }
    Ok(())
}

fn describe(lab: &Lab) -> Result<Value> {
    let nodes: Vec<Value> = lab
        .nodes()
        .iter()
        .map(|node| {
            let pods: Vec<Value> = node
                .pods()
                .iter()
                .map(|pod| {
                    json!({
                        "name": pod.name(),
                        "namespace": pod.netns().name(),
                        "addresses": pod.addresses(),
                    })
                })
                .collect();
            let (pid, state) = (node.pid(), node.standing().as_str());
            json!({
                "name": node.name(),
                "namespace": node.netns().name(),
                "address": node.address(),
                "subnets": node.subnets(),
                "run_dir": node.run_dir(),
                "log": node.log_path(),
                "daemon": { "pid": pid, "alive": pid.is_some(), "state": state },
                "pods": pods,
            })
        })
        .collect();
    let faults = lab.faults()?;
    let (name, switch) = (&lab.plan().name, lab.switch().name());
    Ok(json!({
        "schema": 1, "name": name, "switch": switch, "nodes": nodes, "faults": faults,
    }))
}

fn cni_conf(name: &str, node: &str, out: Output) -> Result<ExitCode> {
    let lab = Lab::open(name)?;
    out.line(format_args!("{:#}", lab.find_node(node)?.cni_config()))?;
    Ok(ExitCode::SUCCESS)
}

fn down(name: &str, out: Output) -> Result<ExitCode> {
    let removed = teardown::down(name)?;
    if removed == teardown::Removed::default() {
        out.line(format_args!("there is no lab `{name}`; nothing to remove"))?;
    } else {
        out.line(format_args!(
            "the lab `{name}` is gone: {} processes, {} namespaces",
            removed.processes, removed.namespaces
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
