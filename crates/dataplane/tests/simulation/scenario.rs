//! What happens in a run: a time of trouble drawn from the seed, then calm, then the proof that
//! every pod reaches every other.

use std::net::IpAddr;
use std::time::Duration;

use crate::cluster::{name, pod};
use crate::ledger::{Violation, ensure};
use crate::network::{Network, Weather};
use crate::packet::{MIN_PAYLOAD, Spec};
use crate::ports::{EAGAIN, EINVAL, EIO, ENETUNREACH, ENOBUFS};
use crate::random::Random;
use crate::world::{Event, KERNEL_LAG_MS, World};

/// How long trouble lasts.
const TROUBLE: Duration = Duration::from_secs(3);
/// Longest time in which a change of the table reaches a node.
const TABLE_DELAY_MS: u64 = 400;
/// Longest time between the last change and the moment from which every pod reaches every other:
/// the table on its way, the bridges behind it, and some room for datagrams that are late.
pub(crate) const CONVERGENCE: Duration =
    Duration::from_millis(TABLE_DELAY_MS + KERNEL_LAG_MS + 150);
/// A packet of full length may be lost to the narrow place, to the kernel and to the engine, each
/// of which then tells the one before it; the fourth must arrive.
const ROUNDS: usize = 4;
const ROUND: Duration = Duration::from_millis(100);
/// Longest packet of a pod whose underlay has the usual MTU.
const POD_MTU: [usize; 2] = [1464, 1444];

/// Something that is done to the world.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// Something random.
    Trouble,
    /// Trouble ends.
    Calm,
    /// Each pod sends to each that it has not yet reached.
    Probe(usize),
}

/// What must have arrived at the end.
#[derive(Debug, Default)]
pub(crate) struct Goal {
    /// Packets of full length by pair of pods: what has been sent so far.
    pairs: Vec<(usize, IpAddr, IpAddr, Vec<u32>)>,
    /// Short packets, which must arrive at once.
    short: Vec<u32>,
}

impl World {
    pub(crate) fn begin(&mut self) {
        for node in 0..self.nodes.len() {
            let delay = Duration::from_millis(self.random.between(0, 100));
            self.clock.after(delay, Event::TableReaches { node, version: 0 });
        }
        for _ in 0..self.random.between(30, 90) {
            let moment = Duration::from_micros(self.random.between(0, 3_000_000));
            self.clock.at(moment, Event::Act(Act::Trouble));
        }
        self.clock.at(TROUBLE, Event::Act(Act::Calm));
        for round in 0..ROUNDS {
            let moment = TROUBLE + CONVERGENCE + ROUND * u32::try_from(round).unwrap();
            self.clock.at(moment, Event::Act(Act::Probe(round)));
        }
    }

    pub(crate) fn act(&mut self, act: Act) -> Result<(), Violation> {
        match act {
            Act::Trouble => self.trouble(),
            Act::Calm => {
                self.calm();
                Ok(())
            }
            Act::Probe(round) => self.probe(round),
        }
    }

    fn trouble(&mut self) -> Result<(), Violation> {
        let nodes = self.nodes.len();
        let node = self.random.below(nodes);
        let other = another(&mut self.random, nodes, node);
        match self.random.below(22) {
            0..=7 => self.pods_send(node),
            8..=12 => self.attack(node),
            13 | 14 => {
                let version = self.cluster.change(nodes, &mut self.random);
                self.tell(|| format!("the operator publishes version {version}"));
                self.publish(version);
                Ok(())
            }
            15 => {
                let version = self.cluster.blunder(&mut self.random);
                self.tell(|| format!("the operator publishes version {version}, with a mistake"));
                self.publish(version);
                Ok(())
            }
            16 => {
                self.crash(node)?;
                let delay = Duration::from_millis(self.random.between(1, 800));
                self.clock.after(delay, Event::Starts(node));
                Ok(())
            }
            17 => {
                self.tell(|| format!("node{node} and node{other} are cut off from each other"));
                self.network.cut(node, other);
                Ok(())
            }
            18 => {
                self.tell(|| "partitions heal".to_owned());
                self.network.heal();
                Ok(())
            }
            19 => {
                self.network.weather = Weather::any(&mut self.random);
                let weather = self.network.weather;
                self.tell(|| format!("{weather:?}"));
                Ok(())
            }
            20 => {
                let mtu = self.random.pick(&[700, 1280, 1336, 1400, 1450, Network::MTU]);
                self.tell(|| format!("the path between node{node} and node{other} carries {mtu}"));
                self.network.set_path(node, other, mtu);
                Ok(())
            }
            _ => {
                self.refuse(node);
                Ok(())
            }
        }
    }

