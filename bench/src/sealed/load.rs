//! Packets from one pod to many peers and back, as many as the way takes: each flow has so many on
//! their way and sends the next when one has come back, so that what is lost is missed.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use culvert_lab::{clock, interrupt};

use crate::traffic::Pod;

/// Bytes of each packet's payload.
const PAYLOAD: [u8; 64] = [0; 64];

/// How long the last packets may take to come back.
const SETTLE: Duration = Duration::from_secs(2);

/// Room for what comes back while the thread sends.
const RECEIVE_BUFFER_LEN: usize = 8 << 20;

/// What became of the packets.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Carried {
    pub(super) sent: u64,
    pub(super) returned: u64,
    pub(super) lasted: Duration,
}

impl Carried {
    pub(super) fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.returned)
    }

    pub(super) fn per_second(&self) -> f64 {
        self.returned as f64 / self.lasted.as_secs_f64().max(1e-9)
    }
}

/// Sends from `flows` ports of the pod to `targets` in turn for so long, with `window` packets of
/// each port under way.
pub(super) fn carry(
    pod: &Pod,
    targets: &[Ipv4Addr],
    flows: usize,
    window: u64,
    lasts: Duration,
) -> Result<Carried> {
    let sockets = (0..flows).map(|_| socket(pod)).collect::<Result<Vec<_>>>()?;
    let mut under_way = vec![0_u64; flows];
    let mut carried = Carried::default();
    let mut targets = targets.iter().cycle();
    let mut buffer = [0; 2048];
    let start = clock::now();
    let mut returned_at = start;
    loop {
        interrupt::check()?;
        let is_over = start.elapsed() >= lasts;
        if is_over && (carried.lost() == 0 || returned_at.elapsed() >= SETTLE) {
            break;
        }
        let mut is_idle = true;
        for (socket, under_way) in sockets.iter().zip(&mut under_way) {
            while !is_over && *under_way < window {
                let target = SocketAddr::from((*targets.next().context("no targets")?, 9));
                if socket.send_to(&PAYLOAD, target).is_err() {
                    break;
                }
                is_idle = false;
                carried.sent += 1;
                *under_way += 1;
            }
            while socket.recv(&mut buffer).is_ok() {
                is_idle = false;
                carried.returned += 1;
                *under_way = under_way.saturating_sub(1);
                returned_at = clock::now();
            }
        }
        if is_over && is_idle && returned_at < start {
            break;
        }
        if is_idle {
            thread::sleep(Duration::from_micros(50));
        }
    }
    carried.lasted = returned_at.duration_since(start);
    Ok(carried)
}

fn socket(pod: &Pod) -> Result<UdpSocket> {
    let open = || -> std::io::Result<UdpSocket> {
        let socket = UdpSocket::bind((pod.address, 0))?;
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_LEN)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    pod.netns.run(open)?.context("open a socket in the pod")
}
