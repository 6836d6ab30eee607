//! Questions to the peers, through the tunnel and past it.
//!
//! A question is the opening of a TCP connection from this node's bridge to the peer's, to a port
//! that nobody has. It takes the way of pods' packets but for the bridges: our daemon, the
//! underlay, the peer's daemon, its kernel; the refusal takes the way back. The kernel sends as
//! many refusals as there are questions, unlike ICMP errors. Their source ports are chosen so that
//! each question takes the path that it is to take.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use culvert_dataplane::platform::clock;
use culvert_dataplane::platform::udp::SOCKET_MARK;
use culvert_dataplane::{SENDERS, bucket};
use culvert_node::node_file::gateway;
use etherparse::PacketBuilder;
use ipnet::IpNet;
use overlay_proto::{Family, InnerPacket};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{SockRef, Socket};

use super::facts::{Answer, Asked, Expected, Question, Sizes};
use crate::observe::PeerStatus;
use crate::platform::knock::{NOBODYS_PORT, answered, connect};

/// Peers whose every path is asked, and whose addresses; of more, each gets two questions.
pub(super) const FEW: usize = 16;

/// Questions that take one path there: they differ in the path back, so that it can be told which
/// of the two loses packets.
const WAYS_BACK: usize = 2;

/// How long answers are waited for. The kernel repeats a question after a second.
const PATIENCE: Duration = Duration::from_millis(1300);

/// How long an error of ICMP is waited for.
const ICMP_PATIENCE: Duration = Duration::from_millis(300);

/// How long a kernel is asked whether anybody has a port, and how often.
///
/// kernel: it sends a machine six errors at once, then one a second (`icmp_ratelimit`); those about
/// the questions before have used them up.
const KERNEL_PATIENCE: Duration = Duration::from_millis(1200);

/// How long a kernel has to be left alone until it sends an error again, whoever has asked before.
const KERNEL_REST: Duration = Duration::from_millis(1200);
const KERNEL_PAUSE: Duration = Duration::from_millis(150);

/// Headers of IP and UDP.
const HEADERS_V4: usize = 20 + 8;
const HEADERS_V6: usize = 40 + 8;

/// Asks every peer. `look_again` says what the daemon then knows of the peers.
pub(super) fn peers(
    expected: &Expected,
    look_again: impl Fn() -> Answer<Vec<PeerStatus>>,
) -> Vec<Asked> {
    let count = expected.peers.len();
    let questions_each = if count <= FEW { SENDERS * WAYS_BACK } else { WAYS_BACK };
    allow_descriptors(count * (questions_each + SMALL + LARGE) + 64);
    let mut pending = Vec::new();
    let mut sizes = Vec::new();
    for (peer, index) in expected.peers.iter().zip(0..) {
        let Some((own, its)) = ends(&expected.setup.local_subnets, &peer.subnets) else {
            continue;
        };
        for (port, ours, theirs) in source_ports(own, its, count <= FEW) {
            pending.push(Pending::open(index, (own, port), its, ours, theirs));
        }
        if count <= FEW {
            sizes.extend(Sizing::open(own, its, peer.mtu).ok().map(|sizing| (index, sizing)));
        }
    }
    let asked = clock::now();
    wait_for_all(&mut pending, asked);
    let left = ICMP_PATIENCE.saturating_sub(asked.elapsed());
    if !sizes.is_empty() && !left.is_zero() {
        thread::sleep(left);
    }
    let mut answers: Vec<Asked> = expected.peers.iter().map(|peer| asked_of(peer, count)).collect();
    for one in pending {
        let peer = &mut answers[one.peer];
        match one.question.error {
            Some(why) if one.lacks_room => peer.unasked = Some(why),
            _ => peer.questions.push(one.question),
        }
    }
    settle(&mut sizes);
    for (peer, sizing) in sizes {
        answers[peer].sizes = Some(sizing.sizes);
    }
    if answers.iter().any(is_silent) {
        ask_kernels(&mut answers, expected.setup.address);
        // Who sends although he answers nothing is there.
        for now in look_again().unwrap_or_default() {
            let before = expected.peers.iter().position(|peer| peer.name == now.name);
            if let Some(index) = before {
                let accepted = expected.peers[index].ingress.packets;
                answers[index].is_heard = now.ingress.packets > accepted;
            }
        }
    }
    answers
}

/// Whether a peer was asked, and answered nothing.
fn is_silent(peer: &Asked) -> bool {
    !peer.questions.is_empty() && peer.questions.iter().all(|it| it.answered.is_none())
}

fn asked_of(peer: &PeerStatus, count: usize) -> Asked {
    Asked {
        name: peer.name.clone(),
        address: peer.address,
        port: peer.port,
        all_paths: count <= FEW,
        questions: Vec::new(),
        unasked: None,
        is_refused: false,
        is_heard: false,
        sizes: None,
    }
}

