//! What network policies say of a packet, put among the steps.

use serde::{Deserialize, Serialize};

use super::{Basis, Direction, Explanation, Step, Verdict};

/// What the policies of one end say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// Which end: `egress policy` or `ingress policy`.
    pub what: String,
    /// Who isolates the pod, and which rule decides.
    pub found: String,
    /// Rules that almost allowed it.
    pub near_misses: Vec<String>,
    /// Whether the packet passes.
    pub is_allowed: bool,
    /// Whether this node decides; otherwise the node of the other pod does.
    pub is_here: bool,
}

impl Explanation {
    /// Adds what the policies say of the packet, as the first of a connection. What answers passes
    /// with it.
    pub(crate) fn judge(&mut self, judgements: &[Judgement]) {
        let Some(way) = self.ways.first_mut() else { return };
        if way.verdict.has_ended() {
            // What policies would say of a packet that never comes to them is not looked at.
            return;
        }
        let mut is_dropped = false;
        let before = way.decided_by.or_else(|| way.steps.len().checked_sub(1));
        // What was not looked at comes last.
        let beyond = way.decided_by.map(|last| way.steps.split_off(last + 1)).unwrap_or_default();
        let mut decided_by = None;
        for Judgement { what, found, near_misses, is_allowed, is_here } in judgements {
            let mut add = |what: &str, found: String| {
                let by = if *is_here { Basis::Policy } else { Basis::Assumed };
                way.steps.push(Step { what: what.to_owned(), found, by });
            };
            let where_to = if *is_here { "" } else { " (decided on the other node)" };
            add(what, format!("{found}{where_to}"));
            for near_miss in near_misses {
                add("nearly", near_miss.clone());
            }
            if *is_here && !is_allowed {
                is_dropped = true;
                decided_by = Some(way.steps.len() - 1 - near_misses.len());
                break;
            }
            if !is_here && !is_allowed {
                way.unless
                    .push("the policies of the other node drop it, as they say here".to_owned());
            }
        }
        if !is_dropped {
            way.decided_by = before;
            way.steps.extend(beyond);
            return;
        }
        (way.decided_by, way.verdict) = (decided_by, Verdict::KernelDrops);
        if way.direction == Direction::Egress {
            // It never comes so far.
            (way.peer, way.wire_bytes) = (None, 0);
        }
        // And nothing comes back.
        self.ways.truncate(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::Trace;

    fn explanation() -> Explanation {
        let way = Trace {
            packet: "tcp 10.244.1.2 1 > 10.244.2.2 81".to_owned(),
            direction: Direction::Egress,
            steps: vec![Step {
                what: "firewall".to_owned(),
                found: "no chain drops it".to_owned(),
                by: Basis::Kernel,
            }],
            decided_by: None,
            verdict: Verdict::Forward,
            reason: None,
            unless: Vec::new(),
            peer: Some("node2".to_owned()),
            wire_bytes: 100,
        };
        Explanation { node: "node1".to_owned(), ways: vec![way], becomes: None }
    }

    fn judgement(is_here: bool, is_allowed: bool) -> Judgement {
        Judgement {
            what: "egress policy".to_owned(),
            found: "isolated by default/web, and no rule allows it".to_owned(),
            near_misses: vec!["default/web egress[0] matches the peer, but not tcp port 81".into()],
            is_allowed,
            is_here,
        }
    }

    #[test]
    fn packet_that_this_nodes_policies_drop_goes_nowhere_and_the_near_miss_is_named() {
        let mut explanation = explanation();
        explanation.judge(&[judgement(true, false)]);
        let text = explanation.to_string();
        assert_eq!(explanation.ways[0].verdict, Verdict::KernelDrops);
        assert!(explanation.ways[0].decisive().contains("no rule allows it"));
        assert!(text.contains("isolated by default/web"), "{text}");
        assert!(text.contains("nearly"), "{text}");
        assert!(!text.contains("peer node2"), "{text}");
    }

    #[test]
    fn what_dropped_it_before_policies_is_what_decides() {
        for is_allowed in [true, false] {
            let mut explanation = explanation();
            explanation.ways[0].verdict = Verdict::KernelDrops;
            explanation.judge(&[judgement(true, is_allowed)]);
            assert_eq!(explanation.ways[0].decisive(), "no chain drops it");
            assert_eq!(explanation.ways[0].steps.len(), 1, "nothing follows what drops it");
        }
        let mut explanation = explanation();
        explanation.judge(&[judgement(true, true)]);
        assert_eq!(explanation.ways[0].decisive(), "no chain drops it", "nor is what allows it");
    }

    #[test]
    fn what_another_node_decides_is_said_and_not_taken_for_the_verdict() {
        let mut explanation = explanation();
        explanation.judge(&[judgement(false, false)]);
        assert_eq!(explanation.ways[0].verdict, Verdict::Forward);
        assert!(explanation.to_string().contains("unless the policies of the other node"));
    }
}
