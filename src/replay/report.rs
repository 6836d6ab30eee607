//! What is told of the packets, and in which form.

use std::collections::BTreeMap;
use std::io::{self, Write};

use culvert_node::words::counted;

use super::expect::{Expectation, Scribe};
use super::row::Row;
use super::stage::{Results, Side};
use crate::pcap::{Interface, Writer};

/// Differences that are printed; of more only the number is told.
const MAX_DIFFERENCES: u64 = 20;

/// What is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A line a packet, for people.
    Table,
    /// A line a packet, for programs.
    Json,
    /// Sums.
    Summary,
    /// What differs from the expectation.
    Expect,
    /// Nothing yet: it becomes the expectation.
    Bless,
    /// Nothing: standard output is the capture's.
    Nothing,
}

pub(super) struct Report<W> {
    form: Form,
    out: W,
    results: Option<Writer<Box<dyn Write>>>,
    expectation: Option<Expectation>,
    scribe: Scribe,
    sums: BTreeMap<Sum, (u64, u64)>,
    packets: u64,
    differences: u64,
    comment: String,
}

/// What packets are summed up by.
type Sum = (&'static str, &'static str, String, String);

impl<W: Write> Report<W> {
    pub(super) fn new(
        form: Form,
        mut out: W,
        results: Option<Box<dyn Write>>,
        expectation: Option<Expectation>,
    ) -> io::Result<Self> {
        let interfaces = [
            Interface { name: "inner", description: "packets of pods, and what answers them" },
            Interface { name: "outer", description: "datagrams between nodes" },
        ];
        if form == Form::Table {
            writeln!(
                out,
                "{:>8}  {:<8} {:<8} {:<20} {:<12} {:>6}  flow",
                "packet", "way", "verdict", "reason", "peer", "wire"
            )?;
        }
        Ok(Self {
            form,
            out,
            results: results.map(|out| Writer::new(out, &interfaces)).transpose()?,
            expectation,
            scribe: Scribe::default(),
            sums: BTreeMap::new(),
            packets: 0,
            differences: 0,
            comment: String::new(),
        })
    }

    pub(super) fn show(&mut self, row: &Row, results: Results<'_>) -> anyhow::Result<()> {
        self.packets += 1;
        match self.form {
            Form::Table => self.table_row(row)?,
            Form::Json => {
                serde_json::to_writer(&mut self.out, &row.json()).map_err(io::Error::from)?;
                self.out.write_all(b"\n")?;
            }
            Form::Summary => self.sum_up(row),
            Form::Expect => self.compare(row)?,
            Form::Bless => self.scribe.note(row),
            Form::Nothing => {}
        }
        if let Some(writer) = &mut self.results {
            for (index, (side, bytes)) in results.iter().enumerate() {
                use std::fmt::Write as _;
                self.comment.clear();
                // Writing to a string cannot fail.
                let _ = match (index, side, row.verdict.as_str()) {
                    (1.., Side::Inner, "reply") => {
                        write!(self.comment, "packet {}: the answer to it", row.packet)
                    }
                    _ => write!(self.comment, "packet {}: {row}", row.packet),
                };
                let interface = match side {
                    Side::Inner => 0,
                    Side::Outer => 1,
                };
                writer.packet(interface, row.time_ns, &[bytes], bytes.len(), &self.comment)?;
            }
        }
        Ok(())
    }

    /// Writes what is left. Says whether everything was as expected.
    pub(super) fn finish(&mut self) -> io::Result<bool> {
        if let Some(writer) = &mut self.results {
            writer.flush()?;
        }
        if let Some(missing) = self.expectation.as_ref().and_then(Expectation::missing) {
            self.differences += 1;
            writeln!(self.out, "{missing}")?;
        }
        match self.form {
            Form::Summary => self.sums()?,
            Form::Expect if self.differences == 0 => {
                writeln!(self.out, "{}, all as expected", counted(self.packets, "packet"))?;
            }
            Form::Expect => {
                let (differences, packets) = (self.differences, self.packets);
                writeln!(self.out, "{differences} of {} differ", counted(packets, "packet"))?;
            }
            Form::Table | Form::Json | Form::Bless | Form::Nothing => {}
        }
        self.out.flush()?;
        Ok(self.differences == 0)
    }

    /// The expectation that what happened would meet.
    pub(super) fn blessed(&mut self) -> String {
        std::mem::take(&mut self.scribe).finish()
    }

    fn table_row(&mut self, row: &Row) -> io::Result<()> {
        let way = row.direction.map_or("-", |direction| direction.as_str());
        let (verdict, peer) = (row.verdict.as_str(), row.peer.as_str());
        write!(self.out, "{:>8}  {way:<8} {verdict:<8} ", row.packet)?;
        match row.verdict.reason() {
            Some(reason) => write!(self.out, "{:<20} ", reason.to_string())?,
            None => self.out.write_all(b"-                    ")?,
        }
        let peer = if peer.is_empty() { "-" } else { peer };
        write!(self.out, "{peer:<12} {:>6}  {}", row.wire_bytes, row.flow)?;
        if row.datagrams > 1 {
            write!(self.out, ", {}", counted(row.datagrams, "datagram"))?;
        }
        if let Some(captured) = row.captured {
            write!(self.out, " (frame cut off at {captured} bytes)")?;
        }
        self.out.write_all(b"\n")
    }

    fn sum_up(&mut self, row: &Row) {
        let way = row.direction.map_or("-", |direction| direction.as_str());
        let reason = row.verdict.reason().map(|reason| reason.to_string()).unwrap_or_default();
        let sum = (way, row.verdict.as_str(), reason, row.peer.clone());
        let (packets, bytes) = self.sums.entry(sum).or_default();
        *packets += 1;
        *bytes += row.wire_bytes as u64;
    }

    fn sums(&mut self) -> io::Result<()> {
        let Self { out, sums, .. } = self;
        let (title, rest) = (["way", "verdict", "reason", "peer"], ["packets", "wire bytes"]);
        let [way, verdict, reason, peer] = title;
        let [packets, bytes] = rest;
        writeln!(out, "{way:<8} {verdict:<8} {reason:<20} {peer:<12} {packets:>10} {bytes:>14}")?;
        for ((way, verdict, reason, peer), (packets, bytes)) in sums {
            let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
            let (reason, peer) = (dash(reason), dash(peer));
            writeln!(
                out,
                "{way:<8} {verdict:<8} {reason:<20} {peer:<12} {packets:>10} {bytes:>14}"
            )?;
        }
        Ok(())
    }

    fn compare(&mut self, row: &Row) -> io::Result<()> {
        let difference = self.expectation.as_mut().and_then(|expected| expected.differs(row));
        if let Some(difference) = difference {
            self.differences += 1;
            if self.differences <= MAX_DIFFERENCES {
                writeln!(self.out, "{difference}")?;
            }
        }
        Ok(())
    }
}
