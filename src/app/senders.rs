//! Whether a pod of this node can send what a trace says that it sends: it is asked, as `culvert
//! doctor` asks it.
//!
//! What a pod has in its own namespace nobody sees from outside, but for what it answers. So it is
//! asked from the bridge's address, and from the node's underlay address, which it can only answer
//! by a route out of its subnet.

use std::net::IpAddr;
use std::time::Duration;

use culvert_dataplane::engine::{Owner, Table};
use overlay_proto::Family;

use crate::explain::{Direction, Explanation, Trace, Verdict};
use crate::platform::knock::{Knock, settle};

/// How long a pod may take, which is on this machine.
const PATIENCE: Duration = Duration::from_millis(400);

/// Asks the pod that is to send the packet of the last way of an explanation, if that goes out to
/// another node, and puts down what it answers. `sender` is its address. Waits.
pub(super) fn ask(table: &Table, sender: IpAddr, explanation: &mut Explanation) {
    let Some(way) = explanation.ways.last_mut() else { return };
    let is_sent = way.direction == Direction::Egress && way.verdict == Verdict::Forward;
    if !is_sent || table.owner(sender) != Some(Owner::Local) {
        return;
    }
    let family = Family::of(sender);
    let Some(near) = table.local().router_address(family) else { return };
    let far = table.local().address;
    // A node of the other family has nothing to ask from beyond the subnet.
    if Family::of(far) != family {
        return;
    }
    let mut knocks = [near, far].map(|from| Knock::at(from, sender));
    settle(knocks.iter_mut().collect(), PATIENCE);
    if knocks.iter().all(|knock| knock.error.is_none()) {
        let [near, far] = knocks.map(|knock| knock.is_answered);
        put_down(way, near, far);
    }
}

/// What answers to the bridge's address, and to one beyond the subnet, say of the pod.
fn put_down(way: &mut Trace, near: bool, far: bool) {
    match (near, far) {
        (_, true) => {}
        (true, false) => {
            way.verdict = Verdict::NoAnswer;
            (way.peer, way.wire_bytes) = (None, 0);
            way.beyond(
                "the pod answers in its subnet only: its default route is gone or leads elsewhere, or \
                 its own firewall drops",
            );
        }
        (false, false) => way.unless.push("the pod is deaf: it answers nothing".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way() -> Trace {
        Trace {
            packet: String::new(),
            direction: Direction::Egress,
            steps: Vec::new(),
            decided_by: None,
            verdict: Verdict::Forward,
            reason: None,
            unless: Vec::new(),
            peer: Some("node2".to_owned()),
            wire_bytes: 136,
        }
    }

    #[test]
    fn pod_that_answers_in_its_subnet_only_sends_nothing_out_of_it() {
        let after = |near, far| {
            let mut way = way();
            put_down(&mut way, near, far);
            way
        };
        let lost = after(true, false);
        assert_eq!((lost.verdict, lost.peer.as_deref()), (Verdict::NoAnswer, None));
        assert!(lost.decisive().contains("its default route is gone"), "{lost:?}");
        let deaf = after(false, false);
        assert_eq!((deaf.verdict, deaf.unless.len()), (Verdict::Forward, 1));
        assert_eq!(after(true, true), way());
    }
}
