//! One real node among thousands of peers, for which one thread speaks.
//!
//! The peers are addresses of a second namespace. Those that are present have the tunnel's port; a
//! thread of this process answers there what is asked through the tunnel: questions of probes,
//! openings of connections, which are refused, and datagrams, which come back. The other peers are
//! entries of the table and nothing else.

use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use culvert_lab::{Lab, Node, TableFile, TableNode, UNDERLAY_PORT, clock, interrupt};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use overlay_proto::InnerPacket;
use overlay_proto::oam::{self, Ends, Message};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::networks::{PREFIX, bypass_filters};
use crate::programs::Programs;

/// A pod network with room for everybody's subnet.
const CONFIG: &str = "[network]\ncidrs = [\"10.0.0.0/8\"]";

/// Underlay addresses of the peers, counted up from here, and their subnets, 256 addresses each.
const FIRST_ADDRESS: u32 = u32::from_be_bytes([172, 16, 0, 1]);
const FIRST_SUBNET: u32 = u32::from_be_bytes([10, 0, 0, 0]);

/// Bytes of the tunnel's header.
const GPE_LEN: usize = 8;

/// How long nothing may be there before the answering thread looks whether it is to end.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// How many peers there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crowd {
    /// In the table.
    pub(crate) peers: u32,
    /// Of these, the first so many have an address and a port.
    pub(crate) present: u32,
}

/// The node, without a daemon yet, and its peers.
pub(crate) struct StandIns {
    pub(crate) lab: Lab,
    crowd: Crowd,
    sockets: Vec<UdpSocket>,
}

impl StandIns {
    /// Builds the lab called `name`; `config` is added to the node's configuration.
    pub(crate) fn build(
        name: &str,
        programs: &Programs,
        crowd: Crowd,
        config: &str,
    ) -> Result<Self> {
        let mut builder = Lab::builder(format!("{PREFIX}{name}"))
            .nodes(2)
            .pods(0)
            .without_daemons()
            .culvert(&programs.culvert)
            .plugin(&programs.plugin)
            .config(CONFIG)
            .replace();
        if !config.is_empty() {
            builder = builder.config(config);
        }
        let lab = builder.up()?;
        bypass_filters(&lab)?;
        let mut table = TableFile { nodes: lab.table().nodes.into_iter().take(1).collect() };
        table.nodes.extend((0..crowd.peers).map(peer));
        lab.write_table(&table.to_toml())?;
        let (node, other) = (lab.node(1), lab.node(2));
        let mut script = String::new();
        for number in 0..crowd.present {
            let _ = writeln!(script, "address add {}/32 dev eth0", underlay_address(number));
        }
        other.netns().ip(&script)?;
        node.netns().ip(&format!("route add 172.16.0.0/12 via {}\n", other.address()))?;
        let sockets = sockets(&lab, crowd.present)?;
        Ok(Self { lab, crowd, sockets })
    }

    /// The node that is real.
    pub(crate) fn node(&self) -> &Node {
        self.lab.node(1)
    }

    /// Does `work` while the peers answer; it is given how often they have so far.
    pub(crate) fn while_answering<T>(
        &self,
        work: impl FnOnce(&AtomicU64) -> Result<T>,
    ) -> Result<T> {
        let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            scope.spawn(|| answer(&self.sockets, &stop, &answered));
            let done = work(&answered);
            stop.store(true, Ordering::Relaxed);
            done
        })
    }

    /// A socket of a pod of the node, which is attached for it.
    pub(crate) fn pod_socket(&self) -> Result<UdpSocket> {
        let pod = self.lab.add_pod(1)?;
        let socket = pod.netns().run(|| UdpSocket::bind((pod.ipv4(), 0)))?;
        socket.context("bind in the pod")
    }

    /// Sends a packet from `socket` to each of the first `some` peers every so often, for so long.
    pub(crate) fn talk(
        &self,
        socket: &UdpSocket,
        some: u32,
        every: Duration,
        lasts: Duration,
    ) -> Result<()> {
        let start = clock::now();
        let mut next = Duration::ZERO;
        while start.elapsed() < lasts {
            interrupt::check()?;
            if start.elapsed() >= next {
                next += every;
                for number in 0..some.min(self.crowd.peers) {
                    // What a pod says of it is nobody's.
                    let _ = socket.send_to(b"here", (pod_address(number), 9));
                }
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

/// The entry of a peer, whose name is as long as those that clouds give to machines.
fn peer(number: u32) -> TableNode {
    let (address, subnet) = (underlay_address(number), FIRST_SUBNET + number * 256);
    TableNode {
        name: format!("ip-{address}.eu-west-1.compute.internal").replace("172.16.", "172-16-"),
        address: address.into(),
        subnets: format!("{}/24", Ipv4Addr::from(subnet)).parse().into_iter().collect(),
        public_keys: Vec::new(),
    }
}

/// The underlay address of a peer.
pub(crate) fn underlay_address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(FIRST_ADDRESS + number)
}

fn pod_address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(FIRST_SUBNET + number * 256 + 2)
}

/// A socket for each peer at its tunnel's port.
fn sockets(lab: &Lab, present: u32) -> Result<Vec<UdpSocket>> {
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let limit = rustix::process::Rlimit { current: most, maximum: most };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit)
        .context("raise the limit of open files")?;
    let bind = || {
        (0..present)
            .map(|number| {
                let socket = UdpSocket::bind((underlay_address(number), UNDERLAY_PORT))?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            })
            .collect::<io::Result<Vec<UdpSocket>>>()
    };
    lab.node(2).netns().run(bind)?.context("bind the peers' ports")
}

