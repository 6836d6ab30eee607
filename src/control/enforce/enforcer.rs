//! Keeps the two tables in the kernel what a plan says, by one transaction each.
//!
//! Start, change and repair are one path: what the kernel is known to have is brought to what it
//! should have, by differences where that is known and as a whole where it is not. The tables
//! belong to this program's socket where the kernel knows that (Linux 6.9): nobody else changes
//! them, a killed daemon leaves them as they are, and the next one makes them its own in the
//! transaction that replaces them. Every call blocks, on a thread of its own.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context as _;
use culvert_netlink::Link;
use culvert_nft::{Batch, Counted, Listing, Socket, Table, TableFamily, TableFlags, Update};
use culvert_node::pod_port::PodPort;
use culvert_policy::Plan;

use super::closing::{self, Refusal};
use super::render::{self, Place};
use super::{steering, trial};
use crate::platform::netlink::Netlink;

/// Policies that are closed one after the other before the whole plan counts as refused.
const REFUSALS: usize = 16;

/// What the kernel should enforce.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The rules.
    pub(crate) plan: Arc<Plan>,
    /// Name of the pods' bridge.
    pub(crate) bridge: String,
}

/// What the kernel has of what it should enforce, when a daemon starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holding {
    /// Neither these rules nor others.
    Nothing,
    /// These rules.
    Same,
    /// Other rules.
    Other,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    /// Whether the tables had to be changed although the plan is the one of before.
    pub(crate) repaired: bool,
    /// Whether the rules have changed.
    pub(crate) changed: bool,
    /// The rules in force, if they are others than before: they may forbid what is under way.
    pub(crate) cut: Option<Arc<Plan>>,
    /// What the kernel refused.
    pub(crate) refused: Vec<Refusal>,
    /// Whether nobody else can change the tables.
    pub(crate) is_owned: bool,
    /// Whether there is a bridge, whose pods are steered.
    pub(crate) is_steered: bool,
}

/// What the kernel has.
struct Known {
    plan: Arc<Plan>,
    refused: Vec<Refusal>,
    /// The plan without what was refused.
    in_force: Arc<Plan>,
    place: Place,
    rules: Table,
    steering: Option<Table>,
    /// The generation after the last change of ours, and how the kernel listed the tables then
    /// without elements, where that is not how we do.
    generation: u32,
    accepted: [Option<Listing>; 2],
}

/// The way to the kernel, and what is known to be there.
pub(crate) struct Enforcer {
    /// To whom the tables belong.
    nft: Option<Socket>,
    netlink: Option<Netlink>,
    flags: TableFlags,
    logs: bool,
    known: Option<Known>,
    /// Whether the rules in force are to be said although they are those of before.
    owes_cut: bool,
}

impl Enforcer {
    /// Nothing is known of the kernel yet. The tables are to have `flags`, if the kernel knows
    /// them.
    pub(crate) const fn new(flags: TableFlags) -> Self {
        Self { nft: None, netlink: None, flags, logs: true, known: None, owes_cut: false }
    }

    /// Has [`settle`](Self::settle) say the rules in force once, whether they have changed or not:
    /// nobody heard what it said last.
    pub(super) const fn owe_cut(&mut self) {
        self.owes_cut = true;
    }

    /// What the kernel has of `wanted`, as far as its own words say.
    ///
    /// # Errors
    ///
    /// The kernel could not be asked.
    pub(super) fn holding(&mut self, wanted: &Wanted) -> anyhow::Result<Holding> {
        if !self.has_tables(&wanted.bridge)? {
            return Ok(Holding::Nothing);
        }
        let place = Place { bridge: wanted.bridge.clone(), logs: self.logs };
        let rules = render::table(&wanted.plan, &place, None);
        let listing = self.nft()?.listing(rules.family, rules.name)?;
        let is_same = listing == Some(Listing::of(&rules));
        Ok(if is_same { Holding::Same } else { Holding::Other })
    }

