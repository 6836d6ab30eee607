//! What a daemon would do to the node now, shared out among the checks.

use crate::app::Action;
use crate::doctor::facts::Facts;
use crate::doctor::finding::Finding;
use crate::platform::listener::Listener;
use crate::platform::sysctl;

/// Which check an action belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Devices,
    Routes,
    Forward,
    RpFilter,
    AcceptRa,
    Conntrack,
    Mtu,
}

fn part(action: &Action) -> Part {
    match action {
        Action::AddRoute { .. }
        | Action::PrependRoute { .. }
        | Action::ReplaceRoute { .. }
        | Action::RemoveRoute { .. } => Part::Routes,
        Action::SetSysctl { key, .. } => match key.rsplit('/').next() {
            Some("rp_filter" | "accept_local") => Part::RpFilter,
            Some("accept_ra") => Part::AcceptRa,
            Some("forwarding" | "ip_forward") => Part::Forward,
            _ => Part::Devices,
        },
        Action::ApplyRuleset => Part::Conntrack,
        Action::SetMtu { .. } => Part::Mtu,
        Action::OpenTun { .. }
        | Action::CreateBridge { .. }
        | Action::Rename { .. }
        | Action::SetNeighbours { .. }
        | Action::UnsetVlanFiltering { .. }
        | Action::Deliver { .. }
        | Action::SetAlias { .. }
        | Action::SetMac { .. }
        | Action::SetTxQueueLen { .. }
        | Action::SetBridgeOptions { .. }
        | Action::SetUp { .. }
        | Action::AddAddress { .. }
        | Action::RemoveAddress { .. }
        | Action::ShutPort { .. }
        | Action::PlugPort { .. }
        | Action::Forward { .. }
        | Action::RestoreNote { .. }
        | Action::ForgetNeighbour { .. }
        | Action::ApplySourceCheck { .. }
        | Action::ApplyHostPorts
        | Action::DeleteLink { .. }
        | Action::ReleaseBridge { .. }
        | Action::DeleteRuleset
        | Action::DeleteSourceCheck
        | Action::DeletePodAddresses
        | Action::DeleteHostPorts
        | Action::DeletePolicies { .. } => Part::Devices,
    }
}

/// What of `wanted` is not as it should be.
///
/// A daemon that is ready found it right when it last looked, and puts it back in a moment.
pub(super) fn of(facts: &Facts, wanted: Part) -> Vec<Finding> {
    let Ok(kernel) = &facts.kernel else { return Vec::new() };
    let actions = kernel.missing.iter().filter(|action| part(action) == wanted);
    let findings = actions.map(|action| {
        let found = found(action);
        let shows = shows(action);
        if facts.is_kept() {
            let remedy = format!(
                "the daemon puts it back within ten seconds: run this again, and if it stays, see the \
                 daemon's log{shows}"
            );
            // Without a route packets are lost until it is back.
            let is_felt = matches!(action, Action::AddRoute { .. }) && !kernel.astray.is_empty();
            if is_felt { Finding::fail(found, remedy) } else { Finding::warn(found, remedy) }
        } else {
            Finding::fail(found, by_hand(facts, action) + &shows)
        }
    });
    super::some(findings.collect())
}

/// What is missing, in words where there are some of its own.
fn found(action: &Action) -> String {
    if let Action::AddRoute { device, route } = action {
        format!("the route {} dev {device} is gone", route.destination)
    } else if let Action::PrependRoute { device, route } = action {
        format!("another route comes before {} dev {device}", route.destination)
    } else {
        format!("not as it should be; missing: {action}")
    }
}

/// The command that shows it, behind the remedy.
fn shows(action: &Action) -> String {
    if let Action::AddRoute { route, .. }
    | Action::PrependRoute { route, .. }
    | Action::ReplaceRoute { route, .. }
    | Action::RemoveRoute { route } = action
    {
        let family = if route.destination.addr().is_ipv6() { "ip -6" } else { "ip" };
        let to = route.destination;
        format!("; {family} route show table all match {to} shows which there are")
    } else {
        String::new()
    }
}

fn by_hand(facts: &Facts, action: &Action) -> String {
    let start = match facts.listener {
        Some(Listener { pid, state: Some('T') }) => {
            format!("have the daemon go on, which puts it back: kill -CONT {pid}")
        }
        Some(_) | None => {
            "start the daemon, which puts it back: systemctl start culvert".to_owned()
        }
    };
    if let Action::SetSysctl { key, value, .. } = action {
        format!("sysctl -w {}={value}, or {start}", sysctl::dotted(key))
    } else if let Action::SetMtu { device, mtu } = action {
        format!("ip link set dev {device} mtu {mtu}, or {start}")
    } else if let Action::SetUp { device } = action {
        format!("ip link set dev {device} up, or {start}")
    } else {
        start
    }
}
