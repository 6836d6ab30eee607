//! What happens in a run, drawn from its seed: some ten minutes of trouble, then none.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use culvert_claims::Parameters;
use ipnet::IpNet;
use overlay_proto::Vni;

use super::node::Disk;
use super::world::{Happening, PREFIX, World};
use crate::report::Violation;

const TROUBLE: Duration = Duration::from_secs(600);

/// The longest that a machine stands still, the longest lease, a look at refused claims, and more.
const SETTLED: Duration = Duration::from_secs(200);

/// How long nodes are missed that a database does not have, and time to claim after that.
const PATIENT: Duration = Duration::from_secs(400);

/// A thing that goes wrong.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Cut,
    Down,
    Backup,
    Restore,
    Empty,
    DeleteAll,
    Compact,
    Restart,
    Away,
    Reinstall,
    Twin,
    Clone,
    Move,
    Swap,
    Jump,
    Freeze,
    Revoke,
    DeleteClaim,
    Thief,
    Garbage,
    Reserve,
    SubnetLen,
    Widen,
    Vni,
    Reload,
}

const TROUBLES: [Trouble; 25] = [
    Trouble::Cut,
    Trouble::Down,
    Trouble::Backup,
    Trouble::Restore,
    Trouble::Empty,
    Trouble::DeleteAll,
    Trouble::Compact,
    Trouble::Restart,
    Trouble::Away,
    Trouble::Reinstall,
    Trouble::Twin,
    Trouble::Clone,
    Trouble::Move,
    Trouble::Swap,
    Trouble::Jump,
    Trouble::Freeze,
    Trouble::Revoke,
    Trouble::DeleteClaim,
    Trouble::Thief,
    Trouble::Garbage,
    Trouble::Reserve,
    Trouble::SubnetLen,
    Trouble::Widen,
    Trouble::Vni,
    Trouble::Reload,
];

/// What the operator wrote for all nodes.
#[derive(Clone)]
pub(crate) struct Written {
    networks: Vec<&'static str>,
    vni: u32,
    len: u8,
}

impl Written {
    fn text(&self) -> String {
        format!(
            r#"{{"cidrs":["{}"],"vni":{},"port":4790,"subnet_len":{}}}"#,
            self.networks.join("\",\""),
            self.vni,
            self.len
        )
    }
}

pub(crate) struct Scenario {
    pub(crate) world: World,
    written: Written,
    /// Nodes with the name of another, and nodes with a copy of another's disk.
    twins: Vec<usize>,
    clones: Vec<usize>,
    /// Addresses that nodes moved to.
    moves: u64,
}

impl Scenario {
    pub(crate) fn new(seed: u64, traced: bool) -> Self {
        let mut world = World::new(seed, traced);
        let mut networks = vec!["10.244.0.0/20"];
        if world.random.percent(30) {
            networks.push("fd00:10:244::/48");
        }
        let written = Written { networks, vni: 1, len: 24 };
        if world.random.percent(50) {
            let cidrs = written.networks.iter().map(|net| net.parse().unwrap()).collect();
            world.identity.parameters =
                Some(Parameters { cidrs, vni: Vni::new(1).unwrap(), port: 4790 });
        } else {
            world.store.put(&format!("{PREFIX}/config"), &written.text());
        }
        let nodes = world.random.between(2, 5);
        for number in 0..nodes {
            let node = world.add(&format!("node{number}"), address(number));
            let delay = Duration::from_millis(world.random.between(0, 3000));
            // Most nodes start together.
            world.clock.after(delay, Happening::Start { node });
        }
        Self { world, written, twins: Vec::new(), clones: Vec::new(), moves: 0 }
    }