    /// Whether the kernel has rules, and steers the pods of `bridge` through them, if there is one.
    ///
    /// # Errors
    ///
    /// The kernel could not be asked.
    pub(super) fn has_tables(&mut self, bridge: &str) -> anyhow::Result<bool> {
        let links = self.netlink()?.socket.links().context("looking at the pods' bridge")?;
        let nft = self.nft()?;
        let has_bridge = links.iter().any(|link| link.name == bridge);
        Ok(nft.has_table(render::FAMILY, render::TABLE)?
            && (!has_bridge || nft.has_table(steering::FAMILY, steering::TABLE)?))
    }

    /// Makes the tables what `wanted` says. Looks at the kernel even if nothing should have
    /// changed.
    ///
    /// # Errors
    ///
    /// The kernel could not be asked, or refuses the rules whatever is left out; what was in force
    /// before still is.
    pub(crate) fn settle(&mut self, wanted: &Wanted) -> anyhow::Result<Settled> {
        let outcome = self.try_settle(wanted);
        if outcome.is_err() {
            // Whatever was changed, the next attempt begins from nothing. The tables stay.
            self.known = None;
            self.nft = None;
            self.netlink = None;
        }
        outcome
    }

    fn try_settle(&mut self, wanted: &Wanted) -> anyhow::Result<Settled> {
        let links = self.netlink()?.socket.links().context("looking at the pods' ports")?;
        let is_same = |known: &Known| {
            Arc::ptr_eq(&known.plan, &wanted.plan) && known.place.bridge == wanted.bridge
        };
        let is_old_plan = self.known.as_ref().is_some_and(is_same);
        let mut settled = Settled::default();
        if !is_old_plan || !self.is_intact()? {
            if is_old_plan && let Some(known) = &mut self.known {
                // Who has changed one of the tables may have changed the other.
                known.steering = None;
            }
            trial::reached("begin");
            settled.changed = self.apply_rules(wanted, is_old_plan)?;
            settled.repaired = is_old_plan;
            trial::reached("rules");
        }
        self.apply_steering(&links, &wanted.bridge)?;
        trial::reached("steering");
        if settled.changed {
            self.note_generation()?;
        }
        if let Some(known) = &self.known {
            let is_due = settled.changed || std::mem::take(&mut self.owes_cut);
            settled.cut = is_due.then(|| Arc::clone(&known.in_force));
            settled.refused.clone_from(&known.refused);
            settled.is_steered = known.steering.is_some();
        }
        settled.is_owned = self.flags == TableFlags::OwnedAndLasting;
        Ok(settled)
    }

    /// Whether the kernel still has the tables as they were put there.
    fn is_intact(&mut self) -> anyhow::Result<bool> {
        let generation = self.nft()?.generation().context("asking for the nftables generation")?;
        let Some(known) = &self.known else { return Ok(false) };
        if generation == known.generation {
            return Ok(true);
        }
        if self.flags == TableFlags::OwnedAndLasting {
            let has_steering = known.steering.is_some();
            let nft = self.nft()?;
            if !nft.has_table(render::FAMILY, render::TABLE)?
                || (has_steering && !nft.has_table(steering::FAMILY, steering::TABLE)?)
            {
                return Ok(false);
            }
        } else {
            let tables: Vec<_> = [Some(&known.rules), known.steering.as_ref()]
                .into_iter()
                .zip(&known.accepted)
                .filter_map(|(table, accepted)| Some((table?.clone(), accepted.clone())))
                .collect();
            for (table, accepted) in tables {
                let Some(actual) = self.nft()?.listing(table.family, table.name)? else {
                    return Ok(false);
                };
                let wanted = Listing::of(&table);
                let is_accepted = accepted == Some(actual.clone().without_elements());
                if actual != wanted && !(is_accepted && actual.has_elements_of(&wanted)) {
                    return Ok(false);
                }
            }
        }
        if let Some(known) = &mut self.known {
            known.generation = generation;
        }
        Ok(true)
    }

