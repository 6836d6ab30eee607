//! What is known of the paths to peers.

use serde::{Deserialize, Serialize};

use super::{PeerStatus, Status};

/// Peers that are not well and are listed for people.
const SHOWN: usize = 8;

/// Paths that there are to each peer.
const PATHS: u8 = 16;

/// What is known of the paths to a peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PathStatus {
    /// Whether it answers: `unknown`, `answers`, `silent` or `refused` (nobody listens there).
    pub state: String,
    /// This node's source ports that lead nowhere; flows leave by others.
    pub lost: Vec<LostPath>,
    /// The peer's source ports from which nothing arrives here, counted from 1.
    pub lost_of_peer: Vec<u8>,
    /// How long an answer takes, smoothed, in seconds.
    pub rtt_seconds: Option<f64>,
    /// How its MTU is known: by the `route`, by `icmp` that was asked for, or `probed`.
    pub mtu_from: String,
    /// What its daemon last said of itself in an answer, if it knows how to.
    #[serde(default)]
    pub told: Option<Told>,
}

/// What the daemon of a peer says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// How long ago it was, in seconds.
    #[serde(default)]
    pub seconds_ago: f64,
    /// Its version.
    pub version: String,
    /// The hash of its table.
    pub table: String,
    /// Whether its packets flow.
    pub ready: bool,
    /// Peers that do not answer it.
    pub peers_lost: u16,
    /// Packets that it dropped within a second.
    pub drops_per_second: u32,
    /// MTU of its overlay.
    pub mtu: u16,
}

/// A path that leads nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostPath {
    /// The path, counted from 1.
    pub path: u8,
    /// The UDP source port.
    pub port: u16,
}

/// What was counted of questions to peers since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProbeStatus {
    /// How often a peer with traffic is asked; 0 if nobody is.
    pub interval_seconds: u64,
    /// Upper bounds of `rtt_counts`, in seconds; the last count is of what is above.
    pub rtt_bounds: Vec<f64>,
    /// Answers by how long they took.
    pub rtt_counts: Vec<u64>,
    /// The sum of all of it, in seconds.
    pub rtt_sum: f64,
    /// Questions of peers that were answered.
    pub answered: u64,
    /// Questions of peers that were too many.
    pub refused: u64,
}

impl PathStatus {
    /// Whether the peer should answer and does not.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self.state.as_str(), "silent" | "refused")
    }

    /// What an operator should know of it, if anything.
    fn remark(&self, peer: &PeerStatus) -> Option<String> {
        let name = &peer.name;
        match self.state.as_str() {
            "refused" => return Some(format!("{name} does not answer: nobody listens there")),
            "silent" => return Some(format!("{name} does not answer by any path")),
            _ => {}
        }
        let ours = self.lost.iter().map(|LostPath { path, port }| {
            format!("path {path} of {PATHS} (source port {port}) loses 100 %")
        });
        let theirs = self
            .lost_of_peer
            .iter()
            .map(|path| format!("path {path} of {PATHS} from there loses 100 %"));
        let narrow = (self.mtu_from != "route" && !self.mtu_from.is_empty())
            .then(|| format!("MTU {} ({})", peer.mtu, self.mtu_from));
        let all: Vec<String> = ours.chain(theirs).chain(narrow).collect();
        (!all.is_empty()).then(|| format!("{name}: {}", all.join(", ")))
    }
}

impl Status {
    /// What an operator should know of the paths to peers, one thing a line.
    pub(super) fn path_remarks(&self) -> Vec<String> {
        let lost = self.peers.iter().filter(|peer| peer.path.is_lost()).count();
        let summary = (lost > 0).then(|| format!("{lost} of {} do not answer", self.peers.len()));
        let mut lines: Vec<String> =
            self.peers.iter().filter_map(|peer| peer.path.remark(peer)).collect();
        let more = lines.len().saturating_sub(SHOWN);
        lines.truncate(SHOWN);
        let more = (more > 0).then(|| format!("{more} more (`culvert status --json`)"));
        summary.into_iter().chain(lines).chain(more).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_paths_is_said_and_nothing_else() {
        let peer = |name: &str, path: PathStatus| PeerStatus {
            name: name.to_owned(),
            address: "192.168.1.12".parse().unwrap(),
            subnets: Vec::new(),
            codec: crate::observe::Spoken::Plain(overlay_proto::CodecKind::VxlanGpe),
            port: 4790,
            sealed: None,
            session: None,
            session_error: None,
            plain: true,
            mtu: 1364,
            egress: Default::default(),
            ingress: Default::default(),
            last_heard_seconds: None,
            path,
        };
        let state = |state: &str| PathStatus {
            state: state.to_owned(),
            mtu_from: "route".to_owned(),
            ..PathStatus::default()
        };
        let lost = vec![LostPath { path: 8, port: 36_837 }];
        let status = Status {
            peers: vec![
                peer("node2", state("answers")),
                peer("node3", PathStatus { lost, ..state("answers") }),
                peer("node4", state("silent")),
                peer("node5", state("refused")),
                peer("node6", PathStatus { mtu_from: "probed".to_owned(), ..state("answers") }),
                peer("node7", PathStatus { lost_of_peer: vec![3], ..state("answers") }),
            ],
            ..Status::default()
        };
        assert_eq!(
            status.path_remarks(),
            [
                "2 of 6 do not answer",
                "node3: path 8 of 16 (source port 36837) loses 100 %",
                "node4 does not answer by any path",
                "node5 does not answer: nobody listens there",
                "node6: MTU 1364 (probed)",
                "node7: path 3 of 16 from there loses 100 %",
            ]
        );
    }
}
