//! Compares and repairs the two nftables tables: the node's own, and the pods' source check.
//!
//! What should be in the second one follows from the notes that the plugin leaves on the ports of
//! pods. A table that the kernel lists in another way than we do counts as right once we have put
//! it there and nobody has changed it since.

use culvert_cni::pod_port::PodPort;
use culvert_cni::source_check;

use super::diff::Ruleset;
use crate::platform::netlink::{Link, Netlink};
use crate::platform::nft::{Batch, Family, Listing, Result, Socket, Table};

/// How often a repair is tried again because a pod came or went meanwhile.
const ATTEMPTS: usize = 100;

/// Both tables, as far as they are known.
#[derive(Default)]
pub(super) struct Firewall {
    socket: Option<Socket>,
    /// The node's table, and how the kernel listed it when we had put it there or found it right.
    node: Option<(Table, Listing)>,
    /// How the kernel listed the source check without its elements when we had put it there.
    source_check: Option<Listing>,
}

impl Firewall {
    /// Whether `wanted` was seen in force, so that only a change calls for another look.
    pub(super) fn knows(&self, wanted: &Table) -> bool {
        self.node.as_ref().is_some_and(|(table, _listing)| table == wanted)
    }

    /// Looks at the node's table.
    pub(super) fn look(&mut self, wanted: &Table) -> Result<Ruleset> {
        let actual = self.socket()?.listing(wanted.family, wanted.name)?;
        let Some(actual) = actual else {
            return Ok(Ruleset::Drifted);
        };
        if self.node.as_ref().is_some_and(|(table, known)| table == wanted && *known == actual) {
            return Ok(Ruleset::Current);
        }
        if actual == Listing::of(wanted) {
            self.node = Some((wanted.clone(), actual));
            return Ok(Ruleset::Current);
        }
        Ok(Ruleset::Drifted)
    }

    /// Puts the node's table in place of whatever it is.
    pub(super) fn apply(&mut self, wanted: &Table) -> Result<()> {
        let socket = self.socket()?;
        let mut batch = Batch::new(wanted.family);
        batch.replace(wanted);
        socket.commit(&batch)?;
        let listing = socket.listing(wanted.family, wanted.name)?;
        self.node = listing.map(|listing| (wanted.clone(), listing));
        Ok(())
    }

    /// Looks at the source check.
    pub(super) fn look_at_source_check(&mut self, ports: &[PodPort]) -> Result<Ruleset> {
        Ok(match self.source_check_repair(ports)? {
            None => Ruleset::Current,
            Some(_batch) => Ruleset::Drifted,
        })
    }

    /// Makes the source check that of the pods there are.
    pub(super) fn apply_source_check(
        &mut self,
        netlink: &mut Netlink,
        bridge: &str,
    ) -> anyhow::Result<()> {
        let mut attempts = ATTEMPTS;
        loop {
            // The generation goes before the look at the pods: one that is entered in between
            // changes it.
            let generation = self.socket()?.generation()?;
            let ports = pod_ports(&netlink.links()?, bridge);
            let Some(batch) = self.source_check_repair(&ports)? else {
                return Ok(());
            };
            match self.socket()?.commit(&batch.at(generation)) {
                Err(error) if error.is_stale() && attempts > 0 => attempts -= 1,
                outcome => {
                    outcome?;
                    let listing =
                        self.socket()?.listing(source_check::FAMILY, source_check::TABLE)?;
                    self.source_check = listing.map(Listing::without_elements);
                    return Ok(());
                }
            }
        }
    }

    /// Removes a table.
    pub(super) fn remove(&mut self, family: Family, table: &str) -> Result<()> {
        let mut batch = Batch::new(family);
        batch.remove(table);
        self.socket()?.commit(&batch)
    }

    /// Whether a table is there.
    pub(super) fn has(&mut self, family: Family, table: &str) -> Result<bool> {
        Ok(self.socket()?.listing(family, table)?.is_some())
    }

    fn source_check_repair(&mut self, ports: &[PodPort]) -> Result<Option<Batch>> {
        let actual = self.socket()?.listing(source_check::FAMILY, source_check::TABLE)?;
        Ok(source_check::repair(ports, actual.as_ref(), self.source_check.as_ref()))
    }

    fn socket(&mut self) -> Result<&mut Socket> {
        match &mut self.socket {
            Some(socket) => Ok(socket),
            closed => Ok(closed.insert(Socket::open()?)),
        }
    }
}

/// The pods' ports: those of the bridge, and those that lost it and will get it back.
pub(super) fn pod_ports(links: &[Link], bridge: &str) -> Vec<PodPort> {
    let bridge = links.iter().find(|link| link.name == bridge).map(|link| link.index);
    links
        .iter()
        .filter(|link| link.controller.is_none() || link.controller == bridge)
        .filter_map(|link| PodPort::from_note(&link.name, &link.alias))
        .collect()
}
