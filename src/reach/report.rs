//! What was found, for people and for programs.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;

use culvert_reach::{Cell, Check, Colour, Found, Label, Outcome, Tone, draw};
use serde_json::{Value, json};

use super::plan::Pod;
use super::{Manner, Place, Service};

/// The form of the JSON: grows when a program that reads it would have to change.
const SCHEMA: u32 = 1;

/// Pods that a matrix has at most: more do not fit on a screen.
const DRAWN: usize = 24;

/// Failures that are listed for people.
const LISTED: usize = 20;

/// Who was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum To {
    /// A pod, by its number.
    Pod(usize),
    /// A service, by its number.
    Service(usize),
}

/// One who asked one other, and what came of it.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) from: usize,
    pub(super) to: To,
    pub(super) address: SocketAddr,
    /// Or why it could not be asked.
    pub(super) found: Result<Found, String>,
}

/// Everything.
#[derive(Debug)]
pub(super) struct Report {
    place: String,
    pods: Vec<Pod>,
    services: Vec<Service>,
    pairs: Vec<Pair>,
}

impl Pair {
    fn is_good(&self) -> bool {
        self.found.as_ref().is_ok_and(Found::is_good)
    }

    fn family(&self) -> &'static str {
        if self.address.is_ipv4() { "IPv4" } else { "IPv6" }
    }

    fn cell(&self) -> Cell {
        match &self.found {
            Err(_) => Cell::Failed("unasked"),
            Ok(found) => match (found.word(), found.rtt()) {
                (None, Some(rtt)) => Cell::Answered(rtt),
                (word, _) => Cell::Failed(word.unwrap_or("none")),
            },
        }
    }

    /// A service may translate addresses: it is what it is for.
    fn forgive_translation(&mut self) {
        let (To::Service(_), Ok(found)) = (self.to, &mut self.found) else { return };
        for outcome in &mut found.checks {
            let is_translated = |why: &String| why.starts_with("translated");
            outcome.ok |= outcome.why.as_ref().is_some_and(is_translated);
        }
    }
}

impl Report {
    pub(super) fn new(place: &Place, mut pairs: Vec<Pair>) -> Self {
        pairs.iter_mut().for_each(Pair::forgive_translation);
        let (pods, services) = (place.pods.clone(), place.services.clone());
        Self { place: place.name.clone(), pods, services, pairs }
    }

    pub(super) fn is_good(&self) -> bool {
        self.pairs.iter().all(Pair::is_good)
    }

