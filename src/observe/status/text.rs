//! A status as people read it: what is wrong first, and no more peers than fit a screen.

use std::cmp::Reverse;
use std::fmt;

use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};
use ipnet::IpNet;
use overlay_proto::CodecKind;

use super::{PeerStatus, SealedStatus, Status, TableStatus, TunnelStatus, UnderlayStatus};

/// Peers without a session that are listed for people.
const FAILING_SHOWN: usize = 8;

/// Peers that are shown unless all are asked for.
const PEERS_SHOWN: usize = 20;

/// Which peers to show, and in what order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    /// Only those whose names contain this.
    pub(crate) peer: Option<String>,
    /// All of them, however many.
    pub(crate) all: bool,
    /// Which come first.
    pub(crate) sort: Sort,
}

/// Which peers come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sort {
    /// Those with most bytes, both ways.
    #[default]
    Busy,
    /// By name; numbers in names count as numbers.
    Name,
    /// Those that were not heard for longest.
    Silent,
}

/// A status and what of it to show.
pub(super) struct Text<'a> {
    pub(super) status: &'a Status,
    pub(super) selection: &'a Selection,
}

impl Status {
    /// The status for people.
    pub(crate) fn text<'a>(&'a self, selection: &'a Selection) -> impl fmt::Display + 'a {
        Text { status: self, selection }
    }

    fn facts(&self) -> Table {
        let mut facts = table([]);
        facts.add_row(["node", &self.node]);
        facts.add_row(["state", if self.ready { "ready" } else { "not ready" }]);
        for missing in &self.missing {
            facts.add_row(["", &missing.to_string()]);
        }
        facts.add_row([
            "up",
            &format!("{}, culvert {}", duration(self.uptime_seconds), self.version),
        ]);
        facts.add_row(["subnets", &list(&self.subnets)]);
        if self.mtu > 0 {
            facts.add_row(["MTU", &format!("{} bytes", self.mtu)]);
        }
        let UnderlayStatus { address, port, tunnels, sealed_port, mac } = &self.underlay;
        let underlay = match (address, tunnels.is_empty(), sealed_port) {
            (Some(address), true, Some(port)) => {
                format!("{address} UDP port {port}, sealed, VNI {}", self.vni)
            }
            (Some(address), ..) => format!("{address} UDP port {port}, VNI {}", self.vni),
            (None, ..) => "not known yet".to_owned(),
        };
        facts.add_row(["underlay", &underlay]);
        for TunnelStatus { codec, port } in tunnels.iter().skip(1) {
            let end = match (codec, mac) {
                (CodecKind::Vxlan, Some(mac)) => format!(", MAC {mac}"),
                _ => String::new(),
            };
            facts.add_row(["", &format!("and {codec} on UDP port {port}{end}")]);
        }
        let SealedStatus { mode, public_keys, error, failing, key_log, .. } = &self.sealed;
        if !public_keys.is_empty() {
            facts.add_row(["sealed", &format!("{mode}, key {}", public_keys.join(" and "))]);
        }
        if let Some(path) = key_log {
            facts.add_row(["", &format!("key log: {path}")]);
        }
        if let Some(error) = error {
            facts.add_row(["", error]);
        }
        for failing in failing.iter().take(FAILING_SHOWN) {
            facts.add_row(["", &format!("no session with {failing}")]);
        }
        facts.add_row([
            "offload",
            &format!("{} on {} workers", self.offload.as_str(), self.workers),
        ]);
        let TableStatus { source, generation, nodes, hash, .. } = &self.table;
        facts.add_row([
            "table",
            &format!("{hash}, {nodes} nodes from {source}, generation {generation}"),
        ]);
        for remark in self.table.remarks() {
            facts.add_row(["", &remark]);
        }
        for stranded in &self.stranded {
            facts.add_row(["pod", stranded]);
        }
        for hint in &self.hints {
            facts.add_row(["hint", hint]);
        }
        facts
    }

    fn drops_text(&self) -> String {
        let mut drops = table(["dropped", "packets"]);
        align_right(&mut drops, 1..=1);
        let mut found: Vec<_> = self.drops.iter().filter(|(_, count)| **count > 0).collect();
        found.sort_by_key(|(_, count)| Reverse(**count));
        for (reason, count) in found {
            drops.add_row([reason.as_str(), &count.to_string()]);
        }
        if let Some(count) = self.receive_drops.filter(|count| *count > 0) {
            drops.add_row(["by the kernel: the daemon was too slow", &count.to_string()]);
        }
        if drops.is_empty() {
            return "neither daemon nor receiving sockets have dropped a packet".to_owned();
        }
        drops.trim_fmt()
    }
}

