//! A UDP datagram and its echo: whether it arrives whole, and whom the server saw.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};

use super::super::netns::Netns;
use crate::clock;

/// What came of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpReport {
    /// The client's address as the server saw it.
    pub seen: SocketAddr,
    /// From sending to the echo.
    pub rtt: Duration,
}

/// Sends a datagram with `len` bytes of payload from the namespace `from` to a server at `address`,
/// which it starts in `to` and which sends it back.
///
/// # Errors
///
/// It was refused, either way lost it within `timeout`, or it came back changed.
pub fn udp_echo(
    from: &Netns,
    to: &Netns,
    address: IpAddr,
    len: usize,
    timeout: Duration,
) -> Result<UdpReport> {
    let server = to.run(|| UdpSocket::bind(SocketAddr::new(address, 0)))?;
    let server = server.with_context(|| format!("bind {address} in {}", to.name()))?;
    let target = server.local_addr().context("ask for the server's port")?;
    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let client = from.run(|| {
        let client = UdpSocket::bind(SocketAddr::new(any, 0))?;
        client.connect(target)?;
        Ok::<_, std::io::Error>(client)
    })?;
    let client = client.with_context(|| format!("connect from {} to {target}", from.name()))?;
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(timeout)).context("set a timeout")?;
    }

    let payload: Vec<u8> = (0..len).map(|position| (position % 251).to_le_bytes()[0]).collect();
    thread::scope(|scope| {
        let answering = scope.spawn(|| answer(&server, len));
        let start = clock::now();
        client.send(&payload).with_context(|| format!("send from {}", from.name()))?;
        let mut buffer = vec![0; len + 1];
        let echoed = client.recv(&mut buffer);
        let rtt = start.elapsed();
        let answered = answering.join().unwrap_or_else(|_| Err(anyhow!("the server ended")));
        let seen = answered.with_context(|| format!("receive in {}", to.name()))?;
        let echoed = echoed.with_context(|| format!("wait for the echo in {}", from.name()))?;
        ensure!(buffer.get(..echoed) == Some(&payload), "the echo differs from what was sent");
        Ok(UdpReport { seen, rtt })
    })
}

fn answer(server: &UdpSocket, len: usize) -> Result<SocketAddr> {
    let mut buffer = vec![0; len + 1];
    let (received, seen) = server.recv_from(&mut buffer)?;
    server.send_to(buffer.get(..received).unwrap_or_default(), seen)?;
    Ok(seen)
}