    pub(super) fn print(&self, manner: &Manner) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if manner.json {
            return writeln!(out, "{:#}", self.json());
        }
        let colour = if out.is_terminal() { Colour::Ansi } else { Colour::Plain };
        out.write_all(self.text(colour).as_bytes())
    }

    fn json(&self) -> Value {
        let pods = self.pods.iter().map(
            |pod| json!({ "name": pod.title(), "node": pod.node, "addresses": pod.addresses }),
        );
        let services = self
            .services
            .iter()
            .map(|service| json!({ "name": service.name, "address": service.address }));
        let pairs = self.pairs.iter().map(|pair| {
            let found = pair.found.as_ref();
            let kind = if matches!(pair.to, To::Pod(_)) { "pod" } else { "service" };
            json!({
                "from": self.title(To::Pod(pair.from)),
                "to": self.title(pair.to),
                "kind": kind,
                "address": pair.address,
                "ok": pair.is_good(),
                "seen": found.ok().and_then(|found| found.seen),
                "error": found.err(),
                "checks": found.map(|found| found.checks.clone()).unwrap_or_default(),
            })
        });
        json!({
            "schema": SCHEMA,
            "place": self.place,
            "ok": self.is_good(),
            "pods": pods.collect::<Vec<_>>(),
            "services": services.collect::<Vec<_>>(),
            "pairs": pairs.collect::<Vec<_>>(),
        })
    }

    fn title(&self, of: To) -> String {
        match of {
            To::Pod(number) => self.pods.get(number).map(Pod::title),
            To::Service(number) => self.services.get(number).map(|it| it.name.clone()),
        }
        .unwrap_or_default()
    }

    fn text(&self, colour: Colour) -> String {
        let nodes: BTreeSet<&str> = self.pods.iter().map(|pod| pod.node.as_str()).collect();
        let checks: Vec<&str> = Check::ALL.iter().map(|check| check.word()).collect();
        let mut text = format!(
            "{}: {} pods on {} nodes; each asks by {}\n",
            self.place,
            self.pods.len(),
            nodes.len(),
            checks.join(", ")
        );
        for family in ["IPv4", "IPv6"] {
            self.add_family(&mut text, family, colour);
        }
        for (number, service) in self.services.iter().enumerate() {
            let of = |pair: &&Pair| pair.to == To::Service(number);
            self.add_outcome(&mut text, self.pairs.iter().filter(of), colour, &service.name);
        }
        self.add_failures(&mut text, colour);
        text
    }

    fn add_family(&self, text: &mut String, family: &str, colour: Colour) {
        let of = |pair: &&Pair| matches!(pair.to, To::Pod(_)) && pair.family() == family;
        let pairs: Vec<&Pair> = self.pairs.iter().filter(of).collect();
        if pairs.is_empty() {
            return;
        }
        let heading = format!("{family}: row asks column; round trip in ms, or what failed");
        text.push_str(&format!("\n{}\n", colour.paint(Tone::Heading, heading)));
        if self.pods.len() <= DRAWN {
            let label = |pod: &Pod| {
                let name = pod.name.strip_prefix(&format!("{}-", pod.node)).unwrap_or(&pod.name);
                Label { node: pod.node.clone(), pod: name.to_owned() }
            };
            let labels: Vec<Label> = self.pods.iter().map(label).collect();
            let cell = |from: usize, to: usize| {
                let is_it = |pair: &&&Pair| pair.from == from && pair.to == To::Pod(to);
                if from == to {
                    return Cell::Itself;
                }
                pairs.iter().find(is_it).map_or(Cell::Failed("unasked"), |pair| pair.cell())
            };
            let count = self.pods.len();
            let rows: Vec<Vec<Cell>> =
                (0..count).map(|from| (0..count).map(|to| cell(from, to)).collect()).collect();
            for line in draw(&labels, &rows, colour).lines() {
                text.push_str(&format!("  {line}\n"));
            }
        }
        self.add_outcome(text, pairs.into_iter(), colour, "pairs");
    }

    fn add_outcome<'a>(
        &self,
        text: &mut String,
        pairs: impl Iterator<Item = &'a Pair>,
        colour: Colour,
        what: &str,
    ) {
        let (mut good, mut all) = (0, 0);
        for pair in pairs {
            good += usize::from(pair.is_good());
            all += 1;
        }
        let mark = match good == all {
            true => colour.paint(Tone::Good, "ok  "),
            false => colour.paint(Tone::Bad, "FAIL"),
        };
        text.push_str(&format!("  {mark}  {good} of {all} {what}\n"));
    }

    fn add_failures(&self, text: &mut String, colour: Colour) {
        let failed: Vec<&Pair> = self.pairs.iter().filter(|pair| !pair.is_good()).collect();
        if failed.is_empty() {
            return;
        }
        text.push_str(&format!("\n{}\n", colour.paint(Tone::Heading, "What failed")));
        for pair in failed.iter().take(LISTED) {
            let (from, to) = (self.title(To::Pod(pair.from)), self.title(pair.to));
            let why = match &pair.found {
                Err(error) => error.clone(),
                Ok(found) => failures(found),
            };
            text.push_str(&format!("  {from} to {to}, {}: {why}\n", pair.address.ip()));
        }
        if failed.len() > LISTED {
            text.push_str(&format!("  {} more: --json\n", failed.len() - LISTED));
        }
    }
}

/// What failed of the checks with one other, in words.
fn failures(found: &Found) -> String {
    let one = |outcome: &Outcome| {
        let why = outcome.why.as_deref().unwrap_or("failed");
        let bytes = outcome.bytes;
        match outcome.check {
            Check::Udp => format!("a datagram: {why}"),
            Check::Tcp => format!("a TCP connection: {why}"),
            Check::Full => format!("a datagram of {bytes} bytes, which fills a packet: {why}"),
            Check::Pieces => format!("a datagram of {bytes} bytes, in fragments: {why}"),
            Check::Stream => format!("{} KiB over TCP: {why}", bytes >> 10),
        }
    };
    let failed = found.checks.iter().filter(|outcome| !outcome.ok).map(one);
    failed.collect::<Vec<_>>().join("; ")
}
