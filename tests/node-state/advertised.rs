//! Devices that go by router advertisements, when forwarding is switched on.

use crate::node::{Namespace, Node, ip, set_sysctl, sysctl};

#[test]
fn devices_that_go_by_advertisements_go_on_to() {
    Namespace::new("advert").run(async || {
        for (name, other) in [("eth8", "far8"), ("eth9", "far9")] {
            ip(&format!("link add {name} type veth peer name {other}"));
            ip(&format!("link set {other} up"));
            ip(&format!("link set {name} up"));
        }
        for (name, id) in [("nic1", 5), ("nic2", 6)] {
            // Any kind that is not what containers are plugged in by.
            ip(&format!("link add {name} type vxlan id {id} dstport 4789"));
            set_sysctl(&format!("ipv6/conf/{name}/accept_ra"), "1");
        }
        set_sysctl("ipv6/conf/nic2/accept_ra", "0");
        ip("-6 route add default via fe80::1 dev eth9 proto ra");

        let mut node = Node::new();
        let done = node.reconcile();
        let place = |what: &str| done.iter().position(|action| action.contains(what));
        let forwarding = place("net.ipv6.conf.all.forwarding").expect("forwarding goes on");
        assert!(place("net.ipv6.conf.eth9.accept_ra").unwrap() < forwarding, "{done:?}");
        for (device, value) in [("eth9", "2"), ("nic1", "2"), ("eth8", "1"), ("nic2", "0")] {
            assert_eq!(sysctl(&format!("ipv6/conf/{device}/accept_ra")), value, "{device}");
        }

        // Whoever has forwarding on has decided what its devices go by.
        set_sysctl("ipv6/conf/nic1/accept_ra", "1");
        assert_eq!(node.reconcile(), [""; 0]);
        assert_eq!(sysctl("ipv6/conf/nic1/accept_ra"), "1");
    });
}
