//! What runs in the containers of `tests/runtimes`: the only file of their root file system.
//!
//! `serve PORT` answers every TCP connection with what it sends; `ask ADDRESS:PORT` exits with 0 if
//! somebody there answers so.

use std::io::{Error, Read as _, Result, Write as _};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::time::Duration;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", port] => serve(port.parse().map_err(Error::other)?),
        ["ask", target] => ask(target),
        _ => Err(Error::other("say `serve PORT` or `ask ADDRESS:PORT`")),
    }
}

fn serve(port: u16) -> Result<()> {
    // Of both families, where there is IPv6.
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind(("0.0.0.0", port)))?;
    loop {
        let (mut stream, _from) = listener.accept()?;
        let mut word = [0; 4];
        // A client that goes away is its own affair.
        let _gone = stream.read_exact(&mut word).and_then(|()| stream.write_all(&word));
    }
}

fn ask(target: &str) -> Result<()> {
    let target = target.parse().map_err(Error::other)?;
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"pods")?;
    let mut word = [0; 4];
    stream.read_exact(&mut word)?;
    if word == *b"pods" { Ok(()) } else { Err(Error::other("another answer")) }
}
