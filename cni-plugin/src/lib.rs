//! The CNI plugin of Culvert: plugs one pod into the node's bridge and unplugs it again.
//!
//! Owns everything inside the pod's network namespace, the veth pair, and the record of which pod
//! has which address. Never talks to the daemon (the node file is the whole contract), never runs
//! an async runtime. One process serves one call of the container runtime, on its main thread,
//! which enters the pod's namespace for an ADD and stays there; another may stay behind for some 20
//! ms and wait for the kernel (`linger`). Stdout carries JSON only; everything for people goes to
//! stderr.

// Only `linger` has some.
#![deny(unsafe_code)]

use std::ffi::OsString;
use std::io::{Read, Write};
use std::process::ExitCode;

mod commands;
mod config;
mod environment;
mod error;
pub mod fault;
mod linger;
mod netlink;
mod plan;
mod result;
mod sysctl;
mod version;

/// Serves one call of the container runtime.
///
/// `variable` looks up environment variables; `stdin` carries the network configuration. The
/// answer, be it a result or an error, is one JSON document on `stdout`.
pub fn run(
    variable: &dyn Fn(&str) -> Option<OsString>,
    stdin: &mut dyn Read,
    stdout: &mut dyn Write,
    stderr: &mut dyn Write,
) -> ExitCode {
    commands::run(variable, stdin, stdout, stderr)
}
