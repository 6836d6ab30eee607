//! Network policies as metrics.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::{counter, counters, gauge, number};
use crate::observe::PolicyStatus;

/// Network policies, on a node that enforces them.
#[derive(Debug)]
pub(super) struct Policy(pub(super) PolicyStatus);

impl Collector for Policy {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Self(policy) = self;
        if policy.mode != "on" {
            return Ok(());
        }
        let encoder = &mut encoder;
        for (name, help, value) in [
            ("policy_known", "Policies that are known", number(policy.policies)),
            (
                "policy_isolated_addresses",
                "Addresses of this node's pods that a policy isolates",
                number(policy.isolated),
            ),
            (
                "policy_refused",
                "Policies that the kernel refuses; their pods are closed",
                number(policy.refused.len()),
            ),
            (
                "policy_source_followed",
                "1 while the source of policies makes sense and is followed",
                policy.source_error.is_none().into(),
            ),
        ] {
            gauge(encoder, name, help, value)?;
        }
        let dropped = policy.drops.values().sum();
        let audited = policy.audited.values().sum();
        for (name, help, value) in [
            ("policy_updates", "Times that the rules of policies were changed", policy.updates),
            ("policy_repairs", "Times that somebody else's change was undone", policy.repairs),
            (
                "policy_cut_connections",
                "Connections that were cut because they are no longer allowed",
                policy.cut,
            ),
            ("policy_dropped_packets", "Packets that policies dropped", dropped),
            (
                "policy_audited_packets",
                "Packets that policies which are only being tried out would have dropped",
                audited,
            ),
        ] {
            counter(encoder, name, help, value)?;
        }
        let outcomes = [("admitted", policy.pods_admitted), ("refused", policy.pods_refused)];
        let samples = outcomes.map(|(outcome, value)| ([("outcome", outcome)], value));
        counters(encoder, "policy_pods", "Pods that the plugin asked for", samples)
    }
}
