//! The plugin `loopback`: sets a pod's loopback device up, and nothing else.
//!
//! Runtimes call a program of that name for every pod, beside the plugins of its networks. A node
//! that has no stock plugins has none, and no pod starts; so this program can be it. Needs neither
//! daemon nor node file, and takes any configuration.

use std::io::Read;

use super::{Answer, read_document, version};
use crate::config::bad;
use crate::environment::{Command, Target, Variables};
use crate::error::{Error, Failure};
use crate::netlink::{self, Socket};
use crate::result::CniResult;
use crate::version::CniVersion;
use culvert_node::netns::Netns;

const DEVICE: &str = "lo";

pub(super) fn serve(
    variables: Variables<'_>,
    stdin: &mut dyn Read,
    cni_version: &mut CniVersion,
) -> Result<Answer, Failure> {
    let Some(command) = Command::read(variables)? else { return Ok(Answer::About) };
    if command == Command::Version {
        return Ok(Answer::Document(version::version(stdin)?));
    }
    let document = read_document(command, stdin, cni_version)?;
    if matches!(command, Command::Del | Command::Gc | Command::Status) {
        // The device goes with its namespace.
        return Ok(Answer::Nothing);
    }
    let target = Target::read(command, variables)?;
    let path = target.netns.unwrap_or_default();
    let netns = Netns::open(&path)?;
    let is_adding = command == Command::Add;
    netns.run(|| -> Result<(), Error> {
        let mut pod = Socket::open()?;
        if is_adding {
            pod.execute(netlink::set_up(DEVICE))?;
        } else if pod.link(DEVICE)?.is_none_or(|device| !device.up) {
            return Err(Error::Mismatch { what: format!("interface {DEVICE} is down") });
        }
        Ok(())
    })?;
    if !is_adding {
        return Ok(Answer::Nothing);
    }
    let mut result = match document.get("prevResult").filter(|result| !result.is_null()) {
        Some(previous) if previous.is_object() => CniResult::parse(previous)?,
        Some(other) => return Err(bad("prevResult", other, "needs to be an object").into()),
        None => CniResult::of_loopback(*cni_version, DEVICE, &path.to_string_lossy()),
    };
    result.set_dns(None);
    Ok(Answer::Document(result.into_document(*cni_version)))
}
