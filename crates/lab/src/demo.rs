//! `culvert lab demo`: a cluster from nothing, everything it should do, and nothing left of it.
//!
//! Owns the tour and its words. Each stop says what it is about to show, shows it, and judges it; a
//! stop that fails does not end the tour, so that the reader sees how much works.

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use culvert_reach::{Cell, Label, Tone, milliseconds};
use overlay_proto::Family;

use super::builder::LabBuilder;
use super::interrupt;
use super::network::Lab;
use super::output::Output;
use super::pod::Pod;
use super::probe::{self, Answer, Ping, Transfer, TransferReport};
use crate::clock;

/// How much the TCP transfer moves: a second's worth for a data path that is not optimized.
const TRANSFER_BYTES: u64 = 128 << 20;

/// After this many lost echoes, something is broken and waiting long for each more says nothing
/// new.
const PATIENCE: usize = 3;

/// Runs the demo. The exit code tells whether everything worked.
pub(super) fn run(builder: LabBuilder, out: Output) -> Result<ExitCode> {
    let is_sealed = builder.is_sealed();
    let start = clock::now();
    out.heading("Building a cluster on this machine; nodes and pods are network namespaces")?;
    let lab = builder
        .progress(move |what| {
            let _ = out.line(format_args!("  {what} …"));
        })
        .up()?;
    let plan = lab.plan();
    out.line(format_args!(
        "  up after {} ms: {} pods over an {} underlay of MTU {}",
        start.elapsed().as_millis(),
        plan.families,
        plan.underlay,
        plan.underlay_mtu
    ))?;
    for pod in lab.pods() {
        let addresses: Vec<String> = pod.addresses().iter().map(ToString::to_string).collect();
        out.line(format_args!("  {:<12}  {}", pod.name(), addresses.join(", ")))?;
    }

    let mut tour = Tour { lab: &lab, out, failures: 0, lost: 0 };
    for family in plan.families.each() {
        tour.show_matrix(*family)?;
    }
    tour.show_other_ways()?;
    for family in plan.families.each() {
        tour.show_transfer(*family)?;
    }
    if is_sealed {
        tour.show_wire()?;
    }
    tour.show_routes()?;
    tour.show_status()?;
    let failures = tour.failures;

    out.heading("Taking everything down")?;
    let start = clock::now();
    lab.down()?;
    out.line(format_args!("  nothing is left, after {} ms", start.elapsed().as_millis()))?;
    if failures == 0 {
        out.heading(out.colour.paint(Tone::Good, "Everything worked."))?;
        Ok(ExitCode::SUCCESS)
    } else {
        let text = format!("{failures} checks failed; see above.");
        out.heading(out.colour.paint(Tone::Bad, text))?;
        Ok(ExitCode::FAILURE)
    }
}

struct Tour<'a> {
    lab: &'a Lab,
    out: Output,
    failures: usize,
    lost: usize,
}

