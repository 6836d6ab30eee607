use culvert_netlink::MAIN_TABLE;
use proptest::prelude::*;

use super::*;
use crate::control::node::NodeSpec;
use crate::control::node::PROTOCOL;
use crate::control::node::fixture::{net, route, spec};

fn desired() -> Desired {
    Desired::new(&spec())
}

/// The state of a node that is as it should be.
fn healthy() -> Actual {
    let desired = desired();
    let mut model = Actual { ruleset: Ruleset::Drifted, ..Actual::default() };
    for action in diff(&desired, &model) {
        apply(&mut model, &action);
    }
    model
}

/// What the kernel makes of an action, as far as `diff` looks.
fn apply(model: &mut Actual, action: &Action) {
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
        Action::ApplyRuleset => model.ruleset = Ruleset::Current,
        Action::ApplySourceCheck { .. } => model.source_check = Ruleset::Current,
        Action::ShutPort { .. }
        | Action::DeleteLink { .. }
        | Action::ReleaseBridge { .. }
        | Action::DeleteRuleset
        | Action::DeleteSourceCheck
        | Action::DeletePodAddresses => {
            panic!("a reconcile never cleans up: {action}")
        }
    }
}

/// Makes the routes that the kernel makes with the addresses of a bridge that is up.
fn connect(model: &mut Actual) {
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

fn same_place(model: &Actual, route: &Route) -> Option<usize> {
    model.routes.iter().position(|is| {
        is.route.destination == route.destination
            && is.route.table == route.table
            && is.route.priority == route.priority
    })
}

/// What `diff` says about a healthy node after `damage`.
fn after(damage: impl FnOnce(&mut Actual)) -> Vec<String> {
    let mut actual = healthy();
    damage(&mut actual);
    diff(&desired(), &actual).iter().map(Action::to_string).collect()
}

fn tun(actual: &mut Actual) -> &mut ActualDevice {
    actual.tun.as_mut().unwrap()
}

fn bridge(actual: &mut Actual) -> &mut ActualDevice {
    actual.bridge.as_mut().unwrap()
}

#[test]
fn healthy_node_needs_nothing() {
    assert_eq!(after(|_actual| {}), [""; 0]);
}

#[test]
fn bare_node_gets_everything_in_order() {
    let actions: Vec<String> =
        diff(&desired(), &Actual::default()).iter().map(Action::to_string).collect();
    let position = |text: &str| {
        actions
            .iter()
            .position(|action| action == text)
            .unwrap_or_else(|| panic!("{text:?} is missing in {actions:#?}"))
    };
    let order = [
        position("open TUN culvert0"),
        position("set mtu 1464 dev culvert0"),
        position("set sysctl net.ipv6.conf.culvert0.addr_gen_mode=1"),
        position("set up dev culvert0"),
        position("add address 10.244.1.0/32 dev culvert0"),
        position("add route 10.244.0.0/16 src 10.244.1.0 dev culvert0"),
    ];
    assert!(order.is_sorted(), "{actions:#?}");
    position("create bridge v-net-0 address 02:cf:0a:f4:01:00");
    position("set alias \"culvert: pod bridge\" dev v-net-0");
    position("add address fd00:10:244:1::1/64 dev v-net-0");
}

#[test]
fn lost_tun_is_reopened_with_everything_on_it() {
    let actions = after(|actual| {
        actual.tun = None;
        actual.routes.clear();
    });
    assert_eq!(actions[0], "open TUN culvert0");
    assert!(actions.contains(&"add route 10.244.0.0/16 src 10.244.1.0 dev culvert0".into()));
}

#[test]
fn tun_that_the_owner_lost_is_reopened() {
    assert_eq!(after(|actual| actual.tun_attached = false), ["open TUN culvert0"]);
}

#[test]
fn each_property_of_the_tun_is_restored() {
    assert_eq!(after(|actual| tun(actual).up = false), ["set up dev culvert0"]);
    assert_eq!(after(|actual| tun(actual).mtu = 1500), ["set mtu 1464 dev culvert0"]);
    assert_eq!(
        after(|actual| tun(actual).tx_queue_len = 500),
        ["set txqueuelen 2000 dev culvert0"]
    );
    assert_eq!(
        after(|actual| tun(actual).alias.clear()),
        ["set alias \"culvert: overlay\" dev culvert0"]
    );
    assert_eq!(
        after(|actual| {
            tun(actual).addresses.remove(0);
        }),
        ["add address 10.244.1.0/32 dev culvert0"]
    );
}

#[test]
fn connected_route_that_somebody_removed_is_put_back() {
    let remove = |actual: &mut Actual| actual.connected.clear();
    assert_eq!(
        after(remove),
        [
            "add route 10.244.1.0/24 src 10.244.1.1 dev v-net-0",
            "add route fd00:10:244:1::/64 dev v-net-0",
        ]
    );
    // It goes once the kernel has made its own again.
    let mut actual = healthy();
    remove(&mut actual);
    for action in diff(&desired(), &actual) {
        apply(&mut actual, &action);
    }
    assert_eq!(diff(&desired(), &actual), []);
    connect(&mut actual);
    let removed: Vec<String> = diff(&desired(), &actual).iter().map(Action::to_string).collect();
    assert_eq!(
        removed,
        [
            "remove route 10.244.1.0/24 src 10.244.1.1 table 254",
            "remove route fd00:10:244:1::/64 table 254",
        ]
    );
    // The kernel makes it when the device comes up.
    let actions = after(|actual| {
        remove(actual);
        bridge(actual).up = false;
    });
    assert_eq!(actions, ["set up dev v-net-0"]);
}

#[test]
fn renamed_devices_get_their_names_back() {
    assert_eq!(
        after(|actual| {
            tun(actual).renamed = Some("ren0".into());
            bridge(actual).renamed = Some("renbr".into());
        }),
        [
            "rename ren0 to culvert0",
            "rename renbr to v-net-0",
            "set up dev culvert0",
            "set up dev v-net-0",
        ]
    );
}

#[test]
fn bridge_talks_to_its_neighbours() {
    assert_eq!(
        after(|actual| bridge(actual).neighbours = false),
        ["set arp on, multicast on dev v-net-0"]
    );
    assert_eq!(
        after(|actual| bridge(actual).filters_vlans = true),
        ["set vlan_filtering off dev v-net-0"]
    );
    assert_eq!(
        after(|actual| bridge(actual).delivers = false),
        ["add forwarding entry 02:cf:0a:f4:01:00 dev v-net-0"]
    );
}

#[test]
fn any_other_address_of_the_tun_is_removed() {
    let other = ActualAddress { net: net("fe80::1/64"), ours: false };
    assert_eq!(
        after(|actual| tun(actual).addresses.push(other)),
        ["remove address fe80::1/64 dev culvert0"]
    );
}

#[test]
fn each_property_of_the_bridge_is_restored() {
    assert_eq!(after(|actual| bridge(actual).up = false), ["set up dev v-net-0"]);
    assert_eq!(after(|actual| bridge(actual).mtu = 1500), ["set mtu 1464 dev v-net-0"]);
    assert_eq!(after(|actual| bridge(actual).plain = false), ["set bridge options dev v-net-0"]);
    assert_eq!(
        after(|actual| bridge(actual).mac = Some(Mac::new([2, 0, 0, 0, 0, 1]))),
        ["set address 02:cf:0a:f4:01:00 dev v-net-0"]
    );
    assert_eq!(
        after(|actual| {
            bridge(actual).addresses.remove(0);
        }),
        ["add address 10.244.1.1/24 dev v-net-0"]
    );
}

#[test]
fn bridge_of_somebody_else_is_adopted_with_its_addresses() {
    let own = ActualAddress { net: net("192.168.7.1/24"), ours: false };
    assert_eq!(
        after(|actual| {
            bridge(actual).alias.clear();
            bridge(actual).addresses.push(own);
        }),
        ["set alias \"culvert: adopted pod bridge\" dev v-net-0"]
    );
}

#[test]
fn bridge_address_of_an_older_subnet_is_removed_last() {
    let old = |net_text, ours| ActualAddress { net: net(net_text), ours };
    // One inside the cluster network, one from before the cluster network changed.
    assert_eq!(
        after(|actual| {
            bridge(actual).addresses = vec![
                old("10.244.9.1/24", false),
                old("10.9.0.1/24", true),
                old("fd00:10:244:1::1/64", true),
            ];
        }),
        [
            "add address 10.244.1.1/24 dev v-net-0",
            "remove address 10.244.9.1/24 dev v-net-0",
            "remove address 10.9.0.1/24 dev v-net-0",
        ]
    );
}

#[test]
fn address_with_another_prefix_length_makes_way() {
    assert_eq!(
        after(|actual| bridge(actual).addresses[0].net = net("10.244.1.1/16")),
        ["remove address 10.244.1.1/16 dev v-net-0", "add address 10.244.1.1/24 dev v-net-0",]
    );
}

#[test]
fn hardware_address_stays_when_the_subnet_changes() {
    let desired = Desired::new(&NodeSpec { local_subnets: vec![net("10.244.2.0/24")], ..spec() });
    let actions = diff(&desired, &healthy());
    assert!(!actions.iter().any(|action| matches!(action, Action::SetMac { .. })), "{actions:#?}");
}

#[test]
fn missing_route_is_added() {
    assert_eq!(
        after(|actual| {
            actual.routes.remove(0);
        }),
        ["add route 10.244.0.0/16 src 10.244.1.0 dev culvert0"]
    );
}

#[test]
fn route_with_another_source_or_device_is_replaced() {
    let expected = ["replace route 10.244.0.0/16 src 10.244.1.0 dev culvert0"];
    assert_eq!(after(|actual| actual.routes[0].route.source = None), expected);
    assert_eq!(after(|actual| actual.routes[0].device = "eth0".into()), expected);
    assert_eq!(after(|actual| actual.routes[0].route.direct = false), expected);
}

#[test]
fn stale_route_is_removed_from_any_table() {
    let stale = |destination: &str, table| ActualRoute {
        device: "culvert0".into(),
        route: Route { destination: net(destination), table, protocol: PROTOCOL, ..route() },
    };
    assert_eq!(
        after(|actual| {
            actual.routes.push(stale("10.200.0.0/16", MAIN_TABLE));
            actual.routes.push(stale("10.244.0.0/16", 100));
        }),
        ["remove route 10.200.0.0/16 table 254", "remove route 10.244.0.0/16 table 100",]
    );
}

#[test]
fn changed_parameter_is_set_again() {
    assert_eq!(
        after(|actual| {
            actual.sysctls.insert("net/ipv4/ip_forward".into(), "0".into());
        }),
        ["set sysctl net.ipv4.ip_forward=1"]
    );
}

#[test]
fn devices_go_by_advertisements_before_the_node_forwards() {
    assert_eq!(
        after(|actual| {
            actual.advertised = vec!["eth0".into(), "eth1.7".into()];
            actual.sysctls.insert("net/ipv6/conf/all/forwarding".into(), "0".into());
        }),
        [
            "set sysctl net.ipv6.conf.eth0.accept_ra=2",
            "set sysctl net.ipv6.conf.eth1/7.accept_ra=2",
            "set sysctl net.ipv6.conf.all.forwarding=1",
        ]
    );
}

#[test]
fn drifted_ruleset_is_replaced_and_an_unchecked_one_left() {
    assert_eq!(
        after(|actual| actual.ruleset = Ruleset::Drifted),
        ["replace nft table inet culvert"]
    );
    assert_eq!(after(|actual| actual.ruleset = Ruleset::Unchecked), [""; 0]);
}

#[test]
fn unplugged_port_is_plugged_in_and_a_small_one_raised() {
    assert_eq!(
        after(|actual| {
            actual.ports = vec![
                port("culv01", 1464, true),
                port("culv02", 1464, false),
                port("culv03", 1400, true),
                port("culv04", 1500, true),
            ];
        }),
        ["plug culv02 into v-net-0", "set mtu 1464 dev culv03",]
    );
}

fn port(device: &str, mtu: u32, plugged: bool) -> Port {
    Port {
        device: device.into(),
        mtu,
        plugged,
        guarded: true,
        up: true,
        configured: true,
        hairpin: true,
        isolated: false,
    }
}

#[test]
fn replugged_port_gets_the_options_that_its_pod_was_attached_with() {
    let mut actual = healthy();
    actual.ports = vec![Port { hairpin: false, isolated: true, ..port("culv01", 1464, false) }];
    assert_eq!(
        diff(&desired(), &actual),
        [Action::PlugPort {
            device: "culv01".into(),
            bridge: "v-net-0".into(),
            hairpin: false,
            isolated: true,
        }]
    );
}

#[test]
fn port_that_is_down_or_not_guarded_is_plugged_anew() {
    let right = port("culv01", 1464, true);
    for wrong in [
        Port { up: false, ..right.clone() },
        Port { guarded: false, ..right.clone() },
        Port { configured: false, ..right.clone() },
    ] {
        let done = after(|actual| actual.ports = vec![right.clone(), wrong]);
        assert_eq!(done, ["plug culv01 into v-net-0"]);
    }
}

#[test]
fn what_guards_pods_comes_before_their_ports() {
    let mut actual = Actual {
        ruleset: Ruleset::Drifted,
        source_check: Ruleset::Drifted,
        ports: vec![port("culv01", 1464, false)],
        ..Actual::default()
    };
    let actions = diff(&desired(), &actual);
    assert!(actions[..2].iter().all(Action::guards_pods), "{actions:?}");
    for action in actions {
        apply(&mut actual, &action);
    }
    assert_eq!(diff(&desired(), &actual), []);
}

#[test]
fn parameter_that_the_kernel_lacks_is_missed_only_where_it_is_needed() {
    let lacking = |key: &str| after(|actual| drop(actual.sysctls.remove(key)));
    assert_eq!(lacking("net/ipv4/ip_forward"), ["set sysctl net.ipv4.ip_forward=1"]);
    let desired = Desired::new(&NodeSpec {
        cluster_networks: vec![net("10.244.0.0/16")],
        local_subnets: vec![net("10.244.1.0/24")],
        ..spec()
    });
    let mut actual = Actual { ruleset: Ruleset::Drifted, ..Actual::default() };
    for action in diff(&desired, &actual) {
        apply(&mut actual, &action);
    }
    actual.sysctls.remove("net/ipv6/conf/v-net-0/accept_ra");
    assert_eq!(diff(&desired, &actual), []);
    actual.sysctls.insert("net/ipv6/conf/v-net-0/accept_ra".into(), "1".into());
    assert_eq!(diff(&desired, &actual).len(), 1);
}

#[test]
fn drifted_source_check_is_repaired() {
    assert_eq!(
        after(|actual| actual.source_check = Ruleset::Drifted),
        ["repair nft tables bridge culvert, inet culvert-pods"]
    );
}

fn some_net() -> impl Strategy<Value = IpNet> {
    prop::sample::select(vec![
        "10.244.1.0/32",
        "10.244.1.0/24",
        "10.244.1.1/24",
        "10.244.1.1/16",
        "10.244.2.1/24",
        "10.9.0.1/16",
        "10.244.0.0/16",
        "fd00:10:244::/48",
        "fd00:10:244:1::/128",
        "fd00:10:244:1::1/64",
        "fd00:10:244:1::1/80",
        "fd00:9::1/64",
    ])
    .prop_map(net)
}

prop_compose! {
    fn some_device()(
        up in any::<bool>(),
        mtu in prop::sample::select(vec![1400_u32, 1464, 1500]),
        alias in prop::sample::select(vec!["", "culvert: overlay", "culvert: pod bridge", "lab"]),
        mac in any::<Option<[u8; 6]>>(),
        renamed in prop::option::of("ren[0-9]"),
        (neighbours, delivers, filters_vlans) in any::<(bool, bool, bool)>(),
        tx_queue_len in prop::sample::select(vec![500_u32, 2_000]),
        plain in any::<bool>(),
        addresses in prop::collection::btree_map(some_net(), any::<bool>(), 0..5),
    ) -> ActualDevice {
        let mut addresses: Vec<ActualAddress> = addresses
            .into_iter()
            .map(|(net, ours)| ActualAddress { net, ours })
            .collect();
        addresses.dedup_by_key(|address| address.net.addr());
        ActualDevice {
            renamed,
            up,
            neighbours,
            delivers,
            filters_vlans,
            mtu,
            alias: alias.into(),
            mac: mac.map(Mac::new),
            tx_queue_len,
            plain,
            addresses,
        }
    }
}

prop_compose! {
    fn some_route()(
        destination in some_net(),
        device in prop::sample::select(vec!["culvert0", "eth0", ""]),
        table in prop::sample::select(vec![MAIN_TABLE, 100]),
        priority in prop::sample::select(vec![0_u32, 1024]),
        source in prop::option::of(some_net()),
        direct in any::<bool>(),
    ) -> ActualRoute {
        ActualRoute {
            device: device.into(),
            route: Route {
                destination: destination.trunc(),
                table,
                protocol: PROTOCOL,
                priority,
                source: source.map(|net| net.addr()),
                direct,
                ..route()
            },
        }
    }
}

prop_compose! {
    fn some_state()(
        tun in prop::option::of(some_device()),
        tun_attached in any::<bool>(),
        bridge in prop::option::of(some_device()),
        routes in prop::collection::vec(some_route(), 0..6),
        ports in prop::collection::btree_map("culv[0-9a-f]{4}", (1400_u32..1600, any::<bool>()), 0..3),
        advertised in prop::collection::vec("eth[0-9]", 0..3),
        known in any::<u8>(),
        drifted in any::<bool>(),
    ) -> Actual {
        let mut actual = Actual {
            tun,
            tun_attached,
            bridge,
            connected: Vec::new(),
            routes: Vec::new(),
            ports: ports
                .into_iter()
                .map(|(device, (mtu, plugged))| port(&device, mtu, plugged))
                .collect(),
            advertised,
            sysctls: desired()
                .sysctls
                .into_iter()
                .enumerate()
                .filter(|(position, _sysctl)| known & (1 << (position % 8)) != 0)
                .map(|(_position, parameter)| (parameter.key, parameter.value.to_owned()))
                .collect(),
            ruleset: if drifted { Ruleset::Drifted } else { Ruleset::Unchecked },
            source_check: if drifted { Ruleset::Drifted } else { Ruleset::Current },
        };
        // The kernel has one route for each place.
        for route in routes {
            if same_place(&actual, &route.route).is_none() {
                actual.routes.push(route);
            }
        }
        actual
    }
}

proptest! {
    /// Two rounds suffice from anywhere: a removed address may take a wanted route with it.
    #[test]
    fn every_state_converges(start in some_state()) {
        let desired = desired();
        let mut model = start;
        for _round in 0..2 {
            for action in diff(&desired, &model) {
                apply(&mut model, &action);
            }
        }
        let left: Vec<String> = diff(&desired, &model).iter().map(Action::to_string).collect();
        prop_assert_eq!(left, Vec::<String>::new());
    }
}