    pub(crate) fn run(&mut self) -> Result<(), Violation> {
        let troubles = self.world.random.between(0, 30);
        for _ in 0..troubles {
            let millis = u64::try_from(TROUBLE.as_millis()).unwrap();
            let at = Duration::from_millis(self.world.random.between(0, millis));
            self.world.clock.at(at, Happening::Trouble);
        }
        for _ in 0..100 {
            let at = Duration::from_millis(self.world.random.between(0, 600_000));
            self.world.clock.at(at, Happening::Pod);
        }
        self.world.clock.at(TROUBLE, Happening::Mark);
        while self.world.clock.now() < TROUBLE {
            match self.world.step()? {
                Some(Happening::Trouble) => {
                    // Troubles come one upon another, or hours apart.
                    self.make_trouble()?;
                    if self.world.random.percent(30) {
                        self.make_trouble()?;
                    }
                }
                Some(Happening::Pod) => self.change_pods(),
                _ => {}
            }
        }
        self.heal()?;
        self.world.pass(SETTLED)?;
        for node in 0..self.world.nodes.len() {
            let it = &self.world.nodes[node];
            if it.runs && it.contested.is_none() {
                self.check_owner(node)?;
            }
            if it.daemon.contested.is_some() {
                self.world.count("a node was drained");
                self.world.nodes[node].disk.pods.clear();
            }
        }
        self.world.pass(PATIENT)?;
        self.check_all()?;
        let writes = self.world.store.writes;
        self.world.pass(SETTLED)?;
        if self.world.store.writes != writes {
            let detail = format!("{} writes", self.world.store.writes - writes);
            return Err(Violation::new("nodes that own their subnets write nothing", detail));
        }
        Ok(())
    }

    fn change_pods(&mut self) {
        let world = &mut self.world;
        let node = world.random.below(world.nodes.len());
        if world.random.percent(60) {
            if let Some(pod) = world.nodes[node].attach() {
                world.count("a pod was attached");
                world.say(|| format!("node {node} attaches {pod}"));
            }
        } else if world.random.percent(50) {
            world.say(|| format!("node {node} detaches all"));
            world.nodes[node].disk.pods.clear();
        } else {
            world.nodes[node].disk.pods.pop();
        }
    }

