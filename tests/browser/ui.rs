//! The command, and requests to it that no browser would make.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// A running `culvert ui`; ends with this.
pub(crate) struct Ui {
    child: Child,
    /// What it says besides, which nobody reads.
    _said: BufReader<ChildStdout>,
    /// The whole address.
    pub(crate) address: String,
}

impl Ui {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_culvert"))
            .arg("ui")
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        said.read_line(&mut line).unwrap();
        Self { child, _said: said, address: line.trim().to_owned() }
    }

    pub(crate) fn socket(&self) -> SocketAddr {
        self.address.strip_prefix("http://").unwrap().split('/').next().unwrap().parse().unwrap()
    }

    pub(crate) fn token(&self) -> &str {
        self.address.split_once('#').unwrap().1
    }

    pub(crate) fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/statm", self.child.id());
        let pages = std::fs::read_to_string(path).unwrap();
        pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    }

    /// Sends a request with these headers, and gives the connection back with the first line of the
    /// answer and its headers.
    pub(crate) fn request(&self, path: &str, headers: &[(&str, &str)]) -> (TcpStream, String) {
        let mut stream = TcpStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let headers: String =
            headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        write!(stream, "GET {path} HTTP/1.1\r\n{headers}\r\n").unwrap();
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|len| len > 0) {
            head.push(byte[0]);
        }
        (stream, String::from_utf8(head).unwrap())
    }
}

impl Drop for Ui {
    fn drop(&mut self) {
        self.end();
    }
}
