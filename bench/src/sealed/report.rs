//! The report on sealed mode: the figures, and the targets.

use std::fmt::Write as _;

use super::Found;
use crate::statistics::Summary;
use crate::target::Target;

/// Most from readiness after `kill -9` until the first packet, in ms.
const FIRST_PACKET_MS: f64 = 50.0;
/// Most that a handshake takes under a flood, in ms.
const FLOODED_MS: f64 = 3_000.0;
/// Forged INITs a second that this is about.
const FLOOD: u32 = 100_000;
/// Most until all peers have sessions, in seconds.
const SESSIONS_SECONDS: f64 = 10.0;
/// Most that those take of memory, in MiB.
const ADDED_MIB: f64 = 64.0;

fn summary(values: &[f64]) -> String {
    match Summary::of(values.iter().copied()) {
        Some(Summary { median, min, max }) => format!("{median:.1} ({min:.1} to {max:.1})"),
        None => "–".to_owned(),
    }
}

fn most(values: &[f64]) -> f64 {
    Summary::of(values.iter().copied()).map_or(f64::NAN, |summary| summary.max)
}

pub(super) fn text(found: &Found) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<70} {value}");
    };
    if let Some([begun, answered]) = found.handshakes {
        row(
            "handshakes a second of one thread, begun / answered",
            format!("{begun:.0} / {answered:.0}"),
        );
    }
    if let Some(killed) = &found.killed {
        row("kill -9: from the start until ready, ms", summary(&killed.ready_ms));
        row(
            "kill -9: from ready until packets flow both ways, ms",
            summary(&killed.first_packet_ms),
        );
    }
    for flood in &found.floods {
        let rate = format!("{:.0} forged INITs a second", flood.sent_per_second);
        row(
            &format!("{rate}: honest datagrams lost / CPU of the daemon, %"),
            format!("{} of {} / {:.0}", flood.lost, flood.honest, flood.cpu_percent),
        );
        row(
            &format!("{rate}: the other node starts anew, until packets flow, ms"),
            summary(&flood.handshake_ms),
        );
    }
    if let Some(growth) = &found.growth {
        let peers = growth.peers;
        row(
            &format!("{peers} peers: from the start until ready, s"),
            format!("{:.2}", growth.ready_seconds),
        );
        row(
            &format!("{peers} peers: from the first packet until all have sessions, s"),
            format!("{:.2}", growth.sessions_seconds),
        );
        row(
            &format!("{peers} peers: kill -9, from the start until all have sessions, s"),
            format!("{:.2}", growth.again_seconds),
        );
        row(
            &format!("{peers} peers: what sessions add to memory / resident, MiB"),
            format!("{:.1} / {:.1}", growth.added_mib, growth.resident_mib),
        );
    }
    if let Some(renewals) = &found.renewals {
        row(
            &format!("{} renewals: packets there and back a second", renewals.renewed),
            format!("{:.0}", renewals.per_second),
        );
        row(
            &format!(
                "{} renewals: packets lost / dropped by the daemon / refused by peers",
                renewals.renewed
            ),
            format!(
                "{} of {} / {} / {}",
                renewals.lost, renewals.sent, renewals.dropped, renewals.refused
            ),
        );
    }
    if let Some(lanes) = &found.lanes {
        row(
            "sixteen lanes, 0 to 50 ms: packets there and back a second",
            format!("{:.0}", lanes.per_second),
        );
        row(
            "sixteen lanes, 0 to 50 ms: packets lost / taken for replayed",
            format!("{} of {} / {}", lanes.lost, lanes.sent, lanes.replayed),
        );
    }
    text
}

/// Those of what was measured.
pub(super) fn targets(found: &Found) -> Vec<Target> {
    let mut targets = Vec::new();
    if let Some(killed) = &found.killed {
        let slowest = most(&killed.first_packet_ms);
        targets.push(Target::at_most("first packet after kill -9, ms", slowest, FIRST_PACKET_MS));
    }
    for flood in found.floods.iter().filter(|flood| flood.asked == FLOOD) {
        let slowest = most(&flood.handshake_ms);
        targets.push(Target::at_most("a handshake under a flood, ms", slowest, FLOODED_MS));
    }
    if let Some(growth) = &found.growth {
        targets.push(Target::at_most("all sessions, s", growth.sessions_seconds, SESSIONS_SECONDS));
        targets.push(Target::at_most(
            "all sessions after kill -9, s",
            growth.again_seconds,
            SESSIONS_SECONDS,
        ));
        targets.push(Target::at_most("memory that sessions add, MiB", growth.added_mib, ADDED_MIB));
    }
    if let Some(renewals) = &found.renewals {
        targets.push(Target::at_most(
            "packets lost while sessions are renewed",
            renewals.lost as f64,
            0.0,
        ));
    }
    if let Some(lanes) = &found.lanes {
        targets.push(Target::at_most("packets taken for replayed", lanes.replayed as f64, 0.0));
    }
    targets
}
