//! The admin socket: one JSON request in a line, one JSON answer in a line.
//!
//! A unix socket in the run directory that only its owner may use. Connections are handled at once
//! but in bounded number, and each must send its line soon. The newest always has a place: one who
//! holds connections loses the oldest, and keeps nobody out.

use std::collections::VecDeque;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::task::AbortHandle;

use super::{CaptureSource, ExplainSource, Status, StatusSource};
use crate::explain::{Explanation, Question};

/// Name of the socket under the run directory.
const FILE_NAME: &str = culvert_node::node_file::SOCKET_NAME;
/// Connections at once; one more ends the oldest.
const CONNECTIONS: usize = 16;
/// Longest request.
const REQUEST_LEN: u64 = 4096;
/// Time for one connection from its first byte to its last.
const PATIENCE: Duration = Duration::from_secs(5);

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Request {
    Status,
    Explain(Question),
    Capture(CaptureQuery),
}

/// What a capture is to contain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureQuery {
    /// Only packets from or to this pod.
    pub pod: Option<IpAddr>,
    /// Only packets from or to this peer.
    pub peer: Option<String>,
    /// Only packets that are dropped.
    pub drops: bool,
    /// Keep one packet in `sample`.
    pub sample: u32,
    /// How many packets at most.
    pub count: Option<u64>,
    /// Bytes to keep of each.
    pub snap_len: usize,
}

/// Who answers what is asked.
#[derive(Clone)]
pub struct Services {
    /// The present status.
    pub status: StatusSource,
    /// What happens to a packet.
    pub explain: ExplainSource,
    /// Live captures.
    pub capture: CaptureSource,
}

