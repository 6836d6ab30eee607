//! Verdicts that somebody expects, as lines that a person writes.
//!
//! ```text
//! # packets  what becomes of them
//! 1          egress forward peer=node2
//! 2          egress reply reason=too_big
//! 3-9        ingress deliver
//! 10-        any
//! ```
//!
//! Only what a line says is compared. Every packet needs a line.

use std::fmt::{self, Write as _};
use std::ops::RangeInclusive;

use super::row::{Direction, Row, Verdict};

/// A whole expectation.
#[derive(Debug, Default)]
pub struct Expectation {
    /// In ascending order, without overlaps.
    lines: Vec<Line>,
    /// The line that the packet before was on.
    cursor: usize,
    last: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Line {
    number: usize,
    first: u64,
    last: u64,
    text: String,
    direction: Option<Direction>,
    verdict: Option<String>,
    reason: Option<String>,
    peer: Option<String>,
    datagrams: Option<usize>,
    wire: Option<usize>,
    truncated: Option<usize>,
}

/// What is wrong with an expectation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectError {
    /// Line, counted from 1.
    pub line: usize,
    /// What is wrong, and what to write.
    pub problem: String,
}

impl fmt::Display for ExpectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.problem)
    }
}

impl std::error::Error for ExpectError {}

impl Expectation {
    /// Reads an expectation.
    ///
    /// # Errors
    ///
    /// The first line that cannot be understood.
    pub fn parse(text: &str) -> Result<Self, ExpectError> {
        let mut lines: Vec<Line> = Vec::new();
        for (index, text) in text.lines().enumerate() {
            let number = index + 1;
            let text = text.split('#').next().unwrap_or_default().trim();
            if text.is_empty() {
                continue;
            }
            let line = Line::parse(number, text)
                .map_err(|problem| ExpectError { line: number, problem })?;
            if let Some(before) = lines.last()
                && before.last >= line.first
            {
                let problem = format!(
                    "packet {} is on line {} already; write packets in ascending order, each once",
                    line.first, before.number
                );
                return Err(ExpectError { line: number, problem });
            }
            lines.push(line);
        }
        Ok(Self { lines, cursor: 0, last: 0 })
    }

    /// Compares the next packet; says what differs. Packets come in order.
    pub(super) fn differs(&mut self, row: &Row) -> Option<String> {
        self.last = row.packet;
        while self.lines.get(self.cursor).is_some_and(|line| line.last < row.packet) {
            self.cursor += 1;
        }
        let Some(line) = self.lines.get(self.cursor).filter(|line| line.first <= row.packet) else {
            return Some(format!(
                "packet {}\n  expected  nothing is said of it\n  was       {row}",
                row.packet
            ));
        };
        let wrong = line.mismatches(row);
        (!wrong.is_empty()).then(|| {
            format!(
                "packet {} (line {}: {})\n  expected  {}\n  was       {row}",
                row.packet,
                line.number,
                wrong.join(", "),
                line.text
            )
        })
    }

    /// What is expected of packets that never came.
    pub(super) fn missing(&self) -> Option<String> {
        let line = self.lines.iter().find(|line| {
            let open = line.last == u64::MAX;
            let needed = if open { line.first } else { line.last };
            needed > self.last && !(open && self.last + 1 == line.first)
        })?;
        Some(format!(
            "line {} expects packets up to {}, but the capture has {}",
            line.number,
            if line.last == u64::MAX { line.first } else { line.last },
            self.last
        ))
    }
}

impl Line {
    fn parse(number: usize, text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let range = words.next().unwrap_or_default();
        let packets = packets(range).ok_or_else(|| {
            format!(
                "\"{range}\" names no packets; write a number such as 3, a range such as 3-9, or 10- \
                 for the rest"
            )
        })?;
        let mut line = Self {
            number,
            first: *packets.start(),
            last: *packets.end(),
            text: text[range.len()..].trim().to_owned(),
            ..Self::default()
        };
        let mut any = false;
        for word in words {
            any = true;
            line.word(word)?;
        }
        if any {
            Ok(line)
        } else {
            Err("nothing is expected; write a verdict, or \"any\"".to_owned())
        }
    }

    fn word(&mut self, word: &str) -> Result<(), String> {
        let number =
            |value: &str| value.parse().map_err(|_| format!("\"{word}\": {value} is not a number"));
        match word.split_once('=') {
            None if word == "any" => {}
            None if word == "egress" => self.direction = Some(Direction::Egress),
            None if word == "ingress" => self.direction = Some(Direction::Ingress),
            None if Verdict::WORDS.contains(&word) => self.verdict = Some(word.to_owned()),
            Some(("reason", value)) => self.reason = Some(value.to_owned()),
            Some(("peer", value)) => self.peer = Some(value.to_owned()),
            Some(("datagrams", value)) => self.datagrams = Some(number(value)?),
            Some(("wire", value)) => self.wire = Some(number(value)?),
            Some(("truncated", value)) => self.truncated = Some(number(value)?),
            None | Some(_) => {
                return Err(format!(
                    "\"{word}\" means nothing here; known are egress, ingress, {}, any, and reason=, \
                     peer=, datagrams=, wire=, truncated= with a value",
                    Verdict::WORDS.join(", ")
                ));
            }
        }
        Ok(())
    }

