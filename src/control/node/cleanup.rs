//! Removing everything that the daemon made, with or without a daemon and its table.

use culvert_netlink::{Address, Link, LinkKind, Route, RouteFilter};
use culvert_node::pod_port::PodPort;
use culvert_node::{host_ports, living, source_check};

use super::action::Action;
use super::desired::{ADOPTED_ALIAS, ALIAS_PREFIX, route_localnet};
use super::execute::Executor;
use super::firewall::Firewall;
use super::observe::is_port_name;
use super::{PROTOCOL, Reconciler, TunOwner, ruleset};
use crate::control::enforce;

/// What a cleanup did.
#[derive(Debug, Default)]
pub struct Cleanup {
    /// What was removed.
    pub removed: Vec<Action>,
    /// What could not be: the rest was removed all the same.
    pub failed: Vec<anyhow::Error>,
}

/// Nobody owns the TUN during a cleanup, and no action of a cleanup asks for it.
struct NoOwner;

impl TunOwner for NoOwner {
    fn is_attached(&self) -> bool {
        false
    }

    fn open(&self) -> culvert_dataplane::platform::Result<()> {
        Ok(())
    }
}

impl Reconciler {
    /// Removes the devices, addresses, routes and rules that the daemon made on this node.
    ///
    /// Finds them by alias, protocol number and table name, so it needs neither a running daemon
    /// nor its configuration. A bridge that was there before the daemon stays, without our
    /// addresses. Kernel parameters stay: others may have come to depend on forwarding. Pods that
    /// are still plugged into the bridge lose it, and their ports are taken down before the rules
    /// go that guard them; [`Action::DeleteLink`] says how many they are. If a port cannot be taken
    /// down, nothing is removed.
    pub fn cleanup(&mut self) -> Cleanup {
        let mut report = Cleanup::default();
        let links = self.netlink.socket.links().unwrap_or_else(|error| {
            report.failed.push(error.into());
            Vec::new()
        });
        // A port without its rules, or without its bridge, would be a way into the node.
        self.carry_out(shut_ports(&links), &links, &mut report);
        if !report.failed.is_empty() {
            return report;
        }
        self.remove_beside_ports(&links, Pods::Lose, &mut report);
        report
    }

    /// The same, but for the pods: they stay plugged into their bridge, whoever made it, and keep
    /// its addresses as their gateway. It is somebody else's then, who guards them in his own way.
    #[cfg(feature = "databases")]
    pub(crate) fn leave_pods(&mut self) -> Cleanup {
        let mut report = Cleanup::default();
        match self.netlink.socket.links() {
            Ok(links) => self.remove_beside_ports(&links, Pods::Keep, &mut report),
            Err(error) => report.failed.push(error.into()),
        }
        report
    }

    fn remove_beside_ports(&mut self, links: &[Link], pods: Pods, report: &mut Cleanup) {
        let mut actions = Vec::new();
        for (family, table) in enforce::TABLES {
            match self.firewall.has(family, table) {
                Ok(true) => actions.push(Action::DeletePolicies { family, table }),
                Ok(false) => {}
                Err(error) if error.is_unsupported() => {}
                Err(error) => report.failed.push(error.into()),
            }
        }
        for (family, table, action) in [
            (ruleset::FAMILY, ruleset::TABLE_NAME, Action::DeleteRuleset),
            (source_check::FAMILY, source_check::TABLE, Action::DeleteSourceCheck),
            (living::FAMILY, living::TABLE, Action::DeletePodAddresses),
            (host_ports::FAMILY, host_ports::TABLE, Action::DeleteHostPorts),
        ] {
            match self.firewall.has(family, table) {
                Ok(true) => actions.push(action),
                Ok(false) => {}
                // A kernel without nftables cannot have the table.
                Err(error) if error.is_unsupported() => {}
                Err(error) => report.failed.push(error.into()),
            }
        }
        if actions.contains(&Action::DeleteHostPorts) {
            // A bridge that stays is to take nothing for 127.0.0.1 from pods, without the guard.
            let staying = links.iter().filter(|link| fate(link, links, pods) != Fate::Deleted);
            let closed = staying.map(|link| route_localnet(&link.name, "0", false).into());
            actions.splice(0..0, closed);
        }
        match self.netlink.socket.routes(RouteFilter::Protocol(PROTOCOL)) {
            Ok(routes) => actions.extend(routes.into_iter().map(remove_route)),
            Err(error) => report.failed.push(error.into()),
        }
        let addresses = self.netlink.socket.addresses().unwrap_or_else(|error| {
            report.failed.push(error.into());
            Vec::new()
        });
        actions.extend(remove_devices(links, &addresses, pods));
        self.carry_out(actions, links, report);
        self.firewall = Firewall::default();
    }

