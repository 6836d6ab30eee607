//! Questions about a packet that nodes ask each other: as words, and what is answered to them.
//!
//! Everything is text of at most 200 bytes, so that a later version can say more. A question is
//! always as long as it may be, and so no answer is longer.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;

use overlay_proto::oam::MAX_TRACE_LEN;

use crate::explain::{Explanation, Protocol, Question, Trace};
use crate::observe::{CUT, TraceHalf};

/// How often a peer is answered in a second: the kernel is asked for each.
const ANSWERS: u32 = 10;

/// What the words begin with; others are not answered.
const FORM: &str = "1";

/// How often each peer has asked in this second.
#[derive(Default)]
pub(super) struct Asked {
    second: u64,
    counts: HashMap<IpAddr, u32>,
}

impl Asked {
    /// Whether one more question is answered, so many seconds after the start.
    pub(super) fn may(&mut self, peer: IpAddr, second: u64) -> bool {
        if second != self.second {
            self.second = second;
            self.counts.clear();
        }
        let count = self.counts.entry(peer).or_default();
        *count += 1;
        *count <= ANSWERS
    }
}

/// A question in words, with spaces up to the length that an answer may have.
pub(super) fn ask(question: &Question) -> Vec<u8> {
    let Question { source, destination, source_port, destination_port, size, .. } = question;
    let protocol = match question.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Icmp => "icmp",
    };
    let fragment = if question.may_fragment { "fragment" } else { "whole" };
    let mut words = format!(
        "{FORM} {source} {destination} {protocol} {source_port} {destination_port} {size} {fragment}"
    )
    .into_bytes();
    words.resize(MAX_TRACE_LEN, b' ');
    words
}

/// The question that words ask; none of words of another version.
pub(super) fn read_question(words: &[u8]) -> Option<Question> {
    let mut words = std::str::from_utf8(words).ok()?.split_ascii_whitespace();
    if words.next()? != FORM {
        return None;
    }
    let (source, destination) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let protocol = match words.next()? {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "icmp" => Protocol::Icmp,
        _ => return None,
    };
    let source_port = words.next()?.parse().ok()?;
    let destination_port = words.next()?.parse().ok()?;
    let size = words.next()?.parse().ok()?;
    let may_fragment = words.next()? == "fragment";
    Some(Question {
        source,
        destination,
        protocol,
        source_port,
        destination_port,
        size,
        may_fragment,
    })
}

/// A way in words: what becomes of the packet, and by what that was decided.
fn words(way: &Trace) -> String {
    let reason = way.reason.map(|reason| format!(", {}", reason.as_str())).unwrap_or_default();
    let last = way.decisive();
    let unless: String = way.unless.iter().map(|unless| format!("; unless {unless}")).collect();
    format!("{}{reason}: {last}{unless}", way.verdict)
}

/// What the line with checks that fail begins with.
const CHECKS: &str = "checks";

/// Bytes of that line at most: the ways say more.
const MAX_CHECKS_LEN: usize = 60;

/// What a node answers: a line for each way, and one of the checks that fail, if that is known, of
/// bytes that make up `room` together.
pub(super) fn answer(
    explained: &anyhow::Result<Explanation>,
    failing: Option<&[String]>,
    room: usize,
) -> Vec<u8> {
    let room = room.min(MAX_TRACE_LEN);
    let checks = failing.map(checks).unwrap_or_default();
    // The longer half is the ways'.
    let checks = if checks.len() * 2 <= room { checks } else { String::new() };
    let room = room - checks.len();
    let lines: Vec<String> = match explained {
        Ok(explanation) => explanation.ways.iter().map(words).collect(),
        Err(error) => vec![format!("unknown: {error:#}")],
    };
    let shares = shares(&lines, room.saturating_sub(FORM.len()));
    let mut text = FORM.to_owned();
    for (line, share) in lines.iter().zip(shares) {
        text.push('\n');
        text.push_str(&cut(line, share));
    }
    text.push_str(&checks);
    text.into_bytes()
}

/// The line with checks that fail: whole words, as many as fit.
fn checks(failing: &[String]) -> String {
    let mut line = format!("\n{CHECKS}");
    for word in failing {
        if line.len() + 1 + word.len() > MAX_CHECKS_LEN {
            break;
        }
        line.push(' ');
        line.push_str(word);
    }
    line
}

/// What another node has answered.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::app) struct Answered {
    /// A half for each way.
    pub(in crate::app) halves: Vec<TraceHalf>,
    /// The checks that fail there, if it says so.
    pub(in crate::app) failing: Option<Vec<String>>,
}

/// How many bytes of `room` each line gets, an end of line before each: the short ones what they
/// need, and the others alike.
fn shares(lines: &[String], room: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..lines.len()).collect();
    order.sort_by_key(|index| lines[*index].len());
    let mut shares = vec![0; lines.len()];
    let mut left = room;
    for (done, index) in order.into_iter().enumerate() {
        let share = (left / (lines.len() - done)).saturating_sub(1);
        shares[index] = share.min(lines[index].len());
        left = left.saturating_sub(shares[index] + 1);
    }
    shares
}

