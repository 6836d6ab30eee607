//! Questions of other nodes where packets are sealed.

use overlay_proto::oam::{Ends, Question, Route};

use super::*;
use crate::probe::Way;

/// Node 2 asks node 1 by path 3; what leaves.
fn ask(net: &mut Net, outer_len: Option<u16>) -> Result<(usize, Flight), Unsent> {
    let now = net.now;
    let node = net.node(2);
    let worker = node.keeper.worker(0);
    let peer = underlay_of(1).ip();
    let route = Route { path: 3, answer_path: 5, nonce: 7 };
    let question = Question { sequence: 9, route, ..Question::default() };
    let ends = Ends { source: [10, 244, 2, 1].into(), destination: [10, 244, 1, 1].into() };
    let ask = Ask { peer, ends, path: 3, what: What::Stamp { question, outer_len, trace: None } };
    let peer = node.table.peer(node.table.sender(peer).ok_or(Unsent::NoWay)?);
    let mut sent = None;
    ask.send(&Way { peer, path: 3, worker: Some(&worker), now }, &mut |hash, transmit| {
        let bytes: Vec<u8> = transmit.parts.iter().flat_map(|part| part.to_vec()).collect();
        let (to, ecn) = (transmit.destination, transmit.ecn);
        sent = Some((bucket(hash), Flight { from: 2, to, ecn, segment_size: None, bytes }));
        Ok(())
    })?;
    sent.ok_or(Unsent::NoWay)
}

#[test]
fn a_question_and_its_answer_are_sealed_and_reach_no_pod() {
    for outer_len in [None, Some(1280), Some(1401), Some(1500)] {
        let mut net = Net::established(&Setup::default());
        let (probes, _none) = Probes::new(1);
        net.node(1).threads[0].ingress.reflect(probes);
        let (probes, mut arrivals) = Probes::new(2);
        net.node(2).threads[0].ingress.reflect(probes);
        let (path, question) = ask(&mut net, outer_len).unwrap();
        assert_eq!((path, question.is_sealed(), question.to), (3, true, sealed_port_of(1)));
        if let Some(outer_len) = outer_len {
            // What is sealed ends on a multiple of four.
            let left = usize::from(outer_len).checked_sub(question.bytes.len() + 20 + 8);
            assert!(left.is_some_and(|left| left < 4), "{left:?} of {outer_len}");
        }
        net.deliver(&question);
        let said = net.settle();
        let [answer] = &said[..] else { panic!("{} answers", said.len()) };
        assert!(answer.is_sealed() && answer.bytes.len() <= question.bytes.len());
        let Ok(ProbeArrival::Answer { peer, answer, .. }) = arrivals.try_recv() else {
            panic!("nothing was handed on")
        };
        assert_eq!((peer, answer.sequence, answer.route.nonce), (underlay_of(1).ip(), 9, 7));
        for number in [1, 2] {
            let node = net.node(number);
            assert_eq!((node.drops(), node.delivered()), (vec![], Vec::<Vec<u8>>::new()));
        }
    }
}

/// Sealed, only addresses tell what nodes say from what pods say.
#[test]
fn a_pod_passes_for_no_node_and_gets_whatever_is_sent_to_it() {
    let [bridge_of, pod_of] =
        [1, 2].map(|host| move |node: u8| IpAddr::from([10, 244, node, host]));
    for (source, destination) in
        [(pod_of(2), bridge_of(1)), (bridge_of(2), pod_of(1)), (pod_of(2), pod_of(1))]
    {
        let mut net = Net::established(&Setup::default());
        let (probes, mut arrivals) = Probes::new(1);
        net.node(1).threads[0].ingress.reflect(probes);
        let ends = Ends { source, destination };
        let question = Question { sequence: 9, ..Question::default() };
        let mut packets = [vec![0; 500], vec![0; 500]];
        question.write(ends, None, 500, &mut packets[0]).unwrap();
        let len = question.answer(64).write(ends, None, &mut packets[1]).unwrap();
        packets[1].truncate(len);
        packets.iter().for_each(|packet| net.node(2).pod_sends(&PLAIN, packet));
        let said = net.settle();
        assert!(said.iter().all(|flight| flight.from == 2), "{ends:?} is answered");
        assert_eq!(net.node(1).delivered(), packets);
        assert!(arrivals.try_recv().is_err(), "{ends:?} is taken for a node");
    }
}

#[test]
fn without_a_session_one_is_asked_for_and_nothing_leaves_in_plain() {
    let mut net = Net::new(&Setup::default());
    assert!(matches!(ask(&mut net, None), Err(Unsent::NoSession)));
    let said = net.settle();
    assert!(said.iter().any(Flight::is_handshake) && !said.iter().any(Flight::is_plain));
    assert!(ask(&mut net, None).is_ok(), "there is a session now");
}