    /// Carries `actions` out, all that can be.
    fn carry_out(&mut self, actions: Vec<Action>, links: &[Link], report: &mut Cleanup) {
        let mut executor = Executor {
            netlink: &mut self.netlink,
            firewall: &mut self.firewall,
            tun: &NoOwner,
            indexes: links.iter().map(|link| (link.name.clone(), link.index)).collect(),
            desired: None,
            sysctls: &self.sysctls,
            run_dir: None,
        };
        for action in actions {
            match executor.execute(&action) {
                Ok(_) => report.removed.push(action),
                Err(error) => report.failed.push(error),
            }
        }
    }
}

/// Takes down the pods' ports that are up.
fn shut_ports(links: &[Link]) -> Vec<Action> {
    links
        .iter()
        .filter(|link| link.kind == LinkKind::Veth && link.up)
        .filter(|link| {
            is_port_name(&link.name) || PodPort::from_note(&link.name, &link.alias).is_some()
        })
        .map(|link| Action::ShutPort { device: link.name.clone() })
        .collect()
}

fn remove_route(route: Route) -> Action {
    Action::RemoveRoute { route }
}

/// What becomes of the pods that are plugged into the bridge.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pods {
    /// They lose a bridge that we made.
    Lose,
    /// They stay plugged in.
    Keep,
}

/// What becomes of a device.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is none of ours.
    Foreign,
    /// It goes.
    Deleted,
    /// It stays, without our addresses.
    Released,
    /// It stays, with all that its pods need.
    Left,
}

fn fate(link: &Link, links: &[Link], pods: Pods) -> Fate {
    let is_bridge = link.kind == LinkKind::Bridge;
    if !link.alias.starts_with(ALIAS_PREFIX) {
        Fate::Foreign
    } else if pods == Pods::Keep && is_bridge && ports_of(link, links) > 0 {
        Fate::Left
    } else if link.alias == ADOPTED_ALIAS {
        Fate::Released
    } else if is_bridge || link.kind == LinkKind::Tun {
        Fate::Deleted
    } else {
        Fate::Foreign
    }
}

fn ports_of(bridge: &Link, links: &[Link]) -> usize {
    links.iter().filter(|port| port.controller == Some(bridge.index)).count()
}