impl Tour<'_> {
    fn show_matrix(&mut self, family: Family) -> Result<()> {
        self.out.heading(format_args!(
            "Every pod pings every other over {family}: row to column, round trip in ms"
        ))?;
        let pods = self.lab.pods();
        let mut rows: Vec<Vec<Cell>> = Vec::new();
        for from in &pods {
            let mut row = Vec::new();
            for to in &pods {
                row.push(if from.name() == to.name() {
                    Cell::Itself
                } else {
                    let answer = self.ping(from.netns(), to.address(family))?;
                    answer.rtt().map_or_else(|| Cell::Failed(answer.word()), Cell::Answered)
                });
            }
            rows.push(row);
        }
        let labels: Vec<Label> = pods.iter().map(label).collect();
        self.out.block(&culvert_reach::draw(&labels, &rows, self.out.colour))?;

        let pairs = pods.len() * pods.len().saturating_sub(1);
        let answered =
            rows.iter().flatten().filter(|cell| matches!(cell, Cell::Answered(_))).count();
        self.judge(answered == pairs, format!("{answered} of {pairs} pairs"))
    }

    fn show_other_ways(&mut self) -> Result<()> {
        self.out.heading("Nodes reach pods of other nodes, and pods reach the world outside")?;
        let pods = self.lab.pods();
        for family in self.lab.plan().families.each() {
            let outside = self.lab.outside(*family);
            for node in self.lab.nodes() {
                let remote = pods.iter().find(|pod| pod.node() != node.index);
                if let Some(remote) = remote {
                    let to = remote.address(*family);
                    let answer = self.ping(node.netns(), to)?;
                    self.judge_ping(node.name(), &remote.name(), to, &answer)?;
                }
            }
            for pod in &pods {
                let answer = self.ping(pod.netns(), outside)?;
                self.judge_ping(&pod.name(), "outside", outside, &answer)?;
            }
        }
        Ok(())
    }

    fn show_transfer(&mut self, family: Family) -> Result<()> {
        let pods = self.lab.pods();
        let Some((client, server)) = farthest(&pods) else {
            return Ok(());
        };
        self.out.heading(format_args!(
            "{} MiB over one {family} TCP connection, {} to {}",
            TRANSFER_BYTES >> 20,
            client.name(),
            server.name()
        ))?;
        let transfer = Transfer::of(TRANSFER_BYTES).timeout(Duration::from_secs(30));
        let address = server.address(family);
        match probe::transfer(client.netns(), server.netns(), address, &transfer) {
            Ok(report) => {
                let rate = report.bits_per_second() / 1e9;
                self.judge(true, format!("{rate:.2} Gbit/s, every byte as it was sent"))?;
                self.judge_source(client.address(family), &report)
            }
            Err(error) => self.judge(false, format!("{error:#}")),
        }
    }

    fn judge_source(&mut self, client: IpAddr, report: &TransferReport) -> Result<()> {
        let seen = report.seen.ip();
        if seen == client {
            self.judge(true, format!("the server saw {seen}: the client pod's own address"))
        } else {
            self.judge(false, format!("the server saw {seen}, but the client pod is {client}"))
        }
    }

    /// Looks at what crosses the switch while pods talk.
    fn show_wire(&mut self) -> Result<()> {
        /// What the echo begins with, as [`probe::udp_echo`] makes it.
        const MARKER: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];
        let pods = self.lab.pods();
        let Some((client, server)) = farthest(&pods) else { return Ok(()) };
        self.out.heading(format_args!(
            "What the switch between the nodes sees while {} talks with {}",
            client.name(),
            server.name()
        ))?;
        for family in self.lab.plan().families.each() {
            let wire = probe::Wire::tap(self.lab.switch())?;
            let (from, to, address) = (client.netns(), server.netns(), server.address(*family));
            let echo = probe::udp_echo(from, to, address, 600, Duration::from_secs(5));
            let frames = wire.frames()?;
            let readable = frames
                .iter()
                .filter(|frame| frame.windows(MARKER.len()).any(|window| window == MARKER));
            let (readable, seen) = (readable.count(), frames.len());
            match echo {
                Ok(_) => self.judge(
                    readable == 0 && seen > 0,
                    format!("{family}: {seen} frames, {readable} of them with what the pods said"),
                )?,
                Err(error) => self.judge(false, format!("{error:#}"))?,
            }
        }
        Ok(())
    }

    fn show_routes(&mut self) -> Result<()> {
        let Some(node) = self.lab.nodes().first() else {
            return Ok(());
        };
        self.out.heading(format_args!(
            "The routing table of {}: one route for all other nodes' pods, none for a single node",
            node.name()
        ))?;
        for family in self.lab.plan().families.each() {
            let option = match family {
                Family::V4 => "-4",
                Family::V6 => "-6",
            };
            let text = node.netns().ip_output(&[option, "route"])?;
            self.out.block(&text)?;
            let others = self.lab.nodes().iter().skip(1);
            let foreign = others
                .flat_map(|other| other.subnets().iter().map(move |net| (other.name(), net)))
                .find(|(_, net)| text.contains(&net.to_string()));
            match foreign {
                None => {
                    self.judge(true, format!("no {family} route names another node's subnet"))?
                }
                Some((other, net)) => {
                    self.judge(false, format!("there is a route for {net}, a subnet of {other}"))?;
                }
            }
        }
        Ok(())
    }

    fn show_status(&mut self) -> Result<()> {
        let Some(node) = self.lab.nodes().first() else {
            return Ok(());
        };
        self.out
            .heading(format_args!("What the daemon of {} says: `culvert status`", node.name()))?;
        match node.culvert(&["status"]) {
            Ok(text) => Ok(self.out.block(&text)?),
            Err(error) => self.judge(false, format!("{error:#}")),
        }
    }

    fn ping(&mut self, from: &super::Netns, to: IpAddr) -> Result<Answer> {
        interrupt::check()?;
        let patience = if self.lost < PATIENCE { 2000 } else { 200 };
        let ping = Ping::default().timeout(Duration::from_millis(patience));
        let answer = probe::ping(from, to, &ping).context("run the demo")?;
        if answer == Answer::Silence {
            self.lost += 1;
        }
        Ok(answer)
    }

    fn judge_ping(&mut self, from: &str, to: &str, address: IpAddr, answer: &Answer) -> Result<()> {
        let outcome = match answer.rtt() {
            Some(rtt) => format!("{} ms", milliseconds(rtt)),
            None => answer.word().to_owned(),
        };
        self.judge(answer.is_reply(), format!("{from} to {to}, {address}: {outcome}"))
    }

    fn judge(&mut self, good: bool, text: String) -> Result<()> {
        // What the user interrupted did not fail.
        interrupt::check()?;
        if !good {
            self.failures += 1;
        }
        Ok(self.out.outcome(good, text)?)
    }
}

/// The first pod, and the last one that is another: on another node, if there is one.
fn farthest(pods: &[Pod]) -> Option<(&Pod, &Pod)> {
    match pods {
        [first, .., last] => Some((first, last)),
        _ => None,
    }
}

fn label(pod: &Pod) -> Label {
    Label { node: format!("node{}", pod.node()), pod: format!("pod{}", pod.index()) }
}
