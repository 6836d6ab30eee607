//! What happens in a run, drawn from its seed: some ten minutes of trouble, then none.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::world::{Happening, TAINT, World};
use crate::report::Violation;

const TROUBLE: Duration = Duration::from_secs(600);

/// The longest that a call takes, a watch, a look at refused entries, the longest pause, and more.
const SETTLED: Duration = Duration::from_secs(200);

/// A thing that goes wrong.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Cut,
    Down,
    Forget,
    Restart,
    Away,
    Delete,
    Register,
    NoPodCidr,
    Exchange,
    Move,
    Taint,
    Garbage,
    Breakage,
    Reload,
}

const TROUBLES: [Trouble; 14] = [
    Trouble::Cut,
    Trouble::Down,
    Trouble::Forget,
    Trouble::Restart,
    Trouble::Away,
    Trouble::Delete,
    Trouble::Register,
    Trouble::NoPodCidr,
    Trouble::Exchange,
    Trouble::Move,
    Trouble::Taint,
    Trouble::Garbage,
    Trouble::Breakage,
    Trouble::Reload,
];

pub(crate) struct Scenario {
    pub(crate) world: World,
    /// The next subnet that nobody has.
    subnet: u64,
}

impl Scenario {
    pub(crate) fn new(seed: u64, traced: bool) -> Self {
        let world = World::new(seed, traced);
        let mut scenario = Self { world, subnet: 0 };
        let nodes = scenario.world.random.between(2, 5);
        for number in 0..nodes {
            let node = scenario.world.add(&format!("node{number}"));
            scenario.register(node);
            let delay = Duration::from_millis(scenario.world.random.between(0, 3000));
            scenario.world.clock.after(delay, Happening::Start { node });
        }
        scenario
    }

    /// Makes the Node of a node, as its kubelet and the controller do, with a podCIDR of its own.
    fn register(&mut self, node: usize) {
        self.subnet += 1;
        let (name, subnet) = (self.world.nodes[node].name.clone(), self.subnet);
        let mut cidrs = vec![format!("10.244.{subnet}.0/24")];
        if self.world.random.percent(30) {
            cidrs.push(format!("fd00:10:244:{subnet}::/64"));
        }
        self.world.api.put(json!({
            "metadata": {
                "name": name,
                "creationTimestamp": format!("2026-01-02T03:04:{:02}Z", subnet % 60),
                "annotations": {"other.io/x": "y"},
            },
            "spec": {
                "podCIDR": cidrs[0],
                "podCIDRs": cidrs,
                "taints": [{"key": TAINT, "effect": "NoSchedule"}, {"key": "other", "effect": "NoExecute"}],
            },
            "status": {"addresses": [
                {"type": "InternalIP", "address": format!("192.168.1.{}", 10 + node)},
                {"type": "InternalIP", "address": format!("fd00:192:168:1::{}", 10 + node)},
            ]},
        }));
    }

    pub(crate) fn run(&mut self) -> Result<(), Violation> {
        for _ in 0..self.world.random.between(0, 30) {
            let at = Duration::from_millis(self.world.random.between(0, 600_000));
            self.world.clock.at(at, Happening::Trouble);
        }
        for _ in 0..100 {
            let at = Duration::from_millis(self.world.random.between(0, 600_000));
            self.world.clock.at(at, Happening::Pod);
        }
        self.world.clock.at(TROUBLE, Happening::Mark);
        while self.world.clock.now() < TROUBLE {
            match self.world.step()? {
                Some(Happening::Trouble) => self.make_trouble()?,
                Some(Happening::Pod) => self.change_pods(),
                _ => {}
            }
        }
        self.heal();
        self.world.pass(SETTLED)?;
        self.check(false)?;
        for node in 0..self.world.nodes.len() {
            if self.world.nodes[node].contested.is_some() {
                self.world.count("a node was drained");
                self.world.nodes[node].pods.clear();
            }
        }
        self.world.pass(SETTLED)?;
        self.check(true)?;
        let patches = self.world.api.patches;
        self.world.pass(SETTLED)?;
        if self.world.api.patches != patches {
            let detail = format!("{} patches", self.world.api.patches - patches);
            return Err(Violation::new("nodes that say what they should write nothing", detail));
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
            world.nodes[node].pods.clear();
        } else {
            world.nodes[node].pods.pop();
        }
    }

