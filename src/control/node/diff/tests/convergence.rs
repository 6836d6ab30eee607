//! From every state there is a way to a healthy node, and it is short.

use proptest::prelude::*;

use super::model::same_place;
use super::*;

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
            lost_notes: Vec::new(),
            wrong_neighbours: Vec::new(),
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
            host_ports: if drifted { Ruleset::Drifted } else { Ruleset::Unchecked },
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