/// The bridges' addresses of this node and of a peer, in a family that both have.
fn ends(own: &[IpNet], its: &[IpNet]) -> Option<(IpAddr, IpAddr)> {
    let first = |subnets: &[IpNet], family| {
        let mut gateways = subnets.iter().map(|subnet| gateway(subnet).addr());
        gateways.find(|address| Family::of(*address) == family)
    };
    Family::BOTH.iter().find_map(|family| first(own, *family).zip(first(its, *family)))
}

/// Source ports of questions with the paths that they and their answers take: every path with
/// `WAYS_BACK` different ways back, or just so many paths.
fn source_ports(own: IpAddr, its: IpAddr, all: bool) -> Vec<(u16, usize, usize)> {
    let wanted = if all { SENDERS } else { WAYS_BACK };
    let each = if all { WAYS_BACK } else { 1 };
    let mut found: Vec<(u16, usize, usize)> = Vec::with_capacity(wanted * each);
    // Below those that the kernel gives away by itself.
    for port in 20_000..32_000 {
        let (Some(ours), Some(theirs)) =
            (path((own, port), (its, NOBODYS_PORT)), path((its, NOBODYS_PORT), (own, port)))
        else {
            return found;
        };
        let same = || found.iter().filter(|(_, there, _)| *there == ours);
        let is_new_way_back = same().all(|(_, _, back)| *back != theirs);
        if same().count() < each && is_new_way_back {
            found.push((port, ours, theirs));
        }
        if found.len() == wanted * each {
            break;
        }
    }
    found
}

/// The path that the opening of a TCP connection takes, as the data path chooses it.
fn path((source, from): (IpAddr, u16), (destination, to): (IpAddr, u16)) -> Option<usize> {
    let builder = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            PacketBuilder::ipv4(source.octets(), destination.octets(), 64)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            PacketBuilder::ipv6(source.octets(), destination.octets(), 64)
        }
        _ => return None,
    };
    let builder = builder.tcp(from, to, 0, 0);
    let mut packet = Vec::with_capacity(builder.size(0));
    builder.write(&mut packet, &[]).ok()?;
    Some(bucket(InnerPacket::parse(&packet).ok()?.flow_hash()))
}

/// A question on its way.
struct Pending {
    peer: usize,
    question: Question,
    sent: Instant,
    socket: Option<Socket>,
    /// Whether there was no descriptor left for it.
    lacks_room: bool,
}

impl Pending {
    fn open(
        peer: usize,
        (own, port): (IpAddr, u16),
        its: IpAddr,
        ours: usize,
        theirs: usize,
    ) -> Self {
        let mut question = Question { ours, theirs, answered: None, error: None };
        let sent = clock::now();
        let mut lacks_room = false;
        let socket = match connect((own, port), its) {
            Ok(socket) => Some(socket),
            Err(error) => {
                lacks_room = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
                question.error = Some(error.to_string());
                None
            }
        };
        Self { peer, question, sent, socket, lacks_room }
    }

    /// Takes what the kernel says of it.
    fn conclude(&mut self) {
        let Some(socket) = self.socket.take() else { return };
        match socket.take_error() {
            // Somebody has the port after all.
            Ok(None) => self.question.answered = Some(self.sent.elapsed()),
            Ok(Some(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.question.answered = Some(self.sent.elapsed());
            }
            Ok(Some(error)) | Err(error) => self.question.error = Some(error.to_string()),
        }
    }
}

/// Waits until all are answered or patience is at its end.
fn wait_for_all(pending: &mut [Pending], since: Instant) {
    loop {
        let left = PATIENCE.saturating_sub(since.elapsed());
        let mut waiting: Vec<&mut Pending> =
            pending.iter_mut().filter(|one| one.socket.is_some()).collect();
        if waiting.is_empty() || left.is_zero() {
            return;
        }
        let sockets = waiting.iter().filter_map(|one| one.socket.as_ref());
        let Some(ready) = answered(sockets, left) else { return };
        for (one, _) in waiting.iter_mut().zip(ready).filter(|(_, is_ready)| *is_ready) {
            one.conclude();
        }
    }
}

/// Small datagrams and some of the full size, all to a port that nobody has. Several of each: one
/// alone may be lost by chance. Together no more than a kernel answers at once.
struct Sizing {
    small: Vec<UdpSocket>,
    large: Vec<UdpSocket>,
    large_len: usize,
    /// What is known so far.
    sizes: Sizes,
}

/// How many small ones, and how many of the full size.
const SMALL: usize = 2;
const LARGE: usize = 4;

impl Sizing {
    fn open(own: IpAddr, its: IpAddr, full: u16) -> io::Result<Self> {
        let headers = if own.is_ipv4() { HEADERS_V4 } else { HEADERS_V6 };
        let send = |len: usize| {
            let socket = UdpSocket::bind((own, 0))?;
            socket.connect((its, NOBODYS_PORT))?;
            socket.set_nonblocking(true)?;
            socket.send(&vec![0; len])?;
            Ok::<_, io::Error>(socket)
        };
        let several = |len: usize, count: usize| -> io::Result<Vec<UdpSocket>> {
            (0..count).map(|_| send(len)).collect()
        };
        let large_len = usize::from(full).saturating_sub(headers);
        // The large ones first: a kernel that answers only a few then answers those.
        let large = several(large_len, LARGE)?;
        let small = several(0, SMALL)?;
        let sizes = Sizes { full, small_answered: false, full_answered: false };
        Ok(Self { small, large, large_len, sizes })
    }

