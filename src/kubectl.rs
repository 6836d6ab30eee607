//! `kubectl culvert …`: this program, called `kubectl-culvert`, on the nodes of a cluster.
//!
//! Owns the command line and the calls of `kubectl`, which finds the daemon's pod on a node and
//! runs `culvert` in it. Speaks to no API server itself: who may do what is what kubectl and the
//! cluster say.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::IpAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Output};

use anyhow::{Context as _, bail};
use clap::{Parser, ValueEnum};

/// What this program is called as a plugin of kubectl.
const NAME: &str = "kubectl-culvert";

/// The label of the daemon's pods, as deploy/kubernetes has it, their container, and the program.
const LABEL: &str = "app.kubernetes.io/name=culvert";
pub(crate) const CONTAINER: &str = "culvert";
pub(crate) const PROGRAM: &str = "/bin/culvert";

/// Ask the daemon of a node: runs `culvert COMMAND` in the daemon's pod there.
#[derive(Debug, Parser)]
#[command(name = "kubectl culvert", version, arg_required_else_help = true)]
#[command(after_help = EXAMPLES)]
struct Cli {
    /// The namespace of the DaemonSet.
    #[arg(short, long, value_name = "NAME", default_value = "culvert")]
    namespace: String,
    /// The context of the kubeconfig.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Ask every node, one after the other.
    #[arg(long)]
    all: bool,
    /// The command of culvert.
    #[arg(value_enum)]
    command: Word,
    /// The node (unless --all), and then what the command takes. For explain, NAMESPACE/POD stands
    /// for a pod's address.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "NODE] [ARGUMENT")]
    rest: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  kubectl culvert status worker-1
  kubectl culvert explain worker-1 default/web-0 default/db-0 --dport 5432
  kubectl culvert flows worker-1 --verdict drop --follow
  kubectl culvert --all doctor
  kubectl culvert support worker-1 --output - > worker-1.tar
  kubectl culvert test       (whether pods on all nodes reach one another)
  kubectl culvert ui         (a page of what all daemons know of one another)

The code is that of the command on the node, with --all the highest of them.";

/// Commands that look and change nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Word {
    Status,
    Explain,
    Doctor,
    Trace,
    Ping,
    Capture,
    Flows,
    Top,
    Ipam,
    Support,
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

/// Whether the program was called as the plugin.
pub(crate) fn is_meant(args: &[OsString]) -> bool {
    args.first().and_then(|name| Path::new(name).file_name()) == Some(OsStr::new(NAME))
}

/// Does what the command line says.
///
/// # Errors
///
/// There is no kubectl, it fails, or no daemon on the node.
pub(crate) fn run(args: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no failure; clap knows which stream each belongs to.
            let _ = error.print();
            return Ok(ExitCode::from(if error.use_stderr() { 2 } else { 0 }));
        }
    };
    let mut rest = cli.rest.clone().into_iter();
    let node = if cli.all {
        None
    } else {
        let node =
            rest.next().context("name the node, or all of them by --all before the command")?;
        let node = node.into_string().ok().filter(|node| !node.starts_with('-'));
        Some(node.context("name the node before what the command takes")?)
    };
    let mut arguments = Vec::new();
    for argument in rest {
        arguments.push(match argument.to_str().and_then(|text| text.split_once('/')) {
            Some((namespace, pod)) if cli.command == Word::Explain => {
                cli.address(namespace, pod)?.to_string().into()
            }
            _ => argument,
        });
    }
    let pods = cli.pods(node.as_deref())?;
    let mut worst = 0;
    for (node, pod) in &pods {
        if cli.all {
            writeln!(io::stdout().lock(), "{node}:")?;
        }
        worst = worst.max(cli.exec(pod, &arguments)?);
    }
    Ok(ExitCode::from(worst))
}

impl Cli {
    fn kubectl(&self) -> Command {
        kubectl(self.context.as_deref())
    }

    /// The daemon's pod on a node, or on each, with the node's name.
    fn pods(&self, node: Option<&str>) -> anyhow::Result<Vec<(String, String)>> {
        let pods = pods(&self.namespace, self.context.as_deref(), node)?;
        match (pods.is_empty(), node) {
            (false, _) => Ok(pods),
            (true, Some(node)) => bail!(
                "no pod of Culvert runs on the node \"{node}\" in the namespace \"{}\"; `kubectl get \
                 nodes` lists nodes, --namespace names another one",
                self.namespace
            ),
            (true, None) => bail!(
                "no pod of Culvert runs in the namespace \"{}\"; --namespace names another one",
                self.namespace
            ),
        }
    }

