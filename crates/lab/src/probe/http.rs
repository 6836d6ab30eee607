//! One HTTP request, as a scraper or a kubelet makes it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::super::netns::Netns;

/// How long to wait for the server; it is on the same node.
const TIMEOUT: Duration = Duration::from_secs(5);

/// GETs `path` from the server at `address`, inside the namespace `from`: status code and body.
///
/// # Errors
///
/// Nobody answers, or not in HTTP.
pub fn http_get(from: &Netns, address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = from
        .run(|| TcpStream::connect_timeout(&address, TIMEOUT))?
        .with_context(|| format!("connect to {address} in {}", from.name()))?;
    stream.set_read_timeout(Some(TIMEOUT)).context("set a timeout")?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").context("send the request")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("read the answer")?;
    let answer = String::from_utf8_lossy(&answer);
    parse(&answer)
        .with_context(|| format!("read `{}` as HTTP", answer.lines().next().unwrap_or("")))
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let code = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some((code, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_body_are_parted() {
        let answer = "HTTP/1.0 503 Service Unavailable\r\ncontent-length: 3\r\n\r\nno\n";
        assert_eq!(parse(answer), Some((503, "no\n".to_owned())));
        assert_eq!(parse("SSH-2.0-x\r\n\r\n"), None);
    }
}
