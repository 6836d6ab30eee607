//! The CNI plugin of Culvert: plugs one pod into the node's bridge and unplugs it again.
//!
//! Owns everything inside the pod's network namespace, the veth pair, and the record of which pod
//! has which address. Never runs an async runtime, and talks to the daemon only where network
//! policies are enforced: all else that it needs to know is in the node file. One process serves
//! one call of the container runtime, on its main thread, which enters the pod's namespace for an
//! ADD and stays there; another may stay behind for some 20 ms and wait for the kernel (`linger`).
//! Stdout carries JSON only; everything for people goes to stderr.

// Only `linger` has some.
#![deny(unsafe_code)]

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::Path;
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

/// Which plugin a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    /// The one that plugs pods into the bridge.
    Bridge,
    /// The one that every runtime calls for a pod's loopback device.
    Loopback,
}

impl Plugin {
    /// By the name that the program was started under.
    #[must_use]
    pub fn of_program(program: &Path) -> Self {
        match program.file_name() {
            Some(name) if name == "loopback" => Self::Loopback,
            _ => Self::Bridge,
        }
    }
}

/// Serves one call of the container runtime.
///
/// `variable` looks up environment variables; `stdin` carries the network configuration. The
/// answer, be it a result or an error, is one JSON document on `stdout`.
pub fn run(
    plugin: Plugin,
    variable: &dyn Fn(&str) -> Option<OsString>,
    stdin: &mut dyn Read,
    stdout: &mut dyn Write,
    stderr: &mut dyn Write,
) -> ExitCode {
    commands::run(plugin, variable, stdin, stdout, stderr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_program_says_which_plugin_it_is() {
        let of = |program: &str| Plugin::of_program(Path::new(program));
        assert_eq!(of("/opt/cni/bin/loopback"), Plugin::Loopback);
        for program in ["/opt/cni/bin/culvert-cni", "culvert-cni-0.1.0", "", "/loopback/x"] {
            assert_eq!(of(program), Plugin::Bridge, "{program}");
        }
    }
}