    fn make_trouble(&mut self) -> Result<(), Violation> {
        let trouble = self.world.random.pick(&TROUBLES);
        let world = &mut self.world;
        let now = world.clock.now();
        let node = world.random.below(world.nodes.len());
        let seconds = Duration::from_millis(world.random.between(10, 90_000));
        world.say(|| format!("trouble: {trouble:?}, node {node}, {seconds:?}"));
        let config = format!("{PREFIX}/config");
        match trouble {
            Trouble::Cut => world.cut(node, seconds),
            Trouble::Down => {
                world.store.up = false;
                world.break_connections();
                world.clock.after(seconds, Happening::Up);
            }
            Trouble::Backup => world.backup = Some(world.store.data.clone()),
            Trouble::Restore | Trouble::Empty => {
                let backup = match trouble {
                    Trouble::Restore => world.backup.clone(),
                    _ => None,
                };
                let cluster = if world.random.percent(50) { 1 } else { world.random.next() };
                world.store.restore(backup, cluster, now);
                let leases: Vec<i64> = world.store.data.leases.keys().copied().collect();
                for lease in leases {
                    world.clock.after(Duration::from_secs(60), Happening::Expire(lease));
                }
                world.break_connections();
                if world.random.percent(50) {
                    world.store.up = false;
                    world.clock.after(seconds / 10, Happening::Up);
                }
                world.count("a database was restored or emptied");
                if self.world.identity.parameters.is_none() && self.world.random.percent(50) {
                    self.world.store.put(&config, &self.written.text());
                }
            }
            Trouble::DeleteAll => world.store.delete_prefix(PREFIX),
            Trouble::Compact => {
                for other in 0..world.nodes.len() {
                    if world.random.percent(50) {
                        world.cut(other, Duration::from_secs(5));
                    }
                }
                world.store.put("/elsewhere", "x");
                world.store.compact();
            }
            Trouble::Restart => {
                world.stop(node);
                world.clock.after(Duration::from_millis(200), Happening::Start { node });
            }
            Trouble::Away => {
                world.stop(node);
                world.clock.after(seconds, Happening::Start { node });
            }
            Trouble::Reinstall => {
                world.stop(node);
                world.renew_disk(node);
                world.clock.after(seconds / 4, Happening::Start { node });
            }
            Trouble::Twin if self.twins.is_empty() => {
                let name = world.nodes[node].name.clone();
                let twin = world.add(&name, address(50));
                world.start(twin);
                self.twins.push(twin);
            }
            Trouble::Clone if world.nodes.len() < 6 => {
                let number = world.nodes.len() as u64;
                let name = format!("clone{number}");
                let clone = world.add(&name, address(60 + number));
                let memory = world.nodes[node].disk.memory.clone().renamed(&name);
                world.nodes[clone].disk = Disk { memory, table: Vec::new(), pods: Vec::new() };
                world.start(clone);
                self.clones.extend([node, clone]);
            }
            Trouble::Move => {
                self.moves += 1;
                world.nodes[node].address = address(100 + self.moves);
                world.nodes[node].moved = true;
                return world.go_on(node);
            }
            Trouble::Swap => {
                let other = world.random.below(world.nodes.len());
                // Whoever has another's name or disk, and then its address, is the other to everybody.
                if self.twins.iter().chain(&self.clones).any(|twin| [node, other].contains(twin)) {
                    return Ok(());
                }
                let swapped = world.nodes[other].address;
                world.nodes[other].address =
                    std::mem::replace(&mut world.nodes[node].address, swapped);
                for moved in [node, other] {
                    world.nodes[moved].moved = true;
                    world.go_on(moved)?;
                }
            }
            Trouble::Jump => {
                world.nodes[node].ahead += seconds * 60;
                return world.go_on(node);
            }
            Trouble::Freeze => world.nodes[node].frozen_until = now + seconds,
            Trouble::Revoke => {
                let leases: Vec<i64> = world.store.data.leases.keys().copied().collect();
                if !leases.is_empty() {
                    let lease = world.random.pick(&leases);
                    world.store.revoke(lease);
                }
            }
            Trouble::DeleteClaim => {
                if let Some(key) = self.claimed() {
                    self.world.store.delete(&key);
                }
            }
            Trouble::Thief => {
                if let Some(key) = self.claimed() {
                    let thief = r#"{"node":"thief","instance":"thief","address":"192.0.2.9"}"#;
                    self.world.store.put(&key, thief);
                }
            }
            Trouble::Garbage => {
                let subnet = self.world.random.between(1, 15);
                let key = format!("{PREFIX}/subnets/10.244.{subnet}.0-24");
                if !self.world.store.data.keys.contains_key(&key) {
                    self.world.store.put(&key, "{\"node\":\"half");
                }
            }
            Trouble::Reserve => {
                let subnet = self.world.random.between(1, 15);
                let key = format!("{PREFIX}/reservations/10.244.{subnet}.0-24");
                let name = self.world.nodes[node].name.clone();
                let value = if self.world.random.percent(50) {
                    "{}".to_owned()
                } else {
                    format!(r#"{{"node":"{name}"}}"#)
                };
                self.world.store.put(&key, &value);
            }
            Trouble::SubnetLen => {
                self.written.len = self.world.random.pick(&[23, 24, 25]);
                self.world.store.put(&config, &self.written.text());
            }
            Trouble::Widen if world.identity.parameters.is_none() => {
                self.written.networks[0] = "10.240.0.0/12";
                self.world.store.put(&config, &self.written.text());
            }
            Trouble::Vni => {
                let text = Written { vni: 2, ..self.written.clone() }.text();
                self.world.store.put(&config, &text);
            }
            Trouble::Reload => {
                world.nodes[node].reload = true;
                return world.go_on(node);
            }
            Trouble::Twin | Trouble::Clone | Trouble::Widen => {}
        }
        self.world.tell_watches();
        Ok(())
    }

    /// The key of a subnet that is claimed.
    fn claimed(&mut self) -> Option<String> {
        let prefix = format!("{PREFIX}/subnets/");
        let keys = self.world.store.data.keys.keys().filter(|key| key.starts_with(&prefix));
        let keys: Vec<&String> = keys.collect();
        (!keys.is_empty()).then(|| (*self.world.random.pick(&keys)).clone())
    }

    /// Ends all trouble.
    fn heal(&mut self) -> Result<(), Violation> {
        let world = &mut self.world;
        world.say(|| "all trouble ends".into());
        world.trouble = false;
        world.store.up = true;
        for twin in std::mem::take(&mut self.twins) {
            world.stop(twin);
            world.nodes[twin].retired = true;
        }
        // Whoever took a subnet may keep it, if there are enough.
        let stays = self.written.len > 23 && world.random.percent(70);
        let foreign = |key: &String, value: &[u8]| {
            key.starts_with(&format!("{PREFIX}/reservations/"))
                || (!stays && value.windows(5).any(|text| text == b"thief"))
                || serde_json::from_slice::<serde_json::Value>(value).is_err()
        };
        let keys = world.store.data.keys.iter();
        let foreign: Vec<String> =
            keys.filter(|(key, kv)| foreign(key, &kv.value)).map(|(key, _)| key.clone()).collect();
        for key in foreign {
            world.store.delete(&key);
        }
        world.store.put(&format!("{PREFIX}/config"), &self.written.text());
        for node in 0..world.nodes.len() {
            world.nodes[node].cut = false;
            world.start(node);
        }
        world.tell_watches();
        Ok(())
    }

    fn check_owner(&self, node: usize) -> Result<(), Violation> {
        let it = &self.world.nodes[node];
        let own = it.in_force();
        let unowned = own.iter().find(|subnet| !self.world.is_held_by(node, subnet));
        match unowned {
            Some(subnet) => Err(Violation::new(
                "the loser of a conflict says so",
                format!("node {node} has {subnet}, which is not its own in the store"),
            )),
            None => Ok(()),
        }
    }

    /// Every node that runs has a subnet of each network, and all know the same.
    fn check_all(&self) -> Result<(), Violation> {
        let running = || self.world.nodes.iter().enumerate().filter(|(_, node)| node.runs);
        let mut expected: BTreeMap<String, Vec<IpNet>> = BTreeMap::new();
        for (number, node) in running() {
            let in_force = node.in_force();
            if let Some(reason) = &node.contested {
                let detail = format!("node {number} has {in_force:?}: {reason}");
                return Err(Violation::new("every node ends with a subnet", detail));
            }
            for network in &self.written.networks {
                let network: IpNet = network.parse().unwrap();
                if !in_force.iter().any(|subnet| network.contains(subnet)) {
                    let detail = format!("node {number} has {in_force:?}, none of {network}");
                    return Err(Violation::new("every node ends with a subnet", detail));
                }
            }
            self.check_owner(number)?;
            expected.insert(node.name.clone(), in_force);
        }
        let mut all: Vec<&IpNet> = expected.values().flatten().collect();
        all.sort();
        if let Some(pair) = all.windows(2).find(|pair| pair[0].contains(pair[1])) {
            return Err(Violation::new("two nodes never own one subnet", format!("{pair:?}")));
        }
        for (number, node) in running() {
            let entries = node.daemon.table.nodes().map(|node| &node.entry);
            let entries = entries.filter(|entry| entry.name != "thief");
            let known: BTreeMap<String, Vec<IpNet>> = entries
                .map(|entry| {
                    let mut subnets = entry.subnets.clone();
                    subnets.sort();
                    (entry.name.clone(), subnets)
                })
                .collect();
            let mut expected = expected.clone();
            expected.values_mut().for_each(|subnets| subnets.sort());
            if known != expected {
                let detail = format!("node {number} knows {known:?}, and there is {expected:?}");
                return Err(Violation::new("all nodes know the same in the end", detail));
            }
        }
        Ok(())
    }
}

fn address(number: u64) -> IpAddr {
    [192, 168, 1, u8::try_from(number).unwrap()].into()
}
