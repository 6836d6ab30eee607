//! A node that puts bare IP packets into UDP, one by one, as flannel's `udp` backend does.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use culvert_dataplane::platform::tun::{MAX_READ_LEN, Offload, TunQueue, VNET_HEADER_LEN};
use culvert_dataplane::platform::wake::{WaitSet, Waker};
use culvert_lab::Netns;

use super::foreign::Kind;

/// The running program; its end ends it.
pub(super) struct Bare {
    stop: Arc<(Waker, AtomicBool)>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Bare {
    /// Starts it in `netns`, between `own` and the node `peer`, whose pods it then reaches.
    pub(super) fn start(netns: &Netns, own: IpAddr, peer: IpAddr, mtu: u16) -> Self {
        let port = Kind::Bare.port();
        let (tun, socket) = netns
            .run(|| {
                let tun = TunQueue::open("bare0").unwrap();
                tun.set_offload(Offload::None).unwrap();
                (tun, UdpSocket::bind(SocketAddr::new(own, port)).unwrap())
            })
            .unwrap();
        netns
            .ip(&format!(
                "link set bare0 mtu {mtu} up\n\
                 route add 10.244.1.0/24 dev bare0\n\
                 route add fd00:10:244:1::/64 dev bare0\n"
            ))
            .unwrap();
        socket.set_nonblocking(true).unwrap();
        socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20).unwrap();
        let stop = Arc::new((Waker::new().unwrap(), AtomicBool::new(false)));
        let told = Arc::clone(&stop);
        let target = SocketAddr::new(peer, port);
        let thread = netns.spawn(move || carry(&tun, &socket, target, &told)).unwrap();
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.stop.1.store(true, Ordering::Release);
        self.stop.0.wake();
        // A panic there has been printed by its thread.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn carry(tun: &TunQueue, socket: &UdpSocket, peer: SocketAddr, stop: &(Waker, AtomicBool)) {
    let set = WaitSet::new().unwrap();
    set.add(tun, 0).unwrap();
    set.add(socket, 1).unwrap();
    set.add(&stop.0, 2).unwrap();
    let mut packet = vec![0; MAX_READ_LEN];
    while !stop.1.load(Ordering::Acquire) {
        set.wait().unwrap();
        while let Ok(len) = tun.recv(&mut packet) {
            let packet = &packet[VNET_HEADER_LEN..len];
            // The kernel's own reports to groups are for nobody.
            if packet[0] >> 4 == 6 && packet[24] == 0xff {
                continue;
            }
            // As with any network, what does not fit is lost.
            let _ = socket.send_to(packet, peer);
        }
        while let Ok((len, from)) = socket.recv_from(&mut packet) {
            assert_eq!(from.ip(), peer.ip());
            let header = [0; VNET_HEADER_LEN];
            let _ = tun.send(&[IoSlice::new(&header), IoSlice::new(&packet[..len])]);
        }
    }
}
