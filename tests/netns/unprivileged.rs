//! What processes of a node without rights try.

#![expect(unsafe_code, reason = "no safe way gives up one thread's rights, or opens a queue")]

use std::fs::OpenOptions;
use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd as _;

use culvert_lab::{Netns, Node, Pod};
use overlay_proto::Family;
use overlay_proto::oam::REFLECTOR_PORT;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::capture::Capture;
use crate::harness::{FAMILIES, assert_reaches, lab, run};

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

/// Sends from an address that the node does not have, by its bridge where one of them is a
/// link-local address.
fn send_from(netns: &Netns, user: libc::uid_t, from: IpAddr, to: IpAddr, payload: &[u8]) {
    send_from_to(netns, user, from, (to, 9), payload);
}

/// The same, to a port.
fn send_from_to(
    netns: &Netns,
    user: libc::uid_t,
    from: IpAddr,
    (to, port): (IpAddr, u16),
    payload: &[u8],
) {
    let send = || -> io::Result<usize> {
        become_user(user);
        let socket = Socket::new(Domain::for_address(SocketAddr::new(from, 0)), Type::DGRAM, None)?;
        if from.is_ipv4() {
            socket.set_freebind_v4(true)?;
        } else {
            socket.set_freebind_v6(true)?;
        }
        let bridge = rustix::net::netdevice::name_to_index(&socket, "v-net-0")?;
        let at = |address: IpAddr, port: u16| match address {
            IpAddr::V6(ip) if ip.is_unicast_link_local() || ip.is_multicast() => {
                SockAddr::from(SocketAddrV6::new(ip, port, 0, bridge))
            }
            IpAddr::V4(_) | IpAddr::V6(_) => SocketAddr::new(address, port).into(),
        };
        socket.bind(&at(from, 0))?;
        socket.send_to(payload, &at(to, port))
    };
    // What a rule drops is an error as well.
    let _sent = netns.run(send).unwrap();
}

/// The link-local address of a device.
fn link_local(netns: &Netns, device: &str) -> IpAddr {
    let text = netns.ip_output(&["-brief", "-6", "address", "show", "dev", device]).unwrap();
    let mut words = text.split([' ', '/']);
    words.find(|word| word.starts_with("fe80::")).unwrap().parse().unwrap()
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

#[test]
fn no_process_without_rights_reaches_pods_from_an_address_of_somebody_else() {
    let lab = lab("nt-freebind2").pods(2).up().unwrap();
    let node = lab.node(1);
    let (pod, other) = (lab.pod(1, 1), lab.pod(1, 2));
    let to_all: IpAddr = "ff02::1".parse().unwrap();
    let (near, neighbour) = (link_local(pod.netns(), "eth0"), link_local(other.netns(), "eth0"));
    let far_node = lab.node(2).address_in(Family::V6);
    for (from, to) in [
        // A neighbour's link-local address, that of nobody, and another node's.
        (neighbour, near),
        (neighbour, pod.ipv6()),
        (neighbour, to_all),
        ("fe80::77".parse().unwrap(), near),
        ("fe80:0:0:1::77".parse().unwrap(), near),
        (far_node, pod.ipv6()),
        (far_node, near),
        ("2001:db8::7".parse().unwrap(), pod.ipv6()),
    ] {
        let mut seen = Capture::start(pod.netns());
        send_from(node.netns(), NOBODY, from, to, EVIL);
        // Root may, and that is what shows that it was a rule.
        seen.wait_for(GOOD, || send_from(node.netns(), 0, from, to, GOOD));
        assert!(!seen.has(EVIL), "{from} to {to}");
    }
    // From addresses of its own everybody may, whichever device has them.
    let own = [link_local(node.netns(), "v-net-0"), node.address_in(Family::V6)];
    for (from, to) in [(own[0], near), (own[0], to_all), (own[1], pod.ipv6())] {
        let mut seen = Capture::start(pod.netns());
        seen.wait_for(GOOD, || send_from(node.netns(), NOBODY, from, to, GOOD));
    }
}

#[test]
fn no_process_sends_by_ipv4_from_an_address_of_somebody_else() {
    let lab = lab("nt-freebind4").pods(2).up().unwrap();
    let node = lab.node(1);
    let (pod, other) = (lab.pod(1, 1), lab.pod(1, 2));
    let mut seen = Capture::start(pod.netns());
    // kernel: it refuses whatever is no address of the machine, even to root.
    for from in [other.ipv4(), lab.pod(2, 1).ipv4(), lab.node(2).address()] {
        for user in [NOBODY, 0] {
            send_from(node.netns(), user, from, pod.ipv4(), EVIL);
        }
    }
    let gateway = [10, 244, 1, 1].into();
    seen.wait_for(GOOD, || send_from(node.netns(), NOBODY, gateway, pod.ipv4(), GOOD));
    assert!(!seen.has(EVIL));
}

/// Sealed packets between two nodes' addresses in the pod network are questions of their daemons.
#[test]
fn no_process_without_rights_asks_another_node_as_the_daemon_does() {
    let lab = lab("nt-asks").sealed("require").up().unwrap();
    let (node, peer) = (lab.node(1), lab.node(2));
    for family in FAMILIES {
        let bridge = |node: &Node| {
            let subnets = node.subnets();
            let subnet = subnets.iter().find(|subnet| Family::of(subnet.addr()) == family).unwrap();
            subnet.hosts().find(|address| *address != subnet.network()).unwrap()
        };
        let (from, to) = (bridge(node), (bridge(peer), REFLECTOR_PORT));
        let mut seen = Capture::start(node.netns());
        send_from_to(node.netns(), NOBODY, from, to, EVIL);
        // Root may, and that is what shows that it was a rule.
        seen.wait_for(GOOD, || send_from_to(node.netns(), 0, from, to, GOOD));
        assert!(!seen.has(EVIL), "{family}");
    }
}
