//! The verbs of the CNI specification, one file each, and the way into them.
//!
//! Owns reading the request, choosing the verb, and the answer on stdout. A verb reads and checks
//! everything before it changes anything.

use std::cell::RefCell;
use std::fmt;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Map, Value};

use crate::Plugin;
use crate::config::{self, Config, Settings};
use crate::environment::{Args, Command, Directories, Target, Variables};
use crate::error::{Error, Failure};
use crate::fault::{InjectedFault, Step};
use crate::version::CniVersion;
use culvert_node::attachment::Attachment;

mod add;
mod admission;
mod check;
mod del;
mod gc;
mod host_ports;
mod loopback;
mod own_table;
mod plug;
mod reception;
mod status;
mod version;

/// What ADD, CHECK and DEL are about.
#[derive(Debug)]
struct Call<'a> {
    attachment: Attachment,
    /// Path of the pod's network namespace; DEL may come without.
    netns: Option<PathBuf>,
    config: Config,
    args: Args,
    fault: Option<InjectedFault>,
    warnings: &'a Warnings,
}

/// What a person should know of a verb that may well succeed; for stderr.
#[derive(Debug, Default)]
struct Warnings(RefCell<Vec<String>>);

impl Warnings {
    fn add(&self, warning: impl fmt::Display) {
        self.0.borrow_mut().push(warning.to_string());
    }
}

pub(crate) fn run(
    plugin: Plugin,
    variables: Variables<'_>,
    stdin: &mut dyn Read,
    stdout: &mut dyn Write,
    stderr: &mut dyn Write,
) -> ExitCode {
    let mut cni_version = CniVersion::NEWEST;
    let warnings = Warnings::default();
    let served = match plugin {
        Plugin::Bridge => serve(variables, stdin, &mut cni_version, &warnings),
        Plugin::Loopback => loopback::serve(variables, stdin, &mut cni_version),
    };
    for warning in warnings.0.take() {
        let _ = writeln!(stderr, "culvert-cni: {warning}");
    }
    let (answer, code) = match served {
        Ok(Answer::About) => {
            // Nobody reads an answer that cannot be written, here and below.
            let _ = stderr.write_all(about().as_bytes());
            return ExitCode::SUCCESS;
        }
        Ok(Answer::Nothing) => return ExitCode::SUCCESS,
        Ok(Answer::Document(document)) => (document, ExitCode::SUCCESS),
        Err(failure) => {
            let document = failure.document(cni_version.as_str());
            let details = document["details"].as_str().unwrap_or_default();
            let _ = writeln!(stderr, "culvert-cni: {}", failure.first);
            if !details.is_empty() {
                let _ = writeln!(stderr, "  {details}");
            }
            (document, ExitCode::FAILURE)
        }
    };
    match writeln!(stdout, "{answer}").and_then(|()| stdout.flush()) {
        Ok(()) => code,
        Err(error) => {
            let _ = writeln!(stderr, "culvert-cni: cannot write the answer: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What a verb that succeeded says.
enum Answer {
    About,
    Nothing,
    Document(Value),
}

fn serve(
    variables: Variables<'_>,
    stdin: &mut dyn Read,
    cni_version: &mut CniVersion,
    warnings: &Warnings,
) -> Result<Answer, Failure> {
    let Some(command) = Command::read(variables)? else {
        return Ok(Answer::About);
    };
    let mut config = || -> Result<Config, Error> {
        let document = read_document(command, stdin, cni_version)?;
        Config::parse(document, Directories::read(variables)?)
    };
    let fault = InjectedFault::read(variables);
    let call = |config: Config, args| -> Result<Call<'_>, Error> {
        let target = Target::read(command, variables)?;
        Ok(Call::new(target, config, args, fault.clone(), warnings))
    };
    let document = match command {
        Command::Add => Some(add::add(&call(config()?, Args::read(variables)?)?)?),
        Command::Check => {
            check::check(&call(config()?, Args::read(variables)?)?)?;
            None
        }
        // What DEL is told beside the names changes nothing, so nothing of it can be wrong.
        Command::Del => {
            del::del(&call(config()?, Args::default())?)?;
            None
        }
        Command::Gc => {
            gc::gc(&config()?, fault.as_ref())?;
            None
        }
        Command::Status => {
            status::status(&config()?)?;
            None
        }
        Command::Version => Some(version::version(stdin)?),
    };
    Ok(document.map_or(Answer::Nothing, Answer::Document))
}

/// Reads the configuration, in whose version the answer will be and the verb has to be.
fn read_document(
    command: Command,
    stdin: &mut dyn Read,
    cni_version: &mut CniVersion,
) -> Result<Map<String, Value>, Error> {
    let document = config::read(stdin)?;
    *cni_version = config::version(&document)?;
    let since = CniVersion::that_brought(command);
    if *cni_version < since {
        return Err(Error::VerbNotInVersion {
            version: cni_version.as_str(),
            command: command.as_str(),
            since: since.as_str(),
        });
    }
    Ok(document)
}

impl<'a> Call<'a> {
    fn new(
        target: Target,
        config: Config,
        args: Args,
        fault: Option<InjectedFault>,
        warnings: &'a Warnings,
    ) -> Self {
        let attachment = Attachment::new(&config.name, &target.container, &target.ifname)
            .expect("the target and the config have checked the names");
        Self { attachment, netns: target.netns, config, args, fault, warnings }
    }

    /// What the configuration and the runtime want, for the verbs that must understand all of it.
    fn settings(&self) -> Result<Settings, Error> {
        Settings::read(&self.config, &self.args)
    }

    /// Path of the pod's namespace, for the verbs that cannot do without.
    fn netns(&self) -> Result<&PathBuf, Error> {
        self.netns.as_ref().ok_or_else(|| Error::MissingEnvironment {
            command: "ADD or CHECK",
            names: vec!["CNI_NETNS"],
        })
    }

    /// Marks a step as done, for the test that wants a fault there.
    fn reached(&self, step: Step) {
        if let Some(fault) = &self.fault {
            fault.strike(step);
        }
    }
}

fn about() -> String {
    format!(
        "culvert-cni {}: the CNI plugin of the Culvert pod network, for CNI versions {}.\n\
         The container runtime calls it: CNI_COMMAND says what to do, the network configuration \
         comes on stdin.\n",
        env!("CARGO_PKG_VERSION"),
        CniVersion::list()
    )
}

#[cfg(test)]
mod tests;
