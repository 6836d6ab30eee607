//! A TCP stream that lasts: every byte is checked, and the longest silence is measured.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use culvert_lab::clock;

/// Bytes of a write. With one every [`PACE`] that is 3 MB/s: enough to meet every gap, and little
/// enough to leave a small machine to those who are tested.
const CHUNK: usize = 32 * 1024;
const PACE: Duration = Duration::from_millis(10);
/// How long the stream may stand still. TCP tries again later and later; a network that comes back
/// after ten seconds may have to wait as long for the next attempt.
const PATIENCE: Duration = Duration::from_secs(30);

/// Takes streams one after the other, for ever, and answers each with the number of its bytes.
pub(crate) fn serve(address: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
    writeln!(io::stdout(), "listening on {address}")?;
    for stream in listener.incoming() {
        let mut stream = stream.context("accept a stream")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let received = check(&mut stream)?;
        stream.write_all(&received.to_be_bytes())?;
    }
    Ok(())
}

/// Sends until `until` exists; fails unless every byte came to the other end.
pub(crate) fn send(address: SocketAddr, until: &Path) -> anyhow::Result<()> {
    let mut stream = connect(address).with_context(|| format!("connect to {address}"))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut sent: u64 = 0;
    let mut longest = Duration::ZERO;
    while !until.exists() {
        let chunk: Vec<u8> = (sent..).map(byte_at).take(CHUNK).collect();
        let begin = clock::now();
        stream.write_all(&chunk).with_context(|| format!("send after {sent} bytes"))?;
        longest = longest.max(begin.elapsed());
        sent += CHUNK as u64;
        thread::sleep(PACE);
    }
    stream.shutdown(Shutdown::Write).context("end the stream")?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).context("hear how much has arrived")?;
    let received = u64::from_be_bytes(answer);
    ensure!(received == sent, "{received} of {sent} bytes have arrived");
    writeln!(io::stdout(), "{sent} bytes, longest wait {} ms", longest.as_millis())?;
    Ok(())
}

/// Connects, as soon as the server listens.
fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let deadline = clock::now() + PATIENCE;
    loop {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Err(error)
                if error.kind() == ErrorKind::ConnectionRefused && clock::now() < deadline =>
            {
                thread::sleep(PACE);
            }
            connected => return connected,
        }
    }
}

fn check(stream: &mut TcpStream) -> anyhow::Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut received: u64 = 0;
    loop {
        let len = match stream.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            len => len.with_context(|| format!("receive after {received} bytes"))?,
        };
        if len == 0 {
            return Ok(received);
        }
        let good = buffer.iter().take(len).zip(received..).all(|(byte, at)| *byte == byte_at(at));
        ensure!(good, "a byte changed on the way, within {len} after the first {received}");
        received += len as u64;
    }
}

/// What the stream has at a place: no period that a lost or repeated segment could hide in.
fn byte_at(place: u64) -> u8 {
    place.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]
}
