//! A capture on its way to whoever asked for it: a thread that empties the rings into a connection.
//!
//! The thread writes pcapng and waits for its reader; what comes meanwhile and does not fit the
//! rings is lost and counted. It ends when the reader goes, says that it has enough, or the count
//! is full.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Read as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use culvert_dataplane::platform::clock;
use culvert_dataplane::{Capture, CaptureFilter, CaptureRecord, CaptureSide, CaptureVerdict};

use super::view::Facts;
use crate::observe::{CaptureQuery, CaptureSource};
use crate::pcap::{Interface, Writer};

/// How long the rings are left alone when they were empty: a hundredth of a second of packets fits.
const PAUSE: Duration = Duration::from_millis(5);

/// How long a record is held back for older ones of other workers, in nanoseconds: a round takes
/// less.
const HELD_NS: u64 = 20_000_000;

/// Records that are written before the reader is asked whether it has enough.
const PASS: usize = 4096;

/// Makes the function that starts captures.
pub(super) fn capture_source(facts: Arc<Facts>) -> CaptureSource {
    Arc::new(move |query: CaptureQuery, stream: UnixStream| {
        let plane = facts.plane()?;
        let filter = CaptureFilter {
            pod: query.pod,
            peer: query.peer,
            drops: query.drops,
            sample: query.sample,
            snap_len: query.snap_len,
        };
        if let Some(name) = &filter.peer {
            let table = plane.table();
            if !table.peers().iter().any(|peer| peer.name() == *name) {
                anyhow::bail!("no peer is called \"{name}\"; `culvert status` lists them");
            }
        }
        if let Some(pod) = filter.pod {
            let table = plane.table();
            if table.owner(pod).is_none() {
                anyhow::bail!("{pod} is in no node's pod subnets; `culvert status` lists them");
            }
        }
        let capture = plane.capture(&filter)?;
        let count = query.count.unwrap_or(u64::MAX);
        thread::Builder::new().name("capture".to_owned()).spawn(move || {
            // A reader that has gone is no failure.
            if let Err(error) = Session::run(capture, stream, count) {
                tracing::debug!(%error, "a capture ended");
            }
        })?;
        Ok(())
    })
}

struct Session {
    capture: Capture,
    writer: Writer<BufWriter<UnixStream>>,
    comment: String,
    /// Records that may still be written.
    left: u64,
}

impl Session {
    fn run(capture: Capture, stream: UnixStream, left: u64) -> io::Result<()> {
        let mut ear = stream.try_clone()?;
        ear.set_read_timeout(Some(PAUSE))?;
        let interfaces = [
            Interface { name: "inner", description: "packets of pods, as the TUN device has them" },
            Interface { name: "outer", description: "datagrams between nodes" },
        ];
        let writer = Writer::new(BufWriter::with_capacity(256 << 10, stream), &interfaces)?;
        let mut session = Self { capture, writer, comment: String::new(), left };
        session.writer.flush()?;
        loop {
            session.pass(clock::unix_nanos().saturating_sub(HELD_NS))?;
            let enough = ear.read(&mut [0]).is_ok();
            if enough || session.left == 0 || session.capture.has_ended() {
                break;
            }
        }
        session.pass(u64::MAX)?;
        let (seen, lost) = session.capture.counts();
        session.writer.statistics(0, clock::unix_nanos(), seen, lost)?;
        session.writer.flush()
    }

    /// Writes what is there and not younger than `limit_ns`.
    fn pass(&mut self, limit_ns: u64) -> io::Result<()> {
        for _ in 0..PASS {
            if self.left == 0 {
                break;
            }
            let Some(record) = self.capture.take(limit_ns) else { break };
            self.left -= 1;
            comment(&record, &mut self.comment);
            let interface = match record.side {
                CaptureSide::Inner => 0,
                CaptureSide::Outer => 1,
            };
            let CaptureRecord { time_ns, bytes, original_len, .. } = record;
            self.writer.packet(interface, time_ns, &[bytes], original_len, &self.comment)?;
        }
        self.writer.flush()
    }
}

fn comment(record: &CaptureRecord<'_>, text: &mut String) {
    text.clear();
    text.push_str(if record.egress { "egress " } else { "ingress " });
    // Writing to a string cannot fail.
    let _ = match record.verdict {
        CaptureVerdict::Forward => write!(text, "forward"),
        CaptureVerdict::Deliver => write!(text, "deliver"),
        CaptureVerdict::Reply(reason) => write!(text, "reply reason={}", reason.as_str()),
        CaptureVerdict::Drop(reason) => write!(text, "drop reason={}", reason.as_str()),
        CaptureVerdict::Answer => write!(text, "answer"),
    };
    if !record.peer.is_empty() {
        text.push_str(" peer=");
        text.push_str(record.peer);
    }
}