    /// The kernel of `node` refuses some of what its daemon does next.
    fn refuse(&mut self, node: usize) {
        self.tell(|| format!("the kernel of node{node} refuses some writes and sends"));
        let Some(daemon) = &mut self.nodes[node].daemon else { return };
        for _ in 0..6 {
            let random = &mut self.random;
            let of_tun = random.pick(&[None, Some(EAGAIN), Some(ENOBUFS), Some(EINVAL), Some(EIO)]);
            let of_underlay =
                random.pick(&[None, Some(EAGAIN), Some(ENOBUFS), Some(EIO), Some(ENETUNREACH)]);
            daemon.tun.refusals.push_back(of_tun);
            daemon.underlay.refusals.push_back(of_underlay);
        }
    }

    fn publish(&mut self, version: usize) {
        for node in 0..self.nodes.len() {
            let delay = Duration::from_millis(self.random.between(0, TABLE_DELAY_MS));
            self.clock.after(delay, Event::TableReaches { node, version });
        }
    }

    /// Everything that was broken is whole again, for good.
    fn calm(&mut self) {
        self.tell(|| "calm".to_owned());
        self.network.heal();
        self.network.weather = Weather::CALM;
        // IPv6 among pods needs 1280 bytes, whatever is around them.
        self.network.widen(1280 + 56);
        let version = self.cluster.change(self.nodes.len(), &mut self.random);
        self.publish(version);
        for node in 0..self.nodes.len() {
            if let Some(daemon) = &mut self.nodes[node].daemon {
                daemon.tun.refusals.clear();
                daemon.underlay.refusals.clear();
            }
            // After what the network had still to say about the narrow places that were.
            self.clock.after(Duration::from_millis(5), Event::PathsForgotten(node));
            self.clock.after(Duration::ZERO, Event::Starts(node));
        }
        self.pod_mtu.clear();
    }

    /// A burst of one node's pods: mostly honest.
    fn pods_send(&mut self, node: usize) -> Result<(), Violation> {
        for _ in 0..self.random.between(1, 4) {
            let spec = self.burst(node);
            self.send(node, &spec)?;
        }
        Ok(())
    }

    fn burst(&mut self, node: usize) -> Spec {
        let random = &mut self.random;
        let v4 = random.percent(60);
        let own: Vec<_> = self
            .cluster
            .newest()
            .entry(node)
            .map(|entry| entry.subnets.iter().filter(|net| net.addr().is_ipv4() == v4).collect())
            .unwrap_or_default();
        let honest = !own.is_empty() && !random.percent(8);
        let source = if honest {
            pod(random.pick(&own), random.below(3))
        } else if v4 != self.cluster.v6_underlay && random.percent(50) {
            // A node itself: this one, or another that it passes for.
            let other = random.below(self.nodes.len());
            self.cluster.address(if random.percent(50) { node } else { other })
        } else {
            self.cluster.any_pod(v4, random)
        };
        let destination = match (random.below(20), v4) {
            (0, true) => "224.0.0.251".parse().unwrap(),
            (0, false) => "ff02::fb".parse().unwrap(),
            (1, true) => "10.244.250.9".parse().unwrap(),
            (1, false) => "fd00:10:244:ff::9".parse().unwrap(),
            _ => self.cluster.any_pod(v4, random),
        };
        let tcp = random.percent(50);
        let headers = if v4 { 20 } else { 40 } + if tcp { 20 } else { 8 };
        let len = random.pick(&[60, 400, 1200, 1280, 1444, 1464, 1465, 1500]);
        let payload = (len - headers).max(MIN_PAYLOAD);
        let count = if random.percent(50) { 1 } else { 2 + random.below(30) };
        let mut payloads = vec![payload; count];
        payloads[count - 1] = random.between(MIN_PAYLOAD as u64, payload as u64) as usize;
        let first = self.ledger.open(count);
        Spec {
            source,
            destination,
            tcp,
            flow: u16::try_from(random.below(8)).unwrap(),
            payloads,
            first,
            offloaded: random.percent(70),
            dont_fragment: random.percent(80),
            ttl: random.pick(&[1, 2, 63, 63, 63]),
            ecn: random.pick(&[0, 0, 1, 2, 3]),
        }
    }