    fn make_trouble(&mut self) -> Result<(), Violation> {
        let trouble = self.world.random.pick(&TROUBLES);
        let world = &mut self.world;
        let node = world.random.below(world.nodes.len());
        let seconds = Duration::from_millis(world.random.between(10, 90_000));
        world.say(|| format!("trouble: {trouble:?}, node {node}, {seconds:?}"));
        let name = world.nodes[node].name.clone();
        match trouble {
            Trouble::Cut => world.cut(node, seconds),
            Trouble::Down => {
                world.api.up = false;
                world.break_connections();
                world.clock.after(seconds, Happening::Up);
            }
            Trouble::Forget => {
                world.api.forget();
                if world.random.percent(50) {
                    world.break_connections();
                }
            }
            Trouble::Restart => {
                world.stop(node);
                world.clock.after(Duration::from_millis(200), Happening::Start { node });
            }
            Trouble::Away => {
                world.stop(node);
                world.clock.after(seconds, Happening::Start { node });
            }
            Trouble::Delete => world.api.delete(&name),
            Trouble::Register => {
                world.api.delete(&name);
                if world.random.percent(50) {
                    world.api.forget();
                }
                self.register(node);
            }
            Trouble::NoPodCidr => {
                self.change(&name, |node| node["spec"] = json!({"taints": node["spec"]["taints"]}));
            }
            // The controller gives what a deleted node had to another.
            Trouble::Exchange => {
                let other = world.random.below(world.nodes.len());
                let other = world.nodes[other].name.clone();
                let spec = world.api.nodes.get(&other).map(|node| node["spec"].clone());
                let spec = spec.filter(|spec| spec["podCIDR"].is_string());
                if let (Some(spec), true) = (spec, other != name) {
                    world.api.delete(&other);
                    let cidrs = [spec["podCIDR"].clone(), spec["podCIDRs"].clone()];
                    self.change(&name, |node| {
                        [node["spec"]["podCIDR"], node["spec"]["podCIDRs"]] = cidrs.clone();
                    });
                }
            }
            Trouble::Move => {
                let address = format!("192.168.1.{}", world.random.between(100, 200));
                let only_v6 = world.random.percent(30);
                self.change(&name, |node| {
                    let addresses = &mut node["status"]["addresses"];
                    if only_v6 {
                        addresses[0] = addresses[1].clone();
                    } else {
                        addresses[0] = json!({"type": "InternalIP", "address": address});
                    }
                });
            }
            Trouble::Taint => {
                let key = format!("added-{}", world.random.below(5));
                self.change(&name, |node| {
                    if let Some(taints) = node["spec"]["taints"].as_array_mut() {
                        taints.push(json!({"key": key, "effect": "NoSchedule"}));
                    }
                });
            }
            Trouble::Garbage => {
                self.change(&name, |node| {
                    node["metadata"]["annotations"]["culvert.dev/codec"] = json!("pigeon");
                });
            }
            Trouble::Breakage => world.break_connections(),
            Trouble::Reload => {
                world.nodes[node].reload = true;
                return world.go_on(node);
            }
        }
        self.world.tell_watches();
        Ok(())
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        if let Some(mut node) = self.world.api.nodes.get(name).cloned() {
            change(&mut node);
            self.world.api.put(node);
        }
    }

    /// Ends all trouble: every node runs and has a Node with a podCIDR.
    fn heal(&mut self) {
        self.world.say(|| "all trouble ends".into());
        self.world.trouble = false;
        self.world.api.up = true;
        for node in 0..self.world.nodes.len() {
            self.world.nodes[node].cut = false;
            let name = self.world.nodes[node].name.clone();
            let known = self.world.api.nodes.get(&name);
            if known.is_none_or(|node| node["spec"]["podCIDR"].is_null()) {
                self.register(node);
            }
            self.world.start(node);
        }
        self.world.tell_watches();
    }

    /// Every node has what its Node says, or, unless it must by now, says that it does not; and all
    /// know what the Nodes say.
    fn check(&self, must: bool) -> Result<(), Violation> {
        let texts = |node: &Value| -> Vec<String> {
            let cidrs = node["spec"]["podCIDRs"].as_array().unwrap();
            cidrs.iter().map(|cidr| cidr.as_str().unwrap().to_owned()).collect()
        };
        let api = &self.world.api;
        for (number, node) in self.world.nodes.iter().enumerate() {
            let wanted = texts(&api.nodes[&node.name]);
            let own: Vec<String> = node.in_force().iter().map(ToString::to_string).collect();
            match &node.contested {
                Some(reason) if must => {
                    let detail = format!("node {number} has {own:?}: {reason}");
                    return Err(Violation::new("every node ends with its subnets", detail));
                }
                Some(_) if node.pods.is_empty() => {
                    let detail = format!("node {number} has no pods, and {own:?} for {wanted:?}");
                    return Err(Violation::new("a node without pods takes its podCIDR", detail));
                }
                None if own != wanted => {
                    let detail = format!("node {number} has {own:?} for {wanted:?}");
                    return Err(Violation::new("the loser of a conflict says so", detail));
                }
                Some(_) | None => {}
            }
            let known: BTreeMap<String, Vec<String>> = node
                .table
                .nodes()
                .map(|known| &known.entry)
                .filter(|entry| entry.name != node.name)
                .map(|entry| {
                    (entry.name.clone(), entry.subnets.iter().map(ToString::to_string).collect())
                })
                .collect();
            let others = api.nodes.iter().filter(|(name, _)| **name != node.name);
            let there: BTreeMap<String, Vec<String>> =
                others.map(|(name, node)| (name.clone(), texts(node))).collect();
            if known != there {
                let detail = format!("node {number} knows {known:?}, and there is {there:?}");
                return Err(Violation::new("all nodes know what there is", detail));
            }
            self.check_object(number, &api.nodes[&node.name])?;
        }
        Ok(())
    }

    /// A node's object says what it should.
    fn check_object(&self, number: usize, object: &Value) -> Result<(), Violation> {
        let node = &self.world.nodes[number];
        let tainted =
            object["spec"]["taints"].as_array().unwrap().iter().any(|t| t["key"] == TAINT);
        let annotations = &object["metadata"]["annotations"];
        let empty = Vec::new();
        let conditions = object["status"]["conditions"].as_array().unwrap_or(&empty);
        let condition = conditions.iter().find(|known| known["type"] == "NetworkUnavailable");
        let available = condition.is_some_and(|known| known["status"] == "False");
        let good = annotations["culvert.dev/codec"] == "vxlan-gpe"
            && annotations["culvert.dev/port"] == "4790"
            && annotations["other.io/x"] == "y"
            && (!node.ready || (!tainted && available))
            && (node.ready || !node.was_ready || !available);
        if good {
            return Ok(());
        }
        let detail = format!("node {number}, which takes pods: {}, says {object}", node.ready);
        Err(Violation::new("a Node says what it should", detail))
    }
}
