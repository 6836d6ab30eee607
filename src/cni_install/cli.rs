//! `culvert cni`: the command line.

use std::env;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use culvert_node::node_file::{DEFAULT_RUN_DIR, DEFAULT_STATE_DIR};

use super::conflist::{Chained, Conflist, Version};
use super::{PROGRAM, Places};

/// Arguments of `culvert cni`.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct CniArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install the plugin for this node's container runtime.
    ///
    /// Copies the program first, waits until the daemon says that the node is ready, and writes the
    /// network configuration last, because a runtime that finds it starts pods. May be repeated: an
    /// upgrade replaces the program in one step, and running pods notice nothing.
    #[command(after_help = "Examples:\n  \
        culvert cni install\n  \
        culvert cni install --chain bandwidth              rate limits\n  \
        culvert cni install --cni-version 1.1.0            a runtime that calls STATUS and GC\n\n\
        Then look: the runtime's log, and `culvert status`.")]
    Install {
        #[command(flatten)]
        places: PlacesArgs,
        /// The plugin's program, instead of the culvert-cni beside this program, or else the one
        /// that is in the directory of plugins already.
        #[arg(long, value_name = "FILE")]
        plugin: Option<PathBuf>,
        /// CNI version of the network configuration.
        #[arg(long, value_name = "VERSION", value_enum, default_value_t)]
        cni_version: Version,
        /// Stock plugins to put behind ours, in this order. Their programs must be in the
        /// directory.
        #[arg(long, value_name = "PLUGIN", value_enum, value_delimiter = ',')]
        chain: Vec<Chained>,
        /// Seconds to wait until the node is ready; 0 does not wait for the daemon.
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        timeout: u64,
    },
    /// Undo `install`: the network configuration goes first, then the program.
    ///
    /// Refuses while pods of this node hold addresses, because nobody could take their network away
    /// without the plugin. Removes no address store and stops no daemon.
    Uninstall {
        #[command(flatten)]
        places: PlacesArgs,
        /// Go on although pods hold addresses.
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
struct PlacesArgs {
    /// Directory of plugins, as the runtime is configured.
    #[arg(long, env = "CNI_BIN", value_name = "DIR", default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,
    /// Directory of network configurations, as the runtime is configured.
    #[arg(long, env = "CNI_CONF", value_name = "DIR", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
    /// The daemon's run directory.
    #[arg(long, env = "CULVERT_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,
    /// The plugin's state directory.
    #[arg(long, env = "CULVERT_STATE_DIR", value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
}

impl PlacesArgs {
    /// A configuration names directories for a process with another working directory.
    fn absolute(self) -> Result<Places> {
        let absolute = |path: &Path| {
            std::path::absolute(path).with_context(|| format!("find {}", path.display()))
        };
        Ok(Places {
            bin_dir: absolute(&self.bin_dir)?,
            conf_dir: absolute(&self.conf_dir)?,
            run_dir: absolute(&self.run_dir)?,
            state_dir: absolute(&self.state_dir)?,
        })
    }
}

/// Does what `culvert cni` was asked.
///
/// # Errors
///
/// A file cannot be written or removed, the node is not ready, or pods are in the way.
pub(crate) fn run(args: CniArgs) -> Result<ExitCode> {
    let done = match args.command {
        Command::Install { places, plugin, cni_version, chain, timeout } => {
            let places = places.absolute()?;
            let plugin = plugin.map_or_else(|| find_plugin(&places), Ok)?;
            let conflist = Conflist { version: cni_version, chain };
            super::install(&places, &plugin, &conflist, Duration::from_secs(timeout))?
        }
        Command::Uninstall { places, force } => {
            let done = super::uninstall(&places.absolute()?, force)?;
            if done.is_empty() { vec!["nothing to remove".to_owned()] } else { done }
        }
    };
    let mut stdout = io::stdout().lock();
    for line in done {
        writeln!(stdout, "{line}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The plugin's program: beside this one, where a package or an image has it, or else where
/// `make install` put it.
fn find_plugin(places: &Places) -> Result<PathBuf> {
    let ours = env::current_exe().context("find this program's own file")?;
    let beside = ours.with_file_name(PROGRAM);
    Ok(if beside.exists() { beside } else { places.bin_dir.join(PROGRAM) })
}
