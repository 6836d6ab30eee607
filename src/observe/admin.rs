//! The admin socket: one JSON request in a line, one JSON answer in a line.
//!
//! A unix socket in the run directory that only its owner may use. Connections are handled at once
//! but in bounded number, and each must send its line soon. The newest always has a place: one who
//! holds connections loses the oldest, and keeps nobody out.

mod client;

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use culvert_node::private_socket;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::task::AbortHandle;

use super::{
    CaptureSource, ExplainSource, FindSource, FlowSource, PingQuestion, PingSource, PodSource,
    SetupSource, StatusSource, TablesSource, TraceSource,
};
use crate::explain::Question;

pub(crate) use self::client::{
    CaptureStream, ask, examine, find, knock, open_capture, open_flows, ping, pods, query, tables,
    trace,
};

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
    Setup,
    Explain(Question),
    Pods,
    Find(String),
    Capture(CaptureQuery),
    Ping(PingQuestion),
    Tables,
    Trace(Question),
    Flows,
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
    /// How the node is to be set up.
    pub setup: SetupSource,
    /// What happens to a packet.
    pub explain: ExplainSource,
    /// This node's pods.
    pub pods: PodSource,
    /// Which addresses a pod has.
    pub find: FindSource,
    /// Live captures.
    pub capture: CaptureSource,
    /// What peers answer.
    pub ping: PingSource,
    /// What tables peers have.
    pub tables: TablesSource,
    /// What both nodes do with a packet.
    pub trace: TraceSource,
    /// Flows as they come.
    pub flows: FlowSource,
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
        match private_socket::connect(&path, PATIENCE) {
            // One that is stopped, with a full queue, is there as well.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {}
            _ => anyhow::bail!(
                "another daemon answers on {}: stop it, or set node.stand_by to take over when it \
                 ends",
                path.display()
            ),
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing stale {}", path.display()));
            }
            _ => {}
        }
        let listener = private_socket::listen(&path)
            .and_then(UnixListener::from_std)
            .with_context(|| format!("listening on {}", path.display()))?;
        Ok(Self { listener, path })
    }

    /// Answers requests, for ever.
    pub async fn serve(self, services: Services) {
        let mut held: VecDeque<AbortHandle> = VecDeque::new();
        let mut is_failing = false;
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    if std::mem::take(&mut is_failing) {
                        tracing::info!("admin connections are accepted again");
                    }
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
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::warn!(%error, "accepting an admin connection failed; trying again");
                    }
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
        Ok(Request::Status) => serde_json::to_vec(&services.status.status())?,
        Ok(Request::Setup) => match (services.setup)() {
            Ok(setup) => serde_json::to_vec(&setup)?,
            Err(error) => fault(format!("{error:#}"))?,
        },
        Ok(Request::Explain(question)) => {
            let explain = move || (services.explain)(&question);
            match tokio::task::spawn_blocking(explain).await? {
                Ok(explanation) => serde_json::to_vec(&explanation)?,
                Err(error) => fault(format!("{error:#}"))?,
            }
        }
        Ok(Request::Pods) => match tokio::task::spawn_blocking(move || (services.pods)()).await? {
            Ok(pods) => serde_json::to_vec(&pods)?,
            Err(error) => fault(format!("{error:#}"))?,
        },
        Ok(Request::Find(name)) => {
            match tokio::task::spawn_blocking(move || (services.find)(&name)).await? {
                Ok(addresses) => serde_json::to_vec(&Found { addresses })?,
                Err(error) => fault(format!("{error:#}"))?,
            }
        }
        // The connection is theirs from here on, without a limit in time.
        Ok(Request::Capture(query)) => {
            return give_away(stream, |stream| (services.capture)(query, stream));
        }
        Ok(Request::Ping(question)) => match (services.ping)(question).await {
            Ok(round) => serde_json::to_vec(&round)?,
            Err(error) => fault(format!("{error:#}"))?,
        },
        Ok(Request::Tables) => match (services.tables)().await {
            Ok(tables) => serde_json::to_vec(&tables)?,
            Err(error) => fault(format!("{error:#}"))?,
        },
        Ok(Request::Trace(question)) => match (services.trace)(question).await {
            Ok(report) => serde_json::to_vec(&report)?,
            Err(error) => fault(format!("{error:#}"))?,
        },
        Ok(Request::Flows) => return give_away(stream, |stream| (services.flows)(stream)),
        Err(error) => fault(error.to_string())?,
    };
    answer.push(b'\n');
    stream.write_all(&answer).await
}

