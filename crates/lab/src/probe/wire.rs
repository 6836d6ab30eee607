//! What a machine on the way sees.

use std::io::{ErrorKind, Read as _};

use anyhow::{Context as _, Result};
use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};

use super::super::netns::Netns;

/// `ETH_P_ALL`, in network order as the kernel wants it.
const EVERYTHING: i32 = 0x0300;

/// Room for what has not been looked at.
const BUFFER_BYTES: usize = 16 << 20;

/// Longest frame: a super-packet with its headers.
const MAX_FRAME_BYTES: usize = 66_000;

/// Every frame of a namespace from now on, on each of its devices.
#[derive(Debug)]
pub struct Wire(Socket);

impl Wire {
    /// Begins to listen in `netns`.
    ///
    /// # Errors
    ///
    /// The kernel refuses the socket.
    pub fn tap(netns: &Netns) -> Result<Self> {
        let protocol = Protocol::from(EVERYTHING);
        let socket = netns
            .run(|| Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(protocol)))?
            .with_context(|| format!("listen to the frames in {}", netns.name()))?;
        // By force: what the machine lets everybody have is full in a moment.
        sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES)
            .context("make room for frames")?;
        Ok(Self(socket))
    }

    /// What has been heard since the last look.
    ///
    /// What came while there was no room is not among them.
    ///
    /// # Errors
    ///
    /// The socket fails.
    pub fn frames(&self) -> Result<Vec<Vec<u8>>> {
        let mut frames = Vec::new();
        let mut buffer = vec![0; MAX_FRAME_BYTES];
        loop {
            match (&self.0).read(&mut buffer) {
                Ok(len) => frames.push(buffer[..len].to_vec()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(frames),
                Err(error) => return Err(error).context("read a frame"),
            }
        }
    }
}
