//! A node's table without the node: for commands that say what a daemon would do.

use std::net::IpAddr;
use std::path::Path;

use anyhow::Context as _;
use culvert_dataplane::engine::{PeerRegistry, Table};
use culvert_dataplane::platform::clock;

use super::in_force::{InForce, underlay_address};
use super::path_mtus::PathMtus;
use super::{members, view};
use crate::config::{Config, Overrides, SealedMode, TableSource};
use crate::control::source::{self, Saved};
use crate::control::table_file::TableFile;
use crate::observe::{PeerStatus, Setup};

/// What a daemon would have made of a configuration and a table file.
pub(crate) struct Offline {
    /// The configuration.
    pub config: Config,
    /// The compiled table.
    pub table: Table,
}

/// The least that a configuration must say.
const MINIMAL: &str = "\
[network]
cidrs = [\"10.244.0.0/16\"]
[table]
source = \"file\"
path = \"table.toml\"
";

/// Compiles the table of `node` as its daemon would; MTUs are those of the configuration, or those
/// of Ethernet. Without a configuration file everything has its default. Pod networks that no
/// configuration names are what the table's subnets are.
///
/// # Errors
///
/// What the daemon would refuse.
pub(crate) fn offline(
    config: Option<&Path>,
    table: Option<&Path>,
    node: Option<&str>,
) -> anyhow::Result<Offline> {
    let overrides = Overrides { node_name: node.map(str::to_owned), ..Overrides::default() };
    let mut settings = match config {
        Some(path) => Config::read(path, &overrides)?,
        None => Config::parse(Path::new("defaults"), MINIMAL, &overrides)?,
    };
    match (table, config) {
        (Some(path), _) => settings.table = TableSource::File { path: path.to_owned() },
        (None, Some(_)) => {}
        (None, None) => {
            anyhow::bail!("no subnet table: name it with --table FILE, or --config FILE")
        }
    }
    let TableSource::File { path } = &settings.table else {
        anyhow::bail!(
            "the subnet table of this configuration is not a file ({}); name one with --table FILE",
            source::describe(&settings.table)
        );
    };
    let proposal = TableFile::new(path).read()?;
    if config.is_none() || settings.network.cidrs.is_empty() {
        let subnets = proposal.nodes().flat_map(|node| node.entry.subnets.clone());
        settings.network.cidrs = subnets.collect();
    }
    let members = members(&settings, &proposal)?;
    // No route can be asked.
    let mtus = PathMtus::new(&settings).conclude(&members)?;
    let table = mtus.compile(&members, &PeerRegistry::default(), None);
    Ok(Offline { config: settings, table })
}

/// How `config` and its table have the node set up, with the peers and the table's hash, where no
/// daemon can be asked: by the file of the table, or the last good copy of it. What the kernel
/// would have been asked for, the MTUs, is that of Ethernet.
///
/// # Errors
///
/// There is no table, or the daemon would refuse it.
pub(crate) fn setup(config: &Config) -> anyhow::Result<(Setup, Vec<PeerStatus>, String)> {
    let proposal = match &config.table {
        TableSource::File { path } => TableFile::new(path).read()?,
        TableSource::Etcd(_) | TableSource::Kubernetes(_) => {
            let node = &config.node;
            let source = source::describe(&config.table);
            let saved = Saved::read(&node.state_dir, &node.name, &source)?;
            saved
                .map(Saved::proposal)
                .with_context(|| format!("there is no copy of the table of {source} yet"))?
        }
    };
    let members = members(config, &proposal)?;
    let mtus = PathMtus::new(config).conclude(&members)?;
    let table = mtus.compile(&members, &PeerRegistry::default(), None);
    let in_force = InForce::new(members, mtus);
    let address = underlay_address(config, &in_force.members);
    let setup = view::setup(config, in_force.spec(config), address);
    let peers =
        table.peers().iter().map(|peer| view::peer_status(peer, 0.0, clock::now())).collect();
    Ok((setup, peers, table.digest().to_string()))
}

impl Offline {
    /// The address that peers send to.
    pub(crate) fn address(&self) -> IpAddr {
        self.config.underlay.address.unwrap_or_else(|| self.table.local().address)
    }

    /// The port to which peers send what is sealed, unless the node seals nothing.
    pub(crate) fn sealed_port(&self) -> Option<u16> {
        let sealed = &self.config.sealed;
        (sealed.mode != SealedMode::Off).then_some(sealed.port)
    }
}
