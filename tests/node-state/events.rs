//! Waking up: on every kind of damage, and not in a circle.

use std::time::Duration;

use culvert::control::node::{Changes, KernelEvents};
use tokio::time::timeout;

use crate::node::{Namespace, Node, ip, run, set_sysctl};

/// How long without a wake-up counts as quiet; a loop would wake many times within it.
const QUIET: Duration = Duration::from_millis(1000);

/// Wake-ups beyond the first that one damage may cause: the repair's own changes, and the notices
/// of carrier changes that come a second later.
const ECHOES: usize = 4;

/// Reconciles on every wake-up until there is none, and says what was done.
async fn settle(node: &mut Node, events: &mut KernelEvents, quiet: Duration) -> Vec<String> {
    let mut done = Vec::new();
    let mut wake_ups = 0;
    while let Ok(changes) = timeout(quiet, events.changed()).await {
        let changes = changes.unwrap();
        done.extend(node.try_reconcile(changes).unwrap());
        wake_ups += 1;
        assert!(wake_ups <= 1 + ECHOES, "does not settle: {done:#?}");
    }
    done
}

#[test]
fn every_damage_wakes_and_is_repaired() {
    Namespace::new("events").run(async || {
        let mut events = KernelEvents::open().unwrap();
        let mut node = Node::ready();
        settle(&mut node, &mut events, QUIET).await;

        for damage in [
            "ip link del culvert0",
            "ip link set culvert0 down",
            "ip link set culvert0 mtu 1300",
            "ip addr del 10.244.1.0/32 dev culvert0",
            "ip route del 10.244.0.0/16",
            "ip -6 route del fd00:10:244::/48",
            "ip addr del 10.244.1.1/24 dev v-net-0",
            "ip addr del fd00:10:244:1::1/64 dev v-net-0",
            "ip link del v-net-0",
            "nft delete table inet culvert",
            "nft flush chain inet culvert output",
            "nft flush ruleset",
        ] {
            run(damage);
            let done = settle(&mut node, &mut events, QUIET).await;
            assert!(!done.is_empty(), "{damage} was not noticed");
        }
        for key in ["ipv4/ip_forward", "ipv4/conf/culvert0/rp_filter", "ipv6/conf/all/forwarding"] {
            set_sysctl(key, "0");
            let done = settle(&mut node, &mut events, QUIET).await;
            assert!(!done.is_empty(), "{key} was not noticed");
        }
    });
}

#[test]
fn reconcile_that_changes_nothing_is_silent() {
    Namespace::new("silent").run(async || {
        let mut node = Node::ready();
        let mut events = KernelEvents::open().unwrap();
        // A busy machine's kernel may hold a notice of the set-up back for seconds, so one attempt
        // may hear it. A reconcile that wakes itself does so in every one.
        for _attempt in 0..10 {
            settle(&mut node, &mut events, QUIET).await;
            for _round in 0..3 {
                assert_eq!(node.reconcile(), [""; 0]);
            }
            if timeout(QUIET, events.changed()).await.is_err() {
                return;
            }
        }
        panic!("a reconcile that changes nothing wakes up whoever listens");
    });
}

#[test]
fn tables_of_others_do_not_wake() {
    Namespace::new("others").run(async || {
        let mut events = KernelEvents::open().unwrap();
        run("nft add table inet other");
        run("nft add chain inet other input");
        assert!(timeout(QUIET, events.changed()).await.is_err());
        run("nft add table inet culvert");
        let changes = timeout(QUIET, events.changed()).await.unwrap().unwrap();
        assert_eq!(changes, Changes { routing: false, nft: true });
    });
}

#[test]
fn every_table_of_the_node_wakes() {
    Namespace::new("tables").run(async || {
        let mut events = KernelEvents::open().unwrap();
        for (damage, wakes) in [
            ("add table inet culvert", true),
            ("add table bridge culvert", true),
            ("add table inet culvert-pods", true),
            ("add table inet culvert-host-ports", true),
            ("add map inet culvert-host-ports m { type inet_service : verdict; }", true),
            ("add element inet culvert-host-ports m { 80 : drop }", true),
            ("flush map inet culvert-host-ports m", true),
            ("delete table inet culvert-host-ports", true),
            ("add set inet culvert-pods s { type ipv4_addr; }", true),
            // Too frequent: each pod that comes is one.
            ("add element inet culvert-pods s { 10.244.1.2 }", false),
        ] {
            run(&format!("nft {damage}"));
            let changes = timeout(QUIET, events.changed()).await;
            assert_eq!(changes.is_ok_and(|changes| changes.unwrap().nft), wakes, "{damage}");
        }
    });
}

#[test]
fn what_a_dropped_future_gathered_is_reported_later() {
    Namespace::new("dropped").run(async || {
        let mut events = KernelEvents::open().unwrap();
        run("nft add table inet culvert");
        // Long enough to take the notice, too short to be quiet.
        let early = timeout(Duration::from_millis(20), events.changed()).await;
        assert!(early.is_err());
        let changes = timeout(QUIET, events.changed()).await.unwrap().unwrap();
        assert!(changes.nft);
    });
}

#[test]
fn change_is_reported_to_whoever_listens_to_much_else() {
    Namespace::new("restless").run(async || {
        let mut events = KernelEvents::open().unwrap();
        run("nft add table inet culvert");
        let changes = timeout(QUIET, async {
            loop {
                if let Ok(changes) = timeout(Duration::from_millis(20), events.changed()).await {
                    return changes.unwrap();
                }
            }
        });
        assert!(changes.await.expect("it is reported").nft);
    });
}

#[test]
fn lost_notices_count_as_a_change_of_everything() {
    Namespace::new("lost").run(async || {
        let mut events = KernelEvents::open().unwrap();
        // More than a receive buffer holds, while nobody reads.
        for link in 0..400 {
            ip(&format!("link add d{link} type bridge"));
        }
        let changes = timeout(QUIET, events.changed()).await.unwrap().unwrap();
        assert_eq!(changes, Changes::ALL);
    });
}
