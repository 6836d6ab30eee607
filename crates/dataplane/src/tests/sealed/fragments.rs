//! What is fragmented where packets are sealed.

use super::*;
use crate::tests::fragments::{bytes, fragile, reassembled};

#[test]
fn fragments_are_sealed_one_by_one() {
    for suite in Suite::ALL {
        let mut net = Net::established(&Setup { suite, ..Setup::default() });
        let before = net.node(1).table.peers()[0].counters.egress().packets;
        let whole = fragile(false, bytes(3000));
        net.node(1).pod_sends(&PLAIN, &whole.build());
        let said = net.settle();
        assert!(said.iter().all(Flight::is_sealed));
        let lens = said.iter().flat_map(Flight::datagrams).map(|datagram| datagram.len() + 28);
        // 1436 of 1438 bytes, which seal as many.
        assert_eq!(lens.max(), Some(1500));
        let after = net.node(1).table.peers()[0].counters.egress().packets;
        assert_eq!((net.node(1).drops(), after - before), (vec![], 3));
        assert_eq!(reassembled(&net.node(2).delivered()), [whole.build()]);

        for tcp in [true, false] {
            let long = fragile(tcp, bytes(1500 * 7 + 3));
            net.node(1).pod_sends(&long.vnet(1500), &long.build_partial());
            net.settle();
            assert_eq!(net.node(1).drops(), []);
            assert_eq!(reassembled(&net.node(2).delivered()), long.split(1500), "{suite} {tcp}");
        }
    }
}

#[test]
fn what_waits_for_a_session_is_fragmented_once_it_is_there() {
    let mut net = Net::new(&Setup::default());
    let packet = fragile(false, bytes(3000)).build();
    net.node(1).pod_sends(&PLAIN, &packet);
    net.settle();
    assert_eq!(net.node(1).drops(), []);
    assert_eq!(reassembled(&net.node(2).delivered()), [packet]);
}

#[test]
fn a_rehearsal_says_that_fragments_would_be_sealed() {
    let mut net = Net::established(&Setup::default());
    let packet = fragile(false, bytes(3000)).build();
    let seen = net::Seen::default();
    let mut rehearsal = Rehearsal::new(Offload::TcpUdp, net.now);
    rehearsal.pod_sends(&packet);
    let now = net.now;
    rehearsal.run(&net.node(1).table, &seen, now);
    assert_eq!(seen.0.take(), [("would seal", packet)]);
}