/// The begin of a text, of at most so many bytes, and with a sign where it was cut.
fn cut(text: &str, len: usize) -> Cow<'_, str> {
    if text.len() <= len {
        return text.into();
    }
    let begin = |len: usize| {
        let mut end = len;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.get(..end).unwrap_or_default()
    };
    match len.checked_sub(CUT.len_utf8()) {
        Some(len) => format!("{}{CUT}", begin(len).trim_end()).into(),
        None => begin(len).into(),
    }
}

/// The ways that an answer has, as `node` says them. What came over the wire is shown as it is
/// only where it is text.
pub(super) fn read_answer(node: &str, words: &[u8]) -> Answered {
    let text = String::from_utf8_lossy(words);
    let mut lines = text.lines();
    if lines.next() != Some(FORM) {
        return Answered::default();
    }
    let printable = |line: &str| line.chars().filter(|c| !c.is_control()).collect::<String>();
    let mut answered = Answered::default();
    for line in lines.map(printable) {
        let mut words = line.split_ascii_whitespace();
        if words.next() == Some(CHECKS) {
            answered.failing = Some(words.map(str::to_owned).collect());
        } else {
            answered.halves.push(half(node, &line));
        }
    }
    answered
}

/// What this node itself says of a way.
pub(in crate::app) fn own(node: &str, way: &Trace) -> TraceHalf {
    half(node, &words(way))
}

fn half(node: &str, words: &str) -> TraceHalf {
    let (verdict, found) = words.split_once(": ").unwrap_or((words, ""));
    TraceHalf { node: node.to_owned(), verdict: verdict.to_owned(), found: found.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::{Basis, Direction, Step, Verdict};

    fn question() -> Question {
        Question {
            source: "fd00:10:244:1234:5678:9abc:def0:1234".parse().unwrap(),
            destination: "fd00:10:244:1234:5678:9abc:def0:5678".parse().unwrap(),
            protocol: Protocol::Tcp,
            source_port: 40_000,
            destination_port: 65_535,
            size: 65_535,
            may_fragment: true,
        }
    }

    #[test]
    fn longest_question_fits_and_comes_back() {
        let words = ask(&question());
        assert_eq!((words.len(), read_question(&words)), (MAX_TRACE_LEN, Some(question())));
        for wrong in
            ["", "2 10.0.0.1", "1 10.0.0.1 x tcp 1 2 3 whole", "1 ::1 ::2 sctp 1 2 3 whole"]
        {
            assert_eq!(read_question(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn answer_has_both_ways_and_never_more_than_there_is_room() {
        let way = |verdict, found: &str| Trace {
            packet: String::new(),
            direction: Direction::Ingress,
            steps: vec![Step {
                what: "pod".to_owned(),
                found: found.to_owned(),
                by: Basis::Kernel,
            }],
            decided_by: None,
            verdict,
            reason: None,
            unless: Vec::new(),
            peer: None,
            wire_bytes: 0,
        };
        let ways = vec![
            way(Verdict::KernelDrops, &"ä".repeat(300)),
            way(Verdict::Forward, "10.244.1.0/24 is node1's"),
        ];
        let explained = Ok(Explanation { node: "node2".to_owned(), ways, becomes: None });
        let all: Vec<String> = (0..25).map(|number| format!("check_{number}")).collect();
        for (room, failing) in (0..300).flat_map(|room| [(room, None), (room, Some(&all[..]))]) {
            let len = answer(&explained, failing, room).len();
            assert!(len <= room.clamp(FORM.len() + 2, MAX_TRACE_LEN), "{room}: {len}");
        }
        let failing = ["forward".to_owned(), "receive".to_owned()];
        let answered = answer(&explained, Some(&failing), MAX_TRACE_LEN);
        let Answered { halves, failing: read } = read_answer("node2", &answered);
        assert_eq!(read, Some(failing.to_vec()));
        let silent = answer(&explained, None, MAX_TRACE_LEN);
        assert_eq!(read_answer("node2", &silent).failing, None, "not looked at is not good");
        let well = answer(&explained, Some(&[]), MAX_TRACE_LEN);
        assert_eq!(read_answer("node2", &well).failing, Some(Vec::new()));
        let verdicts: Vec<_> = halves.iter().map(|half| half.verdict.as_str()).collect();
        assert_eq!(verdicts, ["kernel_drops", "forward"]);
        assert_eq!(halves[1].found, "10.244.1.0/24 is node1's");
        // What one does not need the other gets, and what is cut is seen to be.
        let long = &halves[0].found;
        assert!(long.ends_with('…') && long.len() > 90, "{long}");
        assert_eq!(read_answer("node2", b"\xff\x1b[2J"), Answered::default());
    }

    #[test]
    fn a_peer_is_answered_ten_times_a_second() {
        let mut asked = Asked::default();
        let (one, other) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let granted =
            |asked: &mut Asked, peer, second| (0..100).filter(|_| asked.may(peer, second)).count();
        assert_eq!((granted(&mut asked, one, 5), granted(&mut asked, other, 5)), (10, 10));
        assert_eq!((granted(&mut asked, one, 5), granted(&mut asked, one, 6)), (0, 10));
    }
}
