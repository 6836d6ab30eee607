//! The kernel as far as `diff` looks at it.

use super::*;

/// What the kernel makes of an action, as far as `diff` looks.
pub(super) fn apply(model: &mut Actual, action: &Action) {
    match action {
        Action::OpenTun { .. } => {
            model.tun.get_or_insert_default();
            model.tun_attached = true;
        }
        Action::CreateBridge { mac, .. } => {
            model.bridge = Some(ActualDevice {
                mac: Some(*mac),
                mtu: 1500,
                neighbours: true,
                delivers: true,
                ..ActualDevice::default()
            });
        }
        Action::Rename { name, .. } => {
            let renamed = named(model, name);
            // A device that is down loses its routes, but here only the name matters.
            (renamed.renamed, renamed.up) = (None, false);
        }
        Action::SetNeighbours { device } => named(model, device).neighbours = true,
        Action::UnsetVlanFiltering { device } => named(model, device).filters_vlans = false,
        Action::Deliver { device, .. } => named(model, device).delivers = true,
        Action::SetAlias { device, alias } => named(model, device).alias = (*alias).into(),
        Action::SetMac { device, mac } => named(model, device).mac = Some(*mac),
        Action::SetMtu { device, mtu } => {
            match model.ports.iter_mut().find(|port| port.device == *device) {
                Some(port) => port.mtu = *mtu,
                None => named(model, device).mtu = *mtu,
            }
        }
        Action::SetTxQueueLen { device, packets } => named(model, device).tx_queue_len = *packets,
        Action::SetBridgeOptions { device } => named(model, device).plain = true,
        Action::SetSysctl { key, value, .. } => {
            model.sysctls.insert(key.clone(), (*value).into());
            model.advertised.retain(|device| *key != format!("net/ipv6/conf/{device}/accept_ra"));
        }
        Action::SetUp { device } => {
            named(model, device).up = true;
            connect(model);
        }
        Action::AddAddress { device, address } => {
            let device = named(model, device);
            assert!(
                !device.addresses.iter().any(|is| is.net.addr() == address.addr()),
                "IPv6 refuses {address}: it is there with another prefix length"
            );
            device.addresses.push(ActualAddress { net: *address, ours: true });
            connect(model);
        }
        Action::RemoveAddress { device, address } => {
            named(model, device).addresses.retain(|is| is.net != *address);
            // IPv4 routes that prefer a removed address as source go with it.
            model.routes.retain(|is| is.route.source != Some(address.addr()));
            model.connected.retain(|is| is.destination != address.trunc());
        }
        Action::AddRoute { device, route } => {
            assert!(same_place(model, route).is_none(), "the kernel refuses");
            assert!(model.tun.as_ref().is_some_and(|tun| tun.up));
            model.routes.push(ActualRoute { device: device.clone(), route: route.clone() });
        }
        Action::PrependRoute { .. } => panic!("only what packets do calls for it: {action}"),
        Action::ReplaceRoute { route, .. } if route.protocol != PROTOCOL => {
            let is = |is: &&mut Route| is.destination == route.destination;
            // It went with an address.
            if let Some(connected) = model.connected.iter_mut().find(is) {
                connected.mtu = route.mtu;
            }
        }
        Action::ReplaceRoute { device, route } => {
            let new = ActualRoute { device: device.clone(), route: route.clone() };
            match same_place(model, route) {
                Some(position) => model.routes[position] = new,
                // It went with an address; the kernel then creates the new one.
                None => model.routes.push(new),
            }
        }
        Action::RemoveRoute { route } => model.routes.retain(|is| is.route != *route),
        Action::PlugPort { device, .. } => {
            let port = model.ports.iter_mut().find(|port| port.device == *device);
            let port = port.expect("a port to plug");
            (port.plugged, port.guarded, port.up, port.configured) = (true, true, true, true);
        }
        Action::Forward { device } => {
            let port = model.ports.iter_mut().find(|port| port.device == *device);
            port.expect("a port that is blocked").forwards = true;
        }
        Action::RestoreNote { device, .. } => {
            model.lost_notes.retain(|lost| lost.device != *device);
        }
        Action::ForgetNeighbour { address, .. } => {
            model.wrong_neighbours.retain(|wrong| wrong != address);
        }
        Action::ApplyRuleset => model.ruleset = Ruleset::Current,
        Action::ApplySourceCheck { .. } => model.source_check = Ruleset::Current,
        Action::ApplyHostPorts => model.host_ports = Ruleset::Current,
        Action::ShutPort { .. }
        | Action::DeleteLink { .. }
        | Action::ReleaseBridge { .. }
        | Action::DeleteRuleset
        | Action::DeleteSourceCheck
        | Action::DeletePodAddresses
        | Action::DeleteHostPorts
        | Action::DeletePolicies { .. } => {
            panic!("a reconcile never cleans up: {action}")
        }
    }
}

/// Makes the routes that the kernel makes with the addresses of a bridge that is up.
pub(super) fn connect(model: &mut Actual) {
    let Some(bridge) = model.bridge.as_ref().filter(|bridge| bridge.up) else { return };
    for address in &bridge.addresses {
        let destination = address.net.trunc();
        let is_made = model.connected.iter().any(|is| is.destination == destination);
        if !is_made && destination.prefix_len() < destination.max_prefix_len() {
            model.connected.push(Route { destination, protocol: 2, ..route() });
        }
    }
}

fn named<'a>(model: &'a mut Actual, device: &str) -> &'a mut ActualDevice {
    let slot = if device == "culvert0" { &mut model.tun } else { &mut model.bridge };
    slot.as_mut().expect("devices are created first")
}

pub(super) fn same_place(model: &Actual, route: &Route) -> Option<usize> {
    model.routes.iter().position(|is| {
        is.route.destination == route.destination
            && is.route.table == route.table
            && is.route.priority == route.priority
    })
}
