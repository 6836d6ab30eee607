//! A stream of datagrams between two pods, and which of them got lost.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use culvert_lab::Pod;
use overlay_proto::Family;

/// What each datagram has before its number, for whoever looks for it on the way.
pub(crate) const MARKER: &[u8] = b"readable on the way";

/// Between two datagrams of a stream.
const PACE: Duration = Duration::from_micros(500);

/// How long after the last datagram one that has not come is lost.
const LATE: Duration = Duration::from_secs(1);

/// Numbered datagrams from one pod to another until told to stop.
pub(crate) struct Stream {
    stop: Arc<AtomicBool>,
    arrived: Arc<AtomicU64>,
    sending: thread::JoinHandle<u64>,
    receiving: thread::JoinHandle<BTreeSet<u64>>,
}

impl Stream {
    pub(crate) fn start(from: &Pod, to: &Pod, family: Family) -> Self {
        let bind = |pod: &Pod| {
            let address = SocketAddr::new(pod.address(family), 0);
            pod.netns().run(|| UdpSocket::bind(address)).unwrap().unwrap()
        };
        let (client, server) = (bind(from), bind(to));
        let target: SocketAddr = server.local_addr().unwrap();
        // What a second's worth of datagrams takes, with the kernel's own accounting.
        socket2::SockRef::from(&server).set_recv_buffer_size(4 << 20).unwrap();
        server.set_read_timeout(Some(LATE)).unwrap();
        let (stop, arrived) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ended, count) = (Arc::clone(&stop), Arc::clone(&arrived));
        let receiving = thread::spawn(move || {
            let (mut received, mut datagram) = (BTreeSet::new(), [0; MARKER.len() + 8]);
            loop {
                match server.recv(&mut datagram) {
                    Ok(_) => {
                        let number = datagram.last_chunk().copied().unwrap_or_default();
                        received.insert(u64::from_be_bytes(number));
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(_) if ended.load(Ordering::Relaxed) => return received,
                    Err(_) => {}
                }
            }
        });
        let stopped = Arc::clone(&stop);
        let sending = thread::spawn(move || {
            let mut number: u64 = 0;
            while !stopped.load(Ordering::Relaxed) {
                let datagram = [MARKER, &number.to_be_bytes()].concat();
                client.send_to(&datagram, target).unwrap();
                number += 1;
                thread::sleep(PACE);
            }
            number
        });
        Self { stop, arrived, sending, receiving }
    }

    /// How many have arrived so far.
    pub(crate) fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// How many were sent, and the numbers of those that did not arrive.
    pub(crate) fn stop(self) -> (u64, BTreeSet<u64>) {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sending.join().unwrap();
        let received = self.receiving.join().unwrap();
        let missing = (0..sent).filter(|number| !received.contains(number)).collect();
        (sent, missing)
    }
}
