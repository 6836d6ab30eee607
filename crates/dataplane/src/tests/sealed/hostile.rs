//! What strangers and lying peers send to the port for what is sealed.

use culvert_seal::session::LANES_PER_WORKER;
use overlay_proto::esp::{Lane, Payload};

use super::*;

/// A datagram that is on its way from node2 to node1, and has not arrived.
fn on_its_way(net: &mut Net) -> (Flight, Vec<u8>) {
    let packet = udp(2, 1, vec![8; 30]).build();
    net.node(2).pod_sends(&PLAIN, &packet);
    let mut said = net.turn();
    assert_eq!(said.len(), 1);
    (said.remove(0), packet)
}

/// What node1 drops of this, where it delivers nothing.
fn dropped(net: &mut Net, flight: &Flight) -> Vec<DropReason> {
    let before = net.node(1).drops();
    net.deliver(flight);
    net.settle();
    assert!(net.node(1).delivered().is_empty(), "{flight:?}");
    let after = net.node(1).drops();
    after.into_iter().filter(|count| !before.contains(count)).map(|(reason, _)| reason).collect()
}

#[test]
fn whatever_is_changed_is_refused_and_costs_the_true_one_nothing() {
    let mut net = Net::established(&Setup::default());
    let (flight, packet) = on_its_way(&mut net);
    for bit in 0..flight.bytes.len() * 8 {
        let mut bytes = flight.bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let reasons = dropped(&mut net, &flight.with(bytes));
        let known = match bit / 8 {
            // Another slot or lane: nobody's, or of this node's with another peer.
            0..4 => matches!(
                reasons[..],
                [DropReason::UnknownSpi | DropReason::EspFormat | DropReason::BadTag]
            ),
            // Sequence and IV say the same, or it is not looked at.
            4..16 => reasons == [DropReason::EspFormat],
            _ => reasons == [DropReason::BadTag],
        };
        assert!(known, "bit {bit}: {reasons:?}");
    }
    for len in 0..flight.bytes.len() {
        let reasons = dropped(&mut net, &flight.with(flight.bytes[..len].to_vec()));
        let known = matches!(reasons[..], [DropReason::EspFormat | DropReason::BadTag]);
        assert!(known, "{len} bytes: {reasons:?}");
    }
    net.deliver(&flight);
    net.settle();
    assert_eq!(net.node(1).delivered(), [packet]);
}

#[test]
fn a_datagram_is_delivered_once_wherever_its_copies_come_from() {
    let setup = Setup { workers: 3, ..Setup::default() };
    let mut net = Net::established(&setup);
    let (flight, packet) = on_its_way(&mut net);
    let copy = Flight { from: 3, ..flight.clone() };
    net.deliver(&flight);
    net.deliver(&copy);
    net.deliver(&flight);
    net.settle();
    assert_eq!(net.node(1).delivered(), [packet]);
    assert_eq!(net.node(1).drops(), [(DropReason::Replayed, 2)]);
    // Long after, when its session is gone.
    net.pass(Duration::from_secs(400));
    assert_eq!(dropped(&mut net, &flight), [DropReason::UnknownSpi]);
}

#[test]
fn one_bad_datagram_of_a_train_costs_only_itself() {
    let mut net = Net::established(&Setup::default());
    let spec = Spec { from: (2, 2), to: (1, 2), ..Spec::outgoing(Family::V4, true, vec![3; 4000]) };
    net.node(2).pod_sends(&spec.vnet(1000), &spec.build_partial());
    let mut said = net.turn();
    let train = said.remove(0);
    let size = usize::from(train.segment_size.unwrap());
    let mut bytes = train.bytes.clone();
    bytes[2 * size + 100] ^= 1;
    net.deliver(&Flight { bytes, ..train });
    net.settle();
    assert_eq!(net.node(1).drops(), [(DropReason::BadTag, 1)]);
    let mut expected = spec.split(1000);
    expected.remove(2);
    assert_eq!(net.node(1).delivered(), expected);
}

/// Seals what a peer's own data path would never send.
fn forged(net: &mut Net, from: u8, lane: u16, payload: Payload, inner: &[u8]) -> Flight {
    let now = net.now;
    let link = net.node(from).link(1);
    let outgoing = link.outgoing();
    let outgoing = outgoing.as_ref().expect("a session");
    let mut tickets = outgoing.take(Lane::new(lane).unwrap(), 1, inner.len(), now).unwrap();
    let mut bytes = vec![0; esp::datagram_len(inner.len())];
    outgoing.seal(tickets.next().unwrap(), payload, inner, &mut bytes).unwrap();
    Flight { from, to: sealed_port_of(1), ecn: Ecn::NotEct, segment_size: None, bytes }
}

