//! Completion in shells: of commands and options, and of values that only this node knows.
//!
//! The script of a shell asks this program at each TAB. Peers and pods are the running daemon's,
//! labs and addresses what is found on disk; where nobody answers at once, there are no candidates,
//! and never an error.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::{Arg, Command, CommandFactory as _};
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};
use culvert_node::node_file::{DEFAULT_RUN_DIR, DEFAULT_STATE_DIR};

use super::Cli;
use crate::{ipam, observe};

/// Set by the scripts, and by nobody else. That of the library's choice, `COMPLETE`, might be.
const VARIABLE: &str = "CULVERT_COMPLETE";

/// How the program is called.
const NAME: &str = "culvert";

/// How long whoever pressed TAB waits for a daemon that is stopped or busy.
const PATIENCE: Duration = Duration::from_millis(200);

/// Where zsh loads the script from `fpath` under the name `_culvert`, it does so to complete
/// something already.
const ZSH_AUTOLOAD: &str = "
if [[ ${funcstack[1]} == _culvert ]]; then
    _clap_dynamic_completer_culvert \"$@\"
fi
";

/// Answers a shell's script, if it is one that asks.
pub(super) fn answer(args: &[OsString]) -> Option<ExitCode> {
    std::env::var_os(VARIABLE)?;
    let directory = std::env::current_dir().ok();
    let completion = CompleteEnv::with_factory(command).var(VARIABLE).bin(NAME);
    match completion.try_complete(args.iter().cloned(), directory.as_deref()) {
        Ok(false) => None,
        Ok(true) => Some(ExitCode::SUCCESS),
        Err(error) => {
            let _ = error.print();
            Some(ExitCode::FAILURE)
        }
    }
}

/// The script for `shell`.
///
/// # Errors
///
/// The library has none for this shell.
pub(super) fn script(shell: clap_complete::Shell) -> io::Result<Vec<u8>> {
    let shell = shell.to_string();
    let completer = Shells::builtins();
    let completer = completer
        .completer(&shell)
        .ok_or_else(|| io::Error::other(format!("there is no completion for {shell}")))?;
    let mut script = Vec::new();
    completer.write_registration(VARIABLE, NAME, NAME, NAME, &mut script)?;
    if shell == "zsh" {
        script.write_all(ZSH_AUTOLOAD.as_bytes())?;
    }
    Ok(script)
}

/// The command line, with what completes its values.
pub(super) fn command() -> Command {
    let command = Cli::command()
        .mut_subcommand("status", |status| status.mut_arg("peer", peers))
        .mut_subcommand("explain", |explain| {
            explain.mut_arg("source", pods).mut_arg("destination", pods)
        })
        .mut_subcommand("capture", |capture| capture.mut_arg("peer", peers).mut_arg("pod", pods))
        .mut_subcommand("flows", |flows| {
            flows
                .mut_arg("peer", peers)
                .mut_arg("pod", pods)
                .mut_arg("from", pods)
                .mut_arg("to", pods)
        })
        .mut_subcommand("ipam", |ipam| {
            ipam.mut_subcommand("free", |free| free.mut_arg("target", addresses))
        });
    with_labs(command)
}

#[cfg(feature = "lab")]
fn with_labs(command: Command) -> Command {
    command.mut_subcommand("lab", |lab| {
        lab.mut_arg("name", |name| from(name, || Some(labs()))).mut_subcommand("exec", |exec| {
            // Whatever is changed comes last: all are, or their order would be another.
            exec.mut_arg("place", |place| from(place, places)).mut_arg("command", |rest| rest)
        })
    })
}

#[cfg(not(feature = "lab"))]
fn with_labs(command: Command) -> Command {
    command
}

#[cfg(feature = "lab")]
fn labs() -> Vec<CompletionCandidate> {
    culvert_lab::names().into_iter().map(CompletionCandidate::new).collect()
}