/// Answers for all peers until told to stop.
fn answer(sockets: &[UdpSocket], stop: &AtomicBool, answered: &AtomicU64) {
    let mut polled: Vec<PollFd<'_>> = sockets
        .iter()
        .map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN))
        .collect();
    let mut buffer = vec![0; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        if poll(&mut polled, Some(&PATIENCE)).is_err() {
            continue;
        }
        for (socket, polled) in sockets.iter().zip(&polled) {
            if !polled.revents().contains(PollFlags::IN) {
                continue;
            }
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                let question = buffer.get(..len).unwrap_or_default();
                let to = SocketAddr::new(from.ip(), UNDERLAY_PORT);
                if let Some(answer) = answer_to(question)
                    && socket.send_to(&answer, to).is_ok()
                {
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

/// What answers a datagram of the tunnel, with the header that it had; nothing if it asks nothing.
fn answer_to(datagram: &[u8]) -> Option<Vec<u8>> {
    let (header, inner) = datagram.split_at_checked(GPE_LEN)?;
    let packet = InnerPacket::parse(inner).ok()?;
    let answer = match oam::parse(&packet) {
        Ok(Message::Question(question, _)) => {
            let ends = Ends { source: packet.destination(), destination: packet.source() };
            let mut bytes = vec![0; 512];
            let len = question.answer(64).write(ends, None, &mut bytes)?;
            bytes.truncate(len);
            bytes
        }
        Ok(_) => return None,
        Err(_) => echo(inner)?,
    };
    Some([header, &answer].concat())
}

/// What a machine says whose pod sends everything back, and on which no port is open.
fn echo(inner: &[u8]) -> Option<Vec<u8>> {
    let packet = SlicedPacket::from_ip(inner).ok()?;
    let Some(NetSlice::Ipv4(ip)) = packet.net else { return None };
    let (source, destination) = (ip.header().destination(), ip.header().source());
    let back = PacketBuilder::ipv4(source, destination, 64);
    let mut bytes = Vec::new();
    match packet.transport? {
        TransportSlice::Tcp(tcp) if tcp.syn() => {
            let seen = tcp.sequence_number().wrapping_add(1);
            let refusal = back.tcp(tcp.destination_port(), tcp.source_port(), 0, 0);
            refusal.rst().ack(seen).write(&mut bytes, &[]).ok()?;
        }
        TransportSlice::Udp(udp) => {
            let same = back.udp(udp.destination_port(), udp.source_port());
            same.write(&mut bytes, udp.payload()).ok()?;
        }
        TransportSlice::Tcp(_)
        | TransportSlice::Icmpv4(_)
        | TransportSlice::Icmpv6(_)
        | TransportSlice::Igmp(_) => {
            return None;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: [u8; GPE_LEN] = [0x0c, 0, 0, 1, 0, 0, 1, 0];

    #[test]
    fn a_question_is_answered_between_the_same_ends_and_nothing_else_is() {
        let ends = Ends { source: [10, 244, 1, 1].into(), destination: [10, 0, 3, 1].into() };
        let question = oam::Question { sequence: 77, ..Default::default() };
        let mut inner = vec![0; 512];
        let needed = oam::Question::packet_len(overlay_proto::Family::V4, None);
        let len = question.write(ends, None, needed, &mut inner).unwrap();
        let datagram = [&[0x0d, 0, 0, 1, 0, 0, 1, 0][..], &inner[..len]].concat();
        let answer = answer_to(&datagram).unwrap();
        assert_eq!(answer[..8], datagram[..8]);
        let packet = InnerPacket::parse(&answer[8..]).unwrap();
        assert_eq!((packet.source(), packet.destination()), (ends.destination, ends.source));
        let Ok(Message::Answer(read, None)) = oam::parse(&packet) else { panic!("no answer") };
        assert_eq!(read.sequence, 77);
        assert_eq!(answer_to(&answer), None);
        assert_eq!(answer_to(&datagram[..7]), None);
    }

    #[test]
    fn a_connection_is_refused_and_a_datagram_comes_back() {
        let between = || PacketBuilder::ipv4([10, 244, 1, 1], [10, 0, 3, 1], 64);
        let mut syn = HEADER.to_vec();
        between().tcp(20_000, 9, 7, 502).syn().write(&mut syn, &[]).unwrap();
        let answer = answer_to(&syn).unwrap();
        let refusal = SlicedPacket::from_ip(&answer[GPE_LEN..]).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = refusal.transport else { panic!("no TCP") };
        assert!(tcp.rst() && tcp.ack());
        assert_eq!((tcp.source_port(), tcp.destination_port()), (9, 20_000));
        assert_eq!(tcp.acknowledgment_number(), 8);
        assert_eq!(answer_to(&answer), None, "a refusal is not answered");

        let mut datagram = HEADER.to_vec();
        between().udp(5000, 9).write(&mut datagram, b"here").unwrap();
        let answer = answer_to(&datagram).unwrap();
        let echo = SlicedPacket::from_ip(&answer[GPE_LEN..]).unwrap();
        let Some(TransportSlice::Udp(udp)) = echo.transport else { panic!("no UDP") };
        assert_eq!((udp.source_port(), udp.destination_port()), (9, 5000));
        assert_eq!(udp.payload(), b"here");
    }
}
