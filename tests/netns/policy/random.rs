//! Policies made up at random, and real connections held against what the policies say of them:
//! each pod, each node and the world outside tries to reach every pod, by its address and by a
//! service.

use std::env;

use culvert_lab::{Lab, wait_until};
use culvert_policy::{Judge, Member, World, read};

use super::directory::Directory;
use super::talk::Server;
use super::{rules, verdicts};
use crate::harness::{FAMILIES, REPAIR_LIMIT};

/// How many connections are tried, and the first number of all that is made up.
const PACKETS: &str = "CULVERT_POLICY_PACKETS";
const SEED: &str = "CULVERT_POLICY_SEED";

/// Connections of an ordinary run.
const VERDICTS: usize = 1_500;

pub(super) const PORTS: [u16; 2] = [80, 81];

/// Numbers that follow from the first (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        for shift in [13_i32, -7, 17] {
            self.0 ^= if shift > 0 { self.0 << shift } else { self.0 >> -shift };
        }
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    fn peer(&mut self) -> String {
        match self.below(8) {
            // What is no pod's: the other node in the pod network, the world outside, everything.
            5 => "ipBlock: { cidr: 192.168.1.0/24 }".to_owned(),
            6 => format!("ipBlock: {{ cidr: 10.244.{}.0/31 }}", 1 + self.below(2)),
            7 => "ipBlock: { cidr: 0.0.0.0/0, except: [10.244.0.0/16] }".to_owned(),
            0 => "podSelector: {}".to_owned(),
            1 => "ipBlock: { cidr: 10.244.1.0/24, except: [10.244.1.3/32] }".to_owned(),
            2 => format!("ipBlock: {{ cidr: 'fd00:10:244:{}::/64' }}", 1 + self.below(2)),
            3 => format!("podSelector: {{ matchLabels: {{ node: node{} }} }}", 1 + self.below(2)),
            _ => format!(
                "podSelector: {{ matchExpressions: [{{ key: pod, operator: {}, values: [node{}-pod{}] }}] }}",
                self.one(&["In", "NotIn"]),
                1 + self.below(2),
                1 + self.below(2)
            ),
        }
    }

    fn rule(&mut self, peers: &str) -> String {
        let mut parts = Vec::new();
        if self.below(4) > 0 {
            let list: Vec<_> =
                (0..=self.below(2)).map(|_| format!("{{ {} }}", self.peer())).collect();
            parts.push(format!("{peers}: [{}]", list.join(", ")));
        }
        if self.below(2) == 0 {
            let port = match self.below(3) {
                0 => "{ protocol: TCP }".to_owned(),
                1 => "{ port: 70, endPort: 80 }".to_owned(),
                _ => format!("{{ port: {} }}", self.one(&PORTS)),
            };
            parts.push(format!("ports: [{port}]"));
        }
        format!("{{ {} }}", parts.join(", "))
    }

    fn policy(&mut self, name: &str) -> String {
        let subject = match self.below(3) {
            0 => String::new(),
            1 => format!("matchLabels: {{ node: node{} }}", 1 + self.below(2)),
            _ => format!(
                "matchLabels: {{ pod: node{}-pod{} }}",
                1 + self.below(2),
                1 + self.below(2)
            ),
        };
        let types = *self.one(&["Ingress", "Egress", "Ingress, Egress"]);
        let mut rules = |peers| {
            let list: Vec<_> = (0..self.below(3)).map(|_| self.rule(peers)).collect();
            list.join(", ")
        };
        let (ingress, egress) = (rules("from"), rules("to"));
        format!(
            "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{ name: {name}, namespace: default }}
spec:
  podSelector: {{ {subject} }}
  policyTypes: [{types}]
  ingress: [{ingress}]
  egress: [{egress}]
"
        )
    }
}

fn number(variable: &str, otherwise: usize) -> usize {
    env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

#[test]
fn real_connections_fare_as_the_policies_say() {
    let directory = Directory::new();
    let lab = directory.lab("nt-policyrnd").pods(2).up().unwrap();
    let pods = lab.pods();
    let _servers: Vec<_> =
        pods.iter().flat_map(|pod| PORTS.map(|port| Server::start(pod.netns(), port))).collect();
    verdicts::make_services(&lab);
    let attempts = verdicts::attempts(&lab);
    let seed = number(SEED, 1);
    let mut random = Random(u64::try_from(seed).unwrap().wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (mut allowed, mut denied) = (0, 0);
    for round in 0..number(PACKETS, VERDICTS).div_ceil(attempts.len()) {
        // Another number than the round before, by which a node is seen to have taken them.
        let count = 1 + 3 * (round % 2) + random.below(3);
        let names: Vec<_> = (0..count).map(|n| format!("round{round}-{n}")).collect();
        let policies: String =
            names.iter().map(|name| format!("---{}", random.policy(name))).collect();
        directory.write("random.yaml", &policies);
        wait_for_round(&lab, round, &policies);
        let world = world(&lab, &directory);
        let judge = Judge::new(&world);
        let expected: Vec<bool> =
            attempts.iter().map(|attempt| judge.judge(attempt.packet).is_allowed()).collect();
        let wrong = verdicts::wrong(&attempts, &expected);
        assert!(
            wrong.is_empty(),
            "seed {seed}, round {round}: {:#?}\n{policies}",
            wrong
                .iter()
                .map(|attempt| (&attempt.what, judge.judge(attempt.packet)))
                .collect::<Vec<_>>()
        );
        let passing = expected.iter().filter(|is_allowed| **is_allowed).count();
        allowed += passing;
        denied += expected.len() - passing;
    }
    println!("{allowed} connections were allowed, {denied} denied");
    assert!(allowed > 0 && denied > 0, "{allowed} allowed, {denied} denied");
}

/// Waits until every node enforces the policies of a round, or knows them and has nobody for them.
fn wait_for_round(lab: &Lab, round: usize, policies: &str) {
    let count = policies.matches("kind: NetworkPolicy").count();
    for node in 1..=2 {
        let is_there = || {
            let listed = rules(lab, node);
            let is_known = lab.node(node).status().unwrap()["policy"]["policies"] == count;
            is_known && !(0..round).any(|old| listed.contains(&format!("default/round{old}-")))
        };
        wait_until(REPAIR_LIMIT, "the policies to be in force", is_there).unwrap();
    }
}

fn world(lab: &Lab, directory: &Directory) -> World {
    let mut objects = Vec::new();
    for entry in std::fs::read_dir(directory.path("")).unwrap().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap();
        objects.extend(read::text(&text).unwrap().objects);
    }
    let mut world = World::new(objects);
    let member = |node: &culvert_lab::Node| {
        let internal = FAMILIES.map(|family| node.address_in(family)).into();
        // The tunnel's address and the bridge's, as docs/policy.md says.
        let first = |subnet: &ipnet::IpNet| {
            [subnet.network(), culvert_node::node_file::gateway(subnet).addr()]
        };
        let overlay = node.subnets().iter().flat_map(first).collect();
        (node.name().into(), Member { internal, overlay })
    };
    world.set_members(lab.nodes().iter().map(member).collect());
    world
}