/// The listening socket; its file is removed when this is dropped.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl AdminSocket {
    /// Listens in `run_dir`. A socket that a killed daemon left there is replaced.
    ///
    /// # Errors
    ///
    /// Another daemon answers on it, or the directory cannot be written.
    pub fn bind(run_dir: &Path) -> anyhow::Result<Self> {
        let path = run_dir.join(FILE_NAME);
        if UnixStream::connect(&path).is_ok() {
            anyhow::bail!(
                "another daemon answers on {}: stop it, or set node.stand_by to take over when it \
                 ends",
                path.display()
            );
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing stale {}", path.display()));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&path)
            .with_context(|| format!("listening on {}", path.display()))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
            .with_context(|| format!("restricting {}", path.display()))?;
        Ok(Self { listener, path })
    }

    /// Answers requests, for ever.
    pub async fn serve(self, services: Services) {
        let mut held: VecDeque<AbortHandle> = VecDeque::new();
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    held.retain(|connection| !connection.is_finished());
                    if held.len() == CONNECTIONS
                        && let Some(oldest) = held.pop_front()
                    {
                        oldest.abort();
                    }
                    let services = services.clone();
                    let connection = tokio::spawn(async move {
                        match tokio::time::timeout(PATIENCE, answer(stream, services)).await {
                            Ok(Ok(())) => {}
                            Ok(Err(error)) => tracing::debug!(%error, "admin request failed"),
                            Err(_) => tracing::debug!("admin request took too long"),
                        }
                    });
                    held.push_back(connection.abort_handle());
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting an admin connection failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // A file that is left is replaced by the next daemon.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn answer(mut stream: tokio::net::UnixStream, services: Services) -> io::Result<()> {
    let mut line = String::new();
    let reader = (&mut stream).take(REQUEST_LEN);
    tokio::io::BufReader::new(reader).read_line(&mut line).await?;
    let fault = |error: String| serde_json::to_vec(&Refusal { error });
    let mut answer = match serde_json::from_str(&line) {
        Ok(Request::Status) => serde_json::to_vec(&(services.status)())?,
        Ok(Request::Explain(question)) => {
            let explain = move || (services.explain)(&question);
            match tokio::task::spawn_blocking(explain).await? {
                Ok(explanation) => serde_json::to_vec(&explanation)?,
                Err(error) => fault(format!("{error:#}"))?,
            }
        }
        Ok(Request::Capture(query)) => {
            // The connection is the capture's from here on, without a limit in time.
            let stream = stream.into_std()?;
            stream.set_nonblocking(false)?;
            let mut complaints = stream.try_clone()?;
            if let Err(error) = (services.capture)(query, stream) {
                let mut answer = fault(format!("{error:#}"))?;
                answer.push(b'\n');
                complaints.write_all(&answer)?;
            }
            return Ok(());
        }
        Err(error) => fault(error.to_string())?,
    };
    answer.push(b'\n');
    stream.write_all(&answer).await
}

/// An answer that is none.
#[derive(Debug, Serialize, Deserialize)]
struct Refusal {
    error: String,
}

/// Asks the daemon of `run_dir` for its status.
///
/// # Errors
///
/// No daemon answers there, or it answers something else.
pub(crate) fn query(run_dir: &Path) -> anyhow::Result<Status> {
    let line = answer_to(&Request::Status, run_dir)?;
    serde_json::from_str(&line).with_context(|| misunderstood(run_dir))
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
    let stream = send(&Request::Capture(query.clone()), run_dir)?;
    let mut reader = BufReader::with_capacity(STREAM_LEN, stream);
    // The header comes at once.
    let first = reader.fill_buf().map_err(|error| unanswered(&error, run_dir))?.first().copied();
    // Packets come when they come.
    reader.get_ref().set_read_timeout(None)?;
    if first.is_none() {
        return Err(unanswered(&io::ErrorKind::UnexpectedEof.into(), run_dir));
    }
    if first == Some(b'{') {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        refused(&line)?;
        anyhow::bail!(misunderstood(run_dir));
    }
    Ok(reader)
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

fn refused(line: &str) -> anyhow::Result<()> {
    match serde_json::from_str::<Refusal>(line) {
        Ok(refusal) => Err(anyhow::anyhow!(refusal.error)),
        Err(_) => Ok(()),
    }
}

/// Says for an operator why the daemon has not answered.
fn unanswered(error: &io::Error, run_dir: &Path) -> anyhow::Error {
    let path = run_dir.join(FILE_NAME);
    let path = path.display();
    let kind = error.kind();
    if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&kind) {
        return anyhow::anyhow!(
            "the daemon of {path} has not answered within {} seconds: it is stopped or very busy; its \
             log and `ps` tell more",
            PATIENCE.as_secs()
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

fn send(request: &Request, run_dir: &Path) -> anyhow::Result<UnixStream> {
    let path = run_dir.join(FILE_NAME);
    let mut stream = UnixStream::connect(&path).with_context(|| {
        format!(
            "no daemon answers on {}; start one with `culvert run`, or name its --run-dir",
            path.display()
        )
    })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).map_err(|error| unanswered(&error, run_dir))?;
    Ok(stream)
}

fn answer_to(request: &Request, run_dir: &Path) -> anyhow::Result<String> {
    let mut line = String::new();
    let read = BufReader::new(send(request, run_dir)?).read_line(&mut line);
    match read {
        Ok(_) if line.ends_with('\n') => Ok(line),
        Ok(_) => Err(unanswered(&io::ErrorKind::UnexpectedEof.into(), run_dir)),
        Err(error) => Err(unanswered(&error, run_dir)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener as Listener;

    use super::*;

    fn status_of(serve: impl FnOnce(UnixStream) + Send + 'static) -> String {
        let directory = tempfile::tempdir().unwrap();
        let listener = Listener::bind(directory.path().join(FILE_NAME)).unwrap();
        let serving = std::thread::spawn(move || serve(listener.accept().unwrap().0));
        let error = query(directory.path()).unwrap_err();
        serving.join().unwrap();
        format!("{error:#}")
    }

    #[test]
    fn a_daemon_that_closes_without_an_answer_is_said_to() {
        for answer in ["", "{\"node\":"] {
            let said = status_of(|mut stream| {
                let mut request = String::new();
                BufReader::new(stream.try_clone().unwrap()).read_line(&mut request).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            });
            assert!(said.contains("closed the connection without an answer"), "{said}");
            assert!(said.contains(FILE_NAME), "{said}");
        }
    }

    #[test]
    fn whoever_comes_last_is_answered_while_others_hold_connections() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = directory.path().to_owned();
        let (listening, listens) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let services = Services {
                    status: std::sync::Arc::new(|| unreachable!("nobody asks for it")),
                    explain: std::sync::Arc::new(|_| unreachable!("nobody asks for it")),
                    capture: std::sync::Arc::new(|_, _| unreachable!("nobody asks for it")),
                };
                let socket = AdminSocket::bind(&run_dir).unwrap();
                listening.send(()).unwrap();
                socket.serve(services).await;
            });
        });
        listens.recv().unwrap();
        let connect = || UnixStream::connect(directory.path().join(FILE_NAME)).unwrap();
        let _held: Vec<_> = (0..4 * CONNECTIONS).map(|_| connect()).collect();
        let mut stream = connect();
        // Less than a held connection may last.
        stream.set_read_timeout(Some(PATIENCE / 2)).unwrap();
        stream.write_all(b"what?\n").unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        refused(&answer).unwrap_err();
    }

    #[test]
    fn no_error_number_is_left_for_the_operator_to_look_up() {
        let kinds = [io::ErrorKind::WouldBlock, io::ErrorKind::BrokenPipe];
        for kind in kinds {
            let said = format!("{:#}", unanswered(&kind.into(), Path::new("/run/culvert")));
            assert!(said.contains("/run/culvert/culvert.sock"), "{said}");
            assert!(!said.contains("os error") && !said.contains("temporarily"), "{said}");
        }
    }
}