    /// Puts the rules in place; whatever the kernel refuses is closed. Says whether they had to be
    /// changed.
    fn apply_rules(&mut self, wanted: &Wanted, is_repair: bool) -> anyhow::Result<bool> {
        let mut plan = Arc::clone(&wanted.plan);
        let mut refused = Vec::new();
        loop {
            let place = Place { bridge: wanted.bridge.clone(), logs: self.logs };
            let same_place = self.known.as_ref().filter(|known| known.place == place);
            let before = same_place.map(|known| render::Before::new(&known.in_force, &known.rules));
            let mut rules = render::table(&plan, &place, before.as_ref());
            if let Some(chain) = trial::refused_chain() {
                render::spoil(&mut rules, &chain);
            }
            let known = self.known.as_ref().filter(|_known| !is_repair);
            let is_known = known.is_some();
            let update = known.and_then(|known| Batch::update(&known.rules, &rules));
            let update = update.unwrap_or_else(|| self.whole(&rules));
            let Err(error) = self.commit(&update)? else {
                self.learn(wanted, (plan, refused), place, rules);
                return Ok(!update.is_empty());
            };
            if error.is_interrupted() || error.is_stale() {
                return Err(error).context("putting the rules of policies in place");
            }
            if self.flags != TableFlags::None && error.is_unsupported() {
                self.flags = TableFlags::None;
                tracing::info!(%error, "other programs can change the tables of policies");
                continue;
            }
            if is_known {
                // The kernel may not have what it is thought to.
                self.known = None;
                continue;
            }
            let closed = error
                .subject()
                .filter(|_name| refused.len() < REFUSALS)
                .and_then(|name| closing::without(&plan, name, &error.to_string()));
            match closed {
                Some((less, refusal)) if !(self.logs && error.is_not_found()) => {
                    refused.push(refusal);
                    plan = Arc::new(less);
                }
                Some(_) | None if self.logs && error.is_not_found() => {
                    self.logs = false;
                    tracing::warn!(
                        %error,
                        "the kernel lacks the nftables expressions log or limit (nft_log, nft_limit): \
                         what policies drop is counted, and not logged"
                    );
                }
                Some(_) | None => {
                    return Err(error).context(
                        "putting the rules of policies in place (nft_ct and nft_fib_inet are needed)",
                    );
                }
            }
        }
    }

    fn learn(
        &mut self,
        wanted: &Wanted,
        (in_force, refused): (Arc<Plan>, Vec<Refusal>),
        place: Place,
        rules: Table,
    ) {
        let before = self.known.take();
        let (steering, accepted) =
            before.map_or((None, [None, None]), |known| (known.steering, known.accepted));
        let plan = Arc::clone(&wanted.plan);
        let generation = 0;
        self.known =
            Some(Known { plan, refused, in_force, place, rules, steering, generation, accepted });
    }

    /// Remembers what the kernel has as ours.
    fn note_generation(&mut self) -> anyhow::Result<()> {
        let is_owned = self.flags == TableFlags::OwnedAndLasting;
        let generation = self.nft()?.generation()?;
        let has_steering = self.known.as_ref().is_some_and(|known| known.steering.is_some());
        let mut accepted = [None, None];
        if !is_owned {
            let there = [true, has_steering].into_iter().zip(TABLES.into_iter().rev());
            for (accepted, (is_there, (family, table))) in accepted.iter_mut().zip(there) {
                if is_there {
                    let listing = self.nft()?.listing(family, table)?;
                    *accepted = listing.map(Listing::without_elements);
                }
            }
        }
        if let Some(known) = &mut self.known {
            (known.generation, known.accepted) = (generation, accepted);
        }
        Ok(())
    }

    /// Steers the pods of `bridge`, if there is one.
    fn apply_steering(&mut self, links: &[Link], bridge: &str) -> anyhow::Result<()> {
        let mac = links.iter().find(|link| link.name == bridge).and_then(|link| link.mac);
        let Some(known) = &self.known else { return Ok(()) };
        let Some(mac) = mac else { return Ok(()) };
        let wanted = steering::table(mac, &isolated_ports(links, &known.in_force));
        let batch = match &known.steering {
            Some(steering) => Batch::update(steering, &wanted),
            None => None,
        };
        let batch = batch.unwrap_or_else(|| self.whole(&wanted));
        if batch.is_empty() {
            return Ok(());
        }
        self.commit(&batch)?.context("steering packets of pods through this node")?;
        if let Some(known) = &mut self.known {
            known.steering = Some(wanted);
        }
        self.note_generation()
    }

