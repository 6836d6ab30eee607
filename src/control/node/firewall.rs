//! Compares and repairs the nftables tables: the node's own, and those of the pods, which say what
//! a pod may send from, which addresses have one, and which ports of the node lead to one.
//!
//! What should be in the pods' tables follows from the notes that the plugin leaves on the ports of
//! pods, and from its files about ports of the node. A table that the kernel lists in another way
//! than we do counts as right once we have put it there and nobody has changed it since.

use std::collections::BTreeSet;
use std::path::Path;

use culvert_netlink::Link;
use culvert_nft::{Batch, Elements, Expression, Flow, Listing, Result, Socket, Table, TableFamily};
use culvert_node::host_ports::{self, Wanted};
use culvert_node::pod_port::PodPort;
use culvert_node::{living, source_check};

use super::diff::Ruleset;
use super::ruleset;
use crate::control::enforce;
use crate::platform::netlink::{Netlink, Watched};

/// The tables that are kept here, and which of their changes call for a look. Each pod that comes
/// or goes changes the elements of the pods' tables; who looked at the whole then would do little
/// else. An element that somebody else removed from them is missed by nobody until the next slow
/// look.
pub(super) const TABLES: [Watched; 4] = [
    Watched { family: ruleset::FAMILY, table: ruleset::TABLE_NAME, elements: true },
    Watched { family: source_check::FAMILY, table: source_check::TABLE, elements: false },
    Watched { family: living::FAMILY, table: living::TABLE, elements: false },
    Watched { family: host_ports::FAMILY, table: host_ports::TABLE, elements: true },
];

/// The tables, as far as they are known.
#[derive(Default)]
pub(super) struct Firewall {
    socket: Option<Socket>,
    /// The node's table, and how the kernel listed it when we had put it there or found it right.
    node: Option<(Table, Listing)>,
    /// How the kernel listed each of the pods' tables without its elements when we had put it
    /// there.
    pods: [Option<(Table, Listing)>; 2],
    /// How the kernel listed the table of the ports of the node when we had put something there.
    host_ports: Option<Listing>,
    /// Whether there were strangers when somebody last looked.
    strangers: Option<bool>,
    /// Whether this kernel cannot tell whose address a source is.
    lacks_fib: bool,
}