#[cfg(feature = "lab")]
fn places() -> Option<Vec<CompletionCandidate>> {
    let name = option("--name", None).unwrap_or_else(|| culvert_lab::DEFAULT_NAME.into());
    let lab = culvert_lab::Lab::open(name.to_str()?);
    let places = lab.and_then(|lab| lab.places()).ok()?;
    Some(places.iter().map(|place| CompletionCandidate::new(place.to_string())).collect())
}

/// Completes the names of peers.
fn peers(arg: Arg) -> Arg {
    from(arg, || {
        let status = within_patience(|| observe::query(&run_dir()).ok())?;
        let peers = status.peers.into_iter();
        Some(peers.map(|peer| described(peer.name, &peer.address)).collect())
    })
}

/// Completes the addresses of this node's pods.
fn pods(arg: Arg) -> Arg {
    from(arg, || {
        let pods = within_patience(|| observe::pods(&run_dir()).ok())?;
        let of_pod = |pod: observe::PodStatus| {
            let name = pod.name();
            let addresses = pod.addresses.into_iter();
            addresses.map(move |address| described(address.to_string(), &name))
        };
        Some(pods.into_iter().flat_map(of_pod).collect())
    })
}

/// Completes the addresses that the store holds.
fn addresses(arg: Arg) -> Arg {
    from(arg, || {
        let state_dir = option("--state-dir", Some("CULVERT_STATE_DIR"));
        let state_dir = state_dir.unwrap_or_else(|| DEFAULT_STATE_DIR.into());
        let entries = within_patience(move || ipam::list(&PathBuf::from(state_dir)).ok())?.entries;
        let of_entry = |entry: ipam::Entry| described(entry.address.to_string(), &entry.container);
        Some(entries.into_iter().map(of_entry).collect())
    })
}

fn from<F>(arg: Arg, candidates: F) -> Arg
where
    F: Fn() -> Option<Vec<CompletionCandidate>> + Send + Sync + 'static,
{
    arg.add(ArgValueCandidates::new(move || candidates().unwrap_or_default()))
}

fn described(value: impl Into<OsString>, help: &impl Display) -> CompletionCandidate {
    CompletionCandidate::new(value).help(Some(help.to_string().into()))
}

/// What `ask` finds, unless that takes too long; the thread that asks then ends with the program.
fn within_patience<T: Send + 'static>(
    ask: impl FnOnce() -> Option<T> + Send + 'static,
) -> Option<T> {
    let (sender, answer) = mpsc::channel();
    let asking = thread::Builder::new().spawn(move || {
        // Nobody waits any more: see above.
        let _ = sender.send(ask());
    });
    asking.ok()?;
    answer.recv_timeout(PATIENCE).ok().flatten()
}

fn run_dir() -> PathBuf {
    option("--run-dir", Some("CULVERT_RUN_DIR")).unwrap_or_else(|| DEFAULT_RUN_DIR.into()).into()
}

/// The value of an option in the line that is being completed, or else of its variable. The line is
/// not whole, so that it cannot be parsed as one that is.
fn option(name: &str, variable: Option<&str>) -> Option<OsString> {
    let words: Vec<OsString> = std::env::args_os().collect();
    let with_equals = |word: &OsString| {
        let value = word.to_str()?.strip_prefix(name)?.strip_prefix('=')?;
        Some(OsString::from(value))
    };
    let apart = |index: usize| words.get(index + 1).cloned();
    let in_line = words.iter().enumerate().find_map(|(index, word)| {
        with_equals(word).or_else(|| (word == OsStr::new(name)).then(|| apart(index)).flatten())
    });
    in_line.or_else(|| std::env::var_os(variable?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_that_is_completed_is_of_an_option_that_there_is() {
        command().debug_assert();
    }

    #[test]
    fn each_shell_has_a_script_that_asks_this_program() {
        use clap::ValueEnum as _;

        for shell in clap_complete::Shell::value_variants() {
            let script = String::from_utf8(script(*shell).unwrap()).unwrap();
            assert!(script.contains(VARIABLE) && script.contains(NAME), "{shell}: {script}");
        }
    }
}