    /// The transaction that puts `table` in place of whatever there is. A packet that is on its way
    /// through the old rules then meets the new ones as well.
    fn whole(&self, table: &Table) -> Update {
        let mut then = Batch::new(table.family);
        then.replace_flagged(table, self.flags);
        Update { first: Batch::new(table.family), then }
    }

    /// Has the kernel take both transactions of an update, those that are not empty; the inner
    /// result is what it says of them.
    fn commit(&mut self, update: &Update) -> anyhow::Result<culvert_nft::Result<()>> {
        for batch in [&update.first, &update.then] {
            if batch.is_empty() {
                continue;
            }
            let outcome = self.nft()?.commit(batch);
            if outcome.is_err() {
                return Ok(outcome);
            }
            trial::reached("transaction");
        }
        Ok(Ok(()))
    }

    /// Every address of this machine.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(super) fn own_addresses(&mut self) -> anyhow::Result<BTreeSet<IpAddr>> {
        let addresses = self.netlink()?.socket.addresses().context("looking at own addresses")?;
        Ok(addresses.iter().map(|address| address.net.addr()).collect())
    }

    /// The addresses of all pods that have a port.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(super) fn pod_addresses(&mut self) -> anyhow::Result<BTreeSet<IpAddr>> {
        let links = self.netlink()?.socket.links().context("looking at the pods' ports")?;
        let ports = links.iter().filter_map(|link| PodPort::from_note(&link.name, &link.alias));
        Ok(ports.flat_map(|port| port.addresses).map(|address| address.addr()).collect())
    }

    /// How often rules have matched.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(crate) fn counted(&mut self) -> anyhow::Result<Vec<Counted>> {
        let nft = self.nft()?;
        let mut counted = nft.counted(render::FAMILY, render::TABLE)?;
        counted.extend(nft.counted(steering::FAMILY, steering::TABLE)?);
        Ok(counted)
    }

    /// Removes both tables, where there are some.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(crate) fn remove(&mut self) -> anyhow::Result<bool> {
        self.known = None;
        let mut removed = false;
        for (family, table) in TABLES {
            let nft = self.nft()?;
            let has = match nft.has_table(family, table) {
                Err(error) if error.is_unsupported() => false,
                has => has?,
            };
            if has {
                let mut batch = Batch::new(family);
                batch.remove(table);
                nft.commit(&batch).context("removing the tables of policies")?;
                removed = true;
            }
        }
        Ok(removed)
    }

    fn nft(&mut self) -> anyhow::Result<&mut Socket> {
        match &mut self.nft {
            Some(socket) => Ok(socket),
            closed => Ok(closed.insert(Socket::open()?)),
        }
    }

    fn netlink(&mut self) -> anyhow::Result<&mut Netlink> {
        match &mut self.netlink {
            Some(netlink) => Ok(netlink),
            closed => Ok(closed.insert(Netlink::open()?)),
        }
    }
}

/// The tables, in the order in which they can go: without steering, packets of one pod to another
/// pass no rules.
pub(crate) const TABLES: [(TableFamily, &str); 2] =
    [(steering::FAMILY, steering::TABLE), (render::FAMILY, render::TABLE)];

/// The ports of pods that a policy isolates.
fn isolated_ports(links: &[Link], plan: &Plan) -> BTreeSet<String> {
    let is_isolated = |port: &PodPort| {
        port.addresses.iter().any(|address| plan.isolated.contains(&address.addr()))
    };
    let ports = links.iter().filter_map(|link| PodPort::from_note(&link.name, &link.alias));
    ports.filter(is_isolated).map(|port| port.device).collect()
}