impl Selection {
    fn choose<'a>(&self, peers: &'a [PeerStatus]) -> (Vec<&'a PeerStatus>, usize) {
        let wanted = self.peer.as_deref().unwrap_or_default();
        let mut chosen: Vec<_> = peers.iter().filter(|peer| peer.name.contains(wanted)).collect();
        chosen.sort_by_key(|peer| natural(&peer.name));
        match self.sort {
            Sort::Name => {}
            Sort::Busy => chosen
                .sort_by_key(|peer| Reverse(peer.egress.bytes.saturating_add(peer.ingress.bytes))),
            Sort::Silent => chosen.sort_by(|one, other| {
                let silence = |peer: &PeerStatus| peer.last_heard_seconds.unwrap_or(f64::INFINITY);
                silence(other).total_cmp(&silence(one))
            }),
        }
        let shown = if self.all { chosen.len() } else { PEERS_SHOWN.min(chosen.len()) };
        let left = chosen.len() - shown;
        chosen.truncate(shown);
        (chosen, left)
    }
}

/// A name with its numbers apart, so that node10 comes after node9.
fn natural(name: &str) -> Vec<(String, u64)> {
    let mut parts = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let word = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (text, tail) = rest.split_at(word);
        let digits = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let (number, tail) = tail.split_at(digits);
        parts.push((text.to_owned(), number.parse().unwrap_or(u64::MAX)));
        rest = tail;
    }
    parts
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, selection } = self;
        writeln!(f, "{}\n", status.facts().trim_fmt())?;
        writeln!(f, "{}\n", status.drops_text())?;
        let mut peers = table([
            "peer",
            "address",
            "speaks",
            "subnets",
            "sent",
            "",
            "received",
            "",
            "last heard",
        ]);
        align_right(&mut peers, 4..=7);
        let (chosen, left) = selection.choose(&status.peers);
        for peer in &chosen {
            peers.add_row([
                peer.name.clone(),
                peer.address.to_string(),
                spoken(peer),
                list(&peer.subnets),
                format!("{} packets", peer.egress.packets),
                octets(peer.egress.bytes),
                format!("{} packets", peer.ingress.packets),
                octets(peer.ingress.bytes),
                peer.last_heard_seconds.map_or_else(
                    || "never".to_owned(),
                    |seconds| format!("{} ago", duration(seconds)),
                ),
            ]);
        }
        match (&selection.peer, chosen.is_empty()) {
            (Some(name), true) => write!(f, "no peer's name contains \"{name}\""),
            (None, true) => write!(f, "no peers"),
            (_, false) => write!(f, "{}", peers.trim_fmt()),
        }?;
        if left > 0 {
            write!(f, "\n\n{left} more peers: --all shows them, --peer some of them")?;
        }
        Ok(())
    }
}

/// How a peer is spoken to.
fn spoken(peer: &PeerStatus) -> String {
    match (&peer.sealed, peer.plain) {
        (Some(suite), _) => format!("sealed, {suite}"),
        (None, true) => format!("{}, plain", peer.codec),
        (None, false) => "sealed, no session".to_owned(),
    }
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    if N > 0 {
        table.set_header(header);
    }
    table
}

fn align_right(table: &mut Table, columns: std::ops::RangeInclusive<usize>) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

fn list(subnets: &[IpNet]) -> String {
    subnets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3600.0 => format!("{:.0} min", s / 60.0),
        s if s < 86400.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} d", s / 86400.0),
    }
}

fn octets(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str, bytes: u64, heard: Option<f64>) -> PeerStatus {
        PeerStatus {
            name: name.to_owned(),
            address: "192.168.1.12".parse().unwrap(),
            subnets: Vec::new(),
            codec: CodecKind::VxlanGpe,
            port: 4790,
            sealed: None,
            plain: true,
            mtu: 1464,
            egress: culvert_dataplane::engine::Traffic { packets: 1, bytes },
            ingress: Default::default(),
            last_heard_seconds: heard,
        }
    }

    fn names(selection: &Selection, peers: &[PeerStatus]) -> Vec<String> {
        selection.choose(peers).0.iter().map(|peer| peer.name.clone()).collect()
    }

    #[test]
    fn peers_come_in_the_order_that_is_asked_for() {
        let peers =
            [peer("node10", 1, Some(1.0)), peer("node9", 5, None), peer("node2", 3, Some(9.0))];
        let by = |sort| names(&Selection { sort, ..Selection::default() }, &peers);
        assert_eq!(by(Sort::Busy), ["node9", "node2", "node10"]);
        assert_eq!(by(Sort::Name), ["node2", "node9", "node10"]);
        assert_eq!(by(Sort::Silent), ["node9", "node2", "node10"]);
        let some = Selection { peer: Some("10".to_owned()), ..Selection::default() };
        assert_eq!(names(&some, &peers), ["node10"]);
    }

    #[test]
    fn large_cluster_fits_a_screen_unless_all_of_it_is_asked_for() {
        let peers = (0..1000).map(|index| peer(&format!("node{index}"), index, None)).collect();
        let status = Status { peers, ..Status::default() };
        let text = status.text(&Selection::default()).to_string();
        assert!(text.lines().count() < 40, "{text}");
        assert!(text.contains("980 more peers") && text.contains("node999"), "{text}");
        let all = Selection { all: true, ..Selection::default() };
        assert!(status.text(&all).to_string().lines().count() > 1000);
    }

    #[test]
    fn what_is_not_known_yet_is_not_shown_as_a_number() {
        let text = Status::default().text(&Selection::default()).to_string();
        assert!(!text.contains("0 bytes") && text.contains("no peers"), "{text}");
    }
}
