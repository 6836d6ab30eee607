//! What the plugin asks the daemon before a pod's port goes up, where network policies are
//! enforced.
//!
//! Owns the two messages, one line of JSON each, the place of the socket, and the plugin's side of
//! it. Rules must know a pod before its first packet, and only the daemon knows the rules.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::private_socket;

/// Name of the socket under the run directory.
pub const SOCKET_NAME: &str = "policy.sock";

/// How long the plugin waits for the daemon.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Longest request and longest answer, in bytes.
pub const MESSAGE_LEN: u64 = 8192;

/// Which pod it is, by the names that the runtime gave the plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodName {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_UID`; none, if the runtime does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// A pod is about to get these addresses: its port exists and is down.
    Admit {
        /// Which pod; none, if the runtime does not tell.
        pod: Option<PodName>,
        /// Its addresses.
        addresses: Vec<IpAddr>,
    },
    /// A pod that had these addresses is gone.
    Left {
        /// Its addresses.
        addresses: Vec<IpAddr>,
    },
}

/// What the daemon says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The rules know the pod: its port may go up.
    Admitted,
    /// The port must stay down.
    Refused {
        /// Why, and what would change that.
        why: String,
    },
}

/// Asks the daemon of `run_dir`, which takes the question within `patience`, and answers within
/// another.
///
/// # Errors
///
/// No daemon answers there in time, or it answers something else.
pub fn ask(run_dir: &Path, request: &Request, patience: Duration) -> io::Result<Answer> {
    let mut stream = private_socket::connect(&run_dir.join(SOCKET_NAME), patience)?;
    stream.set_read_timeout(Some(patience))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream.take(MESSAGE_LEN)).read_line(&mut answer)?;
    if !answer.ends_with('\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_str(&answer).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    #[test]
    fn question_and_answer_are_a_line_each() {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join(SOCKET_NAME)).unwrap();
        let daemon = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            stream.write_all(b"{\"refused\":{\"why\":\"unknown\"}}\n").unwrap();
            line
        });
        let pod = PodName { namespace: "default".into(), name: "web".into(), uid: None };
        let request = Request::Admit { pod: Some(pod), addresses: vec![[10, 244, 1, 2].into()] };
        let answer = ask(directory.path(), &request, PATIENCE).unwrap();
        assert_eq!(answer, Answer::Refused { why: "unknown".into() });
        let asked: Request = serde_json::from_str(&daemon.join().unwrap()).unwrap();
        assert_eq!(asked, request);
    }

    #[test]
    fn stopped_daemon_keeps_nobody_waiting() {
        let directory = tempfile::tempdir().unwrap();
        let _stopped = private_socket::listen_stopped(&directory.path().join(SOCKET_NAME));
        let request = Request::Left { addresses: Vec::new() };
        let error = ask(directory.path(), &request, Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn daemon_that_hangs_up_has_not_answered() {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join(SOCKET_NAME)).unwrap();
        let daemon = thread::spawn(move || drop(listener.accept()));
        let request = Request::Left { addresses: Vec::new() };
        assert!(ask(directory.path(), &request, PATIENCE).is_err());
        daemon.join().unwrap();
    }
}
