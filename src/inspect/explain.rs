//! `culvert explain`: a question, and where it is answered.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use culvert_node::node_file::DEFAULT_RUN_DIR;
use culvert_node::words::plain;

use super::ends::ends;
use crate::app;
use crate::explain::{self, Node, Protocol, Question};
use crate::observe;

/// What `culvert explain` takes.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct ExplainArgs {
    /// Source of the packet: an address; a pod of the node by its container's id, the begin of
    /// that, or the device of its port; or, where policies are enforced, any pod as NAMESPACE/NAME.
    source: String,
    /// Destination, likewise.
    destination: String,
    /// What it carries.
    #[arg(long, value_enum, default_value_t = Protocol::Tcp)]
    proto: Protocol,
    /// Source port.
    #[arg(long, default_value_t = 40_000, value_name = "PORT")]
    sport: u16,
    /// Destination port.
    #[arg(long, default_value_t = 80, value_name = "PORT")]
    dport: u16,
    /// Length of the IP packet, in bytes.
    #[arg(long, default_value_t = 100, value_name = "BYTES")]
    size: u16,
    /// The packet may be fragmented (IPv4 without DF).
    #[arg(long)]
    may_fragment: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Directory of the daemon's admin socket.
    #[arg(long, env = "CULVERT_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,
    /// Ask no daemon: answer from this subnet table, for the node of --node.
    #[arg(long, value_name = "FILE", requires = "node")]
    table: Option<PathBuf>,
    /// The node of --table.
    #[arg(long, value_name = "NAME", requires = "table")]
    node: Option<String>,
    /// The configuration that goes with --table.
    #[arg(long, value_name = "FILE", requires = "table")]
    config: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  Why does a pod not reach another?
    culvert explain 10.244.1.2 10.244.2.3
  The same by the names of the pods, where policies are enforced:
    culvert explain shop/web-0 shop/db-0 --dport 5432
  Does a full packet fit?
    culvert explain 10.244.1.2 10.244.2.3 --proto udp --dport 443 --size 1500
  What would node2 do, without asking it?
    culvert explain 10.244.1.2 10.244.2.3 --table table.toml --node node2

A step that the node's kernel was asked about ends in [kernel], one that nobody was asked about in
[assumed]; the others are the subnet table's and the data path's. Verdicts: forward, deliver, reply (an
ICMP error) and drop are the data path's, local is the bridge's; kernel: the node's routes take the packet
elsewhere; kernel_drops: a route or a rule of the kernel ends it.

Exit codes: 0 answered, whatever the verdict; 1 nobody answers, or a file that is wrong; 2 a command
line that makes no sense.";

/// Runs the command.
///
/// # Errors
///
/// Nobody answers, or the packet cannot be.
pub(crate) fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let run_dir = args.table.is_none().then_some(&*args.run_dir);
    let (source, destination) = ends(&args.source, &args.destination, run_dir)?;
    let question = Question {
        source,
        destination,
        protocol: args.proto,
        source_port: args.sport,
        destination_port: args.dport,
        size: args.size,
        may_fragment: args.may_fragment,
    };
    let explanation = match &args.table {
        Some(table) => {
            let offline = app::offline(args.config.as_deref(), Some(table), args.node.as_deref())?;
            let config = &offline.config;
            let node = Node {
                bridge: config.bridge.name.clone(),
                tun: config.tun.name.clone(),
                masquerade: config.egress.masquerade,
                source_ports: Vec::new(),
                refused: Vec::new(),
            };
            explain::explain(&offline.table, &node, None, &question)?
        }
        None => observe::ask(&args.run_dir, &question)?,
    };
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", observe::Document::first(&explanation).text()?)?;
    } else {
        writeln!(out, "{}", plain(&explanation.to_string()))?;
    }
    Ok(ExitCode::SUCCESS)
}
