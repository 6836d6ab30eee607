//! `culvert kubernetes manifest`: what a cluster takes, for whoever has neither kustomize nor Helm,
//! and what takes all of it away, for whoever has no kustomize.
//!
//! Owns the command line, and what may be asked of a cluster before (`--discover`). The objects are
//! those of `deploy/kubernetes`, with what [`values`] say in place of what is written there. Speaks
//! to no API server itself: it calls `kubectl`.

mod discover;
mod render;
#[cfg(test)]
mod tests;
mod values;

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

use self::discover::Named;
use self::values::{Distribution, Values};

/// Arguments of `culvert kubernetes`.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct KubernetesArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print what installs Culvert in a cluster: objects for kubectl apply.
    #[command(after_help = "Examples:\n  \
        culvert kubernetes manifest --discover --set image=registry.example/culvert:0.1.0 | kubectl apply -f -\n  \
        culvert kubernetes manifest --for k3s --set image=… --set cidrs=10.42.0.0/16\n  \
        culvert kubernetes manifest --remove --for k3s --set image=… | kubectl apply -f -\n\n\
        KEY is one of image, cidrs, serviceCidrs, cniBinDir, cniConfDir, surge, ownNode, sealed; lists \
        are separated by commas. The Helm chart in deploy/helm has the same.")]
    Manifest {
        /// A value in place of the default.
        #[arg(long = "set", value_name = "KEY=VALUE")]
        set: Vec<String>,
        /// The distribution, which says where its nodes have plugins and their configuration.
        #[arg(long = "for", value_name = "DISTRIBUTION", value_enum, default_value_t)]
        distribution: Distribution,
        /// Ask the cluster of the current kubeconfig for its pod and service networks, unless
        /// --set names them.
        #[arg(long)]
        discover: bool,
        /// Print what takes it off every node instead, once the DaemonSet `culvert` is deleted: see
        /// docs/kubernetes.md.
        #[arg(long, conflicts_with = "discover")]
        remove: bool,
    },
}

/// Does what `culvert kubernetes` was asked.
///
/// # Errors
///
/// A value makes no sense, or the cluster does not say what it is asked.
pub(crate) fn run(args: KubernetesArgs) -> Result<ExitCode> {
    let Command::Manifest { set, distribution, discover, remove } = args.command;
    let mut values = Values::of(distribution);
    for word in &set {
        values.set(word)?;
    }
    if discover {
        let is_named = |key: &str| {
            set.iter().any(|word| word.split_once('=').is_some_and(|(named, _)| named == key))
        };
        let named = Named { cidrs: is_named("cidrs"), service_cidrs: is_named("serviceCidrs") };
        discover::put(&mut values, named, &mut discover::kubectl)?;
    }
    let text = if remove { render::removal(&values) } else { render::manifest(&values) }?;
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