#[test]
fn a_peer_speaks_for_itself_whatever_address_it_sends_from() {
    let mut net = Net::established(&Setup::default());
    let of_node2 = udp(2, 1, vec![8; 50]).build();
    let payload = Payload::Packet(Family::V4);
    // Node3 says that it is node2: inside, and by its outer address too.
    let flight = forged(&mut net, 3, 0, payload, &of_node2);
    assert_eq!(dropped(&mut net, &flight), [DropReason::SpoofedSource]);
    let flight = Flight { from: 2, ..forged(&mut net, 3, 0, payload, &of_node2) };
    net.deliver(&flight);
    net.settle();
    assert_eq!(net.node(1).drops(), [(DropReason::SpoofedSource, 2)]);
    // What it says for itself is taken from anywhere.
    let of_node3 = udp(3, 1, vec![8; 50]).build();
    let flight = Flight { from: 2, ..forged(&mut net, 3, 0, payload, &of_node3) };
    net.deliver(&flight);
    net.settle();
    assert_eq!(net.node(1).delivered(), [of_node3]);
    // To a pod of another node, and what is no packet of the family that it is said to be.
    let flight = forged(&mut net, 3, 0, payload, &udp(3, 2, vec![8; 50]).build());
    assert_eq!(dropped(&mut net, &flight), [DropReason::NotOurDestination]);
    let flight = forged(&mut net, 3, 0, Payload::Packet(Family::V6), &of_node2);
    let mismatch = DropReason::Inner(overlay_proto::InnerError::FamilyMismatch);
    assert_eq!(dropped(&mut net, &flight), [mismatch]);
}

#[test]
fn lanes_that_were_not_announced_are_nobodys() {
    let mut net = Net::established(&Setup::default());
    let (flight, _) = on_its_way(&mut net);
    let mut bytes = flight.bytes.clone();
    // The first lane beyond, in SPI and IV.
    let lane = LANES_PER_WORKER;
    bytes[2] &= 0xf0;
    (bytes[2], bytes[3]) = (bytes[2] | (lane >> 8) as u8, lane as u8);
    (bytes[8], bytes[9]) = ((lane >> 8) as u8, lane as u8);
    assert_eq!(dropped(&mut net, &flight.with(bytes)), [DropReason::UnknownSpi]);
}

#[test]
fn a_dummy_with_data_and_another_next_header_are_refused() {
    let mut net = Net::established(&Setup::default());
    let flight = forged(&mut net, 2, 0, Payload::Dummy, &[1, 2, 3, 4, 5]);
    assert_eq!(dropped(&mut net, &flight), [DropReason::BadTrailer]);
    let flight = forged(&mut net, 2, 0, Payload::Dummy, &[]);
    assert_eq!(dropped(&mut net, &flight), []);
}

#[test]
fn handshakes_of_strangers_go_nowhere_and_those_of_peers_do_not_disturb() {
    let mut net = Net::new(&Setup::default());
    net.node(2).pod_sends(&PLAIN, &udp(2, 1, vec![8; 50]).build());
    let said = net.turn();
    let init = said.into_iter().find(Flight::is_handshake).expect("an INIT");
    for bit in 0..init.bytes.len() * 8 {
        let mut bytes = init.bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        net.node(1).arrives(&init.with(bytes));
    }
    assert!(net.turn().iter().all(|flight| flight.from != 1), "nothing is answered");
    let refused = &net.node(1).threads[0].counters.refused_handshakes;
    // The marker's bits make it something that is sealed.
    let refused = refused.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(refused, init.bytes.len() as u64 * 8 - 32);
    net.deliver(&init);
    net.settle();
    assert_eq!(net.node(1).sessions(), 1);
    net.node(1).delivered();
    // The same again, by the hundred.
    for _ in 0..300 {
        net.deliver(&init);
    }
    net.settle();
    assert_eq!(net.node(1).sessions(), 1);
    let packet = udp(2, 1, vec![9; 50]).build();
    net.node(2).pod_sends(&PLAIN, &packet);
    net.settle();
    assert_eq!(net.node(1).delivered(), [packet]);
}

