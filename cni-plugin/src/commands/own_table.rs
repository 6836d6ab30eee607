//! The routing table of a pod's second interface in one subnet.
//!
//! A pod that is plugged in twice has two ways to its subnet, and the main table takes the first
//! for everything: what the second interface's address is asked would be answered through the
//! first, and the source check drops that. So an interface that finds another with routes to the
//! node's subnets in the main table has its own in a table of its own, and rules that choose it by
//! the address that a packet comes from, or by the device that the sender asks for.
//!
//! Such an interface is known by its addresses, which came without the kernel's route to their
//! subnet. The kernel removes the routes with the device, but not the rules: whoever unplugs
//! sweeps.

use ipnet::IpNet;
use rustix::net::netdevice::index_to_name;

use crate::config::RouteSpec;
use crate::netlink::{Address, Error, Route, Rule, SCOPE_LINK, Socket, delete_rule};

/// What the number of a device is added to for that of its table; below it are those of others.
const FIRST: u32 = 0xcf00;

/// Marks our rules, as it does the daemon's routes.
const PROTOCOL: u8 = 207;

/// Rules that one sweep removes at most: those of a hundred interfaces.
const MOST: usize = 1000;

/// Rank of the rules: before the main table's, 32766, and behind the local one's, 0.
const PRIORITY: u32 = 20_700;

/// The table of its own that an interface has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OwnTable(u32);

impl OwnTable {
    /// That of the interface with index `device`, if another of the pod's has an address in one of
    /// the node's `subnets`, and the main table the way there.
    pub(super) fn needed(
        pod: &mut Socket,
        device: u32,
        subnets: &[IpNet],
    ) -> Result<Option<Self>, Error> {
        let is_rival = |address: &Address| {
            address.link != device
                && address.has_route
                && subnets.iter().any(|subnet| subnet.contains(&address.net.addr()))
        };
        Ok(pod.addresses()?.iter().any(is_rival).then_some(Self::of(device)))
    }

    /// That of the interface with index `device` and these `addresses`, if it was given one.
    pub(super) fn given(device: u32, addresses: &[Address]) -> Option<Self> {
        let is_ours = |address: &Address| address.link == device && !address.has_route;
        addresses.iter().any(is_ours).then_some(Self::of(device))
    }

    const fn of(device: u32) -> Self {
        Self(FIRST.saturating_add(device))
    }

    /// Index of the device whose table this is.
    const fn device(self) -> u32 {
        self.0 - FIRST
    }

    /// Has the routes that were not asked to be in another table be in this one.
    pub(super) fn take(self, routes: &mut [RouteSpec]) {
        for route in routes {
            route.table = route.table.filter(|table| *table != 0).or(Some(self.0));
        }
    }

    /// The routes to the subnets of `addresses`, which the kernel would have made in the main
    /// table.
    pub(super) fn to_subnets(self, addresses: &[IpNet]) -> Vec<Route> {
        let to = |address: &IpNet| Route {
            table: self.0,
            scope: SCOPE_LINK,
            ..Route::new(address.trunc(), None, self.device())
        };
        addresses.iter().map(to).collect()
    }

    /// The rules that choose the table for interface `ifname` with `addresses`.
    pub(super) fn rules(self, ifname: &str, addresses: &[IpNet]) -> Vec<Rule> {
        let plain = |is_v6| Rule {
            is_v6,
            source: None,
            outgoing: None,
            table: self.0,
            priority: PRIORITY,
            protocol: PROTOCOL,
        };
        let by_source = addresses.iter().map(|address| Rule {
            source: Some(IpNet::from(address.addr())),
            ..plain(address.addr().is_ipv6())
        });
        let by_device = [false, true]
            .into_iter()
            .filter(|is_v6| addresses.iter().any(|address| address.addr().is_ipv6() == *is_v6))
            .map(|is_v6| Rule { outgoing: Some(ifname.to_owned()), ..plain(is_v6) });
        by_source.chain(by_device).collect()
    }
}

/// Removes the rules whose device is gone, in the namespace of `pod`.
///
/// A pod may have as many rules of its own as it likes, and may change them meanwhile: they are
/// looked at once, and of what looks like ours no more are kept than a pod has use for.
pub(super) fn sweep(pod: &mut Socket) -> Result<(), Error> {
    let mut ours = Vec::new();
    pod.visit_rules(&mut |rule| {
        if rule.protocol == PROTOCOL && rule.table > FIRST && ours.len() < MOST {
            ours.push(rule);
        }
    })?;
    for rule in ours {
        if index_to_name(&*pod, OwnTable(rule.table).device()).is_err() {
            match pod.execute(delete_rule(&rule)) {
                // Another verb sweeps as well.
                Err(error) if error.is_missing() => {}
                result => result?,
            }
        }
    }
    Ok(())
}