fn remove_devices(links: &[Link], addresses: &[Address], pods: Pods) -> Vec<Action> {
    let mut actions = Vec::new();
    for link in links {
        let device = || link.name.clone();
        match fate(link, links, pods) {
            Fate::Foreign => {}
            Fate::Deleted => {
                actions.push(Action::DeleteLink { device: device(), ports: ports_of(link, links) });
            }
            Fate::Left => actions.push(Action::ReleaseBridge { device: device() }),
            Fate::Released => {
                let ours = addresses.iter().filter(|address| {
                    address.link == link.index && address.protocol == Some(PROTOCOL)
                });
                actions.extend(
                    ours.map(|it| Action::RemoveAddress { device: device(), address: it.net }),
                );
                actions.push(Action::ReleaseBridge { device: device() });
            }
        }
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::node::desired::{BRIDGE_ALIAS, TUN_ALIAS};
    use culvert_netlink::Detection;

    fn link(index: u32, name: &str, kind: LinkKind, alias: &str) -> Link {
        Link { index, name: name.into(), kind, alias: alias.into(), ..Link::default() }
    }

    #[test]
    fn only_what_is_ours_is_removed() {
        let links = [
            link(2, "culvert0", LinkKind::Tun, TUN_ALIAS),
            link(3, "v-net-0", LinkKind::Bridge, BRIDGE_ALIAS),
            link(4, "docker0", LinkKind::Bridge, ""),
            Link { controller: Some(3), ..link(5, "culv12ab", LinkKind::Veth, "") },
        ];
        assert_eq!(
            remove_devices(&links, &[], Pods::Lose),
            [
                Action::DeleteLink { device: "culvert0".into(), ports: 0 },
                Action::DeleteLink { device: "v-net-0".into(), ports: 1 },
            ]
        );
    }

    #[test]
    fn ports_of_pods_go_down_first_wherever_they_are_plugged() {
        let up = |index, name: &str, alias: &str| Link {
            up: true,
            ..link(index, name, LinkKind::Veth, alias)
        };
        let links = [
            Link { controller: Some(3), ..up(5, "culv12ab", "") },
            up(6, "culv34cd", ""),
            Link { controller: Some(9), ..up(7, "named", "culvert pod 0a:58:0a:f4:01:02 checked") },
            link(8, "culv56ef", LinkKind::Veth, ""),
            up(10, "veth0", ""),
        ];
        let shut = |device: &str| Action::ShutPort { device: device.into() };
        assert_eq!(shut_ports(&links), [shut("culv12ab"), shut("culv34cd"), shut("named")]);
    }

    #[test]
    fn adopted_bridge_keeps_what_it_had() {
        let links = [link(3, "v-net-0", LinkKind::Bridge, ADOPTED_ALIAS)];
        let address = |net: &str, protocol| Address {
            link: 3,
            net: net.parse().unwrap(),
            protocol,
            detection: Detection::default(),
            has_route: true,
        };
        let addresses = [address("192.168.7.1/24", None), address("10.244.1.1/24", Some(PROTOCOL))];
        assert_eq!(
            remove_devices(&links, &addresses, Pods::Lose),
            [
                Action::RemoveAddress {
                    device: "v-net-0".into(),
                    address: "10.244.1.1/24".parse().unwrap()
                },
                Action::ReleaseBridge { device: "v-net-0".into() },
            ]
        );
    }

    /// Flannel's node that has started anew under Culvert has a bridge that we made, and an adopted
    /// one may have had another address.
    #[test]
    fn pods_that_stay_keep_their_bridge_and_its_addresses_whoever_made_it() {
        let gateway = Address {
            link: 3,
            net: "10.244.1.1/24".parse().unwrap(),
            protocol: Some(PROTOCOL),
            detection: Detection::default(),
            has_route: true,
        };
        for alias in [BRIDGE_ALIAS, ADOPTED_ALIAS] {
            let tun = link(2, "culvert0", LinkKind::Tun, TUN_ALIAS);
            let bridge = link(3, "cni0", LinkKind::Bridge, alias);
            let port = Link { controller: Some(3), ..link(5, "culv12ab", LinkKind::Veth, "") };
            let delete = |device: &str| Action::DeleteLink { device: device.into(), ports: 0 };
            let release = Action::ReleaseBridge { device: "cni0".into() };
            let addresses = [gateway.clone()];
            assert_eq!(
                remove_devices(&[tun.clone(), bridge.clone(), port], &addresses, Pods::Keep),
                [delete("culvert0"), release.clone()],
            );
            // Nobody misses one without pods.
            let left = remove_devices(&[tun, bridge], &addresses, Pods::Keep);
            assert_eq!(left.last() == Some(&release), alias == ADOPTED_ALIAS, "{left:?}");
            assert_eq!(left.len(), if alias == ADOPTED_ALIAS { 3 } else { 2 });
        }
    }
}
