//! A status as people read it: what is wrong first, and no more peers than fit a screen.

use std::cmp::Reverse;
use std::fmt;
use std::net::IpAddr;

use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};
use culvert_node::words::counted;
use ipnet::IpNet;
use overlay_proto::CodecKind;

use super::{
    LastDrop, PeerStatus, PolicyStatus, SealedStatus, SessionStatus, Status, TableStatus,
    TunnelStatus, UnderlayStatus,
};

/// Things of one kind that are listed for people.
const SHOWN: usize = 8;

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
        let failing = failing.iter().map(|failing| format!("no session with {failing}"));
        add_some(&mut facts, "", failing);
        let policy = &self.policy;
        if policy.mode == "on" {
            let PolicyStatus { policies, isolated, source, .. } = policy;
            facts.add_row([
                "policies",
                &format!("{policies} from {source}, isolating {}", counted(*isolated, "address")),
            ]);
            let remarks = policy.source_error.iter().chain(&policy.error).chain(&policy.refused);
            add_some(&mut facts, "", remarks.cloned());
        }
        facts.add_row([
            "offload",
            &format!("{} on {}", self.offload.as_str(), counted(self.workers, "worker")),
        ]);
        let TableStatus { source, generation, nodes, hash, .. } = &self.table;
        facts.add_row([
            "table",
            &format!("{hash}, {} from {source}, generation {generation}", counted(*nodes, "node")),
        ]);
        for remark in self.table.remarks() {
            facts.add_row(["", &remark]);
        }
        for (index, remark) in self.path_remarks().iter().enumerate() {
            facts.add_row([if index == 0 { "peers" } else { "" }, remark]);
        }
        add_some(&mut facts, "pod", self.stranded.iter().cloned());
        for hint in &self.hints {
            facts.add_row(["hint", hint]);
        }
        facts
    }

    /// An address, with the node that has it.
    fn named(&self, address: IpAddr) -> String {
        match self.peers.iter().find(|peer| peer.address == address) {
            Some(peer) => format!("{address} ({})", peer.name),
            None => address.to_string(),
        }
    }

    fn drops_text(&self) -> String {
        let mut drops = table(["dropped", "packets", "last minute", "last", "from"]);
        align_right(&mut drops, 1..=2);
        let mut found: Vec<_> = self.drops.iter().filter(|(_, count)| **count > 0).collect();
        found.sort_by_key(|(_, count)| Reverse(**count));
        for (reason, count) in found {
            let [lately, ago, from] = self.last_drops.get(reason).map_or_else(
                Default::default,
                |LastDrop { seconds_ago, last_minute, from, senders }| {
                    let more = senders.iter().filter(|sender| Some(**sender) != *from).count();
                    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                    let from = from.map_or_else(String::new, |from| self.named(from) + &more);
                    [last_minute.to_string(), format!("{} ago", duration(*seconds_ago)), from]
                },
            );
            drops.add_row([reason.as_str(), &count.to_string(), &lately, &ago, &from]);
        }
        let by_kernel = [("receiving sockets", self.receive_drops), ("TUN device", self.tun_drops)];
        for (place, count) in by_kernel {
            if let Some(count) = count.filter(|count| *count > 0) {
                let what = format!("by the kernel, {place}: the daemon was too slow");
                drops.add_row([&what, &count.to_string()]);
            }
        }
        if let Some(count) = self.receive_damaged.filter(|count| *count > 0) {
            drops.add_row(["by the kernel: a wrong UDP checksum", &count.to_string()]);
        }
        if !drops.is_empty() {
            return drops.trim_fmt();
        }
        // Only of what was looked at it may be said.
        let unknown: Vec<&str> = by_kernel
            .iter()
            .filter(|(_, count)| count.is_none())
            .map(|(place, _)| *place)
            .collect();
        if unknown.is_empty() {
            return "neither the daemon, its receiving sockets nor its TUN device have dropped a packet"
                .to_owned();
        }
        let unknown = unknown.join(" and ");
        format!("the daemon has dropped no packet; what its {unknown} dropped is not known")
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
                counted(peer.egress.packets, "packet"),
                octets(peer.egress.bytes),
                counted(peer.ingress.packets, "packet"),
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
        // Of a few that somebody asks for there is room for more.
        if selection.peer.is_some() {
            for line in chosen.iter().flat_map(|peer| sessions(peer)) {
                write!(f, "\n\n{line}")?;
            }
        }
        if left > 0 {
            write!(f, "\n\n{}: --all shows them, --peer some of them", counted(left, "more peer"))?;
        }
        Ok(())
    }
}

/// What is to be said of the session with a peer, and of handshakes with it.
fn sessions(peer: &PeerStatus) -> Vec<String> {
    let name = &peer.name;
    let session = peer.session.as_ref().map(|session| {
        let SessionStatus { suite, post_quantum, role, age_seconds, renewal_in_seconds, .. } =
            session;
        let ml_kem = if *post_quantum { "with ML-KEM" } else { "without ML-KEM" };
        let begun = if role == "initiator" { "here" } else { "by the peer" };
        let renewal = if *renewal_in_seconds > 0.0 {
            format!("renewed in {}", duration(*renewal_in_seconds))
        } else {
            "renewed with the next traffic".to_owned()
        };
        let former =
            if session.with_former_key { ", made with this node's former key" } else { "" };
        format!(
            "{name}: session of {}, {suite}, {ml_kem}, begun {begun}, {renewal}{former}",
            duration(*age_seconds)
        )
    });
    let error = peer.session_error.as_ref();
    let error = error.map(|error| format!("{name}: last handshake failed: {error}"));
    session.into_iter().chain(error).collect()
}