    fn look(&mut self) {
        self.sizes.small_answered |= self.small.iter().any(is_refused);
        self.sizes.full_answered |= self.large.iter().any(is_refused);
    }

    fn send_again(&self) {
        // One that is too long by now is not answered either.
        let _ = self.large.first().map(|socket| socket.send(&vec![0; self.large_len]));
    }
}

/// Looks which were answered. Where only small ones were, the kernel there may have had no error
/// left for the others, and one is sent again.
fn settle(sizes: &mut [(usize, Sizing)]) {
    let look = |sizes: &mut [(usize, Sizing)]| sizes.iter_mut().for_each(|(_, it)| it.look());
    look(sizes);
    let doubtful = || sizes.iter().filter(|(_, it)| it.sizes.is_black_hole());
    if doubtful().next().is_some() {
        thread::sleep(KERNEL_REST);
        doubtful().for_each(|(_, it)| it.send_again());
        thread::sleep(ICMP_PATIENCE);
        look(sizes);
    }
}

/// Whether somebody's kernel has said by ICMP that nobody has the port; or somebody answered.
fn is_refused(socket: &UdpSocket) -> bool {
    match socket.recv(&mut [0]) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
    }
}

/// Asks the kernels of the peers that have not answered whether anybody has the tunnel's port.
fn ask_kernels(answers: &mut [Asked], own: Option<IpAddr>) {
    let Some(own) = own else { return };
    let silent = answers.iter_mut().filter(|peer| is_silent(peer));
    let mut asked: Vec<_> = silent
        .filter_map(|peer| {
            let socket = past_the_tunnel(own, (peer.address, peer.port).into()).ok()?;
            Some((peer, socket))
        })
        .collect();
    let since = clock::now();
    while !asked.is_empty() && since.elapsed() < KERNEL_PATIENCE {
        for (_, socket) in &asked {
            // What it says of the one before is fetched below.
            let _ = socket.send(&[]);
        }
        thread::sleep(KERNEL_PAUSE);
        for (peer, socket) in &mut asked {
            peer.is_refused |= is_refused(socket);
        }
        asked.retain(|(peer, _)| !peer.is_refused);
    }
}

/// A socket to the port of a tunnel, as only the daemon may have one.
fn past_the_tunnel(own: IpAddr, to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((own, 0))?;
    SockRef::from(&socket).set_mark(SOCKET_MARK)?;
    socket.connect(to)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Lets this process have so many descriptors, as far as it may.
pub(super) fn allow_descriptors(count: usize) {
    let now = getrlimit(Resource::Nofile);
    let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let wanted = u64::try_from(count + open).unwrap_or(u64::MAX);
    if now.current.is_some_and(|current| current < wanted) {
        let most = now.maximum.map_or(wanted, |maximum| maximum.min(wanted));
        // Who may not asks fewer peers, and says which.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..now });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_path_is_asked_by_two_ways_back() {
        let (own, its) = ("10.244.1.1".parse().unwrap(), "10.244.2.1".parse().unwrap());
        let ports = source_ports(own, its, true);
        assert_eq!(ports.len(), SENDERS * WAYS_BACK);
        for path in 0..SENDERS {
            let back: BTreeSet<usize> = ports
                .iter()
                .filter(|(_, ours, _)| *ours == path)
                .map(|(_, _, theirs)| *theirs)
                .collect();
            assert_eq!(back.len(), WAYS_BACK, "path {path}");
        }
        assert_eq!(source_ports(own, its, false).len(), WAYS_BACK);
        assert!(source_ports(own, "fd00::1".parse().unwrap(), true).is_empty());
    }

    #[test]
    fn ends_are_the_bridges_of_a_common_family() {
        let net = |text: &str| -> IpNet { text.parse().unwrap() };
        let own = [net("fd00:10:244:1::/64"), net("10.244.1.0/24")];
        assert_eq!(
            ends(&own, &[net("10.244.2.0/24")]),
            Some(("10.244.1.1".parse().unwrap(), "10.244.2.1".parse().unwrap()))
        );
        assert_eq!(ends(&[net("10.244.1.0/24")], &[net("fd00:10:244:2::/64")]), None);
    }
}