    /// Every pair of pods that has not met yet.
    fn probe(&mut self, round: usize) -> Result<(), Violation> {
        self.tell(|| format!("probing, round {round}"));
        if round == 0 {
            self.choose_pairs()?;
        }
        let longest = POD_MTU[usize::from(self.cluster.v6_underlay)];
        for index in 0..self.goal.pairs.len() {
            let (node, source, destination, ref sent) = self.goal.pairs[index];
            if sent.iter().any(|number| self.ledger.delivered(*number) > 0) {
                continue;
            }
            let told = self.pod_mtu.get(&(source, destination));
            let len = told.map_or(longest, |mtu| usize::from(*mtu).min(longest));
            let number = self.probe_packet(node, source, destination, len)?;
            self.goal.pairs[index].3.push(number);
        }
        Ok(())
    }

    fn choose_pairs(&mut self) -> Result<(), Violation> {
        let version = self.cluster.newest().clone();
        for from in 0..self.nodes.len() {
            let Some(own) = version.entry(from) else { continue };
            let taken = self.nodes[from].daemon.as_ref().map(|daemon| daemon.version);
            let newest = self.cluster.versions.len() - 1;
            ensure("every node has the last table in time", taken == Some(newest), || {
                format!("node{from} has {taken:?} of {newest}")
            })?;
            for peer in version.nodes.iter().filter(|peer| peer.name != name(from)) {
                for subnet in &peer.subnets {
                    let v4 = subnet.addr().is_ipv4();
                    let Some(home) = own.subnets.iter().find(|net| net.addr().is_ipv4() == v4)
                    else {
                        continue;
                    };
                    let (source, destination) = (pod(home, 0), pod(subnet, 1));
                    let short = self.probe_packet(from, source, destination, 100)?;
                    self.goal.short.push(short);
                    self.goal.pairs.push((from, source, destination, Vec::new()));
                }
            }
        }
        Ok(())
    }

    fn probe_packet(
        &mut self,
        node: usize,
        source: IpAddr,
        destination: IpAddr,
        len: usize,
    ) -> Result<u32, Violation> {
        let first = self.ledger.open(1);
        let headers = if source.is_ipv4() { 28 } else { 48 };
        let spec = Spec {
            source,
            destination,
            tcp: false,
            flow: 99,
            payloads: vec![len - headers],
            first,
            offloaded: false,
            dont_fragment: true,
            ttl: 63,
            ecn: 0,
        };
        self.send(node, &spec)?;
        Ok(first)
    }

    /// After the last event: what had to arrive has arrived, once.
    pub(crate) fn finish(&mut self) -> Result<(), Violation> {
        let invariant = "every pod reaches every other soon after the last change";
        for number in &self.goal.short {
            ensure(invariant, self.ledger.delivered(*number) == 1, || {
                format!("packet {number} of 100 bytes did not arrive")
            })?;
        }
        for (node, source, destination, sent) in &self.goal.pairs {
            let arrived = sent.iter().any(|number| self.ledger.delivered(*number) == 1);
            ensure(invariant, arrived, || {
                format!("node{node}: {source} > {destination}: none of {sent:?} arrived")
            })?;
        }
        ensure("a run proves something", !self.goal.pairs.is_empty(), String::new)
    }
}

/// One of `nodes` nodes, but not the node `not`.
pub(crate) fn another(random: &mut Random, nodes: usize, not: usize) -> usize {
    (not + 1 + random.below(nodes - 1)) % nodes
}