/// What is behind the bridge.
pub(super) struct Pods {
    /// The ports of pods: those of the bridge, and those that lost it and will get it back.
    pub(super) ports: Vec<PodPort>,
    /// Those of other bridges, such as ours while it has another name. They are checked all the
    /// same.
    pub(super) elsewhere: Vec<PodPort>,
    /// Whether somebody may have an address that no note names.
    pub(super) has_strangers: bool,
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
        if actual == Listing::of(&self.possible(wanted)) {
            self.node = Some((wanted.clone(), actual));
            return Ok(Ruleset::Current);
        }
        Ok(Ruleset::Drifted)
    }

    /// Puts the node's table in place of whatever it is.
    pub(super) fn apply(&mut self, wanted: &Table) -> Result<()> {
        let replace = |table: &Table| {
            let mut batch = Batch::new(table.family);
            batch.replace(table);
            batch
        };
        let whole = replace(&self.possible(wanted));
        match self.socket()?.commit(&whole) {
            // kernel: an expression that it does not have is "not found"; nothing else here can be.
            Err(error) if error.is_not_found() && !self.lacks_fib => {
                self.lacks_fib = true;
                let less = replace(&self.possible(wanted));
                self.socket()?.commit(&less)?;
                tracing::warn!(
                    %error,
                    "the kernel lacks the nftables expression fib (nft_fib_inet): any process of this \
                     node can send to its pods from addresses of others"
                );
            }
            outcome => outcome?,
        }
        let listing = self.socket()?.listing(wanted.family, wanted.name)?;
        self.node = listing.map(|listing| (wanted.clone(), listing));
        Ok(())
    }

    /// What of `wanted` this kernel is capable of.
    fn possible(&self, wanted: &Table) -> Table {
        let mut table = wanted.clone();
        if self.lacks_fib {
            let needs_fib = |rule: &[Expression]| {
                rule.iter().any(|step| matches!(step, Expression::SourceType(_)))
            };
            for chain in &mut table.chains {
                chain.rules.retain(|rule| !needs_fib(rule));
            }
        }
        table
    }

    /// Forgets the connections for which `is_wrong` says so, and returns how many.
    pub(super) fn forget(&mut self, is_wrong: impl Fn(&Flow) -> bool) -> Result<usize> {
        self.socket()?.forget_flows(is_wrong)
    }

    /// Whether `pods` call for another look: somebody has come whom the rules would keep out.
    pub(super) fn is_surprised_by(&self, pods: &Pods) -> bool {
        self.strangers != Some(pods.has_strangers)
    }

    /// Looks at the pods' tables.
    pub(super) fn look_at_pods(&mut self, pods: &Pods, bridge: &living::Bridge) -> Result<Ruleset> {
        self.strangers = Some(pods.has_strangers);
        let socket = opened(&mut self.socket)?;
        for (wanted, known) in tables(pods, bridge).iter().zip(&self.pods) {
            if difference(socket, wanted, known.as_ref())?.is_some() {
                return Ok(Ruleset::Drifted);
            }
        }
        Ok(Ruleset::Current)
    }

    /// What the source check knows of the pods behind `devices`, whose notes are gone.
    pub(super) fn remembered(&mut self, devices: &[String]) -> Vec<PodPort> {
        let listing = self
            .socket()
            .and_then(|socket| socket.listing(source_check::FAMILY, source_check::TABLE));
        // Whoever cannot list it now asks again with the next look.
        let Ok(Some(listing)) = listing else { return Vec::new() };
        devices.iter().filter_map(|device| source_check::remembered(&listing, device)).collect()
    }

    /// Makes the pods' tables those of the pods there are; false, if they are by now.
    pub(super) fn apply_pods(
        &mut self,
        netlink: &mut Netlink,
        bridge: &living::Bridge,
    ) -> anyhow::Result<bool> {
        let mut is_changed = false;
        for position in 0..self.pods.len() {
            is_changed |= self.apply_table_of_pods(position, netlink, bridge)?;
        }
        Ok(is_changed)
    }

    fn apply_table_of_pods(
        &mut self,
        position: usize,
        netlink: &mut Netlink,
        bridge: &living::Bridge,
    ) -> anyhow::Result<bool> {
        let (socket, known) = (opened(&mut self.socket)?, &mut self.pods[position]);
        let mut wanted = None;
        let is_changed = socket.commit_seen(|socket| {
            let pods = pods(&netlink.socket.links()?, &bridge.name);
            wanted = tables(&pods, bridge).into_iter().nth(position);
            let Some(wanted) = &wanted else { return Ok(None) };
            anyhow::Ok(difference(socket, wanted, known.as_ref())?)
        })?;
        if let Some(wanted) = wanted.filter(|_| is_changed) {
            let listing = socket.listing(wanted.family, wanted.name)?;
            *known = listing.map(|listing| (bare(&wanted), listing.without_elements()));
        }
        Ok(is_changed)
    }

    /// Looks at the table of the ports of the node that lead to pods.
    pub(super) fn look_at_host_ports(&mut self, wanted: &Wanted<'_>) -> Result<Ruleset> {
        let actual = self.socket()?.listing(host_ports::FAMILY, host_ports::TABLE)?;
        let difference = wanted.difference(actual.as_ref(), self.host_ports.as_ref());
        Ok(difference.map_or(Ruleset::Current, |_batch| Ruleset::Drifted))
    }

    /// Has the ports of the node lead to those pods that wanted them and live; false, if they do.
    pub(super) fn apply_host_ports(
        &mut self,
        netlink: &mut Netlink,
        run_dir: &Path,
        bridge: &living::Bridge,
    ) -> anyhow::Result<bool> {
        let (socket, known) = (opened(&mut self.socket)?, &mut self.host_ports);
        let is_changed = socket.commit_seen(|socket| {
            // The plugin writes a file while the device is there, so files go before devices.
            let pods = host_ports::all(run_dir)?;
            let living = devices(&netlink.socket.links()?);
            let wanted = Wanted {
                pods: &pods,
                living: &living,
                bridge: &bridge.name,
                subnets: &bridge.subnets,
            };
            let actual = socket.listing(host_ports::FAMILY, host_ports::TABLE)?;
            anyhow::Ok(wanted.difference(actual.as_ref(), known.as_ref()))
        })?;
        if is_changed {
            *known = socket.listing(host_ports::FAMILY, host_ports::TABLE)?;
        }
        Ok(is_changed)
    }

    /// Removes a table.
    pub(super) fn remove(&mut self, family: TableFamily, table: &str) -> Result<()> {
        let mut batch = Batch::new(family);
        batch.remove(table);
        self.socket()?.commit(&batch)
    }

    /// Whether a table is there.
    pub(super) fn has(&mut self, family: TableFamily, table: &str) -> Result<bool> {
        Ok(self.socket()?.listing(family, table)?.is_some())
    }

    fn socket(&mut self) -> Result<&mut Socket> {
        opened(&mut self.socket)
    }
}

/// The socket, opened if it is not yet.
fn opened(socket: &mut Option<Socket>) -> Result<&mut Socket> {
    match socket {
        Some(socket) => Ok(socket),
        closed => Ok(closed.insert(Socket::open()?)),
    }
}