    /// The words of the line that do not hold for `row`.
    fn mismatches(&self, row: &Row) -> Vec<&'static str> {
        let reason = || row.verdict.reason().map(|reason| reason.to_string());
        let mut wrong = Vec::new();
        let mut check = |what, differs: bool| {
            if differs {
                wrong.push(what);
            }
        };
        check("direction", self.direction.is_some() && self.direction != row.direction);
        check("verdict", self.verdict.as_deref().is_some_and(|word| word != row.verdict.as_str()));
        check("reason", self.reason.is_some() && self.reason != reason());
        check("peer", self.peer.as_deref().is_some_and(|peer| peer != row.peer));
        check("datagrams", self.datagrams.is_some_and(|count| count != row.datagrams));
        check("wire", self.wire.is_some_and(|bytes| bytes != row.wire_bytes));
        check("truncated", self.truncated.is_some() && self.truncated != row.captured);
        wrong
    }
}

fn packets(text: &str) -> Option<RangeInclusive<u64>> {
    let (first, last) = match text.split_once('-') {
        None => {
            let only = text.parse().ok()?;
            (only, only)
        }
        Some((first, "")) => (first.parse().ok()?, u64::MAX),
        Some((first, last)) => (first.parse().ok()?, last.parse().ok()?),
    };
    (first >= 1 && first <= last).then_some(first..=last)
}

/// Writes down what happens as an expectation.
#[derive(Debug, Default)]
pub(super) struct Scribe {
    text: String,
    /// First packet, last packet, and what became of them.
    run: Option<(u64, u64, String)>,
}

impl Scribe {
    pub(super) fn note(&mut self, row: &Row) {
        let line = row.to_string();
        match &mut self.run {
            Some((_, last, of)) if *of == line => *last = row.packet,
            _ => {
                self.end_run();
                self.run = Some((row.packet, row.packet, line));
            }
        }
    }

    /// The whole text.
    pub(super) fn finish(mut self) -> String {
        self.end_run();
        format!(
            "# Written by culvert replay --bless: look at each line, then keep the file.\n{}",
            self.text
        )
    }

    fn end_run(&mut self) {
        if let Some((first, last, line)) = self.run.take() {
            let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
            // Writing to a string cannot fail.
            let _ = writeln!(self.text, "{range:<10} {line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use culvert_dataplane::engine::DropReason;

    fn row(packet: u64, verdict: Verdict) -> Row {
        Row {
            packet,
            time_ns: 0,
            direction: Some(Direction::Egress),
            verdict,
            peer: "node2".to_owned(),
            datagrams: 1,
            wire_bytes: 120,
            packet_bytes: 84,
            captured: None,
            flow: String::new(),
        }
    }

    #[test]
    fn only_what_a_line_says_is_compared() {
        let forward = row(1, Verdict::Forward);
        for good in ["1 any", "1- forward", "1-3 egress", "1 forward peer=node2 wire=120 # yes"] {
            assert_eq!(Expectation::parse(good).unwrap().differs(&forward), None, "{good}");
        }
        for (bad, what) in [
            ("1 ingress forward", "direction"),
            ("1 drop", "verdict"),
            ("1 peer=node3", "peer"),
            ("1 wire=119", "wire"),
            ("1 reason=too_big", "reason"),
            ("1 datagrams=2", "datagrams"),
            ("1 truncated=60", "truncated"),
        ] {
            let difference = Expectation::parse(bad).unwrap().differs(&forward).unwrap();
            assert!(difference.contains(&format!("line 1: {what}")), "{difference}");
        }
    }

    #[test]
    fn a_packet_without_a_line_and_a_line_without_a_packet_differ() {
        let mut expectation = Expectation::parse("2 any\n4-5 any\n9- any").unwrap();
        assert!(expectation.differs(&row(1, Verdict::Forward)).is_some());
        assert!(expectation.differs(&row(2, Verdict::Forward)).is_none());
        assert!(expectation.differs(&row(3, Verdict::Forward)).is_some());
        assert!(expectation.differs(&row(4, Verdict::Forward)).is_none());
        assert_eq!(
            expectation.missing().unwrap(),
            "line 2 expects packets up to 5, but the capture has 4"
        );
    }

    #[test]
    fn a_line_that_means_nothing_is_refused_with_what_to_write() {
        for (text, problem) in [
            ("forward", "names no packets"),
            ("0 forward", "names no packets"),
            ("5-3 any", "names no packets"),
            ("1", "nothing is expected"),
            ("1 forwarded", "means nothing here"),
            ("1 wire=many", "not a number"),
            ("1-3 any\n3 any", "is on line 1 already"),
        ] {
            let error = Expectation::parse(text).unwrap_err();
            assert!(error.problem.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_written_down_is_what_is_expected() {
        let rows = [
            row(1, Verdict::Forward),
            row(2, Verdict::Forward),
            row(3, Verdict::Reply(DropReason::TooBig)),
        ];
        let mut scribe = Scribe::default();
        rows.iter().for_each(|row| scribe.note(row));
        let text = scribe.finish();
        assert!(text.contains("1-2        egress forward peer=node2 wire=120\n"), "{text}");
        let mut expectation = Expectation::parse(&text).unwrap();
        assert!(rows.iter().all(|row| expectation.differs(row).is_none()));
        assert_eq!(expectation.missing(), None);
        assert!(Expectation::parse(&text).unwrap().differs(&row(1, Verdict::Deliver)).is_some());
    }
}
