//! Talking with pods: servers, and attempts to reach them.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use culvert_lab::{Netns, wait_until};

use crate::harness::{SOON, TABLE_LIMIT};

/// How long one attempt waits. On an idle machine a connection takes less than a millisecond; a
/// second attempt of the kernel comes after a second.
const ATTEMPT: Duration = Duration::from_millis(400);

/// A server that echoes what it gets, in a thread that ends with the process.
pub(super) struct Server;

impl Server {
    /// Listens in `netns` for both families.
    pub(super) fn start(netns: &Netns, port: u16) -> Self {
        let listener = netns.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)));
        let listener = listener.unwrap().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || echo(stream));
            }
        });
        Self
    }
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// Opens a connection.
pub(super) fn connect(from: &Netns, to: IpAddr, port: u16) -> io::Result<TcpStream> {
    let to = SocketAddr::new(to, port);
    let stream = from.run(|| TcpStream::connect_timeout(&to, ATTEMPT)).unwrap()?;
    stream.set_read_timeout(Some(ATTEMPT))?;
    Ok(stream)
}

/// Whether a connection can be opened at once.
pub(super) fn can_connect(from: &Netns, to: IpAddr, port: u16) -> bool {
    connect(from, to, port).is_ok()
}

/// Whether the other end echoes.
pub(super) fn echoes(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 64];
    stream.write_all(b"hello").is_ok() && matches!(stream.read(&mut buffer), Ok(1..))
}

/// Demands that a connection can be opened before long.
#[track_caller]
pub(super) fn eventually_connects(from: &Netns, to: IpAddr, port: u16) {
    let what = format!("{} to reach {to} port {port}", from.name());
    wait_until(SOON, &what, || can_connect(from, to, port)).unwrap();
}

/// Demands that a connection is refused before long, and stays so.
#[track_caller]
pub(super) fn eventually_refuses(from: &Netns, to: IpAddr, port: u16) {
    let what = format!("{} to be kept from {to} port {port}", from.name());
    wait_until(TABLE_LIMIT, &what, || !can_connect(from, to, port)).unwrap();
    assert_never(|| can_connect(from, to, port));
}

/// Demands that something does not happen in several attempts.
#[track_caller]
pub(super) fn assert_never(mut happens: impl FnMut() -> bool) {
    for _attempt in 0..3 {
        assert!(!happens());
    }
}
