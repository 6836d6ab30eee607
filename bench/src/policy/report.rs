//! The report on policies: the figures, and the targets.

use std::fmt::Write as _;

use super::{Found, median, objects, of_rounds};
use crate::target::Target;

/// Least of established traffic, with policies to without.
const ESTABLISHED: f64 = 0.98;
/// Most that five policies add to a new flow, in ns.
const NEW_FLOW_NS: f64 = 1_000.0;
/// Most from a change until it is in force, p99.
const CHANGE_MS: f64 = 100.0;
/// Most until a connection is cut.
const CUT_MS: f64 = 1_000.0;
/// Most that ADD takes longer.
const ADD_MS: f64 = 5.0;
/// Most memory for each pod of another node.
const BYTES_A_POD: f64 = 300.0;

pub(super) fn text(found: &Found) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<66} {value}");
    };
    let [off, on] = found.gbits.each_ref().map(|rounds| median(rounds));
    row("TCP from node to node, off / on, Gbit/s", format!("{off:.2} / {on:.2}"));
    for (name, rounds) in
        [("first datagram of a flow", &found.new_flow_ns), ("a later one", &found.old_flow_ns)]
    {
        let [off, none, five] = rounds.each_ref().map(|rounds| median(rounds) / 1e3);
        row(
            &format!("{name}, off / on, none on the pod / five, µs"),
            format!("{off:.2} / {none:.2} / {five:.2}"),
        );
    }
    let (changes, cuts) = (&found.changes, &found.cuts);
    row(
        &format!(
            "change in force, {} policies, {} pods, p50 / p99, ms",
            objects::POLICIES,
            objects::PODS
        ),
        format!("{:.0} / {:.0}", changes.p50_ms, changes.p99_ms),
    );
    let storm = &found.storm;
    row(
        &format!("the same among {:.0} others a second, p50 / p99, ms", storm.changes_per_second),
        format!("{:.0} / {:.0}", storm.took.p50_ms, storm.took.p99_ms),
    );
    row(
        "leaked meanwhile, of datagrams that all versions forbid",
        format!("{} of {}", storm.leaked, storm.sent),
    );
    let start = &found.start;
    row(
        "a daemon's start until rules are in force, s / its memory / the kernel's, MiB",
        format!("{:.2} / {:.0} / {:.0}", start.ready_seconds, start.resident_mib, start.kernel_mib),
    );
    row(
        &format!("connection cut, {} flows tracked, p50 / most, ms", found.tracked_flows),
        format!("{:.0} / {:.0}", cuts.p50_ms, cuts.p99_ms),
    );
    let [off, on] = found.add_ms.each_ref().map(|rounds| median(rounds));
    row("ADD, off / on, ms", format!("{off:.1} / {on:.1}"));
    row("resident memory for each pod of another node, bytes", format!("{:.0}", found.bytes_a_pod));
    let late = &found.late;
    row(
        "late sources: ADDs / refused calls / datagrams sent / leaked",
        format!("{} / {} / {} / {}", late.adds, late.refused, late.sent, late.leaked),
    );
    row("the same without the policy: arrived", late.arrived_without.to_string());
    text
}

pub(super) fn targets(found: &Found) -> Vec<Target> {
    let [off, on] = &found.gbits;
    let established = of_rounds(on, off);
    let [_, none, five] = found.new_flow_ns.each_ref().map(|rounds| median(rounds));
    let [add_off, add_on] = found.add_ms.each_ref().map(|rounds| median(rounds));
    vec![
        Target::at_least("established traffic, on to off", established, ESTABLISHED),
        Target::at_most("new flow, five policies to none, ns more", five - none, NEW_FLOW_NS),
        Target::at_most("change in force, p99, ms", found.changes.p99_ms, CHANGE_MS),
        Target::at_most("connection cut, ms", found.cuts.p99_ms, CUT_MS),
        Target::at_most("ADD, ms more", add_on - add_off, ADD_MS),
        Target::at_most("memory for each pod, bytes", found.bytes_a_pod, BYTES_A_POD),
        Target::at_most("leaked datagrams, late sources", found.late.leaked as f64, 0.0),
        Target::at_most("leaked datagrams, many changes", found.storm.leaked as f64, 0.0),
    ]
}
