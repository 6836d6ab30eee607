//! The verbs of the CNI specification, one file each, and the way into them.
//!
//! Owns reading the request, choosing the verb, and the answer on stdout. A verb reads and checks
//! everything before it changes anything.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::Value;

use crate::attachment::Attachment;
use crate::config::{self, Config, Settings};
use crate::environment::{Args, Command, Directories, Target, Variables};
use crate::error::{Error, Failure};
use crate::fault::{Fault, Step};
use crate::version::CniVersion;

mod add;
mod check;
mod del;
mod gc;
mod plug;
mod status;
mod version;

/// What ADD, CHECK and DEL are about.
#[derive(Clone, Debug)]
struct Call {
    attachment: Attachment,
    /// Path of the pod's network namespace; DEL may come without.
    netns: Option<PathBuf>,
    config: Config,
    args: Args,
    fault: Option<Fault>,
}

pub(crate) fn run(
    variables: Variables<'_>,
    stdin: &mut dyn Read,
    stdout: &mut dyn Write,
    stderr: &mut dyn Write,
) -> ExitCode {
    let mut cni_version = CniVersion::NEWEST;
    let (answer, code) = match serve(variables, stdin, &mut cni_version) {
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
) -> Result<Answer, Failure> {
    let Some(command) = Command::read(variables)? else {
        return Ok(Answer::About);
    };
    if command == Command::Version {
        return Ok(Answer::Document(version::version(stdin)?));
    }
    let document = config::read(stdin)?;
    *cni_version = config::version(&document)?;
    let since = CniVersion::that_brought(command);
    if *cni_version < since {
        return Err(Failure::from(Error::VerbNotInVersion {
            version: cni_version.as_str(),
            command: command.as_str(),
            since: since.as_str(),
        }));
    }
    let fault = Fault::read(variables);
    let directories = Directories::read(variables)?;
    if command == Command::Gc {
        gc::gc(&Config::parse(document, directories)?, fault.as_ref())?;
        return Ok(Answer::Nothing);
    }
    if command == Command::Status {
        status::status(&Config::parse(document, directories)?)?;
        return Ok(Answer::Nothing);
    }
    let target = Target::read(command, variables)?;
    let config = Config::parse(document, directories)?;
    // What DEL is told beside the names changes nothing, so nothing of it can be wrong.
    let args = if command == Command::Del { Args::default() } else { Args::read(variables)? };
    let call = Call::new(target, config, args, fault);
    match command {
        Command::Add => add::add(&call).map(Answer::Document),
        Command::Check => check::check(&call).map(|()| Answer::Nothing),
        Command::Del => del::del(&call).map(|()| Answer::Nothing),
        Command::Gc | Command::Status | Command::Version => {
            unreachable!("these have no container and were served above")
        }
    }
}

impl Call {
    fn new(target: Target, config: Config, args: Args, fault: Option<Fault>) -> Self {
        let attachment = Attachment::new(&config.name, &target.container, &target.ifname)
            .expect("the target and the config have checked the names");
        Self { attachment, netns: target.netns, config, args, fault }
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
