//! The admin socket: one JSON request in a line, one JSON answer in a line.
//!
//! A unix socket in the run directory that only its owner may use. Connections are handled at once but
//! in bounded number, and each must send its line soon.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

use super::{Status, StatusSource};

/// Name of the socket under the run directory.
const FILE_NAME: &str = culvert_cni::node_file::SOCKET_NAME;
/// Connections at once; more wait.
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
                "another daemon answers on {}; stop it, or give this one its own node.run_dir",
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
    pub async fn serve(self, status: StatusSource) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let status = Arc::clone(&status);
                    tokio::spawn(async move {
                        match tokio::time::timeout(PATIENCE, answer(stream, status)).await {
                            Ok(Ok(())) => {}
                            Ok(Err(error)) => tracing::debug!(%error, "admin request failed"),
                            Err(_) => tracing::debug!("admin request took too long"),
                        }
                        drop(slot);
                    });
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

async fn answer(mut stream: tokio::net::UnixStream, status: StatusSource) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut line = String::new();
    tokio::io::BufReader::new(reader.take(REQUEST_LEN)).read_line(&mut line).await?;
    let mut answer = match serde_json::from_str(&line) {
        Ok(Request::Status) => serde_json::to_vec(&status())?,
        Err(error) => serde_json::to_vec(&serde_json::json!({ "error": error.to_string() }))?,
    };
    answer.push(b'\n');
    writer.write_all(&answer).await
}

/// Asks the daemon of `run_dir` for its status.
///
/// # Errors
///
/// No daemon answers there, or it answers something else.
pub fn query(run_dir: &Path) -> anyhow::Result<Status> {
    let path = run_dir.join(FILE_NAME);
    let stream = UnixStream::connect(&path).with_context(|| {
        format!(
            "no daemon answers on {}; start one with `culvert run`, or name its --run-dir",
            path.display()
        )
    })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = serde_json::to_vec(&Request::Status)?;
    request.push(b'\n');
    (&stream).write_all(&request)?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    serde_json::from_str(&line)
        .with_context(|| format!("understanding the answer of {}", path.display()))
}
