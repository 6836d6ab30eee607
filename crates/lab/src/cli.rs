//! `culvert lab …`: the lab on the command line.
//!
//! Owns arguments and words. What they do is in the other files.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use serde_json::{Value, json};

use super::builder::LabBuilder;
use super::files;
use super::netns::Netns;
use super::network::Lab;
use super::output::Output;
use super::plan::{Families, Place, Underlay};
use super::{DEFAULT_NAME, demo, interrupt, teardown};

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
    /// Remove everything that belongs to the lab, also after a crash.
    Down,
    /// Build a lab, show that pods reach one another, and remove it.
    Demo(Shape),
}

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
    fn builder(self, name: &str) -> LabBuilder {
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
        if let Some(path) = self.culvert {
            builder = builder.culvert(path);
        }
        if let Some(path) = self.culvert_cni {
            builder = builder.plugin(path);
        }
        builder
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
        Command::Down => down(&name, out),
        Command::Demo(shape) => {
            interrupt::watch()?;
            demo::run(shape.builder(&name), out)
        }
    }
}

fn up(name: &str, shape: Shape, out: Output) -> Result<ExitCode> {
    interrupt::watch()?;
    let builder = shape.builder(name).progress(move |what| {
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
        let run_dir = node.run_dir();
        hints.push(format!("culvert lab exec{option} {} -- ip route", node.name()));
        hints.push(format!("culvert status --run-dir {}", run_dir.display()));
        hints.push(format!("tail -f {}", node.log_path().display()));
    }
    hints.push(format!("culvert lab down{option}"));
    hints
}

fn exec(name: &str, place: &str, command: &[OsString]) -> Result<ExitCode> {
    let netns = find(&Lab::open(name)?, place)?;
    let (program, arguments) = command.split_first().context("name a command")?;
    // This process becomes the command, so signals, terminal and exit code are the command's.
    let error = netns.command(program).args(arguments).exec();
    if error.kind() == io::ErrorKind::NotFound {
        bail!("`ip` is missing: install the package iproute2");
    }
    Err(error).context("run `ip netns exec`")
}

/// The namespace that `text` means; the error for one that does not exist lists those that do.
fn find(lab: &Lab, text: &str) -> Result<Netns> {
    match text.parse::<Place>() {
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
        out.line(format_args!("{:#}", describe(&lab)))?;
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
        let daemon = match (node.pid(), node.run_dir().join("node.json").exists()) {
            (Some(pid), true) => format!("{pid}, ready"),
            (Some(pid), false) => format!("{pid}, not ready"),
            (None, _) => "not running".to_owned(),
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
    Ok(())
}

fn describe(lab: &Lab) -> Value {
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
            let pid = node.pid();
            json!({
                "name": node.name(),
                "namespace": node.netns().name(),
                "address": node.address(),
                "subnets": node.subnets(),
                "run_dir": node.run_dir(),
                "log": node.log_path(),
                "daemon": { "pid": pid, "alive": pid.is_some() },
                "pods": pods,
            })
        })
        .collect();
    json!({ "name": lab.plan().name, "switch": lab.switch().name(), "nodes": nodes })
}

fn cni_conf(name: &str, node: &str, out: Output) -> Result<ExitCode> {
    let lab = Lab::open(name)?;
    let Some(found) = lab.nodes().iter().find(|found| found.name() == node) else {
        let names: Vec<&str> = lab.nodes().iter().map(super::Node::name).collect();
        bail!("the lab `{name}` has no node `{node}`; it has {}", names.join(", "));
    };
    out.line(format_args!("{:#}", found.cni_config()))?;
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
