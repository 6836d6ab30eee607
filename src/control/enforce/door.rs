//! The socket on which the plugin asks for pods, where policies are enforced.
//!
//! One question in a line, one answer in a line ([`culvert_node::pod_admission`]). Only root may
//! use it. Connections are handled at once but in bounded number; those beyond it wait in the
//! kernel, for no longer than the plugin does. Decides nothing: each question goes on to whoever
//! keeps the rules.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use culvert_node::pod_admission::{Answer, MESSAGE_LEN, PATIENCE, Request, SOCKET_NAME};
use culvert_node::private_socket;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Connections at once: as many pods as a node may start at the same time.
const CONNECTIONS: usize = 256;

/// Time for a question to arrive, and for the whole connection.
const QUESTION: Duration = Duration::from_secs(2);
const CONNECTION: Duration = Duration::from_secs(2 * PATIENCE.as_secs());

/// A question, and the way back.
#[derive(Debug)]
pub(crate) struct Knock {
    pub(crate) request: Request,
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// The listening socket; its file is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Door {
    listener: UnixListener,
    path: PathBuf,
}

impl Door {
    /// Listens in `run_dir`, in place of a socket that a killed daemon left there. The caller is
    /// the only daemon of the directory.
    ///
    /// # Errors
    ///
    /// The directory cannot be written.
    pub(crate) fn bind(run_dir: &Path) -> anyhow::Result<Self> {
        let path = run_dir.join(SOCKET_NAME);
        remove(&path)?;
        let listener = private_socket::listen(&path)
            .and_then(UnixListener::from_std)
            .with_context(|| format!("listening on {}", path.display()))?;
        Ok(Self { listener, path })
    }

    /// Hands questions to `knocks`, for ever.
    pub(crate) async fn serve(self, knocks: mpsc::Sender<Knock>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            // Nobody closes it.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let knocks = knocks.clone();
                    tokio::spawn(async move {
                        match tokio::time::timeout(CONNECTION, answer(stream, knocks)).await {
                            Ok(Ok(())) => {}
                            Ok(Err(error)) => tracing::debug!(%error, "a plugin was not answered"),
                            Err(_) => tracing::debug!("a plugin waited too long for an answer"),
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection of a plugin failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // A file that is left is replaced by the next daemon.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Removes the socket of a daemon that is no more.
///
/// # Errors
///
/// The directory cannot be written.
pub(crate) fn remove(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing stale {}", path.display()))
        }
        _ => Ok(()),
    }
}

async fn answer(mut stream: UnixStream, knocks: mpsc::Sender<Knock>) -> io::Result<()> {
    let mut line = String::new();
    let mut reader = BufReader::new((&mut stream).take(MESSAGE_LEN));
    tokio::time::timeout(QUESTION, reader.read_line(&mut line)).await??;
    let said = match serde_json::from_str(&line) {
        Ok(request) => {
            let (answer, answered) = oneshot::channel();
            let closed = |_closed| io::Error::from(io::ErrorKind::BrokenPipe);
            knocks.send(Knock { request, answer }).await.map_err(closed)?;
            answered.await.map_err(|_ended| io::Error::from(io::ErrorKind::BrokenPipe))?
        }
        Err(error) => Answer::Refused {
            why: format!(
                "the daemon does not understand the question ({error}): is the plugin of its version?"
            ),
        },
    };
    let mut line = serde_json::to_vec(&said)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

#[cfg(test)]
mod tests {
    use culvert_node::pod_admission::ask;

    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn question_goes_on_and_the_answer_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let door = Door::bind(directory.path()).unwrap();
        let mode = std::fs::metadata(directory.path().join(SOCKET_NAME)).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        let (knocks, mut knocked) = mpsc::channel(1);
        let serving = tokio::spawn(door.serve(knocks));
        let run_dir = directory.path().to_owned();
        let request = Request::Left { addresses: vec![[10, 244, 1, 2].into()] };
        let asked = request.clone();
        let asking = tokio::task::spawn_blocking(move || ask(&run_dir, &asked, PATIENCE));
        let knock = knocked.recv().await.unwrap();
        assert_eq!(knock.request, request);
        knock.answer.send(Answer::Admitted).unwrap();
        assert_eq!(asking.await.unwrap().unwrap(), Answer::Admitted);
        serving.abort();
        let _aborted = serving.await;
        assert!(!directory.path().join(SOCKET_NAME).exists());
    }

    #[tokio::test]
    async fn nonsense_is_refused_and_not_handed_on() {
        let directory = tempfile::tempdir().unwrap();
        let door = Door::bind(directory.path()).unwrap();
        let (knocks, mut knocked) = mpsc::channel(1);
        let serving = tokio::spawn(door.serve(knocks));
        let stream = UnixStream::connect(directory.path().join(SOCKET_NAME)).await.unwrap();
        let mut stream = BufReader::new(stream);
        stream.get_mut().write_all(b"what?\n").await.unwrap();
        let mut said = String::new();
        stream.read_line(&mut said).await.unwrap();
        assert!(said.contains("refused"), "{said}");
        assert!(knocked.try_recv().is_err());
        serving.abort();
    }
}
