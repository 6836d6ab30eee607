mod convergence;
mod model;

use culvert_netlink::MAIN_TABLE;

use self::model::{apply, connect};
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
fn hardware_address_of_an_adopted_bridge_is_kept_and_kept_from_following_its_ports() {
    let mac = Some(Mac::new([0xaa, 0, 0, 0, 0, 1]));
    assert_eq!(
        after(|actual| {
            bridge(actual).alias.clear();
            bridge(actual).mac = mac;
        }),
        [
            "set alias \"culvert: adopted pod bridge\" dev v-net-0",
            "set address aa:00:00:00:00:01 dev v-net-0"
        ]
    );
    let adopted = after(|actual| {
        bridge(actual).alias = ADOPTED_ALIAS.to_owned();
        bridge(actual).mac = mac;
    });
    assert_eq!(adopted, [""; 0]);
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
            ];
        }),
        ["plug culv02 into v-net-0", "set mtu 1464 dev culv03",]
    );
}

#[test]
fn bridge_takes_what_pods_send_that_were_attached_when_more_fitted() {
    let mut actual = healthy();
    actual.ports = vec![port("culv01", 1464, true), port("culv02", 1500, true)];
    let actions = |actual: &Actual| diff(&desired(), actual);
    let wide = actions(&actual);
    let text: Vec<String> = wide.iter().map(Action::to_string).collect();
    assert_eq!(text[0], "set mtu 1500 dev v-net-0");
    // What is routed to pods fits those that were attached since.
    assert!(text.len() > 1, "{text:?}");
    assert!(text[1..].iter().all(|it| it.starts_with("replace route")), "{text:?}");
    wide.iter().for_each(|action| apply(&mut actual, action));
    assert!(actual.connected.iter().all(|route| route.mtu == Some(1464)));
    assert_eq!(actions(&actual), []);
    // The last of them goes.
    actual.ports.pop();
    let narrow = actions(&actual);
    assert_eq!(narrow[0].to_string(), "set mtu 1464 dev v-net-0");
    narrow.iter().for_each(|action| apply(&mut actual, action));
    assert_eq!(actions(&actual), []);
    assert!(actual.connected.iter().all(|route| route.mtu.is_none()));
}

fn port(device: &str, mtu: u32, plugged: bool) -> Port {
    Port {
        device: device.into(),
        mtu,
        plugged,
        guarded: true,
        up: true,
        configured: true,
        forwards: true,
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
fn port_whose_frames_the_bridge_does_not_forward_is_told_to() {
    let blocked = Port { forwards: false, ..port("culv01", 1464, true) };
    let done = after(|actual| actual.ports = vec![blocked.clone()]);
    assert_eq!(done, ["set state forwarding dev culv01"]);
    // One without a bridge is not blocked by it.
    let lost = Port { plugged: false, ..blocked };
    let done = after(|actual| actual.ports = vec![lost]);
    assert_eq!(done, ["plug culv01 into v-net-0"]);
}

#[test]
fn note_that_a_port_has_lost_is_put_back_before_anything_follows_from_it() {
    let lost = LostNote { device: "culv01".into(), note: "culvert pod".into() };
    let done = after(|actual| {
        actual.lost_notes = vec![lost];
        actual.source_check = Ruleset::Drifted;
    });
    assert_eq!(done[0], "put the note back on culv01");
    assert_eq!(done.len(), 2, "{done:#?}");
}

#[test]
fn wrong_hardware_address_of_a_pod_is_forgotten() {
    let address = "10.244.1.2".parse().unwrap();
    let done = after(|actual| actual.wrong_neighbours = vec![address]);
    assert_eq!(done, ["remove neighbour 10.244.1.2 dev v-net-0"]);
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

#[test]
fn drifted_ports_of_the_node_are_repaired() {
    assert_eq!(
        after(|actual| actual.host_ports = Ruleset::Drifted),
        ["repair nft table inet culvert-host-ports"]
    );
    assert!(Action::ApplyHostPorts.follows_pods() && !Action::ApplyHostPorts.guards_pods());
}