/// Gives the connection to whoever will write to it by himself; says why, if nobody will.
fn give_away(
    stream: tokio::net::UnixStream,
    to: impl FnOnce(UnixStream) -> anyhow::Result<()>,
) -> io::Result<()> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    let mut complaints = stream.try_clone()?;
    if let Err(error) = to(stream) {
        let mut answer = serde_json::to_vec(&Refusal { error: format!("{error:#}") })?;
        answer.push(b'\n');
        complaints.write_all(&answer)?;
    }
    Ok(())
}

/// An answer that is none.
#[derive(Debug, Serialize, Deserialize)]
struct Refusal {
    error: String,
}

/// The addresses of a pod.
#[derive(Debug, Serialize, Deserialize)]
struct Found {
    addresses: Vec<IpAddr>,
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener as Listener;

    use std::io::{BufRead as _, BufReader};

    use crate::observe::{Observed, Scrape, Status, Tally};
    use culvert_dataplane::platform::clock;
    use socket2::{Domain, SockAddr, Socket, Type};

    use super::client::{answer_within, refused, unanswered};
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
    fn daemon_that_drips_or_takes_nobody_in_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE_NAME);
        let listener = Listener::bind(&path).unwrap();
        let dripping = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            while stream.write_all(b" ").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let patience = Duration::from_millis(200);
        let since = clock::now();
        let error = answer_within(&Request::Status, directory.path(), patience).unwrap_err();
        assert!(format!("{error:#}").contains("has not answered within"), "{error:#}");
        assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
        dripping.join().unwrap();

        std::fs::remove_file(&path).unwrap();
        let stopped = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        stopped.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        stopped.listen(0).unwrap();
        let held: Vec<_> = (0..8)
            .map_while(|_| private_socket::connect(&path, Duration::from_millis(50)).ok())
            .collect();
        assert!(held.len() < 8, "nobody is kept waiting");
        let since = clock::now();
        let error = answer_within(&Request::Status, directory.path(), patience).unwrap_err();
        assert!(format!("{error:#}").contains("has not answered within"), "{error:#}");
        assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    }

    /// A daemon at which nobody looks.
    struct Unasked;

    impl Observed for Unasked {
        fn status(&self) -> Status {
            unreachable!("nobody asks for it")
        }

        fn node(&self) -> Status {
            unreachable!("nobody asks for it")
        }

        fn scrape(&self, _: &mut dyn FnMut(&[Tally<'_>]) -> Vec<usize>) -> Scrape {
            unreachable!("nobody asks for it")
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
                    status: std::sync::Arc::new(Unasked),
                    setup: std::sync::Arc::new(|| unreachable!("nobody asks for it")),
                    explain: std::sync::Arc::new(|_| unreachable!("nobody asks for it")),
                    pods: std::sync::Arc::new(|| unreachable!("nobody asks for it")),
                    find: std::sync::Arc::new(|_| unreachable!("nobody asks for it")),
                    capture: std::sync::Arc::new(|_, _| unreachable!("nobody asks for it")),
                    ping: std::sync::Arc::new(|_| unreachable!("nobody asks for it")),
                    tables: std::sync::Arc::new(|| unreachable!("nobody asks for it")),
                    trace: std::sync::Arc::new(|_| unreachable!("nobody asks for it")),
                    flows: std::sync::Arc::new(|_| unreachable!("nobody asks for it")),
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
            let said =
                format!("{:#}", unanswered(&kind.into(), Path::new("/run/culvert"), PATIENCE));
            assert!(said.contains("/run/culvert/culvert.sock"), "{said}");
            assert!(!said.contains("os error") && !said.contains("temporarily"), "{said}");
        }
    }
}
