//! The other end of the admin socket: what commands ask the daemon, and how long they wait.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use culvert_dataplane::platform::clock;
use culvert_node::private_socket;

use super::{CaptureQuery, FILE_NAME, Found, PATIENCE, Refusal, Request};
use crate::explain::{Explanation, Question};
use crate::observe::{
    FlowBatch, FlowStart, PeerTable, PingQuestion, PingRound, PodStatus, Setup, Status, TraceReport,
};

/// Asks the daemon of `run_dir` for its status.
///
/// # Errors
///
/// No daemon answers there, or it answers something else.
pub(crate) fn query(run_dir: &Path) -> anyhow::Result<Status> {
    let line = answer_to(&Request::Status, run_dir)?;
    serde_json::from_str(&line).with_context(|| misunderstood(run_dir))
}

/// Asks the daemon of `run_dir` for its status and for how the node is to be set up, and waits no
/// longer than `patience` for each.
///
/// # Errors
///
/// As [`query`]; or the daemon has no table yet.
pub(crate) fn examine(
    run_dir: &Path,
    patience: Duration,
) -> anyhow::Result<(Status, anyhow::Result<Setup>)> {
    let line = answer_within(&Request::Status, run_dir, patience)?;
    let status = serde_json::from_str(&line).with_context(|| misunderstood(run_dir))?;
    let setup = answer_within(&Request::Setup, run_dir, patience).and_then(|line| {
        refused(&line)?;
        serde_json::from_str(&line).with_context(|| misunderstood(run_dir))
    });
    Ok((status, setup))
}

/// Connects to the admin socket of `run_dir` and asks nothing.
///
/// # Errors
///
/// Nobody listens there, or there is no place within `patience`.
pub(crate) fn knock(run_dir: &Path, patience: Duration) -> io::Result<UnixStream> {
    private_socket::connect(&run_dir.join(FILE_NAME), patience)
}

/// Asks the daemon of `run_dir` what happens to a packet.
///
/// # Errors
///
/// As [`query`]; or the packet cannot be.
pub(crate) fn ask(run_dir: &Path, question: &Question) -> anyhow::Result<Explanation> {
    let line = answer_to(&Request::Explain(question.clone()), run_dir)?;
    refused(&line)?;
    serde_json::from_str(&line).with_context(|| misunderstood(run_dir))
}

/// Has the daemon of `run_dir` ask a peer, and waits a second for the answers.
///
/// # Errors
///
/// As [`query`]; or there is no such peer.
pub(crate) fn ping(run_dir: &Path, question: &PingQuestion) -> anyhow::Result<PingRound> {
    let line = answer_to(&Request::Ping(question.clone()), run_dir)?;
    refused(&line)?;
    serde_json::from_str(&line).with_context(|| misunderstood(run_dir))
}

/// Has the daemon of `run_dir` ask every peer for the hash of its table.
///
/// # Errors
///
/// As [`query`]; or it has no table itself.
pub(crate) fn tables(run_dir: &Path) -> anyhow::Result<Vec<PeerTable>> {
    let line = answer_to(&Request::Tables, run_dir)?;
    refused(&line)?;
    serde_json::from_str(&line).with_context(|| misunderstood(run_dir))
}

/// Has the daemon of `run_dir` follow a packet through both nodes.
///
/// # Errors
///
/// As [`query`]; or the packet cannot be.
pub(crate) fn trace(run_dir: &Path, question: &Question) -> anyhow::Result<TraceReport> {
    let line = answer_to(&Request::Trace(question.clone()), run_dir)?;
    refused(&line)?;
    serde_json::from_str(&line).with_context(|| misunderstood(run_dir))
}

/// Asks the daemon of `run_dir` for the node's pods.
///
/// # Errors
///
/// As [`query`]; or the kernel does not answer it.
pub(crate) fn pods(run_dir: &Path) -> anyhow::Result<Vec<PodStatus>> {
    let line = answer_to(&Request::Pods, run_dir)?;
    refused(&line)?;
    serde_json::from_str(&line).with_context(|| misunderstood(run_dir))
}

/// Asks the daemon of `run_dir` for the addresses of a pod of its node.
///
/// # Errors
///
/// As [`query`]; or there is no such pod, or more than one.
pub(crate) fn find(run_dir: &Path, name: &str) -> anyhow::Result<Vec<IpAddr>> {
    let line = answer_to(&Request::Find(name.to_owned()), run_dir)?;
    refused(&line)?;
    let found: Found = serde_json::from_str(&line).with_context(|| misunderstood(run_dir))?;
    Ok(found.addresses)
}

/// Starts a capture at the daemon of `run_dir`: what it sends is pcapng. Whoever shuts down the
/// writing half gets the rest and then the end.
///
/// # Errors
///
/// As [`query`]; or the daemon refuses.
pub(crate) fn open_capture(
    run_dir: &Path,
    query: &CaptureQuery,
) -> anyhow::Result<impl CaptureStream> {
    let stream = send(&Request::Capture(query.clone()), run_dir, PATIENCE)?;
    let mut reader = BufReader::with_capacity(STREAM_LEN, stream);
    // The header comes at once.
    let first =
        reader.fill_buf().map_err(|error| unanswered(&error, run_dir, PATIENCE))?.first().copied();
    // Packets come when they come.
    reader.get_ref().set_read_timeout(None)?;
    if first.is_none() {
        return Err(unanswered(&io::ErrorKind::UnexpectedEof.into(), run_dir, PATIENCE));
    }
    if first == Some(b'{') {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        refused(&line)?;
        anyhow::bail!(misunderstood(run_dir));
    }
    Ok(reader)
}

