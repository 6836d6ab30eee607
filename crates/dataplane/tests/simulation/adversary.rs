//! Those who send what they should not: strangers, and members of the cluster gone bad.
//!
//! A stranger that forges a member's outer address and the inner address of one of that member's
//! own pods cannot be told from the member, by design: the default format does not authenticate.
//! The underlay has to keep such datagrams out, and nobody here sends them.

use std::net::IpAddr;

use crate::ledger::Violation;
use crate::node::{Emitter, Flight};
use crate::packet::Spec;
use crate::scenario::another;
use crate::world::World;

impl World {
    /// Something hostile reaches `to`.
    pub(crate) fn attack(&mut self, to: usize) -> Result<(), Violation> {
        let member = another(&mut self.random, self.nodes.len(), to);
        match self.random.below(8) {
            0 => self.stranger(to),
            1 | 2 => self.liar(member, to),
            3 | 4 => self.malformed(member, to),
            5 => self.garbage(member, to),
            _ => self.replay(to),
        }
    }

    /// A packet that would be right, had a member sent it.
    fn stranger(&mut self, to: usize) -> Result<(), Violation> {
        self.tell(|| format!("a stranger sends to node{to}"));
        let (packet, number) = self.inner(None, Some(to));
        let datagram = self.wrap(&packet);
        let address = if self.cluster.v6_underlay {
            IpAddr::from([0xfd01, 0, 0, 0, 0, 0, 0, 0xdead])
        } else {
            IpAddr::from([192, 168, 1, 250])
        };
        self.inject(None, address, to, (datagram, Some(number)))
    }

    /// A member that uses addresses of others, or sends what is not for `to`.
    fn liar(&mut self, member: usize, to: usize) -> Result<(), Violation> {
        self.tell(|| format!("node{member} lies to node{to} about source or destination"));
        let honest_source = self.random.percent(40);
        let honest_destination = self.random.percent(60);
        let (packet, number) =
            self.inner(honest_source.then_some(member), honest_destination.then_some(to));
        let datagram = self.wrap(&packet);
        self.inject(Some(member), self.cluster.address(member), to, (datagram, Some(number)))
    }

    /// A member's own good packet with one thing wrong about it.
    fn malformed(&mut self, member: usize, to: usize) -> Result<(), Violation> {
        let (packet, number) = self.inner(Some(member), Some(to));
        let mut datagram = self.wrap(&packet);
        let random = &mut self.random;
        match random.below(7) {
            // One bit of the overlay header: version, flags, reserved, protocol or VNI.
            0..=2 => datagram[random.below(8)] ^= 1 << random.below(8),
            // One bit of the inner version, lengths or protocol.
            3 | 4 => datagram[8 + random.below(8)] ^= 1 << random.below(8),
            5 => datagram.truncate(random.below(datagram.len())),
            _ => {
                let trailer = 1 + random.below(20);
                datagram.extend(random.bytes(trailer));
            }
        }
        self.tell(|| format!("node{member} sends node{to} something malformed"));
        self.inject(Some(member), self.cluster.address(member), to, (datagram, Some(number)))
    }

    fn garbage(&mut self, member: usize, to: usize) -> Result<(), Violation> {
        self.tell(|| format!("node{member} sends garbage to node{to}"));
        let len = self.random.below(100);
        let mut datagram = self.random.bytes(len);
        if self.random.percent(50) {
            datagram.splice(..0, self.wrap(&[0x45]).into_iter().take(8));
        }
        self.inject(Some(member), self.cluster.address(member), to, (datagram, None))
    }

    /// Something that was on the wire before, once more: by the same node, or by another.
    fn replay(&mut self, to: usize) -> Result<(), Violation> {
        if self.heard.is_empty() {
            return Ok(());
        }
        let which = self.random.below(self.heard.len());
        let heard = self.heard[which].clone();
        let Emitter::Node(first) = heard.emitter else { return Ok(()) };
        let again = self.random.percent(50);
        let by = if again { first } else { another(&mut self.random, self.nodes.len(), to) };
        if by == to {
            return Ok(());
        }
        self.tell(|| format!("node{by} replays a packet of node{first} to node{to}"));
        self.ledger.copy(heard.number);
        let flight = Flight { emitter: Emitter::Node(by), ..heard };
        self.fly(Some(by), to, self.cluster.address(by), 0, vec![flight])
    }

    /// A packet between pods of two nodes as the operator sees them now; of anybody if `None`.
    fn inner(&mut self, from: Option<usize>, to: Option<usize>) -> (Vec<u8>, u32) {
        let random = &mut self.random;
        let v4 = random.percent(60);
        let mut of = |node: Option<usize>, cluster: &crate::cluster::Cluster| -> IpAddr {
            let entry = node.and_then(|node| cluster.newest().entry(node));
            let own =
                entry.and_then(|entry| entry.subnets.iter().find(|net| net.addr().is_ipv4() == v4));
            match own {
                Some(subnet) => crate::cluster::pod(subnet, random.below(3)),
                None => cluster.any_pod(v4, random),
            }
        };
        let (mut source, destination) = (of(from, &self.cluster), of(to, &self.cluster));
        // Sometimes as a node itself: the sender, or another that it passes for.
        if v4 != self.cluster.v6_underlay && random.percent(15) {
            let node = from.unwrap_or_else(|| random.below(self.nodes.len()));
            source = self.cluster.address(node);
        }
        let number = self.ledger.open(1);
        let spec = Spec {
            source,
            destination,
            tcp: self.random.percent(50),
            flow: 77,
            payloads: vec![40],
            first: number,
            offloaded: false,
            dont_fragment: true,
            ttl: 63,
            ecn: 0,
        };
        (spec.reads().remove(0).packets.remove(0), number)
    }

    fn wrap(&self, packet: &[u8]) -> Vec<u8> {
        let [_, v0, v1, v2] = self.cluster.overlay.vni.get().to_be_bytes();
        let next = if packet[0] >> 4 == 4 { 1 } else { 2 };
        [&[0x0c, 0, 0, next, v0, v1, v2, 0], packet].concat()
    }

    fn inject(
        &mut self,
        member: Option<usize>,
        source: IpAddr,
        to: usize,
        (bytes, number): (Vec<u8>, Option<u32>),
    ) -> Result<(), Violation> {
        let emitter = member.map_or(Emitter::Stranger, Emitter::Node);
        self.fly(member, to, source, 0, vec![Flight { bytes, emitter, number }])
    }
}
