//! Policies and what they are about, as files and an API server have them: what is read can be kept
//! and is the same again, makes a plan that speaks of nothing that it lacks, and Judge and plan
//! agree on whether anything is open.

use std::net::IpAddr;

use culvert_policy::judge::{Packet, Traffic};
use culvert_policy::object::Object;
use culvert_policy::plan::{Destination, Peers, Target};
use culvert_policy::{Compiler, Judge, Plan, Site, World, read, write};
use overlay_proto::Protocol;

/// Addresses between which packets go, and objects that are looked at together, at most.
const MOST_PLACES: usize = 4;
const MOST_OBJECTS: usize = 64;

pub(crate) fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let read = match read::text(text) {
        Ok(read) => read,
        Err(unreadable) => {
            assert!(!unreadable.to_string().is_empty());
            return;
        }
    };
    for finding in &read.findings {
        assert!(!finding.field.is_empty() && !finding.remedy.is_empty(), "{finding}");
    }
    for object in &read.objects {
        let written = write::value(object);
        let again = read::value(&written).objects;
        assert_eq!(again.as_slice(), std::slice::from_ref(object), "{written:#}");
    }
    let objects: Vec<Object> = read.objects.into_iter().take(MOST_OBJECTS).collect();
    let mut world = World::new(objects);
    let site = Site { subnets: everywhere(), ..Site::default() };
    let plan = Compiler::default().compile(&mut world, &site);
    check(&plan);
    let judge = Judge::new(&world);
    let places: Vec<IpAddr> =
        world.pods().flat_map(|pod| pod.addresses.iter()).take(MOST_PLACES).collect();
    for source in &places {
        for destination in &places {
            for traffic in [Traffic::Other, Traffic::Port(Protocol::Tcp, 80)] {
                let packet = Packet { source: *source, destination: *destination, traffic };
                let verdict = judge.judge(packet);
                let openings = judge.openings(*source, *destination);
                if source.is_ipv4() == destination.is_ipv4() {
                    assert_eq!(openings.contain(traffic), verdict.is_allowed(), "{packet:?}");
                }
            }
        }
    }
}

fn everywhere() -> Vec<ipnet::IpNet> {
    ["0.0.0.0/0", "::/0"].map(|net| net.parse().unwrap()).into()
}

/// Demands that everything is there that a plan speaks of, under a name that the kernel takes.
fn check(plan: &Plan) {
    let names = plan.pods.keys().chain(plan.nets.keys()).chain(plan.ports.keys());
    let names = names.chain(plan.named_ports.keys()).chain(plan.chains.keys());
    for name in names.chain(plan.classes.keys()) {
        let text = name.as_str();
        assert!(!text.is_empty() && text.len() <= culvert_policy::plan::Name::MAX_LEN, "{text}");
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte);
        assert!(text.bytes().all(good), "{text}");
    }
    for class in plan.classes.values() {
        assert!(class.steps.iter().all(|step| plan.chains.contains_key(step)));
    }
    for rule in plan.chains.values().flat_map(|chain| chain.rules.iter()) {
        match &rule.peers {
            Peers::Any => {}
            Peers::Pods(name) => assert!(plan.pods.contains_key(name)),
            Peers::Net(name) => assert!(plan.nets.contains_key(name)),
        }
        match &rule.to {
            Destination::Any => {}
            Destination::Ports(name) => assert!(!plan.ports[name].is_empty()),
            Destination::Named(name) => assert!(plan.named_ports.contains_key(name)),
        }
    }
    for target in plan.ingress.values().chain(plan.egress.values()) {
        assert!(matches!(target, Target::Class(class) if plan.classes.contains_key(class)));
    }
}