/// A hundred thousand a second with the names of true keys: each has its MAC looked at.
#[test]
fn a_flood_of_forged_handshakes_keeps_no_peer_out() {
    let mut net = Net::new(&Setup::default());
    net.node(2).pod_sends(&PLAIN, &udp(2, 1, vec![8; 50]).build());
    // The first INIT is lost.
    let init = net.turn().into_iter().find(Flight::is_handshake).expect("an INIT");
    let mut bytes = init.bytes.clone();
    *bytes.last_mut().unwrap() ^= 1;
    let forged = init.with(bytes);
    let steps = (0..8).take_while(|_| {
        for _ in 0..5000 {
            net.deliver(&forged);
        }
        net.pass(Duration::from_millis(50));
        net.node(1).sessions() == 0
    });
    assert!(steps.count() < 8, "the second INIT is answered, 300 ms after the first at the latest");
}

#[test]
fn datagrams_of_no_node_for_no_session_begin_nothing() {
    let mut net = Net::established(&Setup::default());
    let (flight, _) = on_its_way(&mut net);
    let mut bytes = flight.bytes.clone();
    bytes[0] ^= 0x80;
    let stranger = MemoryTrain {
        peer: "192.0.2.1:4500".parse().unwrap(),
        bucket: 0,
        ecn: Ecn::NotEct,
        segment_size: None,
        bytes: bytes.into(),
    };
    net.node(1).threads[0].underlay.sealed.extend(vec![stranger; 50]);
    assert!(net.settle().is_empty());
    assert_eq!(net.node(1).drops(), [(DropReason::UnknownSpi, 50)]);
}

/// To look at a MAC costs more than to receive it.
#[test]
fn handshakes_that_arrive_at_once_are_looked_at_so_many_and_no_more() {
    for (forgeries, is_answered) in [(9_999, true), (10_000, false)] {
        let mut net = Net::new(&Setup::default());
        net.node(2).pod_sends(&PLAIN, &udp(2, 1, vec![8; 50]).build());
        let init = net.turn().into_iter().find(Flight::is_handshake).expect("an INIT");
        let mut bytes = init.bytes.clone();
        *bytes.last_mut().unwrap() ^= 1;
        let forged = init.with(bytes);
        for _ in 0..forgeries {
            net.deliver(&forged);
        }
        let answers = |net: &mut Net| {
            net.deliver(&init);
            net.turn().iter().any(|flight| flight.from == 1)
        };
        assert_eq!(answers(&mut net), is_answered, "after {forgeries}");
        net.now += Duration::from_micros(10);
        assert!(answers(&mut net), "one more after a while");
    }
}

/// Handshakes wait in the same short queue.
#[test]
fn datagrams_for_unknown_sessions_leave_room_for_handshakes() {
    let setup = Setup::default();
    let mut net = Net::established(&setup);
    let (unknown, _) = on_its_way(&mut net);
    net.restart(1, &setup);
    net.restart(3, &setup);
    net.node(3).pod_sends(&PLAIN, &udp(3, 1, vec![8; 50]).build());
    let init = net.turn().into_iter().find(Flight::is_handshake).expect("an INIT");
    for _ in 0..1000 {
        net.deliver(&unknown);
    }
    net.deliver(&init);
    let said = net.turn();
    let told: Vec<_> = said.iter().filter(|flight| flight.from == 1).map(|it| it.to).collect();
    assert_eq!(told, [sealed_port_of(2), sealed_port_of(3)], "an INIT, and an answer");
}

#[test]
fn strangers_keep_no_restarted_node_from_beginning() {
    let setup = Setup::default();
    let mut net = Net::established(&setup);
    let (unknown, _) = on_its_way(&mut net);
    net.restart(1, &setup);
    let stranger = MemoryTrain {
        peer: "192.0.2.1:4500".parse().unwrap(),
        bucket: 0,
        ecn: Ecn::NotEct,
        segment_size: None,
        bytes: unknown.bytes.clone().into(),
    };
    net.node(1).threads[0].underlay.sealed.extend(vec![stranger; 1000]);
    net.deliver(&unknown);
    let said = net.turn();
    let [init] = &said[..] else { panic!("{} datagrams", said.len()) };
    assert_eq!((init.from, init.to, init.is_handshake()), (1, sealed_port_of(2), true));
}

/// What is longer than any datagram may be is not looked into, whatever it begins with.
#[test]
fn a_datagram_that_was_cut_off_is_dropped_for_that() {
    let mut net = Net::established(&Setup::default());
    let (flight, _) = on_its_way(&mut net);
    for marker in [flight.bytes[..4].to_vec(), vec![0; 4]] {
        let mut bytes = flight.bytes.clone();
        bytes.resize(70_000, 1);
        bytes[..4].copy_from_slice(&marker);
        net.deliver(&flight.with(bytes));
        net.settle();
    }
    assert_eq!(net.node(1).drops(), [(DropReason::DatagramTruncated, 2)]);
}