/// Flows of a daemon as they come.
pub(crate) struct FlowStream {
    /// How they are looked at.
    pub(crate) start: FlowStart,
    reader: BufReader<UnixStream>,
    run_dir: PathBuf,
}

/// Begins to look at the flows of the daemon of `run_dir`, until the stream is dropped.
///
/// # Errors
///
/// As [`query`]; or the daemon refuses.
pub(crate) fn open_flows(run_dir: &Path) -> anyhow::Result<FlowStream> {
    let mut reader =
        BufReader::with_capacity(STREAM_LEN, send(&Request::Flows, run_dir, PATIENCE)?);
    let mut line = String::new();
    reader.read_line(&mut line).map_err(|error| unanswered(&error, run_dir, PATIENCE))?;
    if line.is_empty() {
        return Err(unanswered(&io::ErrorKind::UnexpectedEof.into(), run_dir, PATIENCE));
    }
    refused(&line)?;
    let start = serde_json::from_str(&line).with_context(|| misunderstood(run_dir))?;
    Ok(FlowStream { start, reader, run_dir: run_dir.to_owned() })
}

impl FlowStream {
    /// The next second; nothing when the daemon has ended.
    ///
    /// # Errors
    ///
    /// The daemon says nothing any more, or something else.
    pub(crate) fn next(&mut self) -> anyhow::Result<Option<FlowBatch>> {
        let mut line = String::new();
        let read = self.reader.read_line(&mut line);
        match read.map_err(|error| unanswered(&error, &self.run_dir, PATIENCE))? {
            0 => Ok(None),
            _ => {
                let batch = serde_json::from_str(&line);
                Ok(Some(batch.with_context(|| misunderstood(&self.run_dir))?))
            }
        }
    }
}

/// A capture as it comes.
pub(crate) trait CaptureStream: io::Read {
    /// A second hold on the connection.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn try_clone(&self) -> io::Result<UnixStream>;
}

impl CaptureStream for BufReader<UnixStream> {
    fn try_clone(&self) -> io::Result<UnixStream> {
        self.get_ref().try_clone()
    }
}

/// Bytes of a capture that are read at once.
const STREAM_LEN: usize = 256 << 10;

fn misunderstood(run_dir: &Path) -> String {
    format!("understanding the answer of {}", run_dir.join(FILE_NAME).display())
}

pub(super) fn refused(line: &str) -> anyhow::Result<()> {
    match serde_json::from_str::<Refusal>(line) {
        Ok(refusal) => Err(anyhow::anyhow!(refusal.error)),
        Err(_) => Ok(()),
    }
}

/// Says for an operator why the daemon has not answered.
pub(super) fn unanswered(error: &io::Error, run_dir: &Path, patience: Duration) -> anyhow::Error {
    let path = run_dir.join(FILE_NAME);
    let path = path.display();
    let kind = error.kind();
    if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&kind) {
        return anyhow::anyhow!(
            "the daemon of {path} has not answered within {patience:?}: it is stopped or very busy; its \
             log and `ps` tell more"
        );
    }
    let closed =
        [io::ErrorKind::UnexpectedEof, io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
    if closed.contains(&kind) {
        return anyhow::anyhow!(
            "the daemon of {path} closed the connection without an answer: it is ending, or another \
             version than this program; ask again"
        );
    }
    anyhow::anyhow!("asking the daemon of {path}: {error}")
}

fn send(request: &Request, run_dir: &Path, patience: Duration) -> anyhow::Result<UnixStream> {
    let path = run_dir.join(FILE_NAME);
    let mut stream = match private_socket::connect(&path, patience) {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return Err(unanswered(&error, run_dir, patience));
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(error).with_context(|| {
                format!("only its owner may ask the daemon of {}: try as root", path.display())
            });
        }
        Err(error) => {
            return Err(error).with_context(|| {
                format!(
                    "no daemon answers on {}; start one with `culvert run`, or name its --run-dir",
                    path.display()
                )
            });
        }
    };
    stream.set_read_timeout(Some(patience))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).map_err(|error| unanswered(&error, run_dir, patience))?;
    Ok(stream)
}

/// The longest answer that is taken: a status of ten thousand peers has a tenth of it.
const ANSWER_LEN: u64 = 128 << 20;

/// A connection that is read until a moment, however it comes.
struct Until {
    stream: UnixStream,
    end: Instant,
}

impl io::Read for Until {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_duration_since(clock::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(buffer)
    }
}

fn answer_to(request: &Request, run_dir: &Path) -> anyhow::Result<String> {
    answer_within(request, run_dir, PATIENCE)
}

pub(super) fn answer_within(
    request: &Request,
    run_dir: &Path,
    patience: Duration,
) -> anyhow::Result<String> {
    let mut line = String::new();
    let end = clock::now() + patience;
    let until = Until { stream: send(request, run_dir, patience)?, end };
    let read = BufReader::new(until.take(ANSWER_LEN)).read_line(&mut line);
    let closed = io::ErrorKind::UnexpectedEof.into();
    match read {
        Ok(_) if line.ends_with('\n') => Ok(line),
        Ok(_) => Err(unanswered(&closed, run_dir, patience)),
        Err(error) => Err(unanswered(&error, run_dir, patience)),
    }
}
