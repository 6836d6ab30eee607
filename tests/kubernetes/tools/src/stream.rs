//! One TCP connection that talks all the time, and how long it was silent.
//!
//! Numbered lines go to an echo, a line every [`PACE`]. What comes back must be the same lines in
//! their order; the longest time without any is what somebody at the other end would have felt.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use culvert_lab::clock;

/// Between two lines.
const PACE: Duration = Duration::from_millis(5);
/// What is counted as a silence.
const SILENCE: Duration = Duration::from_millis(50);
/// How long the connection may stand still. TCP tries again later and later, so that a network that
/// is back after a minute may have to wait as long for the next attempt.
const PATIENCE: Duration = Duration::from_secs(120);

/// Sends every connection back what it says, for ever.
pub(crate) fn echo(address: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
    for stream in listener.incoming() {
        let mut stream = stream.context("accept a connection")?;
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len) = stream.read(&mut buffer) {
                let said = buffer.get(..len).unwrap_or_default();
                if said.is_empty() || stream.write_all(said).is_err() {
                    break;
                }
            }
        });
    }
    Ok(())
}

/// What came back.
#[derive(Debug, Default)]
struct Heard {
    lines: u64,
    longest: Duration,
    silences: u32,
    ended_by: Option<anyhow::Error>,
}

/// Talks until `until` exists. Fails if the connection did not live so long, or lost a line.
pub(crate) fn watch(address: SocketAddr, until: &Path) -> anyhow::Result<()> {
    let mut stream = connect(address).with_context(|| format!("connect to {address}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let listening = stream.try_clone()?;
    let listener = thread::spawn(move || listen(listening));
    let mut sent: u64 = 0;
    let mut failure = None;
    while !until.exists() && !listener.is_finished() {
        if let Err(error) = writeln!(stream, "{sent}") {
            failure = Some(error);
            break;
        }
        sent += 1;
        thread::sleep(PACE);
    }
    // The echo has sent everything when it sees the end, and ends too.
    let _gone = stream.shutdown(Shutdown::Write);
    let heard = listener.join().map_err(|_| anyhow!("the thread that listens has died"))?;
    writeln!(
        io::stdout(),
        "sent {sent}, came back {}, longest silence {} ms, silences of 50 ms {}",
        heard.lines,
        heard.longest.as_millis(),
        heard.silences
    )?;
    if let Some(error) = heard.ended_by {
        return Err(error).context("the connection did not live");
    }
    if let Some(error) = failure {
        return Err(error).context("the connection did not live");
    }
    ensure!(heard.lines == sent, "lines were lost");
    Ok(())
}

/// Reads until the other end has nothing more to say.
fn listen(stream: TcpStream) -> Heard {
    let mut heard = Heard::default();
    let mut last = clock::now();
    for line in BufReader::new(stream).lines() {
        let line = match line {
            Ok(line) => line,
            Err(error) => {
                heard.ended_by = Some(error.into());
                break;
            }
        };
        let now = clock::now();
        let silence = now.saturating_duration_since(last);
        last = now;
        heard.longest = heard.longest.max(silence);
        heard.silences += u32::from(silence >= SILENCE);
        if line != heard.lines.to_string() {
            heard.ended_by = Some(anyhow!("\"{line}\" came in place of {}", heard.lines));
            break;
        }
        heard.lines += 1;
    }
    heard
}

/// Connects, as soon as the echo listens.
fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let deadline = clock::now() + Duration::from_secs(10);
    loop {
        match TcpStream::connect_timeout(&address, Duration::from_secs(2)) {
            Err(_) if clock::now() < deadline => thread::sleep(PACE),
            connected => return connected,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_lives_loses_nothing_and_says_so() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        thread::spawn(move || echo(address));
        // The file is there from the beginning: nothing is said, and nothing lost.
        watch(address, Path::new("/")).unwrap();
    }
}
