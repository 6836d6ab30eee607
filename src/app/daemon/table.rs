//! Another table comes into force, as a whole or not at all.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context as _;
use culvert_dataplane::Ends;

use super::Daemon;
use super::takeover::Takeover;
use crate::app::differences::Differences;
use crate::app::feed::Refusal;
use crate::app::in_force::{InForce, underlay_address};
use crate::config::Config;
use crate::control::node::{Changes, Kernel};

/// Why a proposed table is not in force.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotTaken {
    /// Only another proposal helps.
    #[error(transparent)]
    Wrong(#[from] Refusal),
    /// This machine does not let it be at the moment; it is tried again.
    #[error("{0:#}")]
    Here(#[from] anyhow::Error),
}

impl Daemon {
    /// Takes what the source proposes; keeps the old table if the new one cannot be used.
    pub(super) async fn take_table(&mut self) {
        let config = Arc::clone(&self.config);
        let taken = self.try_table(&config).await;
        self.refused_here = matches!(taken, Err(NotTaken::Here(_)));
        match taken {
            Ok(()) => {
                self.feed.refused(None);
                self.feed.taken(self.in_force.members.overlay()).await;
            }
            Err(reason) => self.feed.refused(Some(reason.to_string())),
        }
    }

    /// Takes what the source proposes, as the configuration has it now; `was` is the one that the
    /// table in force was taken by.
    pub(super) async fn try_table(&mut self, was: &Config) -> Result<(), NotTaken> {
        let before = &self.in_force.members;
        let members = self.feed.members(Some(before.overlay()))?;
        if members == *before {
            return Ok(());
        }
        let mtus = self.paths.measure(&members, &self.kernel).await?;
        let next = InForce::new(members, mtus);
        preflight(&self.config, &next, &self.kernel).await?;
        let (before, ends) = (self.in_force.ends(was), next.ends(&self.config));
        if ends != before {
            let takeover = Takeover::of(&next, &self.config, &self.kernel).await?;
            // What flannel has yet can be bound only when it goes over.
            let first = takeover.as_ref().map_or_else(|| ends.clone(), |it| it.before(&ends));
            // The rules first: pods must not reach a port that somebody listens on. If it cannot be
            // bound, the next look puts back those of before.
            let mut spec = next.spec(&self.config);
            if let Some(takeover) = &takeover {
                takeover.let_carry(&mut spec);
            }
            let rules = self.kernel.reconcile(spec, self.owner.clone(), Changes::default()).await;
            rules.context("protecting the tunnel's new ports from pods")?;
            let binding = binding(&self.config, &first);
            let sockets = self.plane.bind(&first).with_context(|| binding)?;
            match takeover {
                None => self.plane.listen(sockets),
                Some(takeover) => {
                    takeover.complete(&self.config, &self.kernel, &self.plane, &ends).await?;
                }
            }
        }
        if ends.address != before.address {
            tracing::info!(address = %ends.address, "this node's underlay address changed");
        }
        let differences = Differences::of(&next.members.changes(&self.in_force.members));
        self.put_in_force(next);
        let known = self.plane.table();
        // Only nodes of a table come into the registry, so that it is longer exactly when one left.
        if self.registry.len() > known.peers().len() {
            let names: HashSet<&str> = known.peers().iter().map(|peer| peer.name()).collect();
            self.registry.retain(|name| names.contains(name));
        }
        let generation = self.facts.generation.fetch_add(1, Ordering::Relaxed) + 1;
        let nodes = known.peers().len() + 1;
        tracing::info!(nodes, generation, %differences, "took a new subnet table");
        Ok(())
    }

    /// Goes by `next` from here on.
    pub(super) fn put_in_force(&mut self, next: InForce) {
        let networks = &next.members.overlay().networks;
        if *networks != self.in_force.members.overlay().networks {
            let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
            tracing::info!(networks = networks.join(" "), "the pod networks have changed");
        }
        if next.mtus != self.in_force.mtus {
            tracing::info!(mtu = next.mtus.device.get(), "MTUs to the peers changed");
        }
        // The keys first: a new peer is never spoken to in plain, if that can be helped.
        self.sealed.hand_over(&self.plane, &next.members);
        let table = next.compile(&self.registry, Some(&self.plane.table()));
        self.plane.publish(table);
        self.policy.follow(&next.members);
        self.in_force = next;
        self.show_paths();
        self.show_spec();
        self.compare_keys();
    }

    /// Shows what the node is to be.
    pub(super) fn show_spec(&self) {
        let address = underlay_address(&self.config, &self.in_force.members);
        self.facts.show_spec(self.in_force.spec(&self.config), address);
    }
}

pub(super) async fn preflight(
    config: &Config,
    next: &InForce,
    kernel: &Kernel,
) -> anyhow::Result<()> {
    let nodes: Vec<IpAddr> = next.members.entries().iter().map(|node| node.address).collect();
    kernel.preflight(next.spec(config), config.network.service_cidrs.clone(), nodes).await
}

/// What is being done while the sockets are bound, and which keys say so.
pub(super) fn binding(config: &Config, ends: &Ends) -> String {
    let source =
        if config.underlay.address.is_some() { "underlay.address" } else { "the subnet table" };
    let tunnels = ends.tunnels.iter().map(ToString::to_string);
    let sealed = ends.is_sealing.then(|| format!("sealed on UDP port {}", config.sealed.port));
    let tunnels: Vec<String> = tunnels.chain(sealed).collect();
    let address = ends.address;
    format!("binding the underlay address {address} (from {source}) for {}", tunnels.join(", "))
}