/// What has to change for one of the pods' tables to be `wanted`; `known` is how the kernel listed
/// it when we had put it there.
fn difference(
    socket: &mut Socket,
    wanted: &Table,
    known: Option<&(Table, Listing)>,
) -> Result<Option<Batch>> {
    let actual = socket.listing(wanted.family, wanted.name)?;
    let accepted = known.filter(|(table, _)| *table == bare(wanted)).map(|(_, listing)| listing);
    Ok(Batch::difference(wanted, actual.as_ref(), accepted))
}

/// The tables of the pods.
fn tables(pods: &Pods, bridge: &living::Bridge) -> [Table; 2] {
    let bridge = living::Bridge { has_strangers: pods.has_strangers, ..bridge.clone() };
    let ports: Vec<_> = pods.ports.iter().chain(&pods.elsewhere).cloned().collect();
    [source_check::table(&ports), living::table(&ports, &bridge)]
}

/// Whether the table is one of this daemon's or its plugin's.
pub(super) fn is_ours(family: &str, table: &str) -> bool {
    let kept = TABLES.iter().map(|kept| (kept.family, kept.table));
    kept.chain(enforce::TABLES).any(|(is, name)| (is.as_str(), name) == (family, table))
}

/// A table without any element.
fn bare(table: &Table) -> Table {
    let mut table = table.clone();
    for set in &mut table.sets {
        set.elements = Elements::default();
    }
    table
}

/// The names of all devices.
pub(super) fn devices(links: &[Link]) -> BTreeSet<String> {
    links.iter().map(|link| link.name.clone()).collect()
}

/// What is behind the bridge.
pub(super) fn pods(links: &[Link], bridge: &str) -> Pods {
    let bridge = links.iter().find(|link| link.name == bridge).map(|link| link.index);
    let mut pods = Pods { ports: Vec::new(), elsewhere: Vec::new(), has_strangers: false };
    for link in links {
        let is_behind = bridge.is_some() && link.controller == bridge;
        match PodPort::from_note(&link.name, &link.alias) {
            Some(port) if is_behind || link.controller.is_none() => {
                pods.has_strangers |= !port.is_checked;
                pods.ports.push(port);
            }
            Some(port) => pods.elsewhere.push(port),
            // One that is down is being made.
            None => pods.has_strangers |= link.up && is_behind,
        }
    }
    pods
}

#[cfg(test)]
mod tests {
    use super::*;
    use overlay_proto::Mac;

    const NOTE: &str = "culvert pod 0a:58:0a:f4:01:02 checked 10.244.1.2";

    fn link(index: u32, name: &str, controller: Option<u32>, alias: &str) -> Link {
        Link {
            index,
            name: name.into(),
            up: true,
            controller,
            alias: alias.into(),
            ..Link::default()
        }
    }

    #[test]
    fn stranger_is_a_port_without_a_note_or_a_pod_that_is_not_checked() {
        let mut links = vec![
            link(2, "v-net-0", None, ""),
            link(3, "culv1", Some(2), NOTE),
            link(4, "eth0", None, ""),
        ];
        assert!(!pods(&links, "v-net-0").has_strangers);
        links.push(link(5, "culv2", Some(2), &NOTE.replace(" checked", "")));
        assert!(pods(&links, "v-net-0").has_strangers);
        links.pop();
        links.push(link(6, "veth0", Some(2), ""));
        let found = pods(&links, "v-net-0");
        assert!(found.has_strangers);
        assert_eq!(found.ports.len(), 1);
        links.pop();
        links.push(link(7, "veth1", Some(9), ""));
        assert!(!pods(&links, "v-net-0").has_strangers);
    }

    #[test]
    fn kernel_without_fib_gets_all_other_rules() {
        let wanted = ruleset::ruleset(&super::super::fixture::spec());
        let rules =
            |table: &Table| table.chains.iter().map(|chain| chain.rules.len()).sum::<usize>();
        let able = Firewall::default();
        assert_eq!(able.possible(&wanted), wanted);
        let unable = Firewall { lacks_fib: true, ..Firewall::default() };
        assert_eq!(rules(&unable.possible(&wanted)), rules(&wanted) - 5);
    }

    #[test]
    fn pod_of_another_bridge_stays_checked() {
        let links = [link(2, "renamed", None, ""), link(3, "culv1", Some(2), NOTE)];
        let found = pods(&links, "v-net-0");
        assert!(found.ports.is_empty() && !found.has_strangers);
        let bridge = living::Bridge {
            name: "v-net-0".into(),
            mac: Mac::new([0x02, 0xcf, 10, 244, 1, 0]),
            subnets: Vec::new(),
            has_strangers: false,
        };
        let [check, living] = tables(&found, &bridge);
        assert!(check.sets.iter().chain(&living.sets).any(|set| !set.elements.is_empty()));
        assert!(check.sets.iter().any(|set| !set.elements.is_empty()));
    }
}