    /// The address of a pod.
    fn address(&self, namespace: &str, pod: &str) -> anyhow::Result<IpAddr> {
        let mut kubectl = self.kubectl();
        kubectl.args(["--namespace", namespace, "get", "pod", pod]);
        kubectl.args(["--output", "jsonpath={.status.podIP}"]);
        let address = output(&mut kubectl)?;
        address
            .trim()
            .parse()
            .with_context(|| format!("the pod {namespace}/{pod} has no address yet"))
    }

    /// Runs the command in `pod`, and answers its code.
    fn exec(&self, pod: &str, arguments: &[OsString]) -> anyhow::Result<u8> {
        let mut kubectl = self.kubectl();
        kubectl.args(["--namespace", &self.namespace, "exec", pod, "--container", CONTAINER]);
        // What is piped on must come as it is; on a terminal, Ctrl-C ends the command there.
        if io::stdin().is_terminal() && io::stdout().is_terminal() {
            kubectl.args(["--stdin", "--tty"]);
        }
        kubectl.args(["--", PROGRAM]).arg(self.command.to_string()).args(arguments);
        let status = kubectl.status().map_err(absent)?;
        Ok(code(status))
    }
}

/// The program.
fn kubectl(context: Option<&str>) -> Command {
    let mut kubectl = Command::new("kubectl");
    if let Some(context) = context {
        kubectl.args(["--context", context]);
    }
    kubectl
}

/// The daemon's pod on a node, or on each, with the node's name. While a new version takes over
/// there are two; they share what is asked of them.
///
/// # Errors
///
/// There is no kubectl, or it fails.
pub(crate) fn pods(
    namespace: &str,
    context: Option<&str>,
    node: Option<&str>,
) -> anyhow::Result<Vec<(String, String)>> {
    const FORM: &str = "jsonpath={range .items[*]}{.spec.nodeName} {.metadata.name}{\"\\n\"}{end}";
    let mut selector = "status.phase=Running".to_owned();
    if let Some(node) = node {
        selector.push_str(&format!(",spec.nodeName={node}"));
    }
    let mut kubectl = kubectl(context);
    kubectl.args(["--namespace", namespace, "get", "pods", "--selector", LABEL]);
    kubectl.args(["--field-selector", &selector, "--output", FORM]);
    let listed = output(&mut kubectl)?;
    let mut pods: Vec<(String, String)> = listed
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(node, pod)| (node.to_owned(), pod.to_owned()))
        .collect();
    pods.sort();
    pods.dedup_by(|one, other| one.0 == other.0);
    Ok(pods)
}

/// The words of a command of the whole cluster, which runs on this machine and not on a node, as
/// `culvert` has them: `kubectl culvert ui` is `culvert ui kubernetes`.
pub(crate) fn of_the_cluster(args: &[OsString]) -> Option<Vec<OsString>> {
    let (_, rest) = args.split_first()?;
    let mut place = 0;
    loop {
        // What stands before it are flags of kubectl culvert, which it knows too.
        match rest.get(place)?.to_str()? {
            "ui" | "test" => break,
            "-n" | "--namespace" | "--context" => place += 2,
            flag if flag.starts_with('-') => place += 1,
            _ => return None,
        }
    }
    let (before, rest) = rest.split_at_checked(place)?;
    let (word, after) = rest.split_first()?;
    let mut own = vec!["culvert".into(), word.clone(), "kubernetes".into()];
    own.extend(before.iter().chain(after).cloned());
    Some(own)
}

/// What kubectl prints; what it complains about becomes the error.
pub(crate) fn output(kubectl: &mut Command) -> anyhow::Result<String> {
    let Output { status, stdout, stderr } = kubectl.output().map_err(absent)?;
    if !status.success() {
        bail!("kubectl: {}", String::from_utf8_lossy(&stderr).trim());
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

pub(crate) fn absent(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::NotFound {
        return anyhow::anyhow!("there is no kubectl on the PATH; install it");
    }
    anyhow::Error::new(error).context("running kubectl")
}

/// The code as a shell would have it.
fn code(status: ExitStatus) -> u8 {
    let signal = status.signal().map(|signal| 128 + signal);
    let code = status.code().or(signal).unwrap_or(1);
    u8::try_from(code).unwrap_or(u8::MAX)
}