/// How a peer is spoken to.
fn spoken(peer: &PeerStatus) -> String {
    match (&peer.sealed, peer.plain) {
        (Some(suite), _) => format!("sealed, {suite}"),
        (None, true) => format!("{}, plain", peer.codec),
        (None, false) => "sealed, no session".to_owned(),
    }
}

/// Adds the first rows of a kind, and how many more there are.
fn add_some(facts: &mut Table, name: &str, rows: impl Iterator<Item = String>) {
    let mut rows = rows;
    for row in rows.by_ref().take(SHOWN) {
        facts.add_row([name, &row]);
    }
    let more = rows.count();
    if more > 0 {
        facts.add_row([name, &format!("{more} more (`culvert status --json`)")]);
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
    use culvert_dataplane::engine::DropReason;

    use super::*;
    use crate::observe::Spoken;

    fn peer(name: &str, bytes: u64, heard: Option<f64>) -> PeerStatus {
        PeerStatus {
            name: name.to_owned(),
            address: "192.168.1.12".parse().unwrap(),
            subnets: Vec::new(),
            codec: Spoken::Plain(CodecKind::VxlanGpe),
            port: 4790,
            sealed: None,
            plain: true,
            session: None,
            session_error: None,
            mtu: 1464,
            egress: culvert_dataplane::engine::Traffic { packets: 1, bytes },
            ingress: Default::default(),
            last_heard_seconds: heard,
            path: super::super::PathStatus::default(),
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
    fn no_list_of_faults_fills_the_screen() {
        let many = || (0..500).map(|number| format!("fault {number}")).collect::<Vec<_>>();
        let mut status = Status { stranded: many(), ..Status::default() };
        (status.policy.mode, status.policy.refused) = ("on".to_owned(), many());
        status.sealed.failing = many();
        let text = status.text(&Selection::default()).to_string();
        assert!(text.lines().count() < 50, "{text}");
        assert_eq!(text.matches("492 more (`culvert status --json`)").count(), 3, "{text}");
    }

    #[test]
    fn whoever_asks_for_a_peer_is_told_of_its_session() {
        let mut one = peer("node2", 1, None);
        one.session = Some(SessionStatus {
            suite: "aes-256-gcm".to_owned(),
            post_quantum: true,
            role: "responder".to_owned(),
            age_seconds: 34.0,
            renewal_in_seconds: 80.0,
            with_former_key: false,
        });
        let mut other = peer("node3", 1, None);
        other.session_error = Some("the peer does not answer handshakes".to_owned());
        let status = Status { peers: vec![one, other], ..Status::default() };
        let asked = Selection { peer: Some("node".to_owned()), ..Selection::default() };
        let text = status.text(&asked).to_string();
        let session = "node2: session of 34.0 s, aes-256-gcm, with ML-KEM, begun by the peer, \
                       renewed in 1 min";
        let error = "node3: last handshake failed: the peer does not answer handshakes";
        assert!(text.contains(session) && text.contains(error), "{text}");
        let all = status.text(&Selection::default()).to_string();
        assert!(!all.contains("session of") && !all.contains("last handshake"), "{all}");
    }

    #[test]
    fn nothing_is_called_undropped_that_was_not_looked_at() {
        let text = |receive_drops, tun_drops| {
            let status = Status { receive_drops, tun_drops, ..Status::default() };
            status.text(&Selection::default()).to_string()
        };
        let none = text(Some(0), Some(0));
        assert!(none.contains("neither the daemon, its receiving sockets nor"), "{none}");
        let unknown = text(None, Some(0));
        let said =
            "the daemon has dropped no packet; what its receiving sockets dropped is not known";
        assert!(unknown.contains(said), "{unknown}");
        assert!(text(None, None).contains("receiving sockets and TUN device dropped is not known"));
        let some = text(Some(0), Some(7));
        assert!(some.contains("by the kernel, TUN device: the daemon was too slow"), "{some}");
        assert!(!some.contains("neither"), "{some}");
    }

    #[test]
    fn drop_is_shown_with_its_time_and_whom_it_was_from() {
        let vni = DropReason::Header(overlay_proto::DecodeError::Vni);
        let [from, other] = ["192.168.1.12", "192.168.1.13"].map(|it| it.parse().unwrap());
        let senders = vec![from, other];
        let last = LastDrop { seconds_ago: 2.0, last_minute: 7, from: Some(from), senders };
        let status = Status {
            peers: vec![peer("node2", 1, None)],
            drops: [(vni, 31), (DropReason::NoOwner, 0)].into(),
            last_drops: [(vni, last)].into(),
            ..Status::default()
        };
        let text = status.text(&Selection::default()).to_string();
        let line = text.lines().find(|line| line.contains("vni")).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words.join(" "), "vni 31 7 2.0 s ago 192.168.1.12 (node2) and 1 more");
    }

    #[test]
    fn what_is_not_known_yet_is_not_shown_as_a_number() {
        let text = Status::default().text(&Selection::default()).to_string();
        assert!(!text.contains("0 bytes") && text.contains("no peers"), "{text}");
    }
}
