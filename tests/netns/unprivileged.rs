//! What processes of a node without rights try.

#![expect(unsafe_code, reason = "no safe way gives up one thread's rights, or opens a queue")]

use std::fs::OpenOptions;
use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;

use culvert_lab::{Netns, Pod};
use overlay_proto::Family;
use socket2::{Domain, Socket, Type};

use crate::capture::Capture;
use crate::harness::{assert_reaches, lab, run};

/// What must not arrive, and what shows that everything before it was handled.
const EVIL: &[u8] = b"must not arrive";
const GOOD: &[u8] = b"may arrive";

/// Whoever has no rights.
const NOBODY: libc::uid_t = 65534;

/// Has this thread be of a user, for as long as it lives.
fn become_user(user: libc::uid_t) {
    // SAFETY: the call takes numbers only. Unlike the library's function, it changes this thread
    // alone.
    let outcome = unsafe { libc::syscall(libc::SYS_setresuid, user, user, user) };
    assert_eq!(outcome, 0, "{}", io::Error::last_os_error());
}

/// Opens a queue of a device as a user without rights for whom `/dev/net/tun` is open, as it is to
/// everybody on most machines.
fn attach_as_nobody(netns: &Netns, name: &str) -> io::Result<()> {
    netns
        .run(|| {
            let queue = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
            become_user(NOBODY);
            // SAFETY: an all-zero ifreq is a valid value of that plain C structure.
            let mut request: libc::ifreq = unsafe { mem::zeroed() };
            for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
                *to = from.cast_signed();
            }
            let flags =
                libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE | libc::IFF_VNET_HDR;
            request.ifr_ifru.ifru_flags = flags as libc::c_short;
            // SAFETY: TUNSETIFF reads and writes one ifreq, which `request` is, and it outlives the
            // call.
            match unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        })
        .unwrap()
}

#[test]
fn no_other_user_of_the_machine_opens_a_queue_of_the_device() {
    let lab = lab("nt-owner").up().unwrap();
    let node = lab.node(1);
    // kernel: a device without an owner is everybody's.
    let make = ["tuntap", "add", "other0", "mode", "tun", "multi_queue", "vnet_hdr"];
    run(node.netns(), "ip", &make);
    attach_as_nobody(node.netns(), "other0").unwrap();

    let refused = attach_as_nobody(node.netns(), "culvert0").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM), "{refused}");
    // Nor while nobody holds it, or after somebody took it over.
    node.stop().unwrap();
    let refused = attach_as_nobody(node.netns(), "culvert0").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM), "{refused}");
    run(node.netns(), "ip", &["link", "del", "culvert0"]);
    let make = ["tuntap", "add", "culvert0", "mode", "tun", "multi_queue", "vnet_hdr"];
    run(node.netns(), "ip", &make);
    run(node.netns(), "ip", &["link", "set", "culvert0", "alias", "culvert: overlay"]);
    node.start().unwrap();
    let refused = attach_as_nobody(node.netns(), "culvert0").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM), "{refused}");
    assert_reaches(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4());
}

/// Sends from an address that the node does not have.
fn send_from(netns: &Netns, user: libc::uid_t, from: IpAddr, to: IpAddr, payload: &[u8]) {
    let send = || -> io::Result<usize> {
        become_user(user);
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
        socket.set_freebind_v6(true)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        socket.send_to(payload, &SocketAddr::new(to, 9).into())
    };
    // What a rule drops is an error as well.
    let _sent = netns.run(send).unwrap();
}

#[test]
fn no_process_without_rights_speaks_for_a_pod() {
    let lab = lab("nt-freebind").pods(2).up().unwrap();
    let node = lab.node(1);
    let v6 = |pod: &Pod| pod.address(Family::V6);
    let (near, other, far) = (lab.pod(1, 1), lab.pod(1, 2), lab.pod(2, 1));
    // Its own pod's address to another node, another pod's on the same node, and a remote one's.
    for (from, to) in [(&near, &far), (&near, &other), (&far, &near)] {
        let mut seen = Capture::start(to.netns());
        send_from(node.netns(), NOBODY, v6(from), v6(to), EVIL);
        // Root may, and that is what shows that it was a rule.
        seen.wait_for(GOOD, || send_from(node.netns(), 0, v6(from), v6(to), GOOD));
        assert!(!seen.has(EVIL), "{} to {}", v6(from), v6(to));
    }
    // From addresses of its own everybody may.
    let gateway = "fd00:10:244:1::1".parse().unwrap();
    let mut seen = Capture::start(far.netns());
    seen.wait_for(GOOD, || send_from(node.netns(), NOBODY, gateway, v6(&far), GOOD));
}
