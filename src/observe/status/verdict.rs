//! A status in one line: whether packets flow, and what is wrong all the same.

use super::{PeerStatus, Status};

impl Status {
    /// The verdict, for whoever has room for one line.
    pub(crate) fn verdict(&self) -> String {
        let silent = |peer: &&PeerStatus| peer.sealed.is_none() && !peer.plain;
        self.verdict_among(self.peers.len(), self.peers.iter().filter(silent).count())
    }

    /// The same of a status without `peers`, of which `unsealed` get nothing for want of a session.
    pub(crate) fn verdict_among(&self, peers: usize, unsealed: usize) -> String {
        let mut parts = Vec::new();
        match self.missing.as_slice() {
            [] => parts.push(format!("ready; {}", count(peers, "peer"))),
            [first, rest @ ..] => {
                parts.push(format!("not ready: {first}"));
                if !rest.is_empty() {
                    parts.push(format!("and {} more", rest.len()));
                }
            }
        }
        if unsealed > 0 {
            parts.push(format!("no session with {unsealed} of them"));
        }
        // The rest is in the status.
        parts.extend(
            self.table.remarks().into_iter().map(|remark| format!("table {remark}")).take(1),
        );
        parts.extend(self.sealed.error.clone());
        if !self.stranded.is_empty() {
            parts.push(format!("{} without a network", count(self.stranded.len(), "pod")));
        }
        if !self.hints.is_empty() {
            parts.push(count(self.hints.len(), "hint"));
        }
        parts.join("; ")
    }
}

fn count(number: usize, of: &str) -> String {
    match number {
        1 => format!("1 {of}"),
        _ => format!("{number} {of}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::{Missing, Need};
    use crate::observe::TableStatus;

    #[test]
    fn what_is_wrong_is_in_the_line_and_what_is_right_is_not() {
        let table = TableStatus { current: true, ..TableStatus::default() };
        let well = Status { ready: true, table, ..Status::default() };
        assert_eq!(well.verdict(), "ready; 0 peers");
        assert_eq!(well.verdict_among(3, 1), "ready; 3 peers; no session with 1 of them");

        let mut status = Status { hints: vec!["one".to_owned()], ..well.clone() };
        status.table.error = Some("two nodes have one address".to_owned());
        assert_eq!(
            status.verdict(),
            "ready; 0 peers; table newest refused: two nodes have one address; 1 hint"
        );

        let missing = |what| Missing { what, why: "not yet".to_owned() };
        let missing = vec![missing(Need::Table), missing(Need::Kernel)];
        let status = Status { ready: false, missing, ..well };
        assert_eq!(status.verdict(), "not ready: table: not yet; and 1 more");
    }
}
